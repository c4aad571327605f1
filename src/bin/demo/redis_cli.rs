//! A client process of the demo that drives redis-cli: sends it commands and checks each line of its output.

use crate::cli::ChildArgs;
use crate::report::Report;
use crate::shared::guard::{self, Guarded};
use crate::stop::Stop;
use broker::base::error::{Error, Result};
use std::io::Write;
use std::process::{ChildStdin, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A line that takes longer is lost. Longer than a child may wait for a lease.
const LINE_TIMEOUT: Duration = Duration::from_secs(8);

struct RedisCli {
    process: Guarded,
    input: ChildStdin,
    lines: Receiver<String>,
    report: Report,
}

/// Works until told to stop, then reports. Fails when redis-cli ended or a line was wrong.
pub(crate) fn run(args: &ChildArgs) -> Result<ExitCode> {
    let mut cli = start(args)?;
    // The first answer shows that it is connected; the work starts then.
    let mut outcome = cli.ask("PING", &["PONG"]);
    let mut stop = Stop::when_told(args.seconds);
    let mut round = 0;
    while outcome.is_ok() && !stop.reached(&cli.report) {
        round += 1;
        outcome = cli.round(args.id, round);
    }
    cli.process.end();
    let verdict = cli.report.conclude();
    outcome.map(|()| verdict)
}

fn start(args: &ChildArgs) -> Result<RedisCli> {
    let mut command = guard::command("redis-cli")?;
    command.arg("-s").arg(&args.socket).env_remove("REDISCLI_AUTH");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Guarded::spawn(&mut command, "redis-cli")?;
    let input = process.0.stdin.take().ok_or_else(|| Error::system("redis-cli has no input"))?;
    let (sender, lines) = channel();
    process.read_lines(move |line| drop(line.map(|line| sender.send(line))))?;
    let mut report = Report::new();
    report.connections = 1;
    Ok(RedisCli { process, input, lines, report })
}

impl RedisCli {
    fn round(&mut self, id: u32, round: u64) -> Result<()> {
        let nonce = format!("cli{id}.{round}");
        let key = |name: &str| format!("demo:cli{id}:{name}");
        self.ask(&format!("SET {} {nonce}", key("value")), &["OK"])?;
        self.ask(&format!("GET {}", key("value")), &[&nonce])?;
        self.ask(&format!("ECHO {nonce}"), &[&nonce])?;
        self.ask(&format!("INCR {}", key("count")), &[&round.to_string()])?;
        self.ask("MULTI", &["OK"])?;
        self.ask(&format!("SET {} {nonce}", key("tx")), &["QUEUED"])?;
        self.ask(&format!("MGET {} {}", key("tx"), key("value")), &["QUEUED"])?;
        self.ask("EXEC", &["OK", &nonce, &nonce])?;
        self.ask(&format!("RPUSH {} {nonce}", key("list")), &["1"])?;
        self.ask(&format!("BLPOP {} 1", key("list")), &[&key("list"), &nonce])
    }

    /// Sends one command and checks the lines of its reply.
    fn ask(&mut self, request: &str, want: &[&str]) -> Result<()> {
        let start = Instant::now();
        writeln!(self.input, "{request}").map_err(Error::attempting("redis-cli"))?;
        let got = self.reply(request, want.len())?;
        self.report.round_trip(1, start.elapsed());
        self.report.check(got == want, || format!("redis-cli: {request}: got {got:?}, want {want:?}"));
        Ok(())
    }

    /// Reads `count` lines. A line that no reply of this demo contains is taken for an error, which redis-cli
    /// follows with an empty line, and ends the reply.
    fn reply(&mut self, request: &str, count: usize) -> Result<Vec<String>> {
        let mut got = Vec::with_capacity(count);
        while got.len() < count {
            let line = self.line(request)?;
            let is_error = line.split(' ').next().is_some_and(is_error_code) && line.contains(' ');
            got.push(line);
            if is_error {
                got.push(self.line(request)?);
                return Ok(got);
            }
        }
        Ok(got)
    }

    fn line(&self, request: &str) -> Result<String> {
        let lost = |_| Error::system(format!("redis-cli: no answer to {request}"));
        self.lines.recv_timeout(LINE_TIMEOUT).map_err(lost)
    }
}

/// Error replies begin with a word in capitals and are followed by more.
fn is_error_code(word: &str) -> bool {
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}
