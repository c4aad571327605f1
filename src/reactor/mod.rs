//! The loop: one thread, one mio poll, every socket of the broker. Tells the core what arrived and what
//! time it is, then writes what the core left dirty and carries out its actions. Decides nothing that a
//! child could see.
//!
//! `turn` is one turn, `quiet` a last look at connections, `accept` the listeners, `adopt` connections that
//! were handed over, `local` the program's own children, `dial` the connections to the upstream, `reload` new
//! settings, `stats` the numbers.

mod accept;
mod adopt;
mod dial;
mod local;
mod quiet;
mod reload;
mod stats;
mod turn;

use crate::base::clock::{Clock, Millis};
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::fork::Maker;
use crate::base::key::{Arena, Key};
use crate::base::limits;
use crate::base::seed::seed;
use crate::config::accounts::Account;
use crate::config::{Settings, Upstream};
use crate::core::ChildKey;
use crate::core::LaneKey;
use crate::core::{Broker, Counters};
use crate::transport::conn::Conn;
use crate::transport::listener::Listener;
use crate::transport::resolver::{self, Lookup, Resolver, Start, Target};
use crate::transport::wake::Wake;
use accept::Door;
use adopt::Handed;
use dial::Dialler;
use local::Seat;
pub use local::{Local, LocalEvent};
use mio::{Events, Interest, Poll, Token};
use quiet::Quiet;
pub use reload::Prepared;
use reload::required_upstream;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// How long `Loop::run` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Until the loop has drained or was closed.
    Default,
    /// One turn; waits for an event.
    Once,
    /// One turn; never waits.
    NoWait,
}

/// A connection and whose it is. Its key, as a number, is the poll's token and the core's `link`: it carries
/// a generation, so neither a late event nor a late action ever hits the next tenant of its place.
#[derive(Debug)]
struct Link {
    conn: Conn,
    owner: Owner,
    /// In `Loop::ready`.
    listed: bool,
    /// Sockets may come with its bytes.
    hands_over: bool,
    /// It was read since `quiet` looked last.
    read_lately: bool,
    /// In `quiet`.
    watched: bool,
}

#[derive(Debug, Clone, Copy)]
enum Owner {
    Child(ChildKey),
    Lane(LaneKey),
    /// A connection being made for this lane; the core does not know it yet.
    Dial(LaneKey),
    /// A lane's connection that was given up: only its end is still waited for.
    Leaving,
}

const _: () = assert!(usize::BITS >= 64, "a token holds an index and a generation");

/// Tokens that are no keys: no arena grows to this index.
const RESERVED: usize = u32::MAX as usize;
const TOKEN_WAKER: Token = reserved(0);
const TOKEN_PIPE: Token = reserved(1);
const FIRST_DOOR: usize = 2;

const fn reserved(number: usize) -> Token {
    Token(number << 32 | RESERVED)
}

fn link_of(key: Key<Link>) -> usize {
    key.to_bits() as usize
}

fn key_of(link: usize) -> Key<Link> {
    Key::from_bits(link as u64)
}

