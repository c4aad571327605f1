//! The side that takes. It accepts nothing and serves nobody before it has been committed; if it fails until then, the other
//! side goes on. Owns the batch that has come and is not committed: it is ours if the other side dies.

use super::{MESSAGES_TURN, name};
use crate::base::clock::Millis;
use crate::base::error::{Error, Result};
use crate::config::ListenUrl;
use crate::config::sources::Overrides;
use crate::core::{ChildImage, HANDOVER_FORMAT, HubImage, decode_hub, decode_images};
use crate::reactor::{Door, InheritedListener, Loop, SocketOwner};
use crate::resp::{encode, value};
use crate::transport::handover::{ChannelEvent, HandoverChannel, Message, WatchedProcess, read_memory};
use crate::transport::stream::{Peer, Stream};
use redis::Value;
use std::os::fd::OwnedFd;

/// A broker that is to be followed, which has answered: its listeners are at hand.
#[derive(Debug)]
pub struct Takeover {
    channel: HandoverChannel,
    predecessor: WatchedProcess,
    pid: i32,
    listeners: Vec<InheritedListener>,
    numbers: (u64, u64),
    overrides: Overrides,
    agreement: String,
}

impl Takeover {
    /// Asks the broker behind this `admin_listen` to be followed, blocking, for so many milliseconds at most.
    pub fn begin(admin: &ListenUrl, timeout_ms: u64) -> Result<Takeover> {
        const ATTEMPT: &str = "cannot take over";
        let ListenUrl::Unix { path, .. } = admin else {
            return Err(Error::config("admin_listen is no unix:// socket").within(ATTEMPT));
        };
        let stream = Stream::connect_unix(path);
        let stream = stream.map_err(Error::attempting(format!("no broker answers at {}", path.display())))?;
        let own = rustix::process::geteuid().as_raw();
        // A socket that systemd has made is root's.
        let is_ours = matches!(stream.peer(), Peer::Unix(who) if who.uid == own || who.uid == 0);
        if !is_ours {
            return Err(Error::system("the broker is another user's").within(ATTEMPT));
        }
        let mut channel = HandoverChannel::new(stream);
        let (format, version) = (HANDOVER_FORMAT.to_string(), env!("CARGO_PKG_VERSION"));
        let mut request = Vec::new();
        encode::request(&mut request, &[b"BROKER", b"TAKEOVER", format.as_bytes(), version.as_bytes()]);
        channel.say(request);
        let hello = channel.wait_for_message(timeout_ms);
        let hello = hello.map_err(|why| Error::system(why).within(ATTEMPT))?;
        Takeover::of_hello(channel, hello).map_err(|why| Error::system(why).within(ATTEMPT))
    }

    fn of_hello(channel: HandoverChannel, hello: Message) -> std::result::Result<Takeover, String> {
        if hello.name() != name::HELLO || hello.number("format") != HANDOVER_FORMAT {
            return Err("the broker answers in another format".to_owned());
        }
        let pid = hello.number("pid") as i32;
        let predecessor = WatchedProcess::of_pid(pid).map_err(|error| format!("process {pid}: {error}"))?;
        let numbers = (hello.number("last-id"), hello.number("last-ticket"));
        let lines = hello.text("listeners");
        let agreement = hello.text("agreement");
        let mut descriptors = hello.into_descriptors().into_iter();
        let overrides = overrides_of(descriptors.next().ok_or("its settings are missing")?)?;
        let mut listeners = Vec::new();
        for line in lines.lines() {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (door, owner, has_lock) = (word(), word(), word() == "1");
            let door = Door::ALL.into_iter().find(|known| known.key() == door);
            let owner = if owner == "another" { SocketOwner::Another } else { SocketOwner::Predecessor };
            let socket = descriptors.next().ok_or("a listener is missing")?;
            let lock = if has_lock { descriptors.next() } else { None };
            // A later version may have others, which are closed.
            if door.is_some() {
                listeners.push(InheritedListener { socket, lock, owner, door });
            }
        }
        Ok(Takeover { channel, predecessor, pid, listeners, numbers, overrides, agreement })
    }

