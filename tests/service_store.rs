//! Children that outlive the process in the service manager's store of descriptors. The store is the test: it keeps what it is
//! given, as systemd does, and starts the next broker with it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::service::{Manager, Message};
use crate::support::broker::BINARY;
use crate::support::raw::{End, pipeline};
use crate::support::{PATIENCE, Raw, Redis, Running, end_within, signal, upstream_clients, wait_until};

/// Listeners of the service below, which are in the store as long as it runs.
const LISTENERS: usize = 2;

/// A service with a store.
struct Service {
    manager: Manager,
    directory: TempDir,
    upstream: String,
    max: usize,
    kept: Vec<(String, OwnedFd)>,
    /// What did not find room.
    refused: usize,
    broker: Option<Running>,
}

impl Service {
    /// Starts it for the first time.
    fn start(redis: &Redis, max: usize) -> Service {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        let (manager, upstream) = (Manager::new(), redis.url());
        let mut service =
            Service { manager, directory, upstream, max, kept: Vec::new(), refused: 0, broker: None };
        service.start_again(&[]);
        service
    }

    /// Starts it with what the store has, and returns when it says that it is ready.
    fn start_again(&mut self, more: &[&str]) {
        let listen = format!("listen=unix://{}", self.path("b.sock").display());
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a file");
        let mut command = Command::new("sh");
        command.args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\"", BINARY, "serve"]);
        command.args(["--upstream", &self.upstream, "--set", &listen]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.env("FDSTORE", self.max.to_string());
        let copies = self.kept.iter().zip(3..).map(|((_, fd), child_fd)| {
            let parent_fd = fd.try_clone().expect("a copy");
            FdMapping { parent_fd, child_fd }
        });
        command.fd_mappings(copies.collect()).expect("each has its number");
        self.manager.start(&mut command);
        self.broker = Some(Running(command.spawn().expect("start the broker")));
        let begun = Instant::now();
        while !self.hear(PATIENCE).expect("a message").has("READY=1") {
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
        }
    }

    /// The next message, after it is obeyed.
    fn hear(&mut self, limit: Duration) -> Option<Message> {
        let mut message = self.manager.next_within(limit)?;
        if message.has("FDSTORE=1") {
            let entry = (message.value("FDNAME").to_owned(), message.fd.take().expect("a descriptor"));
            if self.kept.len() < self.max { self.kept.push(entry) } else { self.refused += 1 }
        }
        if message.has("FDSTOREREMOVE=1") {
            let name = message.value("FDNAME");
            self.kept.retain(|(other, _)| other != name);
        }
        Some(message)
    }

    /// Until the broker has ended and all it has said is heard.
    fn wait_end(&mut self) {
        let mut broker = self.broker.take().expect("it runs");
        let begun = Instant::now();
        let mut status = None;
        while status.is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            while self.hear(Duration::from_millis(5)).is_some() {}
            status = broker.0.try_wait().expect("its status");
        }
        while self.hear(Duration::from_millis(5)).is_some() {}
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", self.log());
        assert_eq!(self.refused, 0, "it knows how many there may be");
    }

    /// The first half of a restart.
    fn stop(&mut self) {
        signal(&self.broker.as_ref().expect("it runs").0, Signal::TERM);
        self.wait_end();
    }

    fn restart(&mut self) {
        self.stop();
        self.start_again(&[]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn connect(&self) -> Raw {
        Raw::unix(&self.path("b.sock"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("readable")
    }

    /// How many names in the store begin so.
    fn count(&self, kind: &str) -> usize {
        self.kept.iter().filter(|(name, _)| name.starts_with(kind)).count()
    }

    /// Children that wait for an element.
    fn waiting(&self) -> usize {
        self.connect().ask("BROKER SHOW CHILDREN").matches("element").count()
    }
}

fn id(child: &mut Raw) -> u64 {
    child.ask("CLIENT ID").trim_start_matches(':').trim().parse().expect("an id")
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn children_go_on_after_a_restart() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 64);
    let mut plain = service.connect();
    let mut named = service.connect();
    assert_eq!(named.ask("CLIENT SETNAME me") + &named.ask("SELECT 3"), "+OK\r\n+OK\r\n");
    let mut half = service.connect();
    half.expect("SET k v", "+OK\r\n");
    let before = [id(&mut plain), id(&mut named), id(&mut half)];
    half.write(b"*2\r\n$3\r\nGET\r\n$1\r\n");
    let mut queued = service.connect();
    queued.expect("MULTI", "+OK\r\n");
    queued.expect("INCR n", "+QUEUED\r\n");
    queued.expect("CLIENT ID", "+QUEUED\r\n");
    let mut muted = service.connect();
    muted.send("CLIENT REPLY OFF");
    let mut watching = service.connect();
    watching.expect("WATCH k", "+OK\r\n");
    let mut listening = service.connect();
    listening.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    service.stop();
    assert_eq!((service.count("children."), service.count("child.")), (1, 5), "{}", service.log());
    assert!(watching.is_closed() && listening.is_closed(), "something of these is upstream");
    assert!(plain.is_silent(Duration::from_millis(50)), "its connection is open");
    wait_until("Redis knows nobody", || upstream_clients(&redis).is_empty());
    // It waits for whoever comes next, as one who connects does.
    plain.send("CLIENT ID");
    let mut early = service.connect();
    early.send("PING");
    service.start_again(&[]);
    assert_eq!(service.kept.len(), LISTENERS, "nobody is there and here: {:?}", service.kept);

    assert_eq!(plain.read_text(), format!(":{}\r\n", before[0]));
    assert_eq!(early.read_text(), "+PONG\r\n");
    assert_eq!(id(&mut named), before[1]);
    named.expect("CLIENT GETNAME", "$2\r\nme\r\n");
    let info = named.ask("CLIENT INFO");
    assert!(info.contains(" db=3 "), "{info}");
    half.write(b"k\r\n");
    assert_eq!(half.read_text(), "$1\r\nv\r\n");
    assert_eq!(id(&mut half), before[2]);
    queued.expect("INCR n", "+QUEUED\r\n");
    let told = queued.ask("EXEC");
    assert!(told.starts_with("*3\r\n:1\r\n:") && told.ends_with("\r\n:2\r\n"), "{told}");
    muted.write(&pipeline(&["SET a 1", "CLIENT REPLY ON"]));
    assert_eq!(muted.read_text(), "+OK\r\n");
    assert!(id(&mut early) > before[2], "ids go on above all others");
    // And once more.
    service.restart();
    assert_eq!(id(&mut plain), before[0]);
    assert_eq!(redis.ask("GET n"), "$1\r\n2\r\n", "nothing was done twice");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn replies_that_were_not_read_and_waits_go_on_after_a_restart() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 64);
    let mut slow = service.connect();
    let value = "v".repeat(100_000);
    slow.expect(&format!("SET k {value}"), "+OK\r\n");
    for number in 0..50 {
        slow.write(&pipeline(&["GET k", &format!("ECHO {number}"), "INCR n"]));
    }
    let mut waiters = Vec::new();
    for count in 1..=3 {
        let mut waiter = service.connect();
        waiter.send("BLPOP q 0");
        waiters.push(waiter);
        wait_until("it waits", || service.waiting() == count);
    }
    let mut ending = service.connect();
    let begun = Instant::now();
    ending.send("BLPOP other 2");
    wait_until("it waits", || service.waiting() == 4);
    service.stop();
    assert_eq!(service.count("child."), 5, "{}", service.log());
    // Longer than any rounding, so that it shows whether this time counts.
    std::thread::sleep(Duration::from_millis(500));
    service.start_again(&[]);
    assert_eq!(ending.read_text(), "*-1\r\n");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(15), "{waited:?}");
    wait_until("they wait", || service.waiting() == 3);
    let mut pusher = service.connect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        pusher.expect(&format!("RPUSH q {number}"), ":1\r\n");
        assert_eq!(waiter.read_text(), format!("*2\r\n$1\r\nq\r\n$1\r\n{number}\r\n"));
    }
    for number in 0..50 {
        assert_eq!(slow.read_reply().len(), value.len() + 11);
        let text = number.to_string();
        assert_eq!(slow.read_text(), format!("${}\r\n{text}\r\n", text.len()));
        assert_eq!(slow.read_text(), format!(":{}\r\n", number + 1), "run once");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn as_many_go_on_as_the_store_has_room_for() {
    let redis = Redis::start();
    // 10 children and their images.
    let mut service = Service::start(&redis, LISTENERS + 11);
    let mut children: Vec<Raw> = (0..30).map(|_| service.connect()).collect();
    children.iter_mut().for_each(|child| child.expect("PING", "+PONG\r\n"));
    service.restart();
    let answer = |child: &mut Raw| {
        child.try_write(&pipeline(&["PING"])).is_ok()
            && child.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n")
    };
    let served = children.iter_mut().filter_map(|child| answer(child).then_some(())).count();
    assert_eq!(served, 10);
    assert!(
        service.log().contains("10 children are kept for the next process; 20 are let go"),
        "{}",
        service.log()
    );
    assert_eq!(service.kept.len(), LISTENERS);
}

/// More than one batch, beside requests that never end, and the order of the console instead of a signal.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_shutdown_that_waits_stores_many_children_under_load() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 400);
    let mut idle: Vec<Raw> = (0..150).map(|_| service.connect()).collect();
    idle.iter_mut().for_each(|child| child.expect("SELECT 2", "+OK\r\n"));
    let mut busy: Vec<(Raw, u64)> = (0..10).map(|_| (service.connect(), 0)).collect();
    let counts = |busy: &mut Vec<(Raw, u64)>| {
        for (number, (child, count)) in busy.iter_mut().enumerate() {
            let line = format!("INCR n{number}");
            child.write(&pipeline(&vec![line.as_str(); 50]));
            *count += 50;
        }
    };
    counts(&mut busy);
    Raw::unix(&service.path("b.sock.admin")).send("BROKER SHUTDOWN WAIT");
    counts(&mut busy);
    service.wait_end();
    assert_eq!(service.count("child."), 160, "{}", service.log());
    assert!(service.count("children.") >= 3);
    wait_until("Redis knows nobody", || upstream_clients(&redis).is_empty());
    service.start_again(&[]);
    for child in &mut idle {
        let info = child.ask("CLIENT INFO");
        assert!(info.contains(" db=2 "), "{info}");
    }
    for (child, count) in &mut busy {
        for expected in 1..=*count {
            assert_eq!(child.read_text(), format!(":{expected}\r\n"));
        }
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_store_that_is_lost_closes_its_children_and_nothing_else() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 64);
    let mut child = service.connect();
    let before = id(&mut child);
    service.stop();
    // As `systemctl stop` does.
    service.kept.retain(|(name, _)| !name.starts_with("child"));
    assert_eq!(child.try_reply(), Err(End::Closed));
    service.start_again(&[]);
    assert_ne!(id(&mut service.connect()), before);
    assert!(!service.log().contains("cannot go on"), "{}", service.log());
}

