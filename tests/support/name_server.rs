//! A name server of the test's own, for real: datagrams and TCP on a port of its own, a table of names, and the
//! misbehaviour that a test asks for. The programs under test find it by their own /etc/resolv.conf: a preloaded library
//! (`tests/ffi/etc.h`) gives them the files of a directory of the test's, since no setting of theirs names these.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tempfile::TempDir;

/// Seconds for which its answers hold: whoever asks again sooner has a reason.
const HOLDS: u32 = 3600;

/// What the server does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    #[default]
    Answers,
    /// It reads it, and says nothing.
    Silent,
    /// It keeps it until it answers again.
    Holds,
    /// A datagram gets half an answer, TCP a whole one.
    Truncates,
    /// SERVFAIL.
    Fails,
}

#[derive(Default)]
struct Table {
    names: HashMap<String, Vec<IpAddr>>,
    manner: Manner,
    held: Vec<(Vec<u8>, SocketAddr)>,
    asked: Vec<String>,
    over_tcp: usize,
}

/// A running name server.
pub(crate) struct NameServer {
    etc: PathBuf,
    _directory: Option<TempDir>,
    address: SocketAddr,
    table: Arc<Mutex<Table>>,
    udp: Arc<UdpSocket>,
    over: Arc<AtomicBool>,
}

impl NameServer {
    /// With these further lines of resolv.conf.
    pub(crate) fn start(options: &str) -> NameServer {
        let directory = tempfile::Builder::new().prefix("etc-").tempdir().expect("a directory");
        let mut server = NameServer::start_in(directory.path(), options);
        server._directory = Some(directory);
        server
    }

    /// The same for programs that have this directory as their /etc.
    pub(crate) fn start_in(etc: &Path, options: &str) -> NameServer {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("its address");
        let resolv_conf = format!("nameserver {}\n{options}\n", address.ip());
        for (name, text) in [("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", &resolv_conf)] {
            fs::write(etc.join(name), text).expect("writable");
        }
        fs::write(etc.join("port"), address.port().to_string()).expect("writable");
        let (table, over, udp) =
            (Arc::<Mutex<Table>>::default(), Arc::<AtomicBool>::default(), Arc::new(udp));
        let datagrams = (Arc::clone(&udp), Arc::clone(&table), Arc::clone(&over));
        thread::spawn(move || serve_datagrams(&datagrams.0, &datagrams.1, &datagrams.2));
        let streams = (Arc::clone(&table), Arc::clone(&over));
        thread::spawn(move || serve_streams(&tcp, &streams.0, &streams.1));
        NameServer { etc: etc.to_owned(), _directory: None, address, table, udp, over }
    }

    /// Has the program ask this server.
    pub(crate) fn serve(&self, command: &mut Command) {
        with_etc(command, &self.etc);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// From now on the name has these addresses.
    pub(crate) fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|one| one.parse().expect("an address")).collect();
        self.table().names.insert(name.to_owned(), addresses);
    }

    /// From now on it does so. What it has held is answered when it answers again.
    pub(crate) fn behave(&self, manner: Manner) {
        let mut table = self.table();
        table.manner = manner;
        if manner == Manner::Answers {
            for (question, from) in std::mem::take(&mut table.held) {
                let _ = self.udp.send_to(&table.answer(&question, false), from);
            }
        }
    }

    /// The names that it was asked for, in order, one for each question.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.table().asked.clone()
    }

    /// How many of these questions came over TCP.
    pub(crate) fn asked_over_tcp(&self) -> usize {
        self.table().over_tcp
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Both threads wait for something.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address));
        let _ = TcpStream::connect(self.address);
    }
}

/// Has the program read the files of this directory instead of those in /etc.
pub(crate) fn with_etc(command: &mut Command, etc: &Path) {
    command.env("LD_PRELOAD", preloaded()).env("BROKER_TEST_ETC", etc);
}

fn preloaded() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let unfinished = directory.join(format!("etc.so.{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ffi/etc.c");
        let mut compiler = Command::new("cc");
        compiler.args([
            "-std=c99",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-O1",
            "-fPIC",
            "-shared",
            "-o",
        ]);
        let output = compiler.arg(&unfinished).arg(source).arg("-ldl").output().expect("run the compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let library = directory.join("etc.so");
        fs::rename(unfinished, &library).expect("its name");
        library
    })
}

/// Both at one port.
fn sockets() -> (UdpSocket, TcpListener) {
    let tried = std::iter::repeat_with(|| {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let tcp = TcpListener::bind(udp.local_addr()?)?;
        Ok::<_, std::io::Error>((udp, tcp))
    });
    tried.take(100).find_map(Result::ok).expect("a port that is free twice")
}

fn serve_datagrams(udp: &UdpSocket, table: &Mutex<Table>, over: &AtomicBool) {
    let mut bytes = [0; 2048];
    while let Ok((length, from)) = udp.recv_from(&mut bytes)
        && !over.load(Ordering::Acquire)
    {
        let mut table = table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let question = &bytes[..length];
        table.note(question);
        match table.manner {
            Manner::Silent => {}
            Manner::Holds => table.held.push((question.to_vec(), from)),
            // It may have gone.
            Manner::Answers | Manner::Truncates | Manner::Fails => {
                let _ = udp.send_to(&table.answer(question, false), from);
            }
        }
    }
}

fn serve_streams(tcp: &TcpListener, table: &Mutex<Table>, over: &AtomicBool) {
    while let Ok((mut stream, _)) = tcp.accept()
        && !over.load(Ordering::Acquire)
    {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut question).is_err() {
                break;
            }
            let mut table = table.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            table.note(&question);
            table.over_tcp += 1;
            let answer = table.answer(&question, true);
            let _ = stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat());
        }
    }
}

impl Table {
    fn note(&mut self, question: &[u8]) {
        let packet = Packet::parse(question).expect("a question of DNS");
        self.asked.push(packet.questions[0].qname.to_string());
    }

    fn answer(&self, question: &[u8], whole: bool) -> Vec<u8> {
        let mut packet = Packet::parse(question).expect("a question of DNS").into_reply();
        let asked = packet.questions[0].clone();
        let (name, kind) = (asked.qname.to_string(), asked.qtype);
        match (self.manner, self.names.get(&name)) {
            (Manner::Fails, _) => *packet.rcode_mut() = RCODE::ServerFailure,
            (Manner::Truncates, Some(_)) if !whole => packet.set_flags(PacketFlag::TRUNCATION),
            (_, None) => *packet.rcode_mut() = RCODE::NameError,
            (_, Some(addresses)) => {
                let data = addresses.iter().filter_map(|address| match address {
                    IpAddr::V4(ip) if kind == QTYPE::TYPE(TYPE::A) => {
                        Some(RData::A(A { address: (*ip).into() }))
                    }
                    IpAddr::V6(ip) if kind == QTYPE::TYPE(TYPE::AAAA) => {
                        Some(RData::AAAA(AAAA { address: (*ip).into() }))
                    }
                    _ => None,
                });
                let record = |data| ResourceRecord::new(asked.qname.clone(), CLASS::IN, HOLDS, data);
                packet.answers = data.map(record).collect();
            }
        }
        packet.build_bytes_vec_compressed().expect("an answer")
    }
}
