//! Replies that count listeners: PUBLISH, SPUBLISH, PUBSUB NUMSUB and SHARDNUMSUB. The upstream knows one connection of a
//! user's where any number of children listen, so its number is corrected: less what it counts of ours, plus the children
//! that hear it. Decides on which lane such a request goes; never who listens.
//!
//! What children of the same user listen to is counted on the connection that carries it. There, all that was asked about
//! topics before has been answered when the number comes, and nothing that was asked later; and the message itself stands
//! right beside it. So the table is then what it was when the upstream counted. On any other lane it is the present one.

use crate::base::limits;
use crate::command::Count;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::LaneKey;
use crate::core::pubsub::counted::{Counted, CountedElements};
use crate::core::pubsub::glob::Steps;
use crate::core::pubsub::hubs::{Audience, Hub, Hubs};
use crate::core::request::flow::{Decided, Flow, canonical_int};
use crate::core::shared::Shared;
use crate::resp::{Request, encode, reply};

/// Where children listen to what a request counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nowhere,
    /// On the connection of their user, who is another one, or has none at the moment.
    Elsewhere,
    /// On this connection of the child's own user.
    On(LaneKey),
}

/// The channels that a request names.
fn names<'r>(count: Count, request: &Request<'r>) -> impl Iterator<Item = &'r [u8]> {
    let (first, max) = if count.publishes { (1, 1) } else { (2, usize::MAX) };
    request.args().skip(first).take(max)
}

impl Shared {
    /// A request that counts, of a child that shares connections.
    #[inline(never)]
    pub(crate) fn send_count(&mut self, child: &mut Child, decided: Decided<'_>, count: Count) -> Flow {
        let Decided { request, id, .. } = decided;
        let heard = self.heard(child, request, count);
        if let Heard::On(lane) = heard
            && self.moves.wait_while_stilled(lane, child.key())
        {
            return Flow::Hold(Hold::Moving);
        }
        let lane = match heard {
            Heard::On(lane) => self.topics_lane_for(child, lane),
            Heard::Elsewhere | Heard::Nowhere => self.shared_lane_for(child, id, request.bytes.len()),
        };
        match lane {
            Ok(lane) => self.put_count(child, decided, count, lane, heard),
            Err(flow) => flow,
        }
    }

    /// The same on the child's leased lane.
    #[inline(never)]
    pub(crate) fn send_count_leased(
        &mut self,
        child: &mut Child,
        decided: Decided<'_>,
        count: Count,
        lane: LaneKey,
    ) -> Flow {
        let heard = self.heard(child, decided.request, count);
        self.put_count(child, decided, count, lane, heard)
    }

    /// What nobody here listens to is answered as any request.
    fn put_count(
        &mut self,
        child: &mut Child,
        decided: Decided<'_>,
        count: Count,
        lane: LaneKey,
        heard: Heard,
    ) -> Flow {
        let Decided { request, id, .. } = decided;
        let mut kind = SlotKind::Relay;
        if heard != Heard::Nowhere {
            kind = SlotKind::Count;
            child.begin_count(Counted::of(count, request));
        }
        self.send_for(child, lane, request.bytes, id, kind, SlotFlags::NONE);
        Flow::Done
    }

    /// Where children listen to what the request names. The look is part of the child's turn, and so is the one that its
    /// reply needs.
    fn heard(&self, child: &mut Child, request: &Request<'_>, count: Count) -> Heard {
        if self.hubs.is_empty() {
            return Heard::Nowhere;
        }
        let mut left = Steps::default();
        let usable = |lane: &Lane| lane.is_ready() && !lane.record().is_on_previous_upstream;
        let (own, has_others) = self.hubs.hub_of(child.user());
        // What asks about so many names is answered at length, and would keep messages.
        let fits = count.publishes || request.bytes.len() < limits::BULK_MIN;
        let own = own.filter(|hub| fits && self.connections.find(hub.lane()).is_some_and(usable));
        let in_own = |hub: &&Hub| names(count, request).any(|name| hub.has_topic_of(count, name, &mut left));
        let heard = match own.filter(in_own) {
            Some(hub) => Heard::On(hub.lane()),
            // The user's own topics are carried by nothing while its connection is of no use.
            None if !has_others && fits => Heard::Nowhere,
            None => {
                let heard = |name| self.hubs.audience(count, name, &mut left).topics > 0;
                if names(count, request).any(heard) { Heard::Elsewhere } else { Heard::Nowhere }
            }
        };
        child.spend(2 * left.taken());
        heard
    }

