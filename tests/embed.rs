//! A loop inside another program, by its Rust interface and against a real redis-server: turns in halves, the
//! program's own children and those it hands over.

use crate::support::embedded::{Desk, run_until, send, settings};
use crate::support::{self, PATIENCE, Redis};
use broker::reactor::{LocalEvent, Loop, RunMode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, socket};
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

/// Runs the loop as a foreign loop does: sleeps on the descriptor for at most `backend_timeout`.
fn sleep_and_work(lp: &mut Loop) {
    let wait = lp.backend_timeout().map_or(PATIENCE, Duration::from_millis);
    let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    poll(&mut [PollFd::new(&*lp, PollFlags::IN)], Some(&timeout)).expect("poll");
    lp.wait(false).expect("a look");
    lp.work().expect("the work");
}

// ---- local children --------------------------------------------------------------------------------------

#[test]
fn the_program_asks_for_itself() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let mut desk = Desk::default();
    let (a, b) = (lp.local_open().expect("a child"), lp.local_open().expect("a child"));
    assert_ne!(a, b);
    send(&mut lp, a, "SELECT 3\r\nSET k v\r\nGET k\r\n");
    send(&mut lp, b, "GET k\r\nECHO b\r\n");
    desk.expect(&mut lp, a, "+OK\r\n+OK\r\n$1\r\nv\r\n");
    desk.expect(&mut lp, b, "$-1\r\n$1\r\nb\r\n");
    assert_eq!(redis.ask("DBSIZE"), ":0\r\n");
    send(&mut lp, a, "QUIT\r\n");
    desk.expect(&mut lp, a, "+OK\r\n");
    run_until(&mut lp, "the end", |lp| {
        desk.take(lp);
        desk.closed == [a]
    });
    assert_eq!(lp.local_write(a, b"PING\r\n"), 0, "its name is of no more use");
    lp.local_close(a);
    assert_eq!(lp.children_len(), 1);
}

/// A program whose loop already sleeps hears of its own request; a second one costs no second wake.
#[test]
fn a_write_wakes_a_loop_that_sleeps() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    send(&mut lp, local, "PING\r\n");
    desk.expect(&mut lp, local, "+PONG\r\n");
    let start = Instant::now();
    while lp.backend_timeout() == Some(0) || readable(&lp) {
        assert!(start.elapsed() < PATIENCE, "the loop never rests");
        lp.run(RunMode::NoWait).expect("a turn");
    }
    send(&mut lp, local, "ECHO one\r\n");
    assert_eq!(lp.backend_timeout(), Some(0));
    assert!(readable(&lp), "whoever sleeps is not woken");
    send(&mut lp, local, "ECHO two\r\n");
    while desk.text(local).len() < 18 {
        assert!(start.elapsed() < PATIENCE, "no answer");
        sleep_and_work(&mut lp);
        desk.take(&mut lp);
    }
    assert_eq!(desk.text(local), "$3\r\none\r\n$3\r\ntwo\r\n");
}

/// Between the halves of a turn nobody sleeps.
#[test]
fn a_write_within_a_turn_is_done_in_it() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    send(&mut lp, local, "ECHO x\r\n");
    desk.expect(&mut lp, local, "$1\r\nx\r\n");
    lp.wait(false).expect("a look");
    lp.wait(true).expect("what was found is not lost, nor waited for when there is more");
    send(&mut lp, local, "ECHO x\r\n");
    lp.work().expect("the work");
    desk.take(&mut lp);
    assert_eq!(desk.text(local), "$1\r\nx\r\n", "answered within the turn");
    while lp.backend_timeout() == Some(0) {
        lp.run(RunMode::NoWait).expect("a turn");
    }
    assert!(!readable(&lp), "nobody had to be woken");
}

fn readable(lp: &Loop) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(lp, PollFlags::IN)], Some(&now)).expect("poll") > 0
}

