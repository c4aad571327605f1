//! The loop: one thread, one mio poll, every socket of the broker. Passes input and the time to the core, then writes what
//! the core has queued and carries out its actions. Decides nothing that a child could see.

mod accept;
mod adopt;
mod dial;
mod drain;
mod handover;
mod handshakes;
mod history;
mod http;
mod inherit;
mod local;
mod metrics;
mod moving;
mod orders;
mod pace;
mod quiet;
mod reload;
mod secrets;
mod sentinels;
mod stats;
mod status;
mod turn;
mod who;

use crate::base::clock::{Clock, Millis, time_of_day};
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::fork::Maker;
use crate::base::key::{Arena, Key};
use crate::base::limits;
use crate::base::seed::seed;
use crate::config::accounts::Account;
use crate::config::sources::Sourced;
use crate::config::value::AdminListen;
use crate::config::{ListenUrl, Settings, Upstream};
use crate::core::{Broker, ChildKey, LaneKey, SentinelId};
use crate::transport::conn::Conn;
use crate::transport::listener::Listener;
pub use crate::transport::listener::SocketOwner;
use crate::transport::wake::Wake;
pub use accept::Door;
use accept::PolledListener;
use adopt::Handed;
use dial::{Caller, Dialler};
use drain::Draining;
use handover::Handover;
pub use handover::{HandoverState, StoredBatch, StoredChildren, Takeover};
use handshakes::Handshakes;
use history::History;
use http::Http;
use inherit::Inheritance;
pub use inherit::{InheritedListener, ListenerCopy};
use local::LocalChild;
pub use local::{LocalEvent, LocalKey};
use mio::{Events, Interest, Poll, Token};
use moving::MoveWithSettings;
pub use orders::Ordered;
use pace::Pace;
pub use pace::StepKind;
use quiet::Quiet;
use reload::required_upstream;
pub use reload::{Prepared, SettingsVeto};
use secrets::{FilePrints, Secrets, is_guarded, warn_of_insecurity};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use who::Lookups;

/// When `Loop::run` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// When the loop has drained or was closed.
    Default,
    /// After one turn, which waits for an event.
    Once,
    /// After one turn, which never waits.
    NoWait,
}

/// A connection and its owner. Its key, as a number, is the poll's token and the core's `link`. The key contains a
/// generation, so a late event or action never reaches a later connection in the same slot.
#[derive(Debug)]
struct Link {
    conn: Conn,
    owner: Owner,
    listed: bool,
    /// It is a child's that takes no more replies: they are dropped.
    deaf: bool,
    /// Its bytes may carry sockets.
    hands_over: bool,
    /// It was read since the last check of `quiet`.
    read_lately: bool,
    watched: bool,
    /// The core believes that it knows who has written what was read last.
    knows_writer: bool,
}

#[derive(Debug, Clone, Copy)]
enum Owner {
    Child(ChildKey),
    Lane(LaneKey),
    /// A connection being made; the core does not know it yet.
    Dial(Caller),
    /// Of a sentinel, which is no lane.
    Sentinel(SentinelId),
    /// The connection of a lane that has given it up: only its end of file is awaited.
    Leaving,
    /// Of who reads metrics.
    Http,
    /// Of who is in a TLS handshake and will be a child.
    Guest,
    /// Of a child that has ended: its last bytes wait for the socket.
    Parting,
}

const _: () = assert!(usize::BITS >= 64, "a token holds an index and a generation");

/// Tokens that are not keys: no arena grows to this index.
const RESERVED: usize = u32::MAX as usize;
const TOKEN_WAKER: Token = reserved(0);
const TOKEN_PIPE: Token = reserved(1);
const FIRST_LISTENER: usize = 2;

const fn reserved(number: usize) -> Token {
    Token(number << 32 | RESERVED)
}

fn link_of(key: Key<Link>) -> usize {
    key.to_bits() as usize
}

fn key_of(link: usize) -> Key<Link> {
    Key::from_bits(link as u64)
}