/// A memory with these bytes, sealed as the broker's are, or open.
fn memory(bytes: &[u8], sealed: bool) -> OwnedFd {
    let memory = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory");
    let mut file = File::from(memory);
    file.write_all(bytes).expect("written");
    if sealed {
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&file, seals).expect("sealed");
    }
    file.into()
}

fn bytes_of(memory: &OwnedFd) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = File::from(memory.try_clone().expect("a copy"));
    let mut bytes = vec![0; fstat(memory.as_fd()).expect("its length").st_size as usize];
    file.read_exact_at(&mut bytes, 0).expect("readable");
    bytes
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_does_not_fit_together_is_closed_and_removed() {
    type Damage = (&'static str, fn(&mut Service));
    fn images(service: &mut Service) -> &mut OwnedFd {
        let entry = service.kept.iter_mut().find(|(name, _)| name.starts_with("children."));
        &mut entry.expect("images").1
    }
    fn change(service: &mut Service, change: impl FnOnce(Vec<u8>) -> Vec<u8>, sealed: bool) {
        let images = images(service);
        *images = memory(&change(bytes_of(images)), sealed);
    }
    let damages: [Damage; 8] = [
        ("not sealed", |service| change(service, |bytes| bytes, false)),
        ("not the images", |service| change(service, |bytes| bytes[..bytes.len() / 2].to_vec(), true)),
        ("format 2 is not 1", |service| {
            let format = |bytes: Vec<u8>| {
                let text = String::from_utf8(bytes).expect("no reply is in it");
                text.replacen("broker-children\r\n$1\r\n1\r\n", "broker-children\r\n$1\r\n2\r\n", 1)
                    .into_bytes()
            };
            change(service, format, true);
        }),
        ("No such device or address", |service| {
            *images(service) = UnixStream::pair().expect("a pair").0.into()
        }),
        ("nothing is remembered of it", |service| {
            service.kept.retain(|(name, _)| !name.starts_with("children."))
        }),
        ("it has gone", |service| service.kept.retain(|(name, _)| !name.starts_with("child."))),
        ("another socket has its name", |service| {
            let sockets = service.kept.iter_mut().filter(|(name, _)| name.starts_with("child."));
            let mut sockets: Vec<_> = sockets.map(|(name, _)| name).collect();
            let (first, second) = sockets.split_at_mut(1);
            std::mem::swap(first[0], second[0]);
        }),
        ("two sockets", |service| {
            let name =
                service.kept.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with("child."));
            for name in name.collect::<Vec<_>>() {
                service.kept.push((name, UnixStream::pair().expect("a pair").0.into()));
            }
        }),
    ];
    let redis = Redis::start();
    for (why, damage) in damages {
        let mut service = Service::start(&redis, 64);
        let mut children = [service.connect(), service.connect()];
        children.iter_mut().for_each(|child| child.expect("PING", "+PONG\r\n"));
        service.stop();
        damage(&mut service);
        service.start_again(&[]);
        for child in &mut children {
            assert!(child.is_closed(), "{why}: {}", service.log());
        }
        assert_eq!(service.kept.len(), LISTENERS, "{why}: {:?}", service.kept);
        assert!(service.log().contains(why), "{why}: {}", service.log());
        service.connect().expect("PING", "+PONG\r\n");
        service.stop();
    }
}