/// The broker's loop: it listens, accepts children, dials the upstream and moves bytes between them, in the
/// thread that calls `run` and nowhere else.
///
/// To embed it in another loop, watch its descriptor (`AsFd`) for readable, sleep at most
/// `backend_timeout`, and call `run(RunMode::NoWait)` after either. `wait` and `work` are the two halves of
/// a turn, for a program that has something to let go of while it waits.
///
/// Dropping it closes everything. In a forked copy of the process it only closes descriptors.
pub struct Loop {
    /// Of the poll and the pipe, before these: see [`Held`].
    _held: [Held; 3],
    core: Broker,
    poll: Poll,
    events: Events,
    clock: Clock,
    /// The time the core was last told.
    told: Millis,
    links: Arena<Link>,
    /// How many links there were since unused room was last given back.
    links_peak: usize,
    doors: Vec<Door>,
    /// The number of the newest door.
    next_door: usize,
    handed: Handed,
    seats: Arena<Seat>,
    local_events: Vec<LocalEvent>,
    dialler: Dialler,
    /// Ends a wait from within the process; the resolver's threads have it too.
    waker: Arc<Wake>,
    /// The read end and the write end.
    pipe: (mio::net::UnixStream, UnixStream),
    /// One read's worth, shared by all connections, so that an idle one holds no buffer.
    scratch: Box<[u8]>,
    /// Links to read from in the next turn, without an edge.
    ready: Vec<Key<Link>>,
    /// Links to read again when nothing has come from them for a while.
    quiet: Quiet,
    /// Written to as much as one turn allows, or writable again: flushed in the next settling.
    late_lanes: Vec<LaneKey>,
    late_children: Vec<ChildKey>,
    /// Connections given up, and when to stop waiting for their end; oldest first.
    leaving: VecDeque<(Millis, Key<Link>)>,
    /// The core may have work that no event announces.
    unsettled: bool,
    /// Between `wait` and the end of `work`.
    turning: bool,
    /// The waker was used since the last turn.
    woken: bool,
    work: turn::Work,
    closed: bool,
    maker: Maker,
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("listeners", &self.listeners())
            .field("children", &self.children_len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// For `map_err`: what was attempted when the system said no.
fn attempting(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::refused(what, &error)
}

/// Where the upstream is; blocks where a name is looked up now.
fn locate(upstream: &Upstream, lookup: Lookup) -> Result<Target> {
    let unresolved = |error: Error| error.within(format!("upstream = \"{upstream}\""));
    Target::find(&upstream.address, lookup).map_err(unresolved)
}

impl Loop {
    /// Binds the listeners that `settings` name; the upstream is required, but not dialled before the first
    /// `run`. Resolves the listeners' names and reads `upstream_password_file`, blocking. The upstream's
    /// name is looked up later, in a thread of its own, whenever connections are made.
    pub fn new(settings: Settings) -> Result<Loop> {
        Loop::build(settings, Lookup::Always)
    }

    /// As `new`, for a loop inside another program. The upstream's name is looked up here, blocking, and again by
    /// `reload`; all its addresses are tried in turn. Only when a connection to it has failed or was lost is it
    /// looked up once more, in a thread that ends with that; else there is none.
    pub fn embedded(settings: Settings) -> Result<Loop> {
        Loop::embedded_with(settings, resolver::start)
    }

    /// The same for a program that has such threads started in its own way.
    pub fn embedded_with(settings: Settings, start: Start) -> Result<Loop> {
        Loop::build(settings, Lookup::AfterFailure(start))
    }

    /// Whether `new` would make a loop of these settings: takes the same steps, short of what a broker that serves at
    /// these places would notice. That one is there, or another process, is no failure.
    pub fn check(settings: &Settings) -> Result<()> {
        read_settings(settings)?;
        settings.listen.iter().try_for_each(Listener::check)?;
        settings.warn_of_files();
        Ok(())
    }

    fn build(settings: Settings, lookup: Lookup) -> Result<Loop> {
        let (upstream, accounts) = read_settings(&settings)?;
        let poll = Poll::new().map_err(attempting("cannot create a poll"))?;
        let waker = Wake::new(poll.registry(), TOKEN_WAKER).map_err(attempting("cannot create a waker"))?;
        let waker = Arc::new(waker);
        let resolver = Resolver::new(locate(&upstream, lookup)?, lookup, waker.clone());
        let pipe = wake_pair(&poll)?;
        let held = [Held::new(&poll), Held::new(&pipe.0), Held::new(&pipe.1)];
        let mut doors = Vec::new();
        for url in &settings.listen {
            doors.push(Door::open(url, poll.registry(), doors.len())?);
        }
        doors.iter().for_each(|door| door.warn_if_unguarded(settings.auth));
        settings.warn_of_files();
        let clock = Clock::new();
        let mut core = Broker::new(settings, upstream, seed(), clock.now());
        core.take_accounts(accounts);
        Ok(Loop {
            _held: held,
            core,
            poll,
            events: Events::with_capacity(limits::EVENTS_TURN),
            clock,
            told: 0,
            links: Arena::default(),
            links_peak: 0,
            next_door: doors.len(),
            doors,
            handed: Handed::default(),
            seats: Arena::default(),
            local_events: Vec::new(),
            dialler: Dialler::new(resolver),
            waker,
            pipe,
            scratch: vec![0; limits::READ_TURN].into_boxed_slice(),
            ready: Vec::new(),
            quiet: Quiet::default(),
            late_lanes: Vec::new(),
            late_children: Vec::new(),
            leaving: VecDeque::new(),
            // The core wants its control connection.
            unsettled: true,
            turning: false,
            woken: false,
            work: turn::Work::default(),
            closed: false,
            maker: Maker::here(),
        })
    }

    /// The URL of each listener, with the port that the system chose.
    pub fn listeners(&self) -> Vec<String> {
        self.doors.iter().map(Door::url).collect()
    }

    /// Runs turns. `Ok(false)` when nothing is left to do: drained or closed. An error is the poll's own;
    /// no failing connection causes one.
    pub fn run(&mut self, mode: RunMode) -> Result<bool> {
        loop {
            self.wait(mode != RunMode::NoWait)?;
            let goes_on = self.work()?;
            if !goes_on || mode != RunMode::Default {
                return Ok(goes_on);
            }
        }
    }

    /// The write end of a pipe: any byte written to it, from any thread or a signal handler, ends the wait
    /// of the present or the next turn. Non-blocking; a refused write means that a wake-up is due anyway.
    pub fn wake_pipe(&self) -> Result<UnixStream> {
        self.pipe.1.try_clone().map_err(attempting("cannot copy the wake pipe"))
    }

    /// The descriptor of the same end, for the loop's life.
    pub fn wake_fd(&self) -> RawFd {
        self.pipe.1.as_raw_fd()
    }

    /// Whether much memory has come free since the last call: a program that owns its process may want to
    /// give it back to the system, as the standalone broker does with `ffi::heap::trim`.
    pub fn take_trim(&mut self) -> bool {
        self.core.take_trim()
    }

    /// How long an embedding loop may sleep before the next `run`, in milliseconds; `None` is until the
    /// descriptor becomes readable. Zero while anything is deferred, whatever the descriptor says.
    pub fn backend_timeout(&self) -> Option<u64> {
        if self.closed { None } else { self.timeout() }
    }

    /// How long `wait` would wait for an event, in milliseconds: as `backend_timeout`, but nothing where it would not.
    pub fn patience(&self) -> Option<u64> {
        if self.closed || !self.events.is_empty() { Some(0) } else { self.timeout() }
    }

    /// Ends the service in good order: takes the connections that are waiting to be accepted, reads what
    /// every child has sent, and closes the listeners. What was read complete is answered; blocked commands and
    /// transactions that watch keys have `drain_timeout`. `run` returns `Ok(false)` when the last child has gone.
    pub fn drain(&mut self) {
        self.drain_within(None);
    }

    /// As `drain`, with a patience of its own in milliseconds; `None` is `drain_timeout`. A second call can
    /// only shorten it.
    pub fn drain_within(&mut self, timeout_ms: Option<u64>) {
        if self.closed {
            return;
        }
        self.tell_time();
        self.accept_all();
        self.close_doors();
        self.read_all();
        self.core.drain(timeout_ms);
        self.settle();
    }

    /// Closes every connection and listener at once; `run` then returns `Ok(false)`.
    pub fn close(&mut self) {
        if self.closed || !self.maker.is_here() {
            // A forked copy shares the poll and the sockets with its parent: what follows would end them.
            return;
        }
        self.core.close_all();
        self.closed = true;
        self.close_doors();
        self.carry_out_actions();
        for key in self.links.keys() {
            self.close_link(key);
        }
        self.dialler.forget_all();
        self.handed.forget_all();
        self.ready.clear();
        self.quiet = Quiet::default();
        self.late_lanes.clear();
        self.late_children.clear();
        self.leaving.clear();
    }

    /// In a forked copy of the process: closes every descriptor of the loop, without any effect on the
    /// process that made it or on its connections. A copy that keeps them would keep its parent's
    /// connections open when the parent dies. Where the loop was made, it is the same as dropping it.
    pub fn after_fork(self) {
        drop(self);
    }

    fn close_doors(&mut self) {
        for door in self.doors.drain(..) {
            door.close(self.poll.registry());
        }
    }

    /// How many children are connected.
    pub fn children_len(&self) -> usize {
        self.core.children_len()
    }

    /// Running totals.
    pub fn counters(&self) -> Counters {
        *self.core.counters()
    }

    /// Breaks the order of replies on purpose, to see the checks notice.
    #[cfg(feature = "sabotage")]
    pub fn sabotage(&mut self) {
        self.core.sabotaged = true;
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.close();
    }
}

impl AsFd for Loop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

impl AsRawFd for Loop {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

/// What has to be in order before anything is opened: settings that agree, and the files they name.
fn read_settings(settings: &Settings) -> Result<(Upstream, Vec<Account>)> {
    settings.validate()?;
    Ok((required_upstream(settings)?, settings.accounts()?))
}

/// A socket pair whose read end is watched.
fn wake_pair(poll: &Poll) -> Result<(mio::net::UnixStream, UnixStream)> {
    let pair = || {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let mut read = mio::net::UnixStream::from_std(read);
        poll.registry().register(&mut read, TOKEN_PIPE, Interest::READABLE)?;
        Ok((read, write))
    };
    pair().map_err(attempting("cannot create the wake pipe"))
}
