//! Notices: what one child's request, or an event of a lane, means for other children. They are delivered when the event
//! at hand is done with the child it is about. A notice for a child that has gone says what is undone instead.

use super::broker::Broker;
use super::child::{Answer, Child, ChildState, HeldLease, Hold};
use super::lane::{Lane, Slot};
use super::lease::LeaseKind;
use super::pool::PoolKey;
use super::probe::Proved;
use super::pubsub::{Loss, Topic};
use super::users::UserId;
use crate::base::key::Key;

/// What a child is told.
#[derive(Debug)]
pub(super) enum Notice {
    /// Its request at the front is looked at afresh, if this is still what it waits for.
    Lift(Key<Child>, Hold),
    /// The upstream has answered a question about its request at the front, or never will.
    Answer(Key<Child>, Option<Answer>),
    /// It has come to the head of a lease queue.
    Lent(Key<Child>, HeldLease),
    /// A reply that was overdue will not come any more.
    Overdue(Key<Child>),
    /// A reply is overdue, and it is about to be told so.
    Late(Key<Child>),
    /// Its requests have failed with this reply.
    Failed { lane: Key<Lane>, slots: Vec<Slot>, reply: Vec<u8> },
    /// The lane it had to itself is gone.
    LeaseLost { child: Key<Child>, kind: LeaseKind, watching: bool },
    /// The upstream has answered a question about it as a user.
    Proved(Proved),
    /// The upstream has refused what its request at the front names, for the fence of this number.
    JoinRefused(Key<Child>, u64, Vec<u8>),
    /// The upstream has been replaced under it: it ends when it has its replies.
    Finish(Key<Child>),
    /// It ends at once.
    Close(Key<Child>),
    /// Nobody may be this user any more.
    UserRefused(UserId),
    /// Whoever waits for a lease of this pool is told what the upstream has said.
    PoolRefused(PoolKey, String),
    /// The subscriptions of this user have lost their connection.
    SubscribersLost(UserId, Loss),
    /// The connection that carries a user's subscriptions stands.
    HubReady(UserId),
    /// A topic's listeners end, since it is refused now.
    TopicRefused(Key<Topic>),
    /// The upstream has ended a subscription itself.
    TopicMoved(Key<Topic>),
    /// Commands have other numbers now.
    TableChanged,
    /// A lane is of no use any more.
    LoseLane(Key<Lane>, &'static str),
    /// Everybody who waits for a living upstream looks again.
    UpstreamAnswers,
}

impl Broker {
    /// Delivers what the event at hand has left behind for other children.
    pub(super) fn deliver_notices(&mut self) {
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
    fn tell(&mut self, key: Key<Child>, notice: Notice) {
        let child = self.children.get_mut(key).filter(|child| child.state != ChildState::Closed);
        let Some(child) = child else {
            if let Notice::Lent(_, lease) = notice {
                self.shared.abandon_lease(lease.lane);
            }
            return;
        };
        match notice {
            Notice::Lift(_, hold) if child.hold == hold => self.shared.lift(child),
            Notice::Answer(_, answer) if child.hold == Hold::Answer => {
                child.answer = answer;
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
            Notice::JoinRefused(_, fence, frame) => child.join_refused(fence, frame),
            Notice::Finish(_) => self.shared.finish(child),
            Notice::LeaseLost { kind, watching, .. } => self.shared.lease_lost(child, kind, watching),
            _ => {}
        }
    }
}