/// Whoever was let in by one Redis is nobody at another, whose passwords are not told to it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn children_of_another_upstream_are_closed() {
    let (redis, other) = (Redis::start(), Redis::start());
    let mut service = Service::start(&redis, 64);
    let mut child = service.connect();
    child.expect("PING", "+PONG\r\n");
    service.stop();
    service.upstream = other.url();
    service.start_again(&[]);
    assert!(child.is_closed());
    assert!(service.log().contains("its upstream was"), "{}", service.log());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn users_that_are_gone_from_auth_file_are_closed() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 64);
    let users = service.path("users");
    let user = |name: &str| format!("[[user]]\nname='{name}'\nnopass=true\n");
    std::fs::write(&users, user("ann") + &user("bob")).expect("writable");
    let auth = format!("auth_file={}", users.display());
    service.stop();
    service.start_again(&["--set", "auth=users", "--set", &auth]);
    let (mut ann, mut bob) = (service.connect(), service.connect());
    ann.expect("AUTH ann one", "+OK\r\n");
    bob.expect("AUTH bob two", "+OK\r\n");
    std::fs::write(&users, user("ann")).expect("writable");
    service.stop();
    service.start_again(&["--set", "auth=users", "--set", &auth]);
    ann.expect("ACL WHOAMI", "$3\r\nann\r\n");
    assert!(bob.is_closed());
    assert!(service.log().contains("there is no user 'bob' in auth_file"), "{}", service.log());
}

