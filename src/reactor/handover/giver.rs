//! The side that gives. Until the other one is ready nothing has changed but places for connections, which come back if it
//! fails. Owns the batch that is under way: its children are in neither core, and go to whoever lives.

use super::hubs::{GivenHub, HubMoves};
use super::{HandoverState, MESSAGES_TURN, name};
use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::sources::Overrides;
use crate::core::{ChildImage, ChildKey, HANDOVER_FORMAT, encode_images};
use crate::reactor::drain::Draining;
use crate::reactor::{ListenerCopy, Loop, SocketOwner, key_of};
use crate::resp::encode;
use crate::transport::handover::{
    ChannelEvent, DESCRIPTORS_MAX, HandoverChannel, Message, WatchedProcess, sealed_memory,
};
use crate::transport::stream::{Peer, Stream};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use zeroize::Zeroizing;

/// Places for connections that a broker needs to be ready: its own connection, and one for children.
const PLACES_FIRST: usize = 2;

/// For so many milliseconds a batch may be under way: its children are served by nobody meanwhile.
pub(super) const BATCH_PATIENCE: Millis = 3_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The other one is not ready.
    Preparing,
    /// The other one is ready. Subscriptions go first, as long as nobody there has any.
    Subscriptions,
    /// The other one accepts, and children go.
    Giving,
    /// Those that could not go are let go here.
    Draining,
    /// No child is left: connections are given up.
    Ending,
    /// The channel has ended: who lives is not known yet.
    Orphaned,
}

/// Children that are on their way.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) children: Vec<(ChildImage, Stream)>,
    /// The connection that these listen on.
    pub(super) hub: Option<GivenHub>,
    /// The commit stands in line.
    is_committed: bool,
    /// When it has been under way for too long.
    due: Millis,
}

impl Batch {
    pub(super) fn of_hub(number: u64, hub: GivenHub, due: Millis) -> Batch {
        Batch { number, children: Vec::new(), hub: Some(hub), is_committed: false, due }
    }
}

#[derive(Debug)]
pub(super) struct Giver {
    pub(super) channel: HandoverChannel,
    successor: WatchedProcess,
    phase: Phase,
    /// When those that are left end, or all comes to nothing.
    due: Millis,
    /// Places for connections that the other one has been given.
    pub(super) places: usize,
    /// Children when they began to go.
    children: usize,
    pub(super) batch: Option<Batch>,
    pub(super) hubs: HubMoves,
    batches: u64,
    given: usize,
}

impl Giver {
    pub(super) fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    pub(super) fn next_batch(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }
}

/// How a listener stands in the hello.
fn line_of(copy: &ListenerCopy) -> String {
    let owner = if copy.owner == SocketOwner::Another { "another" } else { "predecessor" };
    format!("{} {owner} {} {}", copy.door.key(), u8::from(copy.lock.is_some()), copy.url)
}

impl Loop {
    /// A process asks for everything, over the connection of one of the children.
    pub(in crate::reactor) fn begin_giving(
        &mut self,
        asker: ChildKey,
        format: u64,
        version: &str,
    ) -> Result<(), String> {
        let successor = self.may_give(asker, format)?;
        let copies = self.listener_copies().map_err(|error| error.to_string())?;
        let descriptors: usize = copies.iter().map(|copy| 1 + usize::from(copy.lock.is_some())).sum();
        if descriptors >= DESCRIPTORS_MAX {
            return Err("there are too many listeners for one message".to_owned());
        }
        let Some(stream) = self.detach(asker) else { return Err("the connection has gone".to_owned()) };
        log::info!("a successor of version {version} takes over");
        let overrides = memory_of(self.sourced().overrides()).map_err(|error| error.to_string())?;
        let (id, ticket) = self.core.numbers();
        let lines: Vec<String> = copies.iter().map(line_of).collect();
        let hello = Message::new(name::HELLO)
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("format", HANDOVER_FORMAT)
            .with("pid", std::process::id())
            .with("last-id", id)
            .with("last-ticket", ticket)
            .with("listeners", lines.join("\n"))
            .with("agreement", self.agreement());
        let sockets = copies.into_iter().flat_map(|copy| [Some(copy.socket), copy.lock]).flatten();
        let descriptors = std::iter::once(overrides).chain(sockets).collect();
        let mut channel = HandoverChannel::new(stream);
        channel.send(hello.carrying(descriptors));
        self.handover.state = HandoverState::Preparing;
        self.handover.giver = Some(Box::new(Giver {
            channel,
            successor,
            phase: Phase::Preparing,
            due: self.told + self.core.settings().upgrade_timeout,
            places: 0,
            children: 0,
            batch: None,
            hubs: HubMoves::default(),
            batches: 0,
            given: 0,
        }));
        Ok(())
    }

