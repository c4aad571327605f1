//! The proxy between broker and Redis that makes faults: one thread, every connection through it, both
//! directions followed value by value, so that a cut can be put at any byte of a request or a reply.
//!
//! It also knows best how many connections the broker holds, and counts them at each new one.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::generator::Fault;
use super::link::{Armed, Fate, Link};
use crate::support::{Redis, wait_until};

/// Offsets tried one after the other; beyond, they are drawn.
pub(crate) const OFFSETS: usize = 48;

/// What the proxy has done and seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Faults that took effect.
    pub(crate) faults: Vec<Fault>,
    /// Offsets below [`OFFSETS`] at which requests and replies were cut.
    pub(crate) request_offsets: HashSet<usize>,
    pub(crate) reply_offsets: HashSet<usize>,
    /// Most connections the broker held at once.
    pub(crate) peak: usize,
}

struct Shared {
    stop: AtomicBool,
    /// No new faults; those under way end.
    quiet: AtomicBool,
    /// Every connection there is now is to be cut.
    cut_all: AtomicBool,
    /// Connections cut, or closed by the broker, that Redis may still count.
    ghosts: AtomicUsize,
    seen: Mutex<Seen>,
}

/// A running proxy.
pub(crate) struct FaultProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How often each kind of fault is tried, per second.
pub(crate) type Plan = Vec<(Fault, f64)>;

