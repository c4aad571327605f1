//! Delivers notices, once the event at hand is done with the child it is about. Finds the child that a notice is for, or
//! undoes what the notice stands for if that child has gone; decides nothing else.

use crate::base::failure::ErrorLine;
use crate::core::broker::Broker;
use crate::core::child::hold::Hold;
use crate::core::child::{Child, ChildState};
use crate::core::notice::Notice;
use crate::core::shared::Shared;
use crate::resp::encode;

impl Broker {
    /// Delivers what the event at hand has left behind for other children.
    pub(crate) fn deliver_notices(&mut self) {
        while let Some(notice) = self.shared.env.next_notice() {
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
            Notice::Failed { lane, slots, failure } => {
                let mut reply = Vec::new();
                encode::error(&mut reply, failure.line());
                for slot in slots {
                    self.settle(lane, slot, &reply, Some(&failure));
                }
            }
            Notice::Lift(key, _)
            | Notice::Answer(key, _)
            | Notice::Lent(key, _)
            | Notice::Overdue(key)
            | Notice::Late(key)
            | Notice::JoinRefused(key, ..)
            | Notice::Finish(key)
            | Notice::LeaseLost { child: key, .. } => {
                let child = self.children.get_mut(key).filter(|child| child.state() != ChildState::Closed);
                match (child, notice) {
                    (Some(child), notice) => self.shared.tell_child(child, notice),
                    // It has gone since, so somebody else gets the lease.
                    (None, Notice::Lent(_, lease)) => self.shared.leases.abandon(
                        &mut self.shared.connections,
                        &mut self.shared.env,
                        lease.lane,
                    ),
                    (None, _) => {}
                }
            }
            Notice::Proved(proved) => {
                if let Some(child) = self.children.get_mut(proved.child()) {
                    self.shared.proved(child, proved);
                }
            }
        }
    }
}

impl Shared {
    /// Tells the child that the notice is for.
    fn tell_child(&mut self, child: &mut Child, notice: Notice) {
        match notice {
            Notice::Lift(_, hold) if child.hold() == hold => self.lift(child),
            Notice::Answer(_, answer) if child.hold() == Hold::Question => {
                child.front_mut().set_answer(answer);
                self.lift(child);
            }
            Notice::Lent(_, lease) => {
                child.set_lease(lease);
                self.lift(child);
            }
            Notice::Overdue(_) => {
                child.sent_mut().end_late();
                self.after_reply(child);
            }
            Notice::Late(_) => child.sent_mut().begin_late(),
            Notice::JoinRefused(_, fence, frame) => {
                if let Some(own) = child.topics_mut() {
                    own.join_refused(fence, frame);
                }
            }
            Notice::Finish(_) => self.finish(child),
            Notice::LeaseLost { kind, watching, .. } => self.lease_lost(child, kind, watching),
            _ => {}
        }
    }
}
