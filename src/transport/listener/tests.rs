//! Tests of the listener: races, stale and foreign files, permissions, loopback.

use super::files::{SocketPath as Spot, id_in};
use super::*;
use crate::config::ChildProfile;
use crate::config::endpoint::SOCKET_MODE;
use crate::transport::stream::Peer;
use socket2::Domain;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnix;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

struct SocketPath {
    dir: tempfile::TempDir,
}

impl SocketPath {
    fn new() -> Self {
        SocketPath { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("b.sock")
    }

    fn lock(&self) -> PathBuf {
        self.dir.path().join("b.sock.lock")
    }

    fn spot(&self) -> Spot {
        Spot::open(&self.path(), Path::new("/none")).unwrap()
    }

    fn url(&self) -> ListenUrl {
        ListenUrl::unix(self.path())
    }

    /// The error of binding here, checked to be one line that names the place.
    fn refusal(&self) -> String {
        let error = Listener::bind(&self.url(), false).unwrap_err().to_string();
        let rest = error.strip_prefix(&format!("unix://{}: ", self.path().display()));
        assert!(!error.contains('\n'), "{error}");
        rest.unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    /// A file beside the socket that must not be touched.
    fn victim(&self) -> PathBuf {
        let victim = self.dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        victim
    }

    fn files(&self) -> usize {
        fs::read_dir(self.dir.path()).unwrap().count()
    }
}

fn tcp(host: &str, insecure: bool) -> ListenUrl {
    ListenUrl::Tcp { host: host.to_owned(), port: 0, insecure, profile: ChildProfile::default(), tls: None }
}

/// A socket file nobody listens on, as a killed process leaves it.
fn leave_stale_socket(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}

#[test]
fn a_unix_child_is_accepted_with_its_pid_and_the_files_go_with_the_listener() {
    let place = SocketPath::new();
    let listener = Listener::bind(&place.url(), false).unwrap();
    assert_eq!(listener.url(), format!("unix://{}", place.path().display()));
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);

    let mut child = StdUnix::connect(place.path()).unwrap();
    let stream = listener.accept().unwrap();
    let peer = stream.peer();
    assert!(matches!(peer, Peer::Unix(who) if who.pid as u32 == std::process::id()), "{peer}");
    let mut byte = [0];
    assert_eq!(rustix::io::read(&stream, &mut byte), Err(Errno::AGAIN));
    child.write_all(b"x").unwrap();
    assert_eq!(rustix::io::read(&stream, &mut byte), Ok(1));

    drop(listener);
    assert_eq!(place.files(), 0);
}

#[test]
fn a_tcp_child_is_accepted_without_delay_on_the_port_the_url_names() {
    for host in ["127.0.0.1", "localhost"] {
        let listener = Listener::bind(&tcp(host, false), false).unwrap();
        let address: SocketAddr = listener.url().strip_prefix("tcp://").unwrap().parse().unwrap();
        assert_ne!(address.port(), 0);
        let child = std::net::TcpStream::connect(address).unwrap();
        let stream = loop {
            match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                accepted => break accepted.unwrap(),
            }
        };
        assert_eq!(stream.peer(), Peer::Tcp(child.local_addr().unwrap()));
        assert!(matches!(stream, Stream::Tcp(stream) if stream.nodelay().unwrap()));
    }
}