    /// Whether this process may be followed now, by whoever asks; the process that it is.
    fn may_give(&self, asker: ChildKey, format: u64) -> Result<WatchedProcess, String> {
        if !self.handover.is_allowed {
            return Err("this broker cannot be taken over".to_owned());
        }
        if self.handover.giver.is_some() {
            return Err("another process is taking over".to_owned());
        }
        if self.handover.taker.is_some() {
            return Err("this broker is still taking over itself".to_owned());
        }
        if !self.is_serving() {
            return Err("this broker drains".to_owned());
        }
        if self.core.paused().is_some() {
            return Err("this broker is paused: its requests would go on there".to_owned());
        }
        if self.planned.is_some() {
            return Err("this broker moves to another upstream".to_owned());
        }
        if format != HANDOVER_FORMAT {
            return Err(format!("the hand-over has format {HANDOVER_FORMAT} here, not {format}"));
        }
        let own = rustix::process::geteuid().as_raw();
        let link = self.core.child_link(asker).and_then(|link| self.links.get(key_of(link)));
        let Some(Peer::Unix(peer)) = link.map(|link| link.conn.stream().peer()) else {
            return Err("it is for a process of this host, over a unix:// socket".to_owned());
        };
        if peer.uid != own || self.core.sure_writer(asker) != Some(peer) {
            return Err(format!("it is for a process of uid {own} that has connected itself"));
        }
        WatchedProcess::of_pid(peer.pid)
            .map_err(|error| format!("cannot watch process {}: {error}", peer.pid))
    }

    /// The connection of a child, which is one no longer.
    fn detach(&mut self, child: ChildKey) -> Option<Stream> {
        let link = self.core.detach_child(child)?;
        let link = self.links.remove(key_of(link))?;
        Some(link.conn.release(self.poll.registry()))
    }

    pub(super) fn go_on_giving(&mut self, mut giver: Box<Giver>) -> Option<Box<Giver>> {
        for _ in 0..MESSAGES_TURN {
            match giver.channel.hear() {
                _ if giver.phase == Phase::Orphaned => break,
                ChannelEvent::Nothing => break,
                ChannelEvent::Message(message) => {
                    self.handover.step();
                    self.successor_says(&mut giver, message);
                }
                ChannelEvent::Ended => self.successor_lost(&mut giver, "the successor has ended"),
                ChannelEvent::Wrong(why) => {
                    self.successor_lost(&mut giver, &format!("the successor says: {why}"))
                }
            }
        }
        if giver.batch.as_ref().is_some_and(|batch| batch.due <= self.told) {
            self.successor_lost(&mut giver, "the successor does not go on");
        }
        match giver.phase {
            Phase::Preparing if giver.due <= self.told => {
                self.abort(&mut giver, "it was not ready within upgrade_timeout");
            }
            Phase::Preparing => self.give_places(&mut giver),
            Phase::Subscriptions => {
                if !self.give_hubs(&mut giver) && giver.batch.is_none() {
                    self.begin_children(&mut giver);
                }
            }
            Phase::Giving => {
                self.give_hubs(&mut giver);
                self.give_children(&mut giver);
                self.give_places(&mut giver);
                self.end_giving_if_over(&mut giver);
            }
            Phase::Draining => {}
            Phase::Ending => self.end_connections(&mut giver),
            Phase::Orphaned => return self.outlive(giver),
        }
        self.flush_to_successor(&mut giver);
        Some(giver)
    }

    fn flush_to_successor(&mut self, giver: &mut Giver) {
        if giver.phase == Phase::Orphaned {
            return;
        }
        if !giver.channel.is_flushed() {
            self.handover.step();
        }
        if let Err(error) = giver.channel.flush() {
            return self.successor_lost(giver, &error.to_string());
        }
        if giver.channel.is_flushed()
            && let Some(batch) = giver.batch.take_if(|batch| batch.is_committed)
        {
            // The other one has it: these copies are closed, and nothing is shut down.
            giver.given += batch.children.len();
            if batch.hub.is_some() {
                self.hub_has_gone(giver);
            }
            drop(batch);
            self.handover.step();
        }
    }

    fn successor_says(&mut self, giver: &mut Giver, message: Message) {
        match message.name() {
            name::READY if giver.phase == Phase::Preparing => giver.phase = Phase::Subscriptions,
            name::TAKEN => self.taken(giver, &message),
            name::ENDING if giver.phase == Phase::Giving => {
                log::info!("the successor ends");
                self.let_the_rest_go(giver);
            }
            name::ABORT => {
                self.successor_lost(giver, &format!("the successor says: {}", message.text("why")))
            }
            other => log::debug!("the successor says {other}"),
        }
    }