    /// Its listeners, for `Loop::with_listeners`.
    pub fn take_listeners(&mut self) -> Vec<InheritedListener> {
        std::mem::take(&mut self.listeners)
    }

    /// What its console has set, which holds on.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The process that is followed.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// What the console has set there. A key that is not known here is left out, with a warning.
fn overrides_of(memory: OwnedFd) -> std::result::Result<Overrides, String> {
    let bytes = read_memory(memory).map_err(|error| error.to_string())?;
    let Some(Value::Array(words)) = value::parse(&bytes) else {
        return Err("settings that are none".to_owned());
    };
    let mut overrides = Overrides::default();
    let texts: Vec<String> = words.iter().filter_map(value::text).collect();
    for pair in texts.chunks_exact(2) {
        if let Err(error) = overrides.set(&pair[0], &pair[1]) {
            log::warn!("set by the console of the predecessor, and unknown here: {error}");
        }
    }
    Ok(overrides)
}

#[derive(Debug)]
pub(super) struct Taker {
    channel: HandoverChannel,
    predecessor: WatchedProcess,
    /// When it must be ready.
    due: Millis,
    is_ready: bool,
    /// The listeners are ours.
    is_committed: bool,
    /// The channel has ended.
    has_ended: bool,
    batch: Option<TakenBatch>,
    taken: usize,
}

impl Taker {
    /// This process ends in order, with whatever it has been given: the other one has no listeners any more.
    pub(super) fn say_ending(&mut self) {
        if self.is_committed {
            self.channel.send(Message::new(name::ENDING));
            let _ = self.channel.flush();
        }
    }
}

/// What has been found in a message, or why it is none.
type Looked<T> = std::result::Result<T, String>;

/// The children of a message: those that can be taken, and the others with the reason.
#[derive(Debug, Default)]
struct LookedAt {
    children: Vec<(ChildImage, Stream)>,
    refused: Vec<(u64, String)>,
}

/// What has come and is not ours.
#[derive(Debug)]
struct TakenBatch {
    number: u64,
    /// The connection that these listen on.
    hub: Option<(HubImage, Stream)>,
    children: Vec<(ChildImage, Stream)>,
}

impl Loop {
    /// What both have to agree about, since children take it along and are not asked again: the server and who is whom at it, how
    /// children say who they are, and which users there are. One line for each, without secrets.
    pub(super) fn agreement(&self) -> String {
        let (settings, upstream) = (self.core.settings(), self.core.upstream());
        let texts = [
            format!("upstream {upstream}"),
            format!("upstream_username {}", upstream.username.as_deref().unwrap_or_default()),
            format!("auth {}", settings.get_text("auth").unwrap_or_default()),
            format!("auth_file {}", self.prints.print_of("auth_file")),
        ];
        texts.join("\n")
    }

    /// Whether children of that broker could go on here; or what has to be changed there first.
    pub fn expect_agreement(&self, takeover: &Takeover) -> Result<()> {
        let own = self.agreement();
        let differs = own.lines().find(|line| !takeover.agreement.lines().any(|other| other == *line));
        let Some(key) = differs.and_then(|line| line.split(' ').next()) else { return Ok(()) };
        let why =
            format!("{key} is not what it is there: let the running broker reload it first, or restart it");
        Err(Error::config(why).within("cannot take over"))
    }

    /// Takes over from the broker whose listeners this loop was made with. Before it has been given something it serves
    /// nobody; if that fails it closes, and `takeover_failure` says why.
    pub fn take_over(&mut self, takeover: Takeover) {
        let Takeover { channel, predecessor, numbers, .. } = takeover;
        self.core.set_places(Some(0));
        self.core.continue_numbers(numbers);
        self.handover.keeps_out = true;
        self.handover.taker = Some(Box::new(Taker {
            channel,
            predecessor,
            due: self.clock.now() + self.core.settings().upgrade_timeout,
            is_ready: false,
            is_committed: false,
            has_ended: false,
            batch: None,
            taken: 0,
        }));
    }

