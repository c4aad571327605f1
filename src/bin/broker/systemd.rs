//! What a service manager gives to the program and hears of it: the sockets it has made or kept (LISTEN_FDS), and what the
//! loop is about (NOTIFY_SOCKET). Without these variables nothing of it happens. Sends from the loop's own thread and never
//! waits: a manager that is busy holds up nobody, and a loop that hangs feeds no watchdog.

use crate::fd_store::{FoundChildren, STORED_MAX, child_name, images_name};
use broker::base::clock::Millis;
use broker::base::error::{Error, Result};
use broker::config::value::AdminListen;
use broker::config::{ListenUrl, Settings};
use broker::reactor::{
    Door, InheritedListener, ListenerCopy, Loop, SocketOwner, StoredBatch, StoredChildren,
};
use listenfd::ListenFd;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

/// Messages that wait for a busy manager; further ones are lost, with a warning.
const WAITING_MAX: usize = 256;
/// When a busy manager is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// The same of a message with a child, who is served by nobody meanwhile.
const CHILD_RETRY: Duration = Duration::from_millis(10);
/// How long a busy manager may take for some children at the end, and for all names at the beginning.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at what STATUS= says.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// How much longer than `drain_timeout` an end may take.
const STOP_SPARE: Duration = Duration::from_secs(10);
/// Variables that are about this process and not about one it starts.
const OWN_VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// The sockets that the manager has passed, of socket units and of its store. To be called before anything is opened, once.
pub(crate) fn inherited() -> Result<Inherited> {
    let pid = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse::<u32>().ok());
    if pid != Some(std::process::id()) {
        // Those of another process: our descriptors of these numbers are something else.
        return Ok(Inherited::default());
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let mut inherited = Inherited::default();
    for index in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        if inherited.children.take(name, index, &mut passed) {
            continue;
        }
        let socket = take(&mut passed, index).map_err(|error| {
            Error::system(format!("a socket of LISTEN_FDS cannot be a listener: {error}"))
        })?;
        let stored = Door::ALL.into_iter().find(|door| is_stored_name(*door, name));
        let door = stored.or_else(|| Door::ALL.into_iter().find(|door| door.key() == name));
        let owner = if stored.is_some() { SocketOwner::Own } else { SocketOwner::Another };
        if stored.is_some() {
            inherited.stored.insert(name.to_owned());
        }
        inherited.listeners.push(InheritedListener { socket, lock: None, owner, door });
    }
    Ok(inherited)
}

/// A stream socket, whatever is connected to it.
pub(crate) fn take(passed: &mut ListenFd, index: usize) -> io::Result<OwnedFd> {
    if let Ok(Some(socket)) = passed.take_unix_listener(index) {
        return Ok(socket.into());
    }
    let socket = passed.take_tcp_listener(index)?;
    socket.map(OwnedFd::from).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What the manager has passed.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) listeners: Vec<InheritedListener>,
    /// What the store has of children.
    pub(crate) children: FoundChildren,
    /// The names of listeners in the store.
    stored: BTreeSet<String>,
}

impl Inherited {
    /// Where the sockets of socket units listen.
    pub(crate) fn of_units(&self) -> UnitSockets {
        let of_units = self.listeners.iter().filter(|listener| listener.owner == SocketOwner::Another);
        let place = |one: &InheritedListener| Some((one.door.unwrap_or(Door::Children), one.url()?));
        UnitSockets(of_units.filter_map(place).collect())
    }
}

/// Whom the sockets of socket units are for, and where they listen.
#[derive(Debug, Default)]
pub(crate) struct UnitSockets(Vec<(Door, ListenUrl)>);