#[test]
fn a_local_child_that_may_not_be_read_is_refused_and_told() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("child_in_flight_max", "4")])).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    send(&mut lp, local, "PING\r\n");
    desk.expect(&mut lp, local, "+PONG\r\n");
    send(&mut lp, local, &"INCR n\r\n".repeat(5));
    assert_eq!(lp.local_write(local, b"ECHO late\r\n"), 0);
    assert_eq!(lp.local_write(local, b"ECHO late\r\n"), 0);
    run_until(&mut lp, "room", |lp| {
        desk.take(lp);
        !desk.writable.is_empty()
    });
    send(&mut lp, local, "ECHO late\r\n");
    desk.expect(&mut lp, local, ":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n$4\r\nlate\r\n");
    assert_eq!(desk.writable, [local], "told once");
}

/// As a socket that is not read: it is closed when replies come beyond the bound. It has asked for four, as one may of
/// whom no reply is known.
#[test]
fn a_local_child_that_takes_nothing_is_bounded() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("child_output_max", "1MiB")])).expect("the loop");
    let local = lp.local_open().expect("a child");
    let value = "x".repeat(1_200_000);
    redis.ask(&format!("SET big {value}"));
    send(&mut lp, local, &"GET big\r\n".repeat(10));
    run_until(&mut lp, "the end", |lp| lp.children_len() == 0);
    let mut events = Vec::new();
    lp.local_events(&mut events);
    assert_eq!(events, [LocalEvent::Closed(local)], "nothing else is left to do about it");
}

/// Complete requests are run all the same, and nobody is told anything.
#[test]
fn a_local_child_that_leaves_is_forgotten() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let mut desk = Desk::default();
    let (gone, other) = (lp.local_open().expect("a child"), lp.local_open().expect("a child"));
    send(&mut lp, other, "PING\r\n");
    desk.expect(&mut lp, other, "+PONG\r\n");
    send(&mut lp, gone, &format!("{}SET cut", "INCR n\r\n".repeat(2000)));
    lp.local_close(gone);
    lp.local_close(gone);
    assert_eq!(lp.local_write(gone, b"PING\r\n"), 0);
    let blocked = lp.local_open().expect("a child");
    send(&mut lp, blocked, "BLPOP q 0\r\n");
    run_until(&mut lp, "a lease", |_| redis.ask("CLIENT LIST").contains("cmd=blpop"));
    lp.local_close(blocked);
    run_until(&mut lp, "their end", |lp| lp.children_len() == 1);
    assert_eq!(redis.ask("GET n"), "$4\r\n2000\r\n");
    assert_eq!(redis.ask("RPUSH q x"), ":1\r\n");
    let mut events = Vec::new();
    lp.local_events(&mut events);
    assert_eq!(events, []);
    send(&mut lp, other, "LPOP q\r\n");
    desk.expect(&mut lp, other, "$1\r\nx\r\n");
}

#[test]
fn local_children_count_and_drain_like_others() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("children_max", "2")])).expect("the loop");
    let mut desk = Desk::default();
    let (a, b) = (lp.local_open().expect("a child"), lp.local_open().expect("a child"));
    assert_eq!(lp.local_open(), None);
    send(&mut lp, a, "SET k v\r\nGET k\r\n");
    lp.drain();
    assert_eq!(lp.local_open(), None);
    run_until(&mut lp, "the end", |lp| {
        desk.take(lp);
        desk.closed.len() == 2
    });
    assert_eq!(desk.text(a), "+OK\r\n$1\r\nv\r\n");
    assert!(desk.closed.contains(&b));
    assert!(!lp.run(RunMode::Once).expect("a turn"));

    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let local = lp.local_open().expect("a child");
    lp.close();
    let mut events = Vec::new();
    lp.local_events(&mut events);
    assert_eq!(events, [LocalEvent::Closed(local)], "told even when the loop is closed at once");
    assert_eq!(lp.local_open(), None);
}

// ---- adopted children ------------------------------------------------------------------------------------

