//! A proxy between the broker and Redis that can hold replies back and put bytes of its own into them: the
//! faults a real upstream shows only by accident.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{Redis, wait_until};

/// A running proxy on a socket of its own.
pub(crate) struct Proxy {
    socket: PathBuf,
    /// Where connections lead that come from now on.
    upstream: Arc<Mutex<PathBuf>>,
    links: Arc<Mutex<Vec<Arc<Link>>>>,
}

/// One proxied connection.
struct Link {
    /// The broker's side, written by the reply pump and by injections.
    near: Mutex<UnixStream>,
    /// Everything the broker sent, enough to know the connection's name.
    sent: Mutex<Vec<u8>>,
    held: AtomicBool,
    closed: AtomicBool,
}

impl Proxy {
    /// Listens beside the socket of `redis`.
    pub(crate) fn start(redis: &Redis) -> Proxy {
        let socket = redis.directory().join("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("bind the proxy");
        let links: Arc<Mutex<Vec<Arc<Link>>>> = Arc::default();
        let upstream = Arc::new(Mutex::new(redis.socket()));
        let (table, leads_to) = (Arc::clone(&links), Arc::clone(&upstream));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let address = leads_to.lock().expect("upstream").clone();
                let Ok(far) = UnixStream::connect(address) else { continue };
                let link = Arc::new(Link::new(&near));
                table.lock().expect("links").push(Arc::clone(&link));
                pump(near, far, link);
            }
        });
        Proxy { socket, upstream, links }
    }

    /// New connections lead to this server; those that stand stay where they are.
    pub(crate) fn lead_to(&self, redis: &Redis) {
        *self.upstream.lock().expect("upstream") = redis.socket();
    }

    /// The socket the broker dials.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Holds back the replies of the connections that named themselves `name`.
    pub(crate) fn hold(&self, name: &str, held: bool) {
        for link in self.named(name) {
            link.held.store(held, Ordering::SeqCst);
        }
    }

    /// Puts bytes into the reply streams of the connections of that name.
    pub(crate) fn inject(&self, name: &str, bytes: &[u8]) {
        let links = self.named(name);
        assert!(!links.is_empty(), "no connection named {name}");
        for link in links {
            let _ = link.near.lock().expect("near side").write_all(bytes);
        }
    }

    /// Waits until a connection of that name has been sent `bytes`.
    pub(crate) fn wait_sent(&self, name: &str, bytes: &[u8]) {
        wait_until("the request reaches the proxy", || {
            self.named(name).iter().any(|link| contains(&link.sent.lock().expect("sent"), bytes))
        });
    }

    /// Waits until every connection of that name that is open now has been closed.
    pub(crate) fn wait_closed(&self, name: &str) {
        let links = self.named(name);
        wait_until("the connection is closed", || {
            links.iter().all(|link| link.closed.load(Ordering::SeqCst))
        });
    }

    /// All that each open connection of that name has been sent.
    pub(crate) fn sent(&self, name: &str) -> Vec<Vec<u8>> {
        self.named(name).iter().map(|link| link.sent.lock().expect("sent").clone()).collect()
    }

    fn named(&self, name: &str) -> Vec<Arc<Link>> {
        let links = self.links.lock().expect("links");
        let open = links.iter().filter(|link| !link.closed.load(Ordering::SeqCst));
        open.filter(|link| contains(&link.sent.lock().expect("sent"), name.as_bytes())).cloned().collect()
    }
}

impl Link {
    fn new(near: &UnixStream) -> Link {
        Link {
            near: Mutex::new(near.try_clone().expect("clone the socket")),
            sent: Mutex::default(),
            held: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }
}

fn pump(near: UnixStream, far: UnixStream, link: Arc<Link>) {
    let (replies, requests) = (Arc::clone(&link), link);
    let (mut from_far, mut to_far) = (far.try_clone().expect("clone the socket"), far);
    let mut from_near = near;
    thread::spawn(move || {
        let mut chunk = [0u8; 16 * 1024];
        while let Ok(length @ 1..) = from_near.read(&mut chunk) {
            requests.sent.lock().expect("sent").extend_from_slice(&chunk[..length]);
            if to_far.write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        requests.closed.store(true, Ordering::SeqCst);
        let _ = to_far.shutdown(std::net::Shutdown::Both);
    });
    thread::spawn(move || {
        let mut chunk = [0u8; 16 * 1024];
        while let Ok(length @ 1..) = from_far.read(&mut chunk) {
            while replies.held.load(Ordering::SeqCst) && !replies.closed.load(Ordering::SeqCst) {
                // Between two looks: whoever holds a link does not say when it lets go.
                thread::sleep(Duration::from_millis(1));
            }
            if replies.near.lock().expect("near side").write_all(&chunk[..length]).is_err() {
                break;
            }
        }
        let _ = replies.near.lock().expect("near side").shutdown(std::net::Shutdown::Both);
    });
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