    pub(super) fn go_on_taking(&mut self, mut taker: Box<Taker>) -> Option<Box<Taker>> {
        for _ in 0..MESSAGES_TURN {
            if taker.has_ended {
                break;
            }
            match taker.channel.hear() {
                ChannelEvent::Nothing => break,
                ChannelEvent::Ended => taker.has_ended = true,
                ChannelEvent::Message(message) => {
                    self.handover.step();
                    if self.predecessor_says(&mut taker, message) {
                        return None;
                    }
                }
                ChannelEvent::Wrong(why) => {
                    log::warn!("the predecessor says: {why}");
                    taker.has_ended = true;
                }
            }
        }
        if taker.has_ended {
            return self.survive(taker);
        }
        if !taker.is_ready && self.core.is_ready() {
            taker.is_ready = true;
            taker.channel.send(Message::new(name::READY));
            self.handover.step();
        }
        if !taker.is_ready && taker.due <= self.told {
            let why = "the upstream has not answered within upgrade_timeout";
            taker.channel.send(Message::new(name::ABORT).with("why", why));
            let _ = taker.channel.flush();
            return self.fail_to_take(why);
        }
        if taker.channel.flush().is_err() {
            // What it has said before is heard first.
            log::debug!("the predecessor does not listen any more");
        }
        self.handover.step();
        Some(taker)
    }

    /// Whether that was all.
    fn predecessor_says(&mut self, taker: &mut Taker, message: Message) -> bool {
        match message.name() {
            name::PLACES => self.core.set_places(Some(message.number("places") as usize)),
            name::LISTENERS => {
                self.core.continue_numbers((message.number("last-id"), message.number("last-ticket")));
                self.take_listeners_over(taker);
            }
            name::HUB => self.look_at_hub(taker, message),
            name::BATCH => self.look_at_batch(taker, message),
            name::COMMIT => {
                let number = message.number("batch");
                let places = message.number("places");
                if places > 0 {
                    self.core.set_places(Some(places as usize));
                }
                match taker.batch.take() {
                    Some(batch) if batch.number == number => self.take_batch(taker, batch),
                    // It has taken it back.
                    _ => {}
                }
            }
            name::DONE => {
                self.end_taking(taker);
                return true;
            }
            name::ABORT if !taker.is_committed => {
                self.fail_to_take(&format!("the predecessor says: {}", message.text("why")));
                return true;
            }
            other => log::debug!("the predecessor says {other}"),
        }
        false
    }

    fn take_listeners_over(&mut self, taker: &mut Taker) {
        taker.is_committed = true;
        self.handover.keeps_out = false;
        if let Err(error) = self.own_listeners() {
            log::error!("{error}");
        }
        self.listeners.iter_mut().for_each(|listener| listener.look_again());
    }

    /// Whether each of these can go on here is found out, and said, before any of them is ours.
    fn look_at_batch(&mut self, taker: &mut Taker, message: Message) {
        let number = message.number("batch");
        let mut taken = Message::new(name::TAKEN).with("batch", number);
        match self.children_of(message) {
            Ok(LookedAt { children, refused }) => {
                if let Some((_, why)) = refused.first() {
                    taken = taken.with("why", why);
                }
                let ids: Vec<String> = refused.iter().map(|(id, _)| id.to_string()).collect();
                taken = taken.with("refused", ids.join(","));
                match &mut taker.batch {
                    // More of those who share subscriptions.
                    Some(batch) if batch.number == number => batch.children.extend(children),
                    batch => *batch = Some(TakenBatch { number, hub: None, children }),
                }
            }
            Err(why) => taken = taken.with("why", why).with("refused", "all"),
        }
        self.forget_refused_hub(taker, &taken);
        taker.channel.send(taken);
        self.handover.step();
    }

