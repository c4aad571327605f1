//! Work over all children, or all topics, cut into pieces as long as the turn of one child: a sweep stands in line with the children that
//! have something to run, so that ten thousand of them keep nobody waiting. Owns how a sweep goes on and ends; what it does
//! to one child belongs to the rooms that begin it.

use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::keys::ChildKey;
use crate::core::shared::Shared;
use crate::core::sweeps::{Sweep, SweepUnderWay};

impl Shared {
    /// Does to one child what the sweep is for. Whether there was anything to do.
    fn visit(&mut self, sweep: &Sweep, child: &mut Child) -> bool {
        match sweep {
            // These visit no child, or run it.
            Sweep::Drain | Sweep::HubTopics(_) | Sweep::LostTopics(_) => false,
            Sweep::Leftovers | Sweep::CommandTable => false,
            // It is told of the end.
            Sweep::DrainTimedOut if child.hold() == Hold::Drain => false,
            Sweep::DrainTimedOut => {
                CloseReason::DrainTimedOut.log(child);
                self.close(child);
                true
            }
            Sweep::Timeouts => {
                self.end_if_overdue(child) || self.look_for_leak(child) || self.look_for_growth(child)
            }
            Sweep::SettingsChanged => self.shorten_wait(child),
            Sweep::Resumed => self.end_paused(child),
            Sweep::UpstreamAnswers => self.wake_upstream_waiter(child),
            Sweep::UserRefused(user) => self.end_child_of(child, *user),
            Sweep::AccountsGone => self.end_child_without_account(child),
            Sweep::PoolRefused(pool, text) => self.fail_lease_waiter(child, pool, text),
            Sweep::SubscribersLost { user, loss, closes } => {
                self.subscriber_lost(child, *user, *loss, *closes)
            }
            Sweep::HubReady(user) => self.ask_fence_again(child, *user),
        }
    }

    /// All children have been visited. False if it has to begin again.
    fn end_sweep(&mut self, done: &SweepUnderWay) -> bool {
        match &done.sweep {
            Sweep::UserRefused(user) => return self.end_refused_user(*user, done.met),
            Sweep::SubscribersLost { user, loss, closes } => {
                self.subscribers_were_lost(*user, *loss, *closes, done.met);
            }
            Sweep::HubTopics(user) => self.env.sweeps.begin(Sweep::HubReady(*user)),
            Sweep::Timeouts => self.look_at_processes(),
            Sweep::AccountsGone if done.met > 0 => {
                log::warn!(
                    "auth_file: closed {} children of users that are gone or have other credentials",
                    done.met
                );
            }
            _ => {}
        }
        true
    }
}

impl Broker {
    /// Goes on with the first sweep, as long as a child's turn is. It costs what it runs, and something for each look.
    pub(crate) fn sweep(&mut self) {
        let Some(mut under_way) = self.shared.env.sweeps.take() else { return };
        let until = self.shared.turn.budget - limits::SWEEP_TURN;
        while self.shared.turn.budget > until && !self.shared.env.has_notices() {
            if !self.visit_next(&mut under_way) {
                if !self.shared.end_sweep(&under_way) {
                    self.shared.env.sweeps.begin(under_way.sweep);
                }
                return self.deliver_notices();
            }
        }
        self.shared.env.sweeps.put_back(under_way);
    }

    /// Visits the next child or topic; false if there is none.
    fn visit_next(&mut self, under_way: &mut SweepUnderWay) -> bool {
        self.shared.turn.budget -= limits::LOOK_COST as i64;
        let topics = match under_way.sweep {
            Sweep::Leftovers => {
                self.shared.turn.budget -= limits::TOPIC_COST as i64;
                return self.shared.live_hubs().clear_leftover();
            }
            Sweep::CommandTable => {
                self.shared.turn.budget -= limits::REQUEST_COST_MIN;
                let more = self.shared.load_next_command();
                self.deliver_notices();
                return more;
            }
            Sweep::HubTopics(user) => Some((user, false)),
            Sweep::LostTopics(user) => Some((user, true)),
            _ => None,
        };
        if let Some((user, lost)) = topics {
            self.shared.turn.budget -= limits::TOPIC_COST as i64;
            let next = self.shared.live_hubs().visit_topic(user, lost, under_way.next);
            under_way.next = next.unwrap_or_default();
            return next.is_some();
        }
        let Some((next, key)) = self.children.from(under_way.next) else { return false };
        under_way.next = next;
        if self.visit(&under_way.sweep, key) {
            under_way.met += 1;
            self.shared.turn.budget -= limits::REQUEST_COST_MIN;
            self.deliver_notices();
        }
        true
    }

    fn visit(&mut self, sweep: &Sweep, key: ChildKey) -> bool {
        if *sweep == Sweep::Drain {
            self.run_child(key, &[]);
            return true;
        }
        let child = self.children.known_mut(key).filter(|child| !child.is_closed());
        child.is_some_and(|child| self.shared.visit(sweep, child))
    }
}