    /// The connection of the user's topics, once nothing of the child is on its way on another lane and there is room.
    fn topics_lane_for(&mut self, child: &mut Child, lane: LaneKey) -> Result<LaneKey, Flow> {
        if child.is_under_way() && child.sent().lane() != lane {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        if self.connections.holds_back(lane, child.key()) {
            return Err(Flow::Hold(Hold::LaneFull));
        }
        child.sent_mut().set_lane(lane);
        Ok(lane)
    }

    /// The reply to the child's oldest request that counts; not `real` where it stands for one.
    #[inline(never)]
    pub(crate) fn settle_count(&mut self, child: &mut Child, frame: &[u8], real: bool) {
        let counted = child.end_count();
        debug_assert!(counted.is_some(), "a count nobody asked for");
        let counted = counted.filter(|_| real);
        let mut steps = Steps::default();
        let corrected = counted.and_then(|counted| self.hubs.corrected(&counted, frame, &mut steps));
        self.deliver(child, corrected.as_deref().unwrap_or(frame));
    }
}

impl Hubs {
    /// A reply that is withheld, with the right numbers, if its own are not right. Nothing more is corrected when it is told.
    pub(crate) fn corrected_early(
        &self,
        child: &mut Child,
        slot: &mut Slot,
        frame: &[u8],
    ) -> Option<Vec<u8>> {
        match slot.kind {
            SlotKind::Count => {
                slot.kind = SlotKind::Relay;
                self.corrected(&child.end_count()?, frame, &mut Steps::default())
            }
            SlotKind::Exec => {
                let counts = child.session_mut().transaction.exec_arrived();
                self.corrected_exec(&counts, frame)
            }
            _ => None,
        }
    }

    /// The reply to an EXEC with the right numbers, if its own are not right.
    pub(crate) fn corrected_exec(&self, counts: &CountedElements, frame: &[u8]) -> Option<Vec<u8>> {
        if counts.is_empty() || self.is_empty() {
            return None;
        }
        let (mut out, mut copied, mut steps) = (Vec::new(), 0, Steps::default());
        let mut counts = counts.iter().peekable();
        for (index, range) in reply::elements(frame).enumerate() {
            if counts.peek().is_none() {
                break;
            }
            let counted = counts.next_if(|(element, _)| *element as usize == index);
            let counted =
                counted.and_then(|(_, counted)| self.corrected(counted, &frame[range.clone()], &mut steps));
            if let Some(right) = counted {
                out.extend_from_slice(&frame[copied..range.start]);
                out.extend_from_slice(&right);
                copied = range.end;
            }
        }
        out.extend_from_slice(&frame[copied..]);
        (copied > 0).then_some(out)
    }

    /// A reply with the right numbers, if its own are not right.
    fn corrected(&self, counted: &Counted, frame: &[u8], steps: &mut Steps) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let Counted { count, channel } = counted;
        if !count.publishes {
            return self.corrected_names(*count, frame, steps);
        }
        let number = number(frame)?;
        let right = self.audience(*count, channel, steps).correct(number);
        let mut out = Vec::new();
        encode::int(&mut out, right);
        (right != number).then_some(out)
    }

    /// The same of the reply to a question: names and numbers take turns.
    fn corrected_names(&self, count: Count, frame: &[u8], steps: &mut Steps) -> Option<Vec<u8>> {
        let (mut out, mut copied) = (Vec::new(), 0);
        let mut elements = reply::elements(frame);
        while let (Some(name), Some(range)) = (elements.next(), elements.next()) {
            let (name, number) = (reply::text(&frame[name])?, number(&frame[range.clone()])?);
            let right = self.audience(count, name, steps).correct(number);
            if right != number {
                out.extend_from_slice(&frame[copied..range.start]);
                encode::int(&mut out, right);
                copied = range.end;
            }
        }
        out.extend_from_slice(&frame[copied..]);
        (copied > 0).then_some(out)
    }
}

impl Audience {
    /// What the upstream says that counts fewer than we have was said when it did not have them, or has them no more.
    fn correct(self, number: i64) -> i64 {
        if number < self.topics { number } else { number - self.topics + self.listeners }
    }
}

fn number(frame: &[u8]) -> Option<i64> {
    canonical_int(reply::text(frame.strip_prefix(b":").map(|_| frame)?)?)
}

#[cfg(test)]
mod tests;