impl UnitSockets {
    /// Where the settings name no listeners of a kind, these are it.
    pub(crate) fn fill_in(&self, settings: &mut Settings) {
        let of = |door: Door| self.0.iter().filter(move |(of, _)| *of == door).map(|(_, url)| url.clone());
        if settings.listen.is_empty() {
            settings.listen.extend(of(Door::Children));
        }
        if settings.metrics_listen.is_empty() {
            settings.metrics_listen.extend(of(Door::Http));
        }
        if settings.admin_listen == AdminListen::Default
            && let Some(url) = of(Door::Admin).next()
        {
            settings.admin_listen = AdminListen::At(url);
        }
    }
}

/// The name of a listener in the manager's store: its door, and its address in a form that any name may have.
fn stored_name(copy: &ListenerCopy) -> String {
    let digest = format!("{:x}", Sha256::digest(copy.url.as_bytes()));
    format!("{}.{}", copy.door.key(), &digest[..16])
}

fn is_stored_name(door: Door, name: &str) -> bool {
    let digest = name.strip_prefix(door.key()).and_then(|rest| rest.strip_prefix('.'));
    digest.is_some_and(|digest| digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Removes from the environment of a successor what is about this process. NOTIFY_SOCKET and WATCHDOG_USEC stay.
pub(crate) fn prepare_successor(command: &mut Command) {
    for name in OWN_VARIABLES {
        command.env_remove(name);
    }
}

/// The service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Manager {
    channel: Option<NotifySocket>,
    /// So many descriptors it keeps while this service restarts; 0: none.
    store_max: usize,
    /// The names of our listeners there.
    stored: BTreeSet<String>,
    /// Children that are on their way there.
    leaving: Option<LeavingBatch>,
    watchdog: Option<Watchdog>,
    /// What was said last, and what may be said next and when.
    said: Status,
    look_at_status: Option<Instant>,
    looked: Instant,
}

/// The way to it.
#[derive(Debug)]
struct NotifySocket {
    socket: UnixDatagram,
    address: UnixAddr,
    waiting: VecDeque<ManagerMessage>,
    /// When to try again what waits.
    retry: Option<Instant>,
    /// It was told that something could not be sent.
    complained: bool,
    /// Descriptors of the present batch of children that have been sent.
    children_sent: usize,
}

#[derive(Debug)]
struct ManagerMessage {
    text: String,
    fd: Option<OwnedFd>,
    /// The descriptor is a child's, or the images of some. What is not sent is closed.
    of_child: bool,
}

/// Children whose messages wait.
#[derive(Debug)]
struct LeavingBatch {
    len: usize,
    due: Instant,
}

#[derive(Debug)]
struct Watchdog {
    every: Duration,
    due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Status {
    listeners: usize,
    children: usize,
    is_up: bool,
    is_draining: bool,
}

impl Manager {
    /// The one that has started this process. Says what is wrong with its variables in the log, and goes without then.
    pub(crate) fn find(inherited: &mut Inherited) -> Manager {
        let now = Instant::now();
        let channel = std::env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let channel = NotifySocket::open(&path);
            channel.inspect_err(|error| log::warn!("NOTIFY_SOCKET={path:?}: {error}")).ok()
        });
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let period = number("WATCHDOG_USEC").filter(|period| is_ours && *period > 0);
        let every = period.filter(|_| channel.is_some()).map(|period| Duration::from_micros(period) / 2);
        Manager {
            // systemd says so from version 254 on; our units do for those before.
            store_max: number("FDSTORE").filter(|_| channel.is_some()).unwrap_or_default() as usize,
            leaving: None,
            channel,
            stored: std::mem::take(&mut inherited.stored),
            watchdog: every.map(|every| Watchdog { every, due: now }),
            said: Status::default(),
            look_at_status: None,
            looked: now,
        }
    }

    /// The loop listens: after a start, a reload or a hand-over. Also brings the store up to date.
    pub(crate) fn ready(&mut self, lp: &mut Loop) {
        if self.channel.is_none() {
            return;
        }
        self.keep(lp);
        lp.store_children(self.store_max.saturating_sub(self.stored.len()).min(STORED_MAX));
        self.said = Status::of(lp);
        self.tell(format!("READY=1\nSTATUS={}", self.said.text()), None);
    }

    /// A reload begins; `ready` ends it, whatever has come of it.
    pub(crate) fn reloading(&mut self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", now.as_micros()), None);
    }

    /// The loop is about to end. What the store has is left to the next process.
    pub(crate) fn stopping(&mut self, lp: &mut Loop) {
        if self.channel.is_none() {
            return;
        }
        if self.store_max > 0 {
            lp.keep_listeners();
        }
        let longest = Duration::from_millis(lp.settings().drain_timeout) + STOP_SPARE;
        self.said = Status { is_draining: true, ..Status::of(lp) };
        let (status, longest) = (self.said.text(), longest.as_micros());
        self.tell(format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={longest}\nSTATUS={status}"), None);
    }

    /// Another process is the service from now on: it tells the rest.
    pub(crate) fn handed_to(&mut self, pid: u32) {
        self.tell(format!("MAINPID={pid}"), None);
        // What is told from here on is that one's.
        self.watchdog = None;
        self.store_max = 0;
        self.look_at_status = None;
    }

    /// After each turn of the loop.
    pub(crate) fn turn(&mut self, lp: &Loop) {
        let Some(channel) = &mut self.channel else { return };
        let now = Instant::now();
        channel.send_waiting(now);
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.due <= now
        {
            let sent = channel.waiting.is_empty() && channel.send("WATCHDOG=1\n", None).is_ok();
            watchdog.due = now + if sent { watchdog.every } else { RETRY };
        }
        match self.look_at_status {
            Some(due) if due <= now => {
                self.look_at_status = None;
                self.looked = now;
                let status = Status::of(lp);
                if status != self.said && channel.waiting.is_empty() {
                    // One that is lost is said again with the next change.
                    let _ = channel.send(&format!("STATUS={}\n", status.text()), None);
                    self.said = status;
                }
            }
            Some(_) => {}
            None => self.look_at_status = Some(now.max(self.looked + STATUS_PAUSE)),
        }
    }

    /// In how many milliseconds the next turn is due for its sake.
    pub(crate) fn wait(&self) -> Option<Millis> {
        let channel = self.channel.as_ref()?;
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.due);
        let due = [channel.retry, watchdog, self.look_at_status].into_iter().flatten().min()?;
        // Rounded up: at that time it is due.
        Some(due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000) as Millis)
    }

    /// What the store has of children, which it has no more when this returns: whoever starts next must not find them there
    /// again. Waits for a manager that is busy; where it is for too long they are closed.
    pub(crate) fn take_back(&mut self, found: FoundChildren) -> StoredChildren {
        let (names, children) = found.into_parts();
        let due = Instant::now() + STORE_PATIENCE;
        for name in names {
            let text = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
            let outcome =
                self.channel.as_ref().map_or(Err(Errno::ENOTCONN), |one| one.send_until(&text, due));
            if let Err(error) = outcome {
                log::warn!("the children of the store are closed: they cannot be taken out of it: {error}");
                return StoredChildren::default();
            }
        }
        children
    }

    /// After each turn of the loop: children that it gives away go into the store.
    pub(crate) fn store(&mut self, lp: &mut Loop) {
        loop {
            if self.leaving.is_some() && !self.end_batch(lp) {
                return;
            }
            let Some(batch) = lp.next_stored() else { return };
            self.begin_batch(batch);
        }
    }

    fn begin_batch(&mut self, batch: StoredBatch) {
        let Some(channel) = &mut self.channel else { return };
        self.leaving = Some(LeavingBatch { len: batch.children.len(), due: Instant::now() + STORE_PATIENCE });
        let images = (images_name(batch.number), batch.images);
        let children = batch.children.into_iter().map(|(id, socket)| (child_name(id), socket));
        channel.children_sent = 0;
        for (name, fd) in std::iter::once(images).chain(children) {
            let text = format!("FDSTORE=1\nFDNAME={name}\n");
            channel.waiting.push_back(ManagerMessage { text, fd: Some(fd), of_child: true });
        }
        channel.send_waiting(Instant::now());
    }

    /// Whether all of the batch has been sent, or is closed.
    fn end_batch(&mut self, lp: &mut Loop) -> bool {
        let (Some(channel), Some(batch)) = (&mut self.channel, &self.leaving) else { return true };
        let waits = channel.waiting.iter().any(|told| told.of_child);
        if waits && Instant::now() < batch.due {
            return false;
        }
        channel.waiting.retain(|told| !told.of_child);
        // The images come first.
        let stored = channel.children_sent.saturating_sub(1);
        if stored < batch.len {
            log::warn!("{} children are closed: the service manager does not take them", batch.len - stored);
        }
        lp.stored(stored, stored == batch.len);
        self.leaving = None;
        true
    }

    /// Gives the store what is new, and takes back what has gone.
    fn keep(&mut self, lp: &Loop) {
        let copies = match lp.listener_copies() {
            Ok(copies) => copies,
            Err(error) => return log::warn!("the service manager keeps no listeners: {error}"),
        };
        let ours = copies.into_iter().filter(|copy| self.store_max > 0 && copy.owner == SocketOwner::Own);
        let ours: Vec<_> = ours.map(|copy| (stored_name(&copy), copy.socket)).collect();
        let names: BTreeSet<String> = ours.iter().map(|(name, _)| name.clone()).collect();
        let former = std::mem::replace(&mut self.stored, names);
        for name in former.difference(&self.stored).cloned().collect::<Vec<_>>() {
            self.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        }
        for (name, socket) in ours {
            if !former.contains(&name) {
                self.tell(format!("FDSTORE=1\nFDNAME={name}"), Some(socket));
            }
        }
    }

    /// Sends it now, or as soon as the manager takes it.
    fn tell(&mut self, mut text: String, fd: Option<OwnedFd>) {
        let Some(channel) = &mut self.channel else { return };
        text.push('\n');
        if channel.waiting.len() == WAITING_MAX {
            return log::warn!("the service manager takes no more messages: {text:?} is lost");
        }
        channel.waiting.push_back(ManagerMessage { text, fd, of_child: false });
        channel.send_waiting(Instant::now());
    }
}