/// A manager that reads nothing: who was to go there is closed after some time, and nobody has waited for ever.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_manager_that_takes_nothing_keeps_nobody() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 64);
    let mut child = service.connect();
    child.expect("PING", "+PONG\r\n");
    // One socket alone may have no more room of its own before that of the manager is used up.
    let others: Vec<UnixDatagram> = (0..8).map(|_| UnixDatagram::unbound().expect("a socket")).collect();
    for other in &others {
        other.set_nonblocking(true).expect("settable");
        while other.send_to(b"x", &service.manager.path).is_ok() {}
    }
    let broker = service.broker.as_mut().expect("it runs");
    signal(&broker.0, Signal::TERM);
    let status = end_within(&mut broker.0, PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert_eq!(child.try_reply(), Err(End::Closed));
    while service.hear(Duration::from_millis(50)).is_some() {}
    assert_eq!(service.kept.len(), LISTENERS, "nothing of it is in the store");
    assert!(service.log().contains("1 children are closed"), "{}", service.log());
}

/// Without Redis nobody waits for long: whoever is in nothing is told so, a transaction is closed.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn children_go_on_though_redis_does_not_answer() {
    let redis = Redis::start();
    let mut service = Service::start(&redis, 64);
    let (mut plain, mut queued) = (service.connect(), service.connect());
    plain.expect("PING", "+PONG\r\n");
    queued.expect("MULTI", "+OK\r\n");
    queued.expect("INCR n", "+QUEUED\r\n");
    service.stop();
    redis.kill();
    service.start_again(&[
        "--set",
        "queue_timeout=200ms",
        "--set",
        "connect_timeout=200ms",
        "--set",
        "on_upstream_loss=error",
    ]);
    let told = plain.ask("GET k");
    assert!(told.starts_with("-BROKERDOWN"), "{told}");
    assert!(queued.is_closed());
    redis.restart();
    wait_until("it answers", || plain.ask("GET k") == "$-1\r\n");
}
