//! What becomes of a child whose request is lost with an upstream connection, or finds none. A program that knows the
//! broker is told so by an error; any other is closed, as it would be by a Redis that goes away (`on_upstream_loss`). Owns
//! that choice and how such a child ends; never which requests are lost.

use crate::base::failure::{Down, Failure, Lost};
use crate::base::limits;
use crate::config::value::OnUpstreamLoss;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::keys::LaneKey;
use crate::core::shared::Shared;
use crate::core::timers::Timer;

impl Shared {
    /// Whether the child is closed for this, instead of being told. A limit that was reached and a reply that did not come
    /// in time are no loss, and are always told. So is what became of a write that was answered: on a connection anew WAIT
    /// would be answered with a number that is about nothing.
    pub(crate) fn ends_with(&self, child: &Child, failure: &Failure) -> bool {
        let is_loss = match failure {
            Failure::Lost(Lost::Request | Lost::Transaction) | Failure::Down(Down::Unreachable(_)) => true,
            Failure::Lost(Lost::LastWrite | Lost::Busy { .. } | Lost::Reply { .. })
            | Failure::Down(Down::AllInUse { .. })
            | Failure::Limited(_)
            | Failure::TimedOut { .. }
            | Failure::Refused(_) => false,
        };
        is_loss && self.env.settings.on_upstream_loss == OnUpstreamLoss::Close && !child.is_told_of_losses()
    }

    /// Closes the child behind the replies that came before the one that is lost: its request was on this lane, or else was
    /// at hand or on hold and is not answered. A connect to a unix socket always succeeds, so whoever is closed at once
    /// would be back at once; many that are lost together come back one after the other.
    pub(crate) fn lose_child(&mut self, child: &mut Child, lane: Option<LaneKey>, failure: &Failure) {
        if child.is_deaf() {
            return;
        }
        if !child.is_finished() {
            CloseReason::UpstreamLost(failure).log(child);
            self.env.counters.children_lost += 1;
            if lane.is_none() {
                self.env.counters.failed(failure.kind(), 1);
            }
            self.finish(child);
            let earliest = self.env.now.max(child.last_request() + limits::LOSS_CLOSE_MIN);
            let at = earliest + self.env.rng.u64(0..limits::LOSS_CLOSE_SPREAD);
            child.end_later(at);
            self.env.timers.arm(at, Timer::Child(child.key()));
        }
        if let Some(lane) = lane {
            child.lose_replies();
            if child.sent().in_flight() > 0 {
                self.connections.forsake(lane, child.key());
            }
            if let Some(lease) = child.lease_mut().take() {
                self.abandon_lease(lease.lane);
            }
        }
        self.account_child(child);
        self.mark_child(child);
    }
}
