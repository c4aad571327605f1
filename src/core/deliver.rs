//! Notices: what one child's request, or an event of a lane, means for other children. They are delivered when the event
//! at hand is done with the child it is about. A notice for a child that has gone says what is undone instead.

use crate::core::broker::Broker;
use crate::core::child::ChildState;
use crate::core::child::hold::Hold;
use crate::core::keys::ChildKey;
use crate::core::notice::Notice;

impl Broker {
    /// Delivers what the event at hand has left behind for other children.
    pub(in crate::core) fn deliver_notices(&mut self) {
        while let Some(notice) = self.shared.env.notices.pop_front() {
            self.deliver_notice(notice);
        }
    }

    fn deliver_notice(&mut self, notice: Notice) {
        match notice {
            Notice::UpstreamAnswers => self.wake_upstream_waiters(),
            Notice::Close(key) => self.remove_child(key),
            Notice::UserRefused(user) => self.close_user(user),
            Notice::PoolRefused(pool, text) => self.fail_waiters(&pool, &text),
            Notice::SubscribersLost(user, loss) => self.subscribers_lost(user, loss),
            Notice::HubReady(user) => self.ask_fences_again(user),
            Notice::TopicRefused(topic) => self.close_listeners(topic),
            Notice::TopicMoved(topic) => self.topic_moved(topic),
            Notice::TableChanged => self.children.forget_commands(),
            Notice::LoseLane(lane, why) => self.shared.lane_lost(lane, why),
            Notice::Failed { lane, slots, reply } => {
                for slot in slots {
                    self.settle(lane, slot, &reply, false);
                }
            }
            Notice::Lift(key, _)
            | Notice::Answer(key, _)
            | Notice::Lent(key, _)
            | Notice::Overdue(key)
            | Notice::Late(key)
            | Notice::JoinRefused(key, ..)
            | Notice::Finish(key)
            | Notice::LeaseLost { child: key, .. } => self.tell(key, notice),
            Notice::Proved(proved) => {
                if let Some(child) = self.children.get_mut(proved.child()) {
                    self.shared.proved(child, proved);
                }
            }
        }
    }

    /// Tells one child, unless it has gone since.
    fn tell(&mut self, key: ChildKey, notice: Notice) {
        let child = self.children.get_mut(key).filter(|child| child.state != ChildState::Closed);
        let Some(child) = child else {
            if let Notice::Lent(_, lease) = notice {
                self.shared.abandon_lease(lease.lane);
            }
            return;
        };
        match notice {
            Notice::Lift(_, hold) if child.hold == hold => self.shared.lift(child),
            Notice::Answer(_, answer) if child.hold == Hold::Question => {
                child.front_mut().set_answer(answer);
                self.shared.lift(child);
            }
            Notice::Lent(_, lease) => {
                child.lease = Some(lease);
                self.shared.lift(child);
            }
            Notice::Overdue(_) => {
                child.late -= 1;
                self.shared.after_reply(child);
            }
            Notice::Late(_) => child.late += 1,
            Notice::JoinRefused(_, fence, frame) => {
                if let Some(own) = &mut child.topics {
                    own.join_refused(fence, frame);
                }
            }
            Notice::Finish(_) => self.shared.finish(child),
            Notice::LeaseLost { kind, watching, .. } => self.shared.lease_lost(child, kind, watching),
            _ => {}
        }
    }
}