impl NotifySocket {
    fn open(name: &OsStr) -> io::Result<NotifySocket> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
            [b'/', ..] => UnixAddr::new(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "not the path of a Unix socket")),
        };
        let (socket, waiting) = (UnixDatagram::unbound()?, VecDeque::new());
        Ok(NotifySocket { socket, address, waiting, retry: None, complained: false, children_sent: 0 })
    }

    /// What has waited, in order. What cannot be sent at all is lost, with a warning.
    fn send_waiting(&mut self, now: Instant) {
        self.retry = None;
        while let Some(ManagerMessage { text, fd, of_child }) = self.waiting.front() {
            let of_child = *of_child;
            match self.send(text, fd.as_ref()) {
                Err(error) if is_busy(error) => {
                    self.retry = Some(now + if of_child { CHILD_RETRY } else { RETRY });
                    return;
                }
                Ok(()) => self.children_sent += usize::from(of_child),
                Err(error) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        log::warn!("the service manager cannot be told {:?}: {error}", text.trim_end());
                    }
                    if of_child {
                        // No child goes without its image.
                        self.waiting.retain(|told| !told.of_child);
                        continue;
                    }
                }
            }
            self.waiting.pop_front();
        }
    }

    /// Sends it, and waits for a manager that is busy. For a program that has nothing else to do yet.
    fn send_until(&self, text: &str, due: Instant) -> nix::Result<()> {
        loop {
            match self.send(text, None) {
                Err(error) if is_busy(error) && Instant::now() < due => std::thread::sleep(CHILD_RETRY),
                outcome => return outcome,
            }
        }
    }

    fn send(&self, text: &str, fd: Option<&OwnedFd>) -> nix::Result<()> {
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let parts = [IoSlice::new(text.as_bytes())];
        sendmsg(self.socket.as_raw_fd(), &parts, control, flags, Some(&self.address)).map(drop)
    }
}