/// A blocking end for the test and the other for the loop.
fn pair() -> (UnixStream, OwnedFd) {
    let (near, far) = UnixStream::pair().expect("a pair");
    near.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (near, far.into())
}

/// Sends descriptors beside one empty line.
fn hand_over(through: &UnixStream, fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let parts = [IoSlice::new(b"\r\n")];
    rustix::net::sendmsg(through, &parts, &mut control, SendFlags::NOSIGNAL).expect("sent");
}

/// Reads exactly as much as is wanted while the loop runs.
fn expect(lp: &mut Loop, stream: &mut UnixStream, wanted: &str) {
    stream.set_nonblocking(true).expect("non-blocking");
    let mut got = Vec::new();
    run_until(lp, wanted, |_| {
        let mut bytes = vec![0; wanted.len() - got.len()];
        match stream.read(&mut bytes) {
            Ok(0) => panic!("closed after {:?}", String::from_utf8_lossy(&got)),
            Ok(count) => got.extend_from_slice(&bytes[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        got.len() == wanted.len()
    });
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

/// Whether the loop has closed its end.
fn ended(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("not the end"),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_connected_socket_becomes_a_child() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let (mut near, far) = pair();
    near.write_all(b"SET k v\r\nCLIENT INFO\r\n").expect("sent before anybody has adopted it");
    lp.adopt(far).expect("adopted");
    expect(&mut lp, &mut near, "+OK\r\n$");
    let mut rest = [0; 400];
    let count = near.read(&mut rest).expect("the rest came with it");
    let info = String::from_utf8_lossy(&rest[..count]).into_owned();
    assert!(info.contains(&format!("addr=pid:{}", std::process::id())), "{info}");
    near.shutdown(std::net::Shutdown::Both).expect("shut down");
    run_until(&mut lp, "its end", |lp| lp.children_len() == 0);

    let listener =
        TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).expect("a port");
    let mut near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    lp.adopt(listener.accept().expect("accepted").0.into()).expect("adopted");
    near.write_all(b"GET k\r\n").expect("sent");
    near.set_nonblocking(true).expect("non-blocking");
    let mut reply = [0; 7];
    run_until(&mut lp, "a reply over TCP", |_| near.read(&mut reply).is_ok());
    assert_eq!(&reply, b"$1\r\nv\r\n");
}

#[test]
fn what_is_no_connected_stream_is_handed_back() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("children_max", "1")])).expect("the loop");
    let (datagram, _other) = UnixDatagram::pair().expect("a pair");
    let cases: [(OwnedFd, &str); 4] = [
        (File::open("/dev/null").expect("a file").into(), "it is not a socket"),
        (datagram.into(), "it is not a stream socket"),
        (TcpListener::bind("127.0.0.1:0").expect("a port").into(), "it is not connected"),
        (socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket"), "it is not connected"),
    ];
    for (fd, why) in cases {
        let number = fd.as_raw_fd();
        let (back, error) = lp.adopt(fd).expect_err(why);
        assert_eq!(error.to_string(), format!("cannot adopt a socket: {why}"));
        assert_eq!(back.as_raw_fd(), number);
        rustix::io::fcntl_getfd(&back).expect("it is still open");
    }
    let (mut near, far) = pair();
    lp.adopt(far).expect("adopted");
    let (_other, far) = pair();
    let (back, error) = lp.adopt(far).expect_err("one too many");
    assert_eq!(error.to_string(), "cannot adopt a socket: children_max is 1");
    near.write_all(b"PING\r\n").expect("sent");
    expect(&mut lp, &mut near, "+PONG\r\n");
    lp.drain();
    let (back, error) = lp.adopt(back).expect_err("draining");
    assert_eq!(error.to_string(), "cannot adopt a socket: the loop drains");
    lp.close();
    let (_, error) = lp.adopt(back).expect_err("closed");
    assert_eq!(error.to_string(), "cannot adopt a socket: the loop is closed");
}

