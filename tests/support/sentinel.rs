//! Real sentinels of the test's own over one master: each a process with a private directory, ended by its process id.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::native::free_port;
use super::raw::Raw;
use super::redis::server_program;
use super::{signal, wait_until};

/// What the sentinels call the master.
pub(crate) const MASTER: &str = "mymaster";

/// Running sentinels.
pub(crate) struct SentinelGroup {
    _directory: TempDir,
    processes: Vec<Option<Child>>,
    ports: Vec<u16>,
    password: Option<String>,
}

impl SentinelGroup {
    /// So many of them watch the master at this port of 127.0.0.1, which has so many replicas. They ask for `password`, if
    /// there is one.
    pub(crate) fn start(master: u16, replicas: usize, count: usize, password: Option<&str>) -> SentinelGroup {
        let directory = tempfile::Builder::new().prefix("sentinels-").tempdir().expect("a directory");
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let launch = |port: &u16| {
            let own = directory.path().join(port.to_string());
            std::fs::create_dir(&own).expect("a directory");
            let file = own.join("sentinel.conf");
            let secret = password.map_or_else(String::new, |password| {
                format!("requirepass {password}\nsentinel sentinel-pass {password}\n")
            });
            let quorum = count / 2 + 1;
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n{secret}sentinel monitor {MASTER} 127.0.0.1 {master} {quorum}\n\
                 sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n",
                own.display()
            );
            std::fs::write(&file, text).expect("a configuration");
            let output = File::create(own.join("log")).expect("a log");
            let mut command = Command::new(server_program());
            command.arg(&file).arg("--sentinel").stdin(Stdio::null());
            command.stdout(output.try_clone().expect("a handle")).stderr(output);
            Some(command.spawn().expect("start a sentinel"))
        };
        let processes = ports.iter().map(launch).collect();
        let password = password.map(str::to_owned);
        let group = SentinelGroup { _directory: directory, processes, ports, password };
        let (others, replicas) = ((count - 1).to_string(), replicas.to_string());
        for number in 0..count {
            wait_until("the sentinels know of all", || {
                group.master_field(number, "num-other-sentinels") == Some(others.clone())
                    && group.master_field(number, "num-slaves") == Some(replicas.clone())
            });
        }
        group
    }

    /// `host:port` of each, as a URL lists them.
    pub(crate) fn hosts(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn ask(&self, number: usize, line: &str) -> Option<String> {
        let address = format!("127.0.0.1:{}", self.ports[number]);
        std::net::TcpStream::connect(&address).ok()?;
        let mut raw = Raw::tcp(&address);
        if let Some(password) = &self.password {
            raw.ask(&format!("AUTH {password}"));
        }
        Some(raw.ask(line))
    }

    /// A field of SENTINEL MASTER.
    pub(crate) fn master_field(&self, number: usize, field: &str) -> Option<String> {
        let reply = self.ask(number, &format!("SENTINEL MASTER {MASTER}"))?;
        let mut words = reply.split("\r\n").filter(|word| !word.starts_with(['$', '*']));
        words.find(|word| *word == field)?;
        words.next().map(str::to_owned)
    }

    /// The port that this one names.
    pub(crate) fn master_port(&self, number: usize) -> u16 {
        self.master_field(number, "port").and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Begins a failover that nothing has made necessary.
    pub(crate) fn fail_over(&self) {
        wait_until("a failover is accepted", || {
            self.ask(0, &format!("SENTINEL FAILOVER {MASTER}")).as_deref() == Some("+OK\r\n")
        });
    }

    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.processes[number].take() {
            signal(&process, Signal::KILL);
            process.wait().expect("its end");
        }
    }
}

impl Drop for SentinelGroup {
    fn drop(&mut self) {
        (0..self.processes.len()).for_each(|number| self.kill(number));
    }
}