impl FaultProxy {
    /// Listens beside the socket of `redis`.
    pub(crate) fn start(redis: &Redis, plan: Plan, seed: u64) -> FaultProxy {
        let socket = redis.directory().join("faults.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("bind the proxy");
        listener.set_nonblocking(true).expect("a listener that does not wait");
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            cut_all: AtomicBool::new(false),
            ghosts: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let mut works = Works {
            upstream: redis.socket(),
            links: Vec::new(),
            ghosts: Vec::new(),
            rng: Rng::with_seed(seed),
            next: plan.iter().map(|(kind, rate)| (*kind, *rate, Instant::now())).collect(),
            museum: Vec::new(),
            offsets: [[0; OFFSETS]; 2],
            shared: Arc::clone(&shared),
        };
        let thread = thread::spawn(move || works.run(&listener));
        FaultProxy { socket, shared, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Lets everything pass from now on.
    pub(crate) fn be_quiet(&self) {
        self.shared.quiet.store(true, Ordering::SeqCst);
    }

    /// Cuts every connection, between two turns.
    pub(crate) fn cut_all(&self) {
        self.shared.cut_all.store(true, Ordering::SeqCst);
        wait_until("every connection is cut", || !self.shared.cut_all.load(Ordering::SeqCst));
    }

    pub(crate) fn ghosts(&self) -> usize {
        self.shared.ghosts.load(Ordering::SeqCst)
    }

    /// What has happened so far; starts to count anew.
    pub(crate) fn take_seen(&self) -> Seen {
        std::mem::take(&mut *self.shared.seen.lock().expect("seen"))
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Works {
    upstream: PathBuf,
    links: Vec<Link>,
    /// Far sides of connections cut: open until Redis has closed them.
    ghosts: Vec<UnixStream>,
    rng: Rng,
    next: Vec<(Fault, f64, Instant)>,
    /// Replies seen lately, to be put where they do not belong.
    museum: Vec<Vec<u8>>,
    /// How often requests and replies were cut at each offset.
    offsets: [[u32; OFFSETS]; 2],
    shared: Arc<Shared>,
}

impl Works {
    fn run(&mut self, listener: &UnixListener) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let ready = self.wait(listener);
            if ready.listener {
                self.accept(listener);
            }
            for (index, (near, far)) in ready.links.into_iter().enumerate() {
                let link = &mut self.links[index];
                if near {
                    link.read_near(&mut self.museum);
                }
                if far {
                    link.read_far(&mut self.museum);
                }
                link.write();
            }
            if self.shared.cut_all.swap(false, Ordering::SeqCst) {
                self.links.iter_mut().for_each(|link| link.fate = Fate::Cut);
            }
            self.settle();
            if !self.shared.quiet.load(Ordering::SeqCst) {
                self.arm();
            }
        }
    }

    /// Waits for something to do, a millisecond at most.
    fn wait(&mut self, listener: &UnixListener) -> Ready {
        let hurry = self.links.iter().any(Link::trickles);
        let timeout = Timespec { tv_sec: 0, tv_nsec: if hurry { 20_000 } else { 1_000_000 } };
        let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
        for link in &self.links {
            for (stream, flags) in [(&link.near, link.near_flags()), (&link.far, link.far_flags())] {
                fds.push(PollFd::from_borrowed_fd(stream.as_fd(), flags));
            }
        }
        let _ = poll(&mut fds, Some(&timeout));
        let readable =
            |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let links = fds[1..].chunks(2).map(|pair| (readable(&pair[0]), readable(&pair[1])));
        let ready = Ready { listener: readable(&fds[0]), links: links.collect() };
        let closed: Vec<bool> =
            fds[1..].chunks(2).map(|pair| pair[0].revents().contains(PollFlags::HUP)).collect();
        self.links.iter_mut().zip(closed).for_each(|(link, closed)| link.closed |= closed);
        ready
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((near, _)) = listener.accept() {
            self.count();
            // Without Redis the broker is hung up on, as by a host that has lost its server.
            let Ok(far) = UnixStream::connect(&self.upstream) else { continue };
            let fits = near.set_nonblocking(true).and_then(|()| far.set_nonblocking(true));
            fits.expect("sockets that do not wait");
            self.links.push(Link::new(near, far));
        }
    }

    /// Counts what the broker holds, the connection just accepted included. What it has closed hangs up.
    fn count(&mut self) {
        let mut fds: Vec<PollFd<'_>> =
            self.links.iter().map(|link| PollFd::new(&link.near, PollFlags::empty())).collect();
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let held = fds.iter().filter(|fd| !fd.revents().contains(PollFlags::HUP)).count() + 1;
        let mut seen = self.shared.seen.lock().expect("seen");
        seen.peak = seen.peak.max(held);
    }

    /// Drops what has ended, counts what has happened.
    fn settle(&mut self) {
        let mut index = 0;
        while index < self.links.len() {
            let link = &mut self.links[index];
            if !link.done.is_empty() {
                let mut seen = self.shared.seen.lock().expect("seen");
                for (kind, offset) in link.done.drain(..) {
                    seen.faults.push(kind);
                    let (set, which) = match kind {
                        Fault::CutRequest => (&mut seen.request_offsets, 0),
                        Fault::CutReply => (&mut seen.reply_offsets, 1),
                        _ => continue,
                    };
                    set.insert(offset);
                    if let Some(count) = self.offsets[which].get_mut(offset) {
                        *count += 1;
                    }
                }
            }
            match link.fate {
                Fate::Open => index += 1,
                Fate::Ended => drop(self.links.swap_remove(index)),
                Fate::Cut => {
                    let link = self.links.swap_remove(index);
                    let _ = link.far.shutdown(std::net::Shutdown::Write);
                    self.ghosts.push(link.far);
                }
            }
        }
        self.ghosts.retain_mut(|ghost| {
            let mut chunk = [0u8; 16 * 1024];
            loop {
                match ghost.read(&mut chunk) {
                    Ok(0) => return false,
                    Ok(_) => {}
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
        });
        let closed = self.links.iter().filter(|link| link.closed).count();
        self.shared.ghosts.store(self.ghosts.len() + closed, Ordering::SeqCst);
        if self.museum.len() > 64 {
            self.museum.drain(..32);
        }
    }

    /// Gives some connection a fault that is due.
    fn arm(&mut self) {
        let now = Instant::now();
        for index in 0..self.next.len() {
            let (kind, rate, due) = self.next[index];
            if now < due || self.links.is_empty() {
                continue;
            }
            let pause = Duration::from_secs_f64(2.0 * self.rng.f64() / rate);
            self.next[index].2 = now + pause;
            let busy: Vec<usize> =
                (0..self.links.len()).filter(|link| self.links[*link].is_busy(kind)).collect();
            // An idle one now and then: what waits there meets the first request.
            let link = self.rng.choice(busy).unwrap_or_else(|| self.rng.usize(..self.links.len()));
            let armed = self.draw(kind);
            self.links[link].arm(armed);
        }
    }

    fn draw(&mut self, kind: Fault) -> Armed {
        // One of those that have been had least often, or anywhere.
        let offset = |which: usize, rng: &mut Rng| {
            if rng.u8(..4) == 0 {
                return rng.usize(..4000);
            }
            let least = self.offsets[which].iter().min().copied();
            let places = (0..OFFSETS).filter(|at| Some(self.offsets[which][*at]) == least);
            rng.choice(places.collect::<Vec<_>>()).unwrap_or(0)
        };
        match kind {
            Fault::CutRequest => Armed::Cut { requests: true, offset: offset(0, &mut self.rng) },
            Fault::CutReply => Armed::Cut { requests: false, offset: offset(1, &mut self.rng) },
            Fault::Delay => Armed::Delay {
                requests: self.rng.bool(),
                time: Duration::from_micros(self.rng.u64(500..30_000)),
            },
            Fault::Split => Armed::Split { requests: self.rng.bool(), bytes: self.rng.usize(16..160) },
            Fault::Duplicate | Fault::Lose | Fault::Inject => {
                let strange = match self.museum.len() {
                    0 => b"+OK\r\n".to_vec(),
                    count => self.museum[self.rng.usize(..count)].clone(),
                };
                Armed::Frame { kind, strange, before: self.rng.bool() }
            }
        }
    }
}

struct Ready {
    listener: bool,
    /// Near and far side of each connection.
    links: Vec<(bool, bool)>,
}
