//! Pauses and moves as the driver sees them: what it begins, what it is told, and what it is asked for on the way. What follows
//! for requests and connections is in `resting`.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::{Settings, Upstream};
use crate::core::broker::Broker;
use crate::core::connection::role::LaneRole;
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::questions::ready::Readiness;
use crate::core::steering::moves::{MoveStage, PlannedMove};

impl Broker {
    /// Since how many milliseconds requests are held by a pause, and in how many it ends by itself; none if they are not.
    pub fn paused(&self) -> Option<(Millis, Millis)> {
        let (began, until) = self.shared.pause.times()?;
        let now = self.shared.env.now;
        Some((now - began, until.saturating_sub(now)))
    }

    /// Whether this lane may not be connected now: the upstream is one that is only being tried, by the control connection.
    pub fn waits_for_move(&self, lane: LaneKey) -> bool {
        let is_other =
            || self.shared.connections.find(lane).is_some_and(|lane| lane.role() != LaneRole::Control);
        self.shared.moving.is_elsewhere() && is_other()
    }

    /// Whether a pause has to wait for a MULTI that is open on the lane of a session.
    pub(crate) fn is_session_in_multi(&self) -> bool {
        let children = self.shared.connections.lanes().filter_map(|(_, lane)| {
            let lease =
                lane.lease().filter(|lease| lease.kind() == LeaseKind::Session && !lease.is_over())?;
            self.children.get(lease.child())
        });
        self.shared.pause.is_settling()
            && children.into_iter().any(|child| child.session().transaction.is_leased())
    }

    /// Begins a move: once all is at rest, `Action::TryUpstream` asks the driver to have connections secured as `to` wants
    /// it and to call `try_upstream`. The error says why it is not begun.
    pub fn begin_move(&mut self, to: Upstream) -> Result<(), String> {
        let shared = &mut self.shared;
        shared.may_steer()?;
        if shared.moving.is_under_way() {
            return Err("another move is under way".to_owned());
        }
        log::info!("moving from upstream {} to {to}", shared.env.upstream);
        let number = shared.env.next_upstream_number();
        shared.moving.under_way =
            Some(PlannedMove { other: (to, number), stage: MoveStage::Settling, is_elsewhere: false });
        shared.begin_pause_for_move();
        self.deliver_notices();
        Ok(())
    }

    /// From now on the control connection leads to the new server. `Action::UpstreamTried` tells when it is known whether that
    /// serves.
    pub fn try_upstream(&mut self) {
        let shared = &mut self.shared;
        // It may have been stopped since the driver was asked.
        let settling = |one: &&mut PlannedMove| matches!(one.stage, MoveStage::Settling);
        let Some(one) = shared.moving.under_way.as_mut().filter(settling) else { return };
        let now = shared.env.now;
        let patience = shared.env.settings.connect_timeout.saturating_mul(limits::MOVE_CONNECTS);
        one.stage = MoveStage::Trying { since: now, until: now.saturating_add(patience) };
        shared.change_places();
        shared.watch_pause();
        self.deliver_notices();
    }

    /// Looks whether the new server serves. Whether something has changed.
    pub(crate) fn go_on_moving(&mut self) -> bool {
        let Some(PlannedMove { stage: MoveStage::Trying { since, until }, .. }) =
            self.shared.moving.under_way
        else {
            return false;
        };
        let is_over = until <= self.shared.env.now;
        let is_connected = self.shared.control_is_ready() && self.shared.commands.table().is_some();
        let verdict = match self.shared.refuse_role().filter(|_| is_connected) {
            Some(why) => Err(why),
            None if !is_connected && !is_over => return false,
            None if !is_connected => Err(self.shared.down_at_all().to_string()),
            None => match self.readiness(since) {
                Readiness::Ready => Ok(()),
                Readiness::NotReady(why) => Err(why),
                Readiness::Asked { .. } if !is_over => return false,
                Readiness::Asked { .. } => Err("it does not answer".to_owned()),
            },
        };
        self.shared.tried(verdict);
        true
    }

    /// What has become of the attempt, for `Action::UpstreamTried`. After an error connections are to be secured as before, and
    /// `leave_move` is to be called; else `end_move`.
    pub fn move_verdict(&self) -> Result<(), String> {
        match self.shared.moving.under_way.as_ref().map(|one| &one.stage) {
            Some(MoveStage::Tried(verdict)) => verdict.clone(),
            _ => Err("no move is under way".to_owned()),
        }
    }

    /// Whether the new server has been led to, whatever has become of that.
    pub fn is_trying_move(&self) -> bool {
        let number = self.shared.env.upstream_number;
        self.shared.moving.under_way.as_ref().is_some_and(|one| one.other.1 < number)
    }

    /// All connections follow to the new server, and requests go on, with these settings.
    pub fn end_move(&mut self, settings: Settings) {
        if self.shared.moving.under_way.take().is_none() {
            return;
        }
        let upstream = self.shared.env.upstream.clone();
        log::info!("moved to upstream {upstream}");
        self.shared.move_lanes(false);
        self.reload(settings, upstream);
        self.shared.end_pause_for_move("the move has been made");
        self.deliver_notices();
    }

    /// Requests go on where they went before.
    pub fn leave_move(&mut self, why: &str) {
        if !self.shared.moving.is_under_way() {
            return;
        }
        log::warn!("not moved to another upstream: {why}");
        if self.is_trying_move() {
            self.shared.change_places();
            self.shared.move_lanes(false);
        }
        self.shared.moving.under_way = None;
        self.shared.end_pause_for_move("the move was not made");
        self.deliver_notices();
    }
}
