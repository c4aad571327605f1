//! Listening sockets that come from another process or go on to one, in the library: each finds its URL, none is closed for
//! others, and the files are removed by whoever has the say over them.

use crate::support::Redis;
use crate::support::embedded::{run_until, settings};
use broker::config::Settings;
use broker::reactor::{Door, InheritedListener, ListenerCopy, Loop, RunMode, SocketOwner};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

/// What the next process makes of copies.
fn handed(copies: Vec<ListenerCopy>, owner: SocketOwner) -> Vec<InheritedListener> {
    let hand = |copy: ListenerCopy| InheritedListener {
        socket: copy.socket,
        lock: copy.lock,
        owner: if copy.owner == SocketOwner::Another { copy.owner } else { owner },
        door: Some(copy.door),
    };
    copies.into_iter().map(hand).collect()
}

/// A socket of systemd's, as it comes without a name.
fn of_systemd(socket: impl Into<OwnedFd>) -> InheritedListener {
    InheritedListener { socket: socket.into(), lock: None, owner: SocketOwner::Another, door: None }
}

fn configured(redis: &Redis, listen: &str) -> Settings {
    settings(redis, &[("listen", listen)])
}

fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Has the loop answer a PING of each of these connections, which may have been written before it was there.
fn expect_pongs(lp: &mut Loop, children: &mut [impl Read + Write]) {
    for child in children {
        child.write_all(b"PING\r\n").expect("sent");
        let mut answer = Vec::new();
        run_until(lp, "a PONG", |_| {
            let mut bytes = [0; 16];
            match child.read(&mut bytes) {
                Ok(0) => panic!("closed"),
                Ok(count) => answer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            answer == b"+PONG\r\n"
        });
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_nonblocking(true).expect("settable");
    stream
}

fn connect_tcp(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("tcp://")).expect("it listens");
    stream.set_nonblocking(true).expect("settable");
    stream
}

#[test]
fn what_a_broker_leaves_the_next_one_finds_with_its_backlog() {
    let redis = Redis::start();
    let path = redis.directory().join("b.sock");
    let (lock, admin) = (path.with_extension("sock.lock"), redis.directory().join("admin"));
    let pairs = [
        ("listen", &*format!("{}?mode=0640,tcp://127.0.0.1:0", unix(&path))),
        ("admin_listen", &unix(&admin)),
        ("metrics_listen", "tcp://127.0.0.1:0"),
    ];
    let base = settings(&redis, &pairs);
    let mut first = Loop::new(base.clone()).expect("the loop");
    let (listeners, metrics) = (first.listeners(), first.metrics_listeners());
    let inode = || fs::symlink_metadata(&path).expect("a socket").ino();
    let before = inode();
    let copies = first.listener_copies().expect("copies");
    let doors: Vec<_> = copies.iter().map(|copy| (copy.door, copy.lock.is_some())).collect();
    let (all, admins, http) = (Door::Children, Door::Admin, Door::Http);
    assert_eq!(doors, [(all, true), (all, false), (admins, true), (http, false)]);

    let mut kept = connect(&path);
    expect_pongs(&mut first, std::slice::from_mut(&mut kept));
    first.leave_listeners();
    let error = first.reload(base.clone()).expect_err("its listeners are gone").to_string();
    assert!(error.contains("left to another process"), "{error}");
    // These wait for the next one; who is connected stays.
    let mut early = [connect(&path)];
    let mut early_tcp = [connect_tcp(&listeners[1])];
    expect_pongs(&mut first, std::slice::from_mut(&mut kept));
    assert_eq!(first.children_len(), 1);
    drop(first);
    assert!(path.exists() && lock.exists(), "they are not this one's to remove any more");

    // In another order, and both with port 0 ask for the same address: they are told apart by their doors.
    let mut inherited = handed(copies, SocketOwner::Own);
    inherited.reverse();
    let mut next = Loop::with_listeners(base.clone(), inherited).expect("the loop");
    assert_eq!((next.listeners(), next.metrics_listeners()), (listeners.clone(), metrics));
    assert_eq!(inode(), before);
    assert_eq!(fs::read_to_string(&lock).expect("a lock file"), format!("{}\n", std::process::id()));
    expect_pongs(&mut next, &mut early);
    expect_pongs(&mut next, &mut early_tcp);
    let error = Loop::new(base).expect_err("it is in use").to_string();
    assert!(error.contains("another broker (pid"), "{error}");

    // Now they are its own.
    drop(next);
    assert!(!path.exists() && !lock.exists() && !admin.exists());
    assert!(TcpStream::connect(listeners[1].trim_start_matches("tcp://")).is_err());
}

#[test]
fn what_a_broker_leaves_behind_without_its_lock_is_locked_again_and_gets_the_access_of_now() {
    let redis = Redis::start();
    let path = redis.directory().join("b.sock");
    let first = Loop::new(configured(&redis, &format!("{}?mode=0666", unix(&path)))).expect("the loop");
    let mut first = first;
    let copies = first.listener_copies().expect("copies");
    first.leave_listeners();
    drop(first);
    let mut inherited = handed(copies, SocketOwner::Own);
    inherited.iter_mut().for_each(|listener| listener.lock = None);
    let base = configured(&redis, &unix(&path));
    let mut next = Loop::with_listeners(base.clone(), inherited).expect("the loop");
    assert_eq!(fs::symlink_metadata(&path).expect("a socket").permissions().mode() & 0o777, 0o660);
    expect_pongs(&mut next, &mut [connect(&path)]);
    let error = Loop::new(base).expect_err("it is in use").to_string();
    assert!(error.contains("another broker (pid"), "{error}");
}

#[test]
fn a_start_that_fails_leaves_what_it_has_inherited() {
    let redis = Redis::start();
    let path = redis.directory().join("b.sock");
    let mut first = Loop::new(configured(&redis, &unix(&path))).expect("the loop");
    let mut stored = first.listener_copies().expect("copies");
    // The store has the sockets alone.
    stored[0].lock = None;
    first.leave_listeners();
    drop(first);
    let again = || {
        let copy = &stored[0];
        let socket = copy.socket.try_clone().expect("a descriptor");
        vec![InheritedListener { socket, lock: None, owner: SocketOwner::Own, door: Some(copy.door) }]
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!("tcp://{}", taken.local_addr().expect("an address"));
    let both = configured(&redis, &format!("{},{taken}", unix(&path)));
    Loop::with_listeners(both, again()).expect_err("a port is taken");
    let mut early = [connect(&path)];
    let mut next = Loop::with_listeners(configured(&redis, &unix(&path)), again()).expect("the loop");
    expect_pongs(&mut next, &mut early);
}

#[test]
fn what_a_predecessor_lends_changes_nothing_before_it_is_owned() {
    let redis = Redis::start();
    let path = redis.directory().join("b.sock");
    let listen = format!("{},tcp://127.0.0.1:0", unix(&path));
    let mut first = Loop::new(configured(&redis, &listen)).expect("the loop");
    let listeners = first.listeners();
    let mode = || fs::symlink_metadata(&path).expect("a socket").permissions().mode() & 0o777;
    let other = configured(&redis, &format!("{}?mode=0600,{}", unix(&path), listeners[1]));
    let lend = |first: &Loop| handed(first.listener_copies().expect("copies"), SocketOwner::Predecessor);

    // One that fails.
    let failed = Loop::with_listeners(other.clone(), lend(&first)).expect("the loop");
    assert_eq!((failed.listeners(), mode()), (listeners.clone(), 0o660));
    drop(failed);
    assert_eq!(mode(), 0o660);
    expect_pongs(&mut first, &mut [connect(&path)]);
    expect_pongs(&mut first, &mut [connect_tcp(&listeners[1])]);
    let error = Loop::new(other.clone()).expect_err("it is still locked").to_string();
    assert!(error.contains("another broker (pid"), "{error}");

    // One that does not.
    let mut next = Loop::with_listeners(other, lend(&first)).expect("the loop");
    first.leave_listeners();
    next.own_listeners().expect("they take their options");
    drop(first);
    assert_eq!(mode(), 0o600);
    expect_pongs(&mut next, &mut [connect(&path)]);
    expect_pongs(&mut next, &mut [connect_tcp(&listeners[1])]);
    drop(next);
    assert!(!path.exists());
    assert!(TcpStream::connect(listeners[1].trim_start_matches("tcp://")).is_err());
}

#[test]
fn a_socket_of_systemd_stays_systemds() {
    let redis = Redis::start();
    let path = redis.directory().join("s.sock");
    let theirs = UnixListener::bind(&path).expect("a socket");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("settable");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("tcp://{}", port.local_addr().expect("an address"));
    // A name for the address, and a path through a link: they are the same places.
    let link = redis.directory().join("link");
    std::os::unix::fs::symlink(redis.directory(), &link).expect("a link");
    let local = url.replace("127.0.0.1", "localhost");
    let listen = format!("{},{local}", unix(&link.join("s.sock")));
    let base = configured(&redis, &listen);
    let again = || {
        let theirs = of_systemd(theirs.try_clone().expect("a descriptor"));
        vec![of_systemd(port.try_clone().expect("a descriptor")), theirs]
    };
    let mut early = [connect(&path)];
    let mut lp = Loop::with_listeners(base.clone(), again()).expect("the loop");
    expect_pongs(&mut lp, &mut early);
    expect_pongs(&mut lp, &mut [connect_tcp(&url)]);
    assert!(!path.with_extension("sock.lock").exists());
    let owners: Vec<_> = lp.listener_copies().expect("copies").iter().map(|copy| copy.owner).collect();
    assert_eq!(owners, [SocketOwner::Another; 2]);

    // Who may connect is not ours to say: the same is taken, anything else is refused.
    let asking =
        |mode: &str| configured(&redis, &format!("{}?mode={mode},{local}", unix(&link.join("s.sock"))));
    let error = lp.reload(asking("0666")).expect_err("it has another mode").to_string();
    assert!(error.contains("mode 0600") && error.contains("mode 0666"), "{error}");
    Loop::with_listeners(asking("0666"), again()).expect_err("it has another mode");
    lp.reload(asking("0600")).expect("it has that mode");
    expect_pongs(&mut lp, &mut [connect(&path)]);

    // Its URL goes: we close ours. Children wait for whoever accepts.
    lp.reload(configured(&redis, listen.split_once(',').expect("two").1)).expect("less");
    let waiting = UnixStream::connect(&path).expect("systemd listens");
    theirs.set_nonblocking(true).expect("settable");
    drop(theirs.accept().expect("nobody else has accepted"));
    drop(waiting);
    lp.drain();
    run_until(&mut lp, "the end", |lp| !lp.run(RunMode::NoWait).expect("a turn"));
    drop(lp);
    drop(TcpStream::connect(url.trim_start_matches("tcp://")).expect("systemd listens"));
    drop(UnixStream::connect(&path).expect("systemd listens"));
}

#[test]
fn what_no_url_asks_for_is_closed() {
    let redis = Redis::start();
    let (path, other) = (redis.directory().join("b.sock"), redis.directory().join("other.sock"));
    let stored = Loop::new(configured(&redis, &unix(&other))).expect("the loop");
    let mut stored = stored;
    let ours = handed(stored.listener_copies().expect("copies"), SocketOwner::Own);
    stored.leave_listeners();
    drop(stored);
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    let mut inherited = ours;
    // Of this process, which keeps no copy.
    inherited.push(of_systemd(port));
    let lp = Loop::with_listeners(configured(&redis, &unix(&path)), inherited).expect("the loop");
    assert_eq!(lp.listeners(), [unix(&path)]);
    assert!(TcpStream::connect(address).is_err());
    assert!(!other.exists() && !other.with_extension("sock.lock").exists(), "nobody else would remove them");
}

#[test]
fn a_socket_whose_file_is_gone_is_replaced() {
    let redis = Redis::start();
    let path = redis.directory().join("b.sock");
    let mut first = Loop::new(configured(&redis, &unix(&path))).expect("the loop");
    let copies = first.listener_copies().expect("copies");
    first.leave_listeners();
    drop(first);
    fs::remove_file(&path).expect("it was there");
    let inherited = handed(copies, SocketOwner::Own);
    let mut next = Loop::with_listeners(configured(&redis, &unix(&path)), inherited).expect("the loop");
    expect_pongs(&mut next, &mut [connect(&path)]);
}

#[test]
fn what_is_no_listening_stream_socket_is_refused() {
    let redis = Redis::start();
    let base = configured(&redis, &unix(&redis.directory().join("b.sock")));
    let (stream, _end) = UnixStream::pair().expect("a pair");
    let datagram = UnixDatagram::bind(redis.directory().join("d.sock")).expect("a socket");
    let cases: [(OwnedFd, &str); 4] = [
        (stream.into(), "does not listen (Accept=no"),
        (datagram.into(), "is not a stream socket (ListenStream="),
        (UdpSocket::bind("127.0.0.1:0").expect("a port").into(), "is not a stream socket"),
        (fs::File::open("/dev/null").expect("readable").into(), "is not a socket"),
    ];
    for (fd, why) in cases {
        let error = Loop::with_listeners(base.clone(), vec![of_systemd(fd)]).expect_err(why).to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{error}");
    }
    assert!(!redis.directory().join("b.sock").exists());
}

/// What was stored goes with its URL, for all who have a copy of it.
#[test]
fn a_reload_ends_what_was_inherited_for_good() {
    let redis = Redis::start();
    let (path, other) = (redis.directory().join("b.sock"), redis.directory().join("other.sock"));
    let both = configured(&redis, &format!("{},{}", unix(&path), unix(&other)));
    let mut first = Loop::new(both.clone()).expect("the loop");
    let inherited = handed(first.listener_copies().expect("copies"), SocketOwner::Own);
    let stored = first.listener_copies().expect("copies");
    first.leave_listeners();
    drop(first);
    let mut next = Loop::with_listeners(both, inherited).expect("the loop");
    let mut child = [connect(&other)];
    expect_pongs(&mut next, &mut child);
    next.reload(configured(&redis, &unix(&path))).expect("less");
    assert!(!other.exists() && !other.with_extension("sock.lock").exists());
    expect_pongs(&mut next, &mut child);
    expect_pongs(&mut next, &mut [connect(&path)]);
    drop(stored);
}