    /// The other one accepts from now on.
    fn begin_children(&mut self, giver: &mut Giver) {
        let (id, ticket) = self.core.numbers();
        giver.channel.send(Message::new(name::LISTENERS).with("last-id", id).with("last-ticket", ticket));
        giver.phase = Phase::Giving;
        giver.children = self.core.children_len().max(1);
        self.handover.keeps_out = true;
        self.handover.state = HandoverState::Giving;
        log::info!("the successor accepts; {} children follow", self.core.children_len());
    }

    /// Takes children that are at rest out of the core and sends them.
    fn give_children(&mut self, giver: &mut Giver) {
        if giver.batch.is_some() || !giver.channel.is_flushed() {
            return;
        }
        self.core.begin_moves(2 * limits::MOVES_BATCH);
        let given = self.core.give_rested(limits::MOVES_BATCH, limits::MOVES_BYTES);
        let children = self.released(given);
        if children.is_empty() {
            return;
        }
        let number = giver.next_batch();
        match message_of(number, &children) {
            Ok(message) => {
                giver.channel.send(message);
                let due = self.told + BATCH_PATIENCE;
                giver.batch = Some(Batch { number, children, hub: None, is_committed: false, due });
                self.handover.step();
            }
            Err(error) => {
                log::warn!("cannot hand children over: {error}; trying again");
                self.put_back(None, children);
            }
        }
    }

    /// The sockets of children that are in the core no more, out of the poll.
    pub(super) fn released(&mut self, given: Vec<(usize, ChildImage)>) -> Vec<(ChildImage, Stream)> {
        let mut children = Vec::with_capacity(given.len());
        for (link, image) in given {
            // A child that has just ended has no link.
            let Some(link) = self.links.remove(key_of(link)) else { continue };
            children.push((image, link.conn.release(self.poll.registry())));
        }
        children
    }

    /// They go on here after all.
    pub(super) fn put_back(&mut self, hub: Option<GivenHub>, children: Vec<(ChildImage, Stream)>) {
        let lane = hub.as_ref().map(GivenHub::lane);
        children.into_iter().for_each(|(image, stream)| self.take_in(image, stream, lane));
        if let Some(hub) = hub {
            self.keep_hub(hub);
        }
    }

    /// The other one has looked at a batch. Those that it cannot take stay here.
    fn taken(&mut self, giver: &mut Giver, message: &Message) {
        let Some(batch) = giver.batch.as_mut().filter(|batch| batch.number == message.number("batch")) else {
            return self.successor_lost(giver, "the successor has taken what was not given");
        };
        let refused = message.text("refused");
        if batch.hub.is_some() {
            return self.hub_taken(giver, &refused, message);
        }
        let is_refused =
            |image: &ChildImage| refused == "all" || refused.split(',').any(|id| id.parse() == Ok(image.id));
        let (stay, go) =
            std::mem::take(&mut batch.children).into_iter().partition(|(image, _)| is_refused(image));
        batch.children = go;
        batch.is_committed = true;
        giver.channel.send(Message::new(name::COMMIT).with("batch", batch.number));
        let stay: Vec<(ChildImage, Stream)> = stay;
        if !stay.is_empty() {
            log::warn!("{} children stay: the successor says: {}", stay.len(), message.text("why"));
        }
        for (image, stream) in stay {
            let id = image.id;
            self.take_in(image, stream, None);
            self.core.keep_child(id);
        }
    }

    /// The same of a part of those who share subscriptions: all of them go, or nobody does.
    fn hub_taken(&mut self, giver: &mut Giver, refused: &str, message: &Message) {
        if !refused.is_empty() {
            log::warn!("subscriptions stay: the successor says: {}", message.text("why"));
            let Some(batch) = giver.batch.take() else { return };
            self.core.refuse_hub();
            return self.put_back(batch.hub, batch.children);
        }
        let goes_on = self.give_listeners(giver);
        let due = self.told + BATCH_PATIENCE;
        if let Some(batch) = &mut giver.batch {
            batch.due = due;
        }
        if !goes_on && let Some(batch) = &mut giver.batch {
            batch.is_committed = true;
            let commit = Message::new(name::COMMIT).with("batch", batch.number);
            giver.channel.send(commit.with("places", giver.places + 1));
        }
    }