/// The broker's loop: it listens, accepts children, connects to the upstream and moves bytes between them, only in the
/// thread that calls `run`.
///
/// To embed it in another loop, watch its descriptor (`AsFd`) for readability, sleep at most
/// `backend_timeout`, and call `run(RunMode::NoWait)` after either. `wait` and `work` are the two halves of
/// a turn, for a program that must release something while it waits.
///
/// Dropping it closes everything. In a forked copy of the process it only closes descriptors.
pub struct Loop {
    /// Of the poll and the pipe; declared before them: see [`Held`].
    _held: [Held; 3],
    core: Broker,
    poll: Poll,
    events: Events,
    clock: Clock,
    /// The time of day when the clock was at zero.
    started: Duration,
    /// The time last passed to the core.
    told: Millis,
    links: Arena<Link>,
    /// The largest number of links since unused memory was last freed.
    links_peak: usize,
    listeners: Vec<PolledListener>,
    next_listener: usize,
    /// Another process goes on with them when the loop has ended.
    listeners_kept: bool,
    /// Another process has them already.
    listeners_left: bool,
    handed: Handed,
    http: Http,
    history: History,
    locals: Arena<LocalChild>,
    local_events: Vec<LocalEvent>,
    sourced: Sourced,
    prints: FilePrints,
    /// What the program has to say about new settings.
    veto: Option<SettingsVeto>,
    /// Since somebody has asked.
    listeners_changed: bool,
    dialler: Dialler,
    handshakes: Handshakes,
    waker: Wake,
    /// Read end, write end.
    pipe: (mio::net::UnixStream, UnixStream),
    /// The buffer of one read, shared by all connections, so that an idle one has none.
    scratch: Box<[u8]>,
    quiet: Quiet,
    /// Connections given up, and when to stop waiting for their end of file; oldest first.
    leaving: VecDeque<(Millis, Key<Link>)>,
    /// The core may have work that no event announces.
    unsettled: bool,
    /// Between `wait` and the end of `work`.
    turning: bool,
    /// The waker was used since the last turn.
    woken: bool,
    work: turn::WorkLists,
    pace: Pace,
    draining: Draining,
    lookups: Lookups,
    /// Orders that the program has not taken, if it takes any.
    ordered: VecDeque<Ordered>,
    orders_for_program: bool,
    handover: Handover,
    planned: Option<MoveWithSettings>,
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

impl Loop {
    /// Binds the listeners of `settings`. The upstream is required, but neither looked up nor connected to before the first
    /// `run`. Resolves the listeners' names and reads `upstream_password_file`, blocking.
    ///
    /// The upstream's name is looked up whenever it is connected to, if the last answer is old or a connection has failed or
    /// was lost since: in /etc/hosts and by DNS, without blocking and without a thread. All its addresses are tried in turn.
    pub fn new(sourced: impl Into<Sourced>) -> Result<Loop> {
        Loop::with_listeners(sourced, Vec::new())
    }

