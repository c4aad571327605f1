//! Delivers notices, once the event at hand is done with the child it is about. Finds the child that a notice is for, or
//! undoes what the notice stands for if that child has gone; decides nothing else.

use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::hold::{Answer, Hold};
use crate::core::keys::ChildKey;
use crate::core::notice::{ChildNotice, Notice};
use crate::resp::encode;

impl Broker {
    /// Delivers what the event at hand has left behind for other children: mostly nothing. What is too much for one step
    /// goes on in the next, in order; no connection is opened before all have been told of the last one (`take_actions`).
    #[inline]
    pub(crate) fn deliver_notices(&mut self) {
        let mut left = limits::NOTICES_STEP;
        while left > 0
            && let Some(notice) = self.shared.env.next_notice()
        {
            left = left.saturating_sub(self.deliver_notice(notice, left));
        }
    }

    /// The same, whatever time it takes.
    pub(crate) fn deliver_all_notices(&mut self) {
        while self.shared.env.has_notices() {
            self.deliver_notices();
        }
    }

    /// Delivers a notice, or as much of it as `left` allows. Returns how many children it was for.
    #[inline(never)]
    fn deliver_notice(&mut self, notice: Notice, left: usize) -> usize {
        match notice {
            Notice::Close(key) => self.remove_child(key),
            Notice::TopicRefused(topic) => self.close_listeners(topic),
            Notice::TopicMoved(topic) => self.topic_moved(topic),
            Notice::SharedLaneLost(lost) => self.children.suspect_some_of(&lost),
            Notice::TableChanged(renumbering) => {
                self.children.renumber_commands(&renumbering);
                self.shared.connections.renumber_commands(&renumbering);
            }
            Notice::LoseLane(lane, why) => self.shared.lane_lost(lane, why),
            Notice::Failed { lane, mut slots, failure } => {
                let (mut reply, count) = (Vec::new(), slots.len());
                encode::error(&mut reply, failure.line());
                for slot in slots.by_ref().take(left).filter(|slot| !slot.kind.is_own()) {
                    self.settle(lane, slot, &reply, Some(&failure));
                }
                if !slots.as_slice().is_empty() {
                    self.shared.env.put_back(Notice::Failed { lane, slots, failure });
                }
                return count;
            }
            Notice::Child(key, told) => self.tell(key, told),
            Notice::Proved(asker, about, verdict) => {
                if let Some(child) = self.children.get_mut(asker.child) {
                    self.shared.proved(child, asker, about, verdict);
                }
            }
        }
        1
    }

    fn tell(&mut self, key: ChildKey, told: ChildNotice) {
        let shared = &mut self.shared;
        let found = self.children.get_mut(key).filter(|child| !child.is_deaf());
        let Some(child) = found else {
            // Somebody else gets the lease. All else was about what has gone with it.
            match told {
                ChildNotice::Lent(lease) => shared.abandon_lease(lease.lane),
                ChildNotice::Admitted { ticket, more } => shared.admitted_in_vain(ticket, more),
                _ => {}
            }
            return;
        };
        match told {
            // What it waits for now may be something else.
            ChildNotice::Lift(hold) if child.hold() != hold => {}
            ChildNotice::Answer(_) if child.hold() != Hold::Question => {}
            ChildNotice::Lift(_) => shared.lift(child),
            ChildNotice::Ordered(_) if child.hold() != Hold::Order => {}
            ChildNotice::Ordered(frame) => {
                *child.front_mut().answer_mut() = Some(Answer::Frame(frame));
                shared.lift(child);
            }
            ChildNotice::Answer(answer) => {
                *child.front_mut().answer_mut() = answer;
                shared.lift(child);
            }
            ChildNotice::Lent(lease) => {
                *child.lease_mut() = Some(lease);
                shared.lift(child);
            }
            ChildNotice::Served(frame) => shared.serve(child, &frame),
            ChildNotice::WaitFailed { failure, writes } => shared.wait_failed(child, failure, writes),
            ChildNotice::Overdue => {
                child.sent_mut().end_late();
                shared.after_reply(child);
            }
            ChildNotice::Late => child.sent_mut().begin_late(),
            ChildNotice::KeepApart(command) => child.sent_mut().suspect(command),
            ChildNotice::LeaseLost { kind, watching } => shared.lease_lost(child, kind, watching),
            ChildNotice::JoinRefused(fence, frame) => {
                if let Some(own) = child.topics_mut() {
                    own.join_refused(fence, frame);
                }
            }
            ChildNotice::Admitted { ticket, more } => shared.admitted(child, ticket, more),
            ChildNotice::Finish => shared.finish(child),
        }
    }
}