/// The manager's queue is full, or too many descriptors are under way: later it may take it.
fn is_busy(error: Errno) -> bool {
    [Errno::EAGAIN, Errno::ENOBUFS, Errno::EINTR, Errno::ETOOMANYREFS].contains(&error)
}

impl Status {
    fn of(lp: &Loop) -> Status {
        Status {
            listeners: lp.listeners().len(),
            children: lp.children_len(),
            is_up: lp.stat("upstream_up") == Some(1),
            is_draining: lp.stat("draining") == Some(1),
        }
    }

    fn text(self) -> String {
        let Status { listeners, children, is_up, is_draining } = self;
        let upstream = if is_up { "answers" } else { "does not answer" };
        match is_draining {
            true => format!("draining: {children} children are left"),
            false => format!("serving {children} children at {listeners} addresses; the upstream {upstream}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(path: &std::path::Path) -> Manager {
        Manager {
            channel: Some(NotifySocket::open(path.as_os_str()).unwrap()),
            store_max: 8,
            leaving: None,
            stored: BTreeSet::new(),
            watchdog: Some(Watchdog { every: Duration::from_secs(1), due: Instant::now() }),
            said: Status::default(),
            look_at_status: None,
            looked: Instant::now(),
        }
    }

    #[test]
    fn a_reload_is_told_with_its_time_and_a_successor_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = manager(&path);
        let next = || {
            let mut bytes = [0; 256];
            let count = socket.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..count].to_vec()).unwrap()
        };
        let monotonic = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros();
        let before = monotonic();
        manager.reloading();
        let told = next();
        let time = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.split_once('\n'));
        let (time, rest) = time.unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!(rest, "STATUS=reloading\n");
        assert!((before..=monotonic()).contains(&time.parse().unwrap()), "{told:?}");
        manager.handed_to(4711);
        assert_eq!(next(), "MAINPID=4711\n");
        assert_eq!(manager.wait(), None, "the successor feeds the watchdog");
    }

    #[test]
    fn what_waits_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // One socket alone may have no more room of its own before that of the other is used up.
        let mut fillers = Vec::new();
        loop {
            let filler = UnixDatagram::unbound().unwrap();
            filler.set_nonblocking(true).unwrap();
            if filler.send_to(b"x", &path).is_err() {
                break;
            }
            while filler.send_to(b"x", &path).is_ok() {}
            fillers.push(filler);
        }
        let mut manager = manager(&path);
        for number in 0..WAITING_MAX + 10 {
            manager.tell(format!("STATUS={number}"), None);
        }
        let channel = manager.channel.as_mut().unwrap();
        assert_eq!(channel.waiting.len(), WAITING_MAX);
        assert!(channel.retry.is_some());
        socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 256];
        let mut told = Vec::new();
        while !channel.waiting.is_empty() {
            channel.send_waiting(Instant::now());
            while let Ok(count) = socket.recv(&mut bytes) {
                told.extend(String::from_utf8(bytes[..count].to_vec()).ok().filter(|text| text != "x"));
            }
        }
        let expected: Vec<_> = (0..WAITING_MAX).map(|number| format!("STATUS={number}\n")).collect();
        assert_eq!(told, expected, "in order, and nothing twice");
    }

    #[test]
    fn a_successors_environment_is_not_about_this_process() {
        let mut command = Command::new("true");
        prepare_successor(&mut command);
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert_eq!(removed.len(), OWN_VARIABLES.len());
        assert!(!removed.contains(&OsStr::new("NOTIFY_SOCKET")));
    }
}