#[test]
fn tcp_beyond_loopback_has_to_be_asked_for() {
    for host in ["0.0.0.0", "::ffff:0.0.0.0"] {
        let error = Listener::bind(&tcp(host, false), false).unwrap_err();
        assert_eq!(error.kind(), crate::base::error::ErrorKind::Config);
        let error = error.to_string();
        assert!(error.contains("gets the broker's rights") && error.contains("?insecure=1"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    Listener::bind(&tcp("0.0.0.0", true), false).unwrap();
    Listener::bind(&tcp("127.0.0.2", false), false).unwrap();
}

#[test]
fn a_taken_tcp_port_is_named() {
    let first = Listener::bind(&tcp("127.0.0.1", false), false).unwrap();
    let url = first.url();
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let second = ListenUrl::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
        insecure: false,
        profile: ChildProfile::default(),
        tls: None,
    };
    let error = Listener::bind(&second, false).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{url}: cannot listen on 127.0.0.1:{port}: ")), "{error}");
    drop(first);
    Listener::bind(&second, false).unwrap();
}

#[test]
fn of_two_brokers_that_start_at_once_one_listens() {
    for stale in [false, true] {
        for _ in 0..50 {
            let place = SocketPath::new();
            if stale {
                leave_stale_socket(&place.path());
            }
            let barrier = Barrier::new(2);
            let attempt = || {
                barrier.wait();
                Listener::bind(&place.url(), false)
            };
            let (a, b) = thread::scope(|scope| {
                let other = scope.spawn(attempt);
                (attempt(), other.join().unwrap())
            });
            let ((Ok(winner), Err(loser)) | (Err(loser), Ok(winner))) = (a, b) else {
                panic!("both listen, or neither");
            };
            assert!(loser.to_string().contains("another broker"), "{loser}");
            StdUnix::connect(place.path()).unwrap();
            winner.accept().unwrap();
        }
    }
}

#[test]
fn brokers_that_come_and_go_never_remove_each_others_files() {
    let place = SocketPath::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..200 {
                    if let Ok(listener) = Listener::bind(&place.url(), false) {
                        StdUnix::connect(place.path()).unwrap();
                        listener.accept().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(place.files(), 0);
}

#[test]
fn a_lock_on_a_file_that_was_removed_meanwhile_does_not_count() {
    let place = SocketPath::new();
    let lock = place.spot().lock_place();
    let mut first = lock.try_lock(|| {}).unwrap();
    assert!(first.is_some());
    assert!(lock.try_lock(|| drop(first.take())).unwrap().is_none());
    // The same with a third broker that has already made a new file.
    let mut third = None;
    let second = lock.try_lock(|| {
        fs::remove_file(place.lock()).unwrap();
        third = lock.try_lock(|| {}).unwrap();
    });
    assert!(second.unwrap().is_none());
    assert!(third.is_some() && place.lock().exists());
    assert_eq!(fs::read_to_string(place.lock()).unwrap(), format!("{}\n", std::process::id()));
}

#[test]
fn a_living_broker_is_named_by_its_pid() {
    let place = SocketPath::new();
    let _listener = Listener::bind(&place.url(), false).unwrap();
    let pid = std::process::id();
    assert_eq!(place.refusal(), format!("another broker (pid {pid}) is already listening there"));
    fs::write(place.lock(), "").unwrap();
    assert_eq!(place.refusal(), "another broker is already listening there");
    StdUnix::connect(place.path()).unwrap();
}

#[test]
fn a_living_process_without_the_lock_is_left_alone() {
    let place = SocketPath::new();
    let other = std::os::unix::net::UnixListener::bind(place.path()).unwrap();
    assert_eq!(place.refusal(), "a living process is listening there");
    other.accept().unwrap();
    assert_eq!(place.files(), 1, "no lock file is left behind");
    // A full backlog counts as living.
    let place = SocketPath::new();
    let other = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    other.bind(&socket2::SockAddr::unix(place.path()).unwrap()).unwrap();
    other.listen(0).unwrap();
    let _queued = StdUnix::connect(place.path()).unwrap();
    assert_eq!(place.refusal(), "a living process is listening there");
}

#[test]
fn a_stale_socket_is_replaced() {
    let place = SocketPath::new();
    leave_stale_socket(&place.path());
    fs::write(place.lock(), "1\n").unwrap();
    let listener = Listener::bind(&place.url(), false).unwrap();
    StdUnix::connect(place.path()).unwrap();
    listener.accept().unwrap();
    drop(listener);
    assert_eq!(place.files(), 0);
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let place = SocketPath::new();
    fs::write(place.path(), "precious").unwrap();
    assert!(place.refusal().contains("not a socket"));
    assert_eq!(fs::read_to_string(place.path()).unwrap(), "precious");

    let link = SocketPath::new();
    leave_stale_socket(&place.dir.path().join("other"));
    std::os::unix::fs::symlink(place.dir.path().join("other"), link.path()).unwrap();
    assert!(link.refusal().contains("not a socket"));
    assert!(place.dir.path().join("other").exists());
}

#[test]
fn a_lock_file_that_leads_elsewhere_is_refused() {
    let place = SocketPath::new();
    let victim = place.victim();
    std::os::unix::fs::symlink(&victim, place.lock()).unwrap();
    assert!(place.refusal().contains("cannot lock"));
    fs::remove_file(place.lock()).unwrap();
    fs::create_dir(place.lock()).unwrap();
    assert!(place.refusal().contains("cannot lock"));
    fs::remove_dir(place.lock()).unwrap();
    fs::hard_link(&victim, place.lock()).unwrap();
    assert!(place.refusal().ends_with("has another name too; it was not touched"));
    assert!(Listener::check(&place.url(), false).is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn permissions_are_set_before_anyone_can_connect() {
    for (mode, expected) in [(None, SOCKET_MODE), (Some(0o600), 0o600), (Some(0o666), 0o666)] {
        let place = SocketPath::new();
        let asked = AccessOptions { mode, ..AccessOptions::default() };
        let (socket, file) = place.spot().bind(&asked).unwrap();
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o7777, expected);
        let error = StdUnix::connect(place.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        socket.listen(1).unwrap();
        StdUnix::connect(place.path()).unwrap();
        drop(file);
        assert_eq!(place.files(), 0);
    }
}

#[test]
fn owner_and_group_are_set_or_the_failure_leaves_nothing() {
    let place = SocketPath::new();
    let with = |user: &str, group: &str| ListenUrl::Unix {
        path: place.path(),
        access: AccessOptions { mode: None, user: Some(user.to_owned()), group: Some(group.to_owned()) },
        profile: ChildProfile::default(),
    };
    let (uid, gid) = (rustix::process::geteuid().to_string(), rustix::process::getegid().to_string());
    let listener = Listener::bind(&with(&uid, &gid), false).unwrap();
    assert_eq!(fs::metadata(place.path()).unwrap().gid().to_string(), gid);
    drop(listener);
    let error = Listener::bind(&with("no such user", &gid), false).unwrap_err().to_string();
    assert!(error.contains("no user \"no such user\" in /etc/passwd"), "{error}");
    assert_eq!(place.files(), 0);
}

#[test]
fn ids_are_found_by_whole_name() {
    let text = "root:x:0:0::/:/bin/sh\nbroken\nredis:x:101:102::/:\n+::::::\n";
    let ids = ["redis", "redi", "broken", "+"].map(|name| id_in(text, name));
    assert_eq!(ids, [Some(101), None, None, None]);
}

#[test]
fn only_the_one_directory_is_created() {
    let place = SocketPath::new();
    let dir = place.dir.path().join("run");
    let path = dir.join("b.sock");
    let url = ListenUrl::unix(&path);
    let error = Listener::bind(&url, false).unwrap_err().to_string();
    assert!(error.ends_with("/run\" is not a directory; create it first"), "{error}");
    assert!(!dir.exists());

    // Whatever the URL asks for besides.
    let asked = AccessOptions { mode: Some(0o660), ..AccessOptions::default() };
    let listener = bind_unix(&path, &asked, &dir).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o755);
    drop(listener);
    bind_unix(&path, &asked, &dir).unwrap();

    fs::remove_dir(&dir).unwrap();
    check_unix(&path, &asked, &dir).unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_socket_that_replaced_ours_is_not_removed() {
    let place = SocketPath::new();
    let listener = Listener::bind(&place.url(), false).unwrap();
    // Kept under another name, so that its inode is not given to the next file.
    fs::rename(place.path(), place.dir.path().join("kept")).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(place.path()).unwrap();
    drop(listener);
    StdUnix::connect(place.path()).unwrap();
    assert!(!place.lock().exists());
}

#[test]
fn a_copy_of_the_socket_does_not_listen_on() {
    let place = SocketPath::new();
    let listener = Listener::bind(&place.url(), false).unwrap();
    let copy = listener.socket.as_fd().try_clone_to_owned().unwrap();
    fs::hard_link(place.path(), place.dir.path().join("kept")).unwrap();
    drop(listener);
    let error = StdUnix::connect(place.dir.path().join("kept")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    drop(copy);
}

/// Sets the mode of the directory for the time of a test.
fn with_mode(place: &SocketPath, mode: u32) {
    fs::set_permissions(place.dir.path(), PermissionsExt::from_mode(mode)).unwrap();
}

/// A directory of our own is no help where anybody can put another one in its place; nor is a link.
#[test]
fn nor_may_others_change_the_way_to_it() {
    let place = SocketPath::new();
    let own = place.dir.path().join("own");
    fs::create_dir(&own).unwrap();
    let bind = |path: &std::path::Path| Listener::bind(&ListenUrl::unix(path), false);
    let refused = |path: &std::path::Path| bind(path).unwrap_err().to_string();
    for mode in [0o702, 0o777] {
        with_mode(&place, mode);
        let refusal = refused(&own.join("b.sock"));
        assert!(refusal.contains(&format!("{:?} has mode {mode:04o}", place.dir.path())), "{refusal}");
    }
    // A group's is what umask 002 makes.
    for mode in [0o755, 0o775, 0o1777] {
        with_mode(&place, mode);
        bind(&own.join("b.sock")).unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&own, &link).unwrap();
    bind(&link.join("b.sock")).unwrap();
    with_mode(&place, 0o777);
    assert!(refused(&link.join("b.sock")).contains("has mode 0777"), "it is where the link leads");
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let place = SocketPath::new();
    for mode in [0o770, 0o702, 0o777, 0o2770] {
        with_mode(&place, mode);
        let refusal = place.refusal();
        let said = format!("the directory {:?} has mode {mode:04o}: others could", place.dir.path());
        assert!(refusal.starts_with(&said) && refusal.contains("chmod go-w"), "{refusal}");
        assert_eq!(
            Listener::check(&place.url(), false).unwrap_err(),
            Listener::bind(&place.url(), false).unwrap_err()
        );
        assert_eq!(place.files(), 0);
    }
    for mode in [0o700, 0o755, 0o1777, 0o1770] {
        with_mode(&place, mode);
        Listener::check(&place.url(), false).unwrap();
        drop(Listener::bind(&place.url(), false).unwrap());
    }
}

/// Only root can have a directory of somebody else's at hand.
#[test]
fn a_directory_of_somebody_elses_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = SocketPath::new();
    std::os::unix::fs::chown(place.dir.path(), Some(65534), None).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("belongs to user 65534") && refusal.contains("root or to user 0"), "{refusal}");
    assert!(Listener::check(&place.url(), false).is_err());
    assert_eq!(place.files(), 0);
}

/// What was won by whoever owned the directory: root's own file got the socket's permissions.
#[test]
fn permissions_never_go_through_a_name_that_has_changed() {
    let place = SocketPath::new();
    let victim = place.victim();
    fs::set_permissions(&victim, PermissionsExt::from_mode(0o600)).unwrap();
    let listener = Listener::bind(&place.url(), false).unwrap();
    fs::rename(place.path(), place.dir.path().join("was")).unwrap();
    std::os::unix::fs::symlink(&victim, place.path()).unwrap();
    let url = ListenUrl::Unix {
        path: place.path(),
        access: AccessOptions { mode: Some(0o666), ..AccessOptions::default() },
        profile: ChildProfile::default(),
    };
    let error = listener.apply(&url, false).unwrap_err().to_string();
    assert!(error.ends_with("another file is in the socket's place; it was not touched"), "{error}");
    // Even if the name is changed right after it was looked at.
    let Files::Own(file, _lock) = &listener.files else { panic!("its own file") };
    file.set_mode(0o666).unwrap();
    assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(place.dir.path().join("was")).unwrap().mode() & 0o777, 0o666);
}

/// `check` says what `bind` would, and neither the broker that listens nor a file notices.
#[test]
fn a_check_disturbs_no_broker() {
    let place = SocketPath::new();
    let listener = Listener::bind(&place.url(), false).unwrap();
    Listener::check(&place.url(), false).unwrap();
    StdUnix::connect(place.path()).unwrap();
    listener.accept().unwrap();
    assert_eq!(place.files(), 2);
    drop(listener);
    assert_eq!(place.files(), 0);

    let taken = Listener::bind(&tcp("127.0.0.1", false), false).unwrap();
    let port = taken.url().rsplit(':').next().unwrap().parse().unwrap();
    Listener::check(
        &ListenUrl::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
            insecure: false,
            profile: ChildProfile::default(),
            tls: None,
        },
        false,
    )
    .unwrap();
    for url in [tcp("192.0.2.1", true), tcp("0.0.0.0", false), tcp("localhost.invalid", true)] {
        assert_eq!(Listener::check(&url, false).unwrap_err(), Listener::bind(&url, false).unwrap_err());
    }
}

/// A name that fits an address only just: that of a check's own socket is longer.
#[test]
fn a_check_takes_every_path_that_can_be_bound() {
    let place = SocketPath::new();
    let room = crate::config::endpoint::SUN_PATH_MAX - place.dir.path().as_os_str().len() - 1;
    let dir = place.dir.path().join("d".repeat(room - 2));
    fs::create_dir(&dir).unwrap();
    let url = ListenUrl::unix(dir.join("s"));
    Listener::check(&url, false).unwrap();
    drop(Listener::bind(&url, false).unwrap());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}
