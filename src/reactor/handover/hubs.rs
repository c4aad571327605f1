//! Shared subscriptions on their way: the connection of a user's topics goes as a socket, with all who listen, in one batch of
//! as many messages as it takes. From the moment at which it leaves the poll here, nobody reads it before it has been committed
//! there. One that cannot come to rest stays, and ends with its listeners.

use super::giver::{BATCH_PATIENCE, Batch, Giver};
use super::name;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::{HubImage, HubRest, LaneKey, encode_hub};
use crate::reactor::{Loop, Owner, key_of, link_of};
use crate::transport::handover::{Message, sealed_memory};
use crate::transport::stream::Stream;
use std::io;
use std::os::fd::AsFd;

/// For how long its listeners may be held up. Then they go on, and it is tried again after as long.
const PATIENCE: Millis = 1_000;

/// A connection for subscriptions that is in no poll.
#[derive(Debug)]
pub(super) struct GivenHub {
    lane: LaneKey,
    stream: Stream,
}

impl GivenHub {
    /// As it is called here, should it come back.
    pub(super) fn lane(&self) -> LaneKey {
        self.lane
    }
}

/// How far the subscriptions are of whoever has some.
#[derive(Debug, Default)]
pub(super) struct HubMoves {
    /// Until when their listeners are waited for, if some are.
    until: Option<Millis>,
    /// Not before then.
    next: Millis,
}

impl Loop {
    /// Has subscriptions go, if some can. True as long as there are any that will.
    pub(super) fn give_hubs(&mut self, giver: &mut Giver) -> bool {
        if giver.batch.is_some() || !giver.channel.is_flushed() {
            return true;
        }
        if giver.hubs.next > self.told || !self.core.begin_hub_move() {
            return false;
        }
        let until = *giver.hubs.until.get_or_insert(self.told + PATIENCE);
        match self.core.hub_rest() {
            HubRest::Now => self.give_hub(giver),
            HubRest::NotYet if until > self.told => return true,
            HubRest::NotYet | HubRest::Never => {
                self.core.keep_hub(None);
                giver.hubs = HubMoves { until: None, next: self.told + PATIENCE };
                return false;
            }
        }
        giver.hubs.until = None;
        true
    }

    fn give_hub(&mut self, giver: &mut Giver) {
        let Some((lane, link, image)) = self.core.hub_image() else { return self.core.keep_hub(None) };
        let Some(link) = self.links.remove(key_of(link)) else { return self.core.keep_hub(None) };
        let stream = link.conn.release(self.poll.registry());
        let number = giver.next_batch();
        match message_of(number, &image, &stream) {
            Ok(message) => {
                giver.channel.send(message);
                giver.batch =
                    Some(Batch::of_hub(number, GivenHub { lane, stream }, self.told + BATCH_PATIENCE));
                self.handover.step();
            }
            Err(error) => {
                log::warn!("cannot hand subscriptions over: {error}");
                self.keep_hub(GivenHub { lane, stream });
            }
        }
    }

    /// The next of the listeners. False if there are no more.
    pub(super) fn give_listeners(&mut self, giver: &mut Giver) -> bool {
        let given = self.core.give_listeners(limits::MOVES_BATCH);
        let children = self.released(given);
        if children.is_empty() {
            return false;
        }
        let Some(batch) = &mut giver.batch else { return false };
        match super::giver::message_of(batch.number, &children) {
            Ok(message) => {
                batch.children.extend(children);
                giver.channel.send(message);
                self.handover.step();
                true
            }
            Err(error) => {
                log::warn!("cannot hand subscriptions over: {error}");
                let batch = giver.batch.take();
                let (hub, mut all) = batch.map_or((None, Vec::new()), |batch| (batch.hub, batch.children));
                all.extend(children);
                self.put_back(hub, all);
                self.core.refuse_hub();
                // The other side has a part of it, and waits for the rest in vain.
                giver.channel.send(Message::new(name::COMMIT).with("batch", 0));
                true
            }
        }
    }

    /// The connection has gone, and its place with it.
    pub(super) fn hub_has_gone(&mut self, giver: &mut Giver) {
        self.core.forget_hub();
        giver.places += 1;
    }

    /// It could not go, and is read here again.
    pub(super) fn keep_hub(&mut self, GivenHub { lane, stream }: GivenHub) {
        match self.add_link(stream, Owner::Lane(lane)) {
            Ok(key) => self.core.keep_hub(Some(link_of(key))),
            Err((_, error)) => {
                self.core.keep_hub(None);
                self.lose_lane(lane, &format!("cannot watch it: {error}"));
            }
        }
    }

    /// It goes on here.
    pub(super) fn take_hub(&mut self, image: &HubImage, stream: Stream) -> LaneKey {
        match self.add_link(stream, Owner::Leaving) {
            Ok(key) => {
                let lane = self.core.take_hub(image, link_of(key));
                if let Some(link) = self.links.get_mut(key) {
                    link.owner = Owner::Lane(lane);
                }
                lane
            }
            Err((_, error)) => {
                let lane = self.core.take_hub(image, usize::MAX);
                self.lose_lane(lane, &format!("cannot watch it: {error}"));
                lane
            }
        }
    }
}

fn message_of(number: u64, image: &HubImage, stream: &Stream) -> io::Result<Message> {
    let descriptors = vec![sealed_memory(&encode_hub(image))?, stream.as_fd().try_clone_to_owned()?];
    Ok(Message::new(name::HUB).with("batch", number).carrying(descriptors))
}