/// One inherited socket is enough: more connections come through it, and through those in turn.
#[test]
fn an_adopted_child_hands_over_more() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let (mut first, far) = pair();
    lp.adopt(far).expect("adopted");
    let mut streams = Vec::new();
    for number in 0..100 {
        let (near, far) = pair();
        let through = streams.last().unwrap_or(&first);
        hand_over(through, &[far.as_fd()]);
        drop(far);
        streams.push(near);
        let near = streams.last_mut().expect("just pushed");
        near.write_all(format!("ECHO {number:03}\r\n").as_bytes()).expect("sent");
        expect(&mut lp, near, &format!("$3\r\n{number:03}\r\n"));
    }
    assert_eq!(lp.children_len(), 101);
    // More than one turn takes, with requests before, between and behind them, in one burst.
    first.write_all(b"ECHO before\r\n").expect("sent");
    let mut burst = Vec::new();
    for _ in 0..100 {
        let (near, far) = pair();
        hand_over(&first, &[far.as_fd()]);
        burst.push(near);
    }
    first.write_all(b"ECHO behind\r\n").expect("sent");
    expect(&mut lp, &mut first, "$6\r\nbefore\r\n$6\r\nbehind\r\n");
    for near in &mut burst {
        near.write_all(b"PING\r\n").expect("sent");
        expect(&mut lp, near, "+PONG\r\n");
    }
    drop((streams, burst, first));
    run_until(&mut lp, "their end", |lp| lp.children_len() == 0);
}

#[test]
fn what_cannot_be_a_child_is_closed() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("children_max", "2")])).expect("the loop");
    let (mut first, far) = pair();
    lp.adopt(far).expect("adopted");
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    let (mut second, second_far) = pair();
    let (mut third, third_far) = pair();
    hand_over(&first, &[read.as_fd(), second_far.as_fd(), third_far.as_fd()]);
    drop((read, second_far, third_far));
    expect(&mut lp, &mut third, "-ERR max number of clients reached\r\n");
    run_until(&mut lp, "the end", |_| ended(&mut third));
    let broken = rustix::io::write(&write, b"x").expect_err("nobody has the other end");
    assert_eq!(broken, rustix::io::Errno::PIPE);
    for stream in [&mut first, &mut second] {
        stream.write_all(b"PING\r\n").expect("sent");
        expect(&mut lp, stream, "+PONG\r\n");
    }
    // More at once than one read takes: the rest is closed, the child lives.
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    hand_over(&first, &[read.as_fd(); 40]);
    drop(read);
    first.write_all(b"PING\r\n").expect("sent");
    expect(&mut lp, &mut first, "+PONG\r\n");
    assert_eq!(rustix::io::write(&write, b"x").expect_err("all closed"), rustix::io::Errno::PIPE);
}

/// A child that came through a listener has no such right: what it hands over is closed unseen.
#[test]
fn an_accepted_child_hands_over_nothing() {
    let redis = Redis::start();
    let path = redis.directory().join("broker.sock");
    let listen = format!("unix://{}", path.display());
    let mut lp = Loop::new(settings(&redis, &[("listen", &listen)])).expect("the loop");
    let mut first = UnixStream::connect(&path).expect("connected");
    let (mut near, far) = pair();
    hand_over(&first, &[far.as_fd()]);
    drop(far);
    run_until(&mut lp, "the end", |_| ended(&mut near));
    first.write_all(b"PING\r\n").expect("sent");
    expect(&mut lp, &mut first, "+PONG\r\n");
    assert_eq!(lp.children_len(), 1);
}

/// What had been handed over and sent before a drain is answered as well.
#[test]
fn a_drain_answers_children_handed_over_just_before() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let (first, far) = pair();
    lp.adopt(far).expect("adopted");
    let (mut near, far) = pair();
    near.write_all(b"INCR n\r\n").expect("sent");
    hand_over(&first, &[far.as_fd()]);
    drop(far);
    lp.drain();
    while lp.run(RunMode::Once).expect("a turn") {}
    let mut got = String::new();
    near.read_to_string(&mut got).expect("a reply and the end");
    assert_eq!(got, ":1\r\n");
}