    /// Says how many connections the other one may have, once as many fewer are here. Both together have no more than there
    /// may be. Each child takes its share along, but for what those that are left have in use.
    fn give_places(&mut self, giver: &mut Giver) {
        let max = self.core.settings().upstream_connections_max;
        let own = self.core.own_connections();
        let wanted = match giver.phase {
            Phase::Giving => {
                let share = (max * self.core.children_len()).div_ceil(giver.children).min(max);
                max - share.max(self.core.places_in_use() + 1).min(max)
            }
            _ => PLACES_FIRST - 1 + own,
        };
        let wanted = wanted.max(giver.places).min(max);
        self.core.set_places(Some(max - wanted));
        let free = max.saturating_sub(self.core.upstream_connections()).min(wanted);
        if free > giver.places {
            giver.places = free;
            giver.channel.send(Message::new(name::PLACES).with("places", free));
        }
    }

    fn end_giving_if_over(&mut self, giver: &mut Giver) {
        let nobody_left =
            self.core.children_len() == 0 && giver.batch.is_none() && self.handshakes.have_parted();
        if nobody_left && self.handshakes.are_over() {
            log::info!("all children have gone to the successor, {} of them", giver.given);
            giver.phase = Phase::Ending;
            self.leave_listeners();
            self.core.close_all();
        } else if giver.due <= self.told && giver.batch.is_none() {
            log::warn!("upgrade_timeout: {} children are let go", self.core.children_len());
            self.let_the_rest_go(giver);
        }
    }

    /// Whoever has not gone ends here, as by a drain.
    fn let_the_rest_go(&mut self, giver: &mut Giver) {
        match giver.batch.take_if(|batch| !batch.is_committed) {
            Some(batch) => self.put_back(batch.hub, batch.children),
            None => self.core.keep_hub(None),
        }
        giver.phase = Phase::Draining;
        self.core.end_moves();
        self.leave_listeners();
        self.core.drain(None);
        self.core.dismiss();
        self.draining = Draining::Dismissed;
    }

    /// The last connections are given up: the upstream has closed them when the other one hears of it.
    fn end_connections(&mut self, giver: &mut Giver) {
        if self.core.upstream_connections() > 0 {
            return;
        }
        giver.channel.send(Message::new(name::DONE));
        self.handover.step();
        // Where it does not leave now, the end of this process says the same.
        let _ = giver.channel.flush();
        self.close();
    }

    /// The other one is not to go on: nothing has been given.
    fn abort(&mut self, giver: &mut Giver, why: &str) {
        giver.channel.send(Message::new(name::ABORT).with("why", why));
        let _ = giver.channel.flush();
        self.successor_lost(giver, why);
    }

    /// Nothing more is given. What was not committed is ours again.
    fn successor_lost(&mut self, giver: &mut Giver, why: &str) {
        if giver.phase == Phase::Orphaned {
            return;
        }
        log::warn!("the hand-over has failed: {why}; {} children had gone", giver.given);
        self.handover.state = HandoverState::Failed(why.to_owned());
        giver.phase = Phase::Orphaned;
        giver.due = self.told + BATCH_PATIENCE;
        match giver.batch.take() {
            Some(batch) => self.put_back(batch.hub, batch.children),
            None => self.core.keep_hub(None),
        }
        self.core.end_moves();
    }

    /// Once the other one is no more, all is as before. As long as it lives it has what it was given: its children, the
    /// listeners, its places.
    fn outlive(&mut self, giver: Box<Giver>) -> Option<Box<Giver>> {
        if !giver.successor.has_ended() {
            if giver.due <= self.told && self.handover.keeps_out {
                // Both have the listeners; it keeps what it was given, and may wake up.
                self.accept_again("the successor lives and does not go on");
            }
            return Some(giver);
        }
        self.core.set_places(None);
        if self.handover.keeps_out {
            self.accept_again("the successor has ended");
        }
        None
    }

    fn accept_again(&mut self, why: &str) {
        self.handover.keeps_out = false;
        self.listeners.iter_mut().for_each(|listener| listener.look_again());
        log::warn!("{why}; this process accepts again");
    }
}

/// What the console has set, as keys and texts.
fn memory_of(overrides: &Overrides) -> io::Result<OwnedFd> {
    let mut bytes = Zeroizing::new(Vec::new());
    let pairs: Vec<&str> = overrides.pairs().flat_map(|(key, text)| [key, text]).collect();
    encode::request_of(&mut bytes, pairs.iter().map(|text| text.as_bytes()));
    sealed_memory(&bytes)
}

/// The message that brings these children.
pub(super) fn message_of(number: u64, children: &[(ChildImage, Stream)]) -> io::Result<Message> {
    let images = children.iter().map(|(image, _)| image);
    let mut descriptors = vec![sealed_memory(&encode_images(images))?];
    for (_, stream) in children {
        descriptors.push(stream.as_fd().try_clone_to_owned()?);
    }
    let message = Message::new(name::BATCH).with("batch", number).with("children", children.len());
    Ok(message.carrying(descriptors))
}