    /// As `new`, with listening sockets that other processes have made. One that listens where a URL of the settings asks for
    /// it is used in place of a new one; any other is closed with a warning. Refused is what is no listening stream socket.
    pub fn with_listeners(sourced: impl Into<Sourced>, inherited: Vec<InheritedListener>) -> Result<Loop> {
        let sourced = sourced.into();
        let settings = sourced.settings()?;
        let (upstream, accounts) = read_settings(&settings)?;
        let mut secrets = Secrets::read(&settings)?;
        let poll = Poll::new().map_err(Error::attempting("cannot create a poll"))?;
        let waker = Wake::new(poll.registry(), TOKEN_WAKER);
        let waker = waker.map_err(Error::attempting("cannot create a waker"))?;
        let pipe = wake_pair(&poll).map_err(Error::attempting("cannot create the wake pipe"))?;
        let held = [Held::new(&poll), Held::new(&pipe.0), Held::new(&pipe.1)];
        let listeners = open_doors(&settings, &mut secrets, inherited, &poll)?;
        listeners.iter().for_each(|listener| listener.warn_if_unguarded(settings.auth));
        settings.warn_of_files();
        warn_of_insecurity(&settings);
        let clock = Clock::new();
        let mut core = Broker::new(settings, upstream, seed(), clock.now());
        core.take_accounts(accounts);
        core.set_sources(sourced.sources());
        core.set_own_uid(rustix::process::geteuid().as_raw());
        Ok(Loop {
            _held: held,
            core,
            poll,
            events: Events::with_capacity(limits::EVENTS_TURN),
            clock,
            started: time_of_day(),
            told: 0,
            links: Arena::default(),
            links_peak: 0,
            next_listener: listeners.len(),
            listeners,
            listeners_kept: false,
            listeners_left: false,
            handed: Handed::default(),
            http: Http::default(),
            history: History::default(),
            locals: Arena::default(),
            local_events: Vec::new(),
            sourced,
            prints: secrets.prints,
            veto: None,
            listeners_changed: false,
            dialler: Dialler::new(secrets.upstream),
            handshakes: Handshakes::default(),
            waker,
            pipe,
            scratch: vec![0; limits::READ_TURN].into_boxed_slice(),
            quiet: Quiet::default(),
            leaving: VecDeque::new(),
            // The core requests its control connection.
            unsettled: true,
            turning: false,
            woken: false,
            work: turn::WorkLists::default(),
            pace: Pace::default(),
            draining: Draining::default(),
            lookups: Lookups::default(),
            ordered: VecDeque::new(),
            orders_for_program: false,
            handover: Handover::default(),
            planned: None,
            closed: false,
            maker: Maker::here(),
        })
    }

    /// Whether `new` would succeed with these settings: performs the same steps, except those that a broker serving at
    /// these addresses would notice. An existing listener at an address is not a failure.
    pub fn check(settings: &Settings) -> Result<()> {
        read_settings(settings)?;
        let secrets = Secrets::read(settings)?;
        doors(settings).try_for_each(|(_, url)| Listener::check(url, is_guarded(settings, url)))?;
        drop(secrets);
        settings.warn_of_files();
        Ok(())
    }

    /// The URL of each listener for children, with the port that the system chose.
    pub fn listeners(&self) -> Vec<String> {
        self.urls(Door::Children)
    }

    /// Whether they may be others than at the last call: the console can change them, too.
    pub fn take_listeners_changed(&mut self) -> bool {
        std::mem::take(&mut self.listeners_changed)
    }

    /// The same of each listener for metrics and health.
    pub fn metrics_listeners(&self) -> Vec<String> {
        self.urls(Door::Http)
    }

    fn urls(&self, door: Door) -> Vec<String> {
        let in_use = self.listeners.iter().filter(|listener| listener.door == door && listener.is_in_use());
        in_use.map(PolledListener::url).collect()
    }

    /// Runs turns. `Ok(false)` when the loop has drained or was closed. An error is one of the poll itself;
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

    /// The write end of a pipe: a byte written to it, from any thread or a signal handler, ends the wait
    /// of the current or the next turn. Non-blocking; a refused write means that a wake-up is pending already.
    pub fn wake_pipe(&self) -> Result<UnixStream> {
        self.pipe.1.try_clone().map_err(Error::attempting("cannot copy the wake pipe"))
    }

    /// The descriptor of the same end, valid as long as the loop.
    pub fn wake_fd(&self) -> RawFd {
        self.pipe.1.as_raw_fd()
    }

    /// Whether much memory has become free since the last call: a program that owns its process may
    /// return it to the system, as the standalone broker does with `ffi::heap::trim`.
    pub fn take_trim(&mut self) -> bool {
        self.core.take_trim()
    }

    /// How long an embedding loop may sleep before the next `run`, in milliseconds; `None` means until the
    /// descriptor becomes readable. Zero while work is deferred, even if the descriptor is not readable.
    pub fn backend_timeout(&self) -> Option<u64> {
        if self.closed { None } else { self.timeout() }
    }

    /// How long `wait` would wait for an event, in milliseconds: as `backend_timeout`, but zero if it would not wait.
    pub fn patience(&self) -> Option<u64> {
        if self.closed || !self.events.is_empty() { Some(0) } else { self.timeout() }
    }