    /// Whether subscriptions can go on here is said before their listeners come.
    fn look_at_hub(&mut self, taker: &mut Taker, message: Message) {
        let number = message.number("batch");
        let mut taken = Message::new(name::TAKEN).with("batch", number);
        match self.hub_of(message) {
            Ok(hub) => taker.batch = Some(TakenBatch { number, hub: Some(hub), children: Vec::new() }),
            Err(why) => taken = taken.with("why", why).with("refused", "all"),
        }
        taker.channel.send(taken);
        self.handover.step();
    }

    fn hub_of(&mut self, message: Message) -> Looked<(HubImage, Stream)> {
        let mut descriptors = message.into_descriptors().into_iter();
        let (memory, socket) =
            descriptors.next().zip(descriptors.next()).ok_or("subscriptions without a connection")?;
        let image = decode_hub(&read_memory(memory).map_err(|error| error.to_string())?)?;
        self.core.may_take_hub(&image)?;
        Ok((image, Stream::take_over(socket)?))
    }

    /// Where one of those who share subscriptions cannot go, nobody does: the other side takes them back.
    fn forget_refused_hub(&mut self, taker: &mut Taker, taken: &Message) {
        if !taken.text("refused").is_empty() {
            taker.batch.take_if(|batch| batch.hub.is_some());
        }
    }

    /// The children of a message, and those that cannot be taken.
    fn children_of(&mut self, message: Message) -> Looked<LookedAt> {
        let mut descriptors = message.into_descriptors().into_iter();
        let memory = descriptors.next().ok_or("a batch without children")?;
        let bytes = read_memory(memory).map_err(|error| error.to_string())?;
        let images = decode_images(&bytes)?;
        if images.len() != descriptors.len() {
            return Err(format!("{} children and {} sockets", images.len(), descriptors.len()));
        }
        let mut looked = LookedAt::default();
        for (image, socket) in images.into_iter().zip(descriptors) {
            let checked = self.core.may_take(&image);
            match checked.and_then(|()| Stream::take_over(socket)) {
                Ok(stream) => looked.children.push((image, stream)),
                Err(why) => looked.refused.push((image.id, why)),
            }
        }
        Ok(looked)
    }

    fn take_batch(&mut self, taker: &mut Taker, batch: TakenBatch) {
        taker.taken += batch.children.len();
        let lane = batch.hub.map(|(image, stream)| self.take_hub(&image, stream));
        batch.children.into_iter().for_each(|(image, stream)| self.take_in(image, stream, lane));
        self.handover.step();
    }

    /// All is ours.
    fn end_taking(&mut self, taker: &mut Taker) {
        self.core.set_places(None);
        log::info!("everything has been taken over, {} children with it", taker.taken);
    }

    /// The channel has ended before all was said. If the other side is dead, what it has given is ours, and so is all else;
    /// as long as it lives, what it has not committed is its own.
    fn survive(&mut self, mut taker: Box<Taker>) -> Option<Box<Taker>> {
        if taker.predecessor.has_ended() {
            if let Some(batch) = taker.batch.take() {
                self.take_batch(&mut taker, batch);
            }
            if !taker.is_committed {
                log::warn!("the predecessor has died; this process serves in its place");
                self.take_listeners_over(&mut taker);
            }
            self.end_taking(&mut taker);
            return None;
        }
        if taker.is_committed || taker.due > self.told {
            return Some(taker);
        }
        self.fail_to_take("the predecessor has given it up")
    }

    /// Nothing is ours: the other side goes on.
    fn fail_to_take(&mut self, why: &str) -> Option<Box<Taker>> {
        self.handover.failure = Some(why.to_owned());
        self.close();
        None
    }
}