// ---- drains and numbers ----------------------------------------------------------------------------------

/// A blocked child would hold up a drain for all of `drain_timeout`.
#[test]
fn a_drain_may_have_its_own_patience() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("drain_timeout", "1h")])).expect("the loop");
    let local = lp.local_open().expect("a child");
    send(&mut lp, local, "BLPOP q 0\r\n");
    run_until(&mut lp, "a lease", |lp| lp.stat("leases_blocking") == Some(1));
    lp.drain_within(None);
    assert!(lp.run(RunMode::NoWait).expect("a turn"));
    assert_eq!((lp.stat("draining"), lp.children_len()), (Some(1), 1));
    lp.drain_within(Some(10));
    let start = Instant::now();
    while lp.run(RunMode::Once).expect("a turn") {
        assert!(start.elapsed() < PATIENCE, "the drain never ends");
    }
    assert_eq!(lp.children_len(), 0);
}

#[test]
fn every_number_has_a_name_and_a_meaning() {
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("children_max", "2"), ("leases_blocking_max", "1")]))
        .expect("the loop");
    for (name, doc) in Loop::stats() {
        assert!(Loop::stat_names().contains(&name) && lp.stat(name).is_some(), "{name}");
        assert!(doc.ends_with('.') && !doc.contains('\n'), "{name}: {doc}");
    }
    assert_eq!(Loop::stats().count(), Loop::stat_names().len());
    assert_eq!(lp.stat("no_such_number"), None);

    let mut desk = Desk::default();
    let (a, b) = (lp.local_open().expect("a child"), lp.local_open().expect("a child"));
    assert_eq!(lp.local_open(), None);
    send(&mut lp, a, "SET k v\r\n");
    desk.expect(&mut lp, a, "+OK\r\n");
    send(&mut lp, a, "BLPOP q 0\r\n");
    run_until(&mut lp, "a lease", |lp| lp.stat("leases_blocking") == Some(1));
    send(&mut lp, b, "BLPOP r 0\r\n");
    run_until(&mut lp, "a line", |lp| lp.stat("leases_waiting") == Some(1));
    let numbers = [
        ("children", 2),
        ("children_opened", 2),
        ("children_refused", 1),
        ("requests", 1),
        ("requests_in_flight", 1),
        ("lanes_shared", 1),
        ("leases_transaction", 0),
        ("upstream_up", 1),
        ("upstream_losses", 0),
        ("desyncs", 0),
    ];
    for (name, number) in numbers {
        assert_eq!(lp.stat(name), Some(number), "{name}");
    }
    assert!(lp.stat("memory_bytes") > Some(0));
    let counted = support::upstream_clients(&redis).len() as u64;
    assert_eq!(lp.stat("upstream_connections"), Some(counted), "as Redis counts them");
    let hasty = [
        ("children_max", "2"),
        ("leases_blocking_max", "1"),
        ("queue_timeout", "50ms"),
        // The program itself is told all the same.
        ("on_upstream_loss", "close"),
    ];
    lp.reload(settings(&redis, &hasty)).expect("the new settings");
    redis.kill();
    send(&mut lp, b, "");
    run_until(&mut lp, "the loss", |lp| lp.stat("upstream_up") == Some(0));
    desk.expect(
        &mut lp,
        a,
        "-BROKERLOST upstream connection lost before the reply; the command may have been executed\r\n",
    );
    assert_eq!(lp.stat("requests_lost"), Some(1));
    desk.expect(
        &mut lp,
        b,
        "-BROKERDOWN no upstream connection; the command was not executed; \
         last attempt: Connection refused (os error 111)\r\n",
    );
    assert_eq!(lp.stat("requests_down"), Some(1));
}