    /// Closes every connection and listener at once; `run` then returns `Ok(false)`.
    pub fn close(&mut self) {
        if self.closed || !self.maker.is_here() {
            // A forked copy shares the poll and the sockets with its parent: the steps below would end them.
            return;
        }
        self.end_handover();
        self.core.close_all();
        self.closed = true;
        self.forget_store();
        self.close_doors();
        self.carry_out_all();
        for key in self.links.keys() {
            self.close_link(key);
        }
        self.forget_dials();
        self.handshakes = Handshakes::default();
        self.handed = Handed::default();
        self.http.forget_all();
        self.quiet = Quiet::default();
        self.work = turn::WorkLists::default();
        self.leaving.clear();
    }

    /// In a forked copy of the process: closes every descriptor of the loop, without any effect on the
    /// process that created it or on its connections. Otherwise the copy would keep its parent's connections
    /// open when the parent dies. In the process that created the loop it is the same as dropping it.
    pub fn after_fork(self) {
        drop(self);
    }

    /// Whether anybody may ask over HTTP.
    fn serves_http(&self) -> bool {
        !self.core.settings().metrics_listen.is_empty()
    }

    fn close_doors(&mut self) {
        while !self.listeners.is_empty() {
            self.close_door(0);
        }
    }

    /// Closes a listener; one that others go on with, without ending it.
    fn close_door(&mut self, index: usize) {
        let mut listener = self.listeners.remove(index);
        if self.listeners_kept {
            listener.leave();
        }
        listener.close(self.poll.registry());
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        self.core.settings()
    }

    /// How many children are connected.
    pub fn children_len(&self) -> usize {
        self.core.children_len()
    }

    /// Breaks the order of replies on purpose, to test that the checks detect it.
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

/// The listeners that the settings ask for, in order.
fn doors(settings: &Settings) -> impl Iterator<Item = (Door, &ListenUrl)> {
    let children = settings.listen.iter().map(|url| (Door::Children, url));
    let admin = if let AdminListen::At(url) = &settings.admin_listen { Some(url) } else { None };
    let others = settings.metrics_listen.iter().map(|url| (Door::Http, url));
    children.chain(admin.map(|url| (Door::Admin, url))).chain(others)
}

/// A listener for each URL, in their order.
fn open_doors(
    settings: &Settings,
    secrets: &mut Secrets,
    inherited: Vec<InheritedListener>,
    poll: &Poll,
) -> Result<Vec<PolledListener>> {
    let mut inheritance = Inheritance::place(settings, inherited)?;
    let mut opened: Vec<(PolledListener, bool)> = Vec::new();
    for (number, (door, url)) in doors(settings).enumerate() {
        let (guarded, tls) = (is_guarded(settings, url), secrets.take(url));
        let socket = inheritance.take(number);
        let is_inherited = socket.is_some();
        match PolledListener::open((door, url), socket, guarded, tls, poll.registry(), number) {
            Ok(listener) => opened.push((listener, is_inherited)),
            Err(error) => {
                // Whoever tries next finds what was inherited as it was.
                let inherited = opened.iter_mut().filter(|(_, is_inherited)| *is_inherited);
                inherited.for_each(|(listener, _)| listener.leave());
                return Err(error);
            }
        }
    }
    Ok(opened.into_iter().map(|(listener, _)| listener).collect())
}

/// Checks before anything is opened: settings that agree, and the files they name.
fn read_settings(settings: &Settings) -> Result<(Upstream, Vec<Account>)> {
    settings.validate()?;
    Ok((required_upstream(settings)?, settings.accounts()?))
}

/// A socket pair whose read end is watched.
fn wake_pair(poll: &Poll) -> io::Result<(mio::net::UnixStream, UnixStream)> {
    let (mut read, write) = mio::net::UnixStream::pair()?;
    poll.registry().register(&mut read, TOKEN_PIPE, Interest::READABLE)?;
    Ok((read, OwnedFd::from(write).into()))
}
