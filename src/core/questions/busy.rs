//! A script that does not end. Redis answers BUSY to all but a few commands meanwhile (`busy-reply-threshold`), and
//! nothing on the lane that carries the script. So the control connection is asked, and its answer is given to every
//! request that comes from then on. Never ends a script: SCRIPT KILL does, on the control connection.

use crate::base::clock::Millis;
use crate::base::failure::{Failure, Lost};
use crate::base::limits;
use crate::command::{Route, texts};
use crate::core::child::Child;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::Slot;
use crate::core::keys::LaneKey;
use crate::core::notice::{ChildNotice, Notice};
use crate::core::questions::control::{Question, Said};
use crate::core::questions::own_rights::OwnRight;
use crate::core::request::flow::{Decided, Flow};
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::reply;

impl Shared {
    /// The upstream has answered PING, or another question with BUSY; or the connection was lost before.
    pub(super) fn probe_answered(&mut self, said: Said<'_>) {
        let Said::Busy(frame) = said else {
            self.work.forget();
            if said.frame().is_some() {
                self.work.was_idle();
            }
            if said.frame().is_some() && self.commands.take_due() {
                self.ask(Question::Commands);
            }
            return;
        };
        if !self.work.became_busy(frame, self.env.now) {
            // The question may have overtaken the end of the script.
            return self.ask_if_busy();
        }
        let shown = reply::error_text(frame).unwrap_or_default();
        log::warn!("upstream {}: {shown} What children ask now is answered so", self.env.upstream);
        // Children that wait until a full lane takes more are told so, too.
        self.connections.lift_all_held(&mut self.env);
        self.watch_busy();
    }

    /// What a busy script keeps from children they may have as soon as it ends, however quiet all lanes are.
    fn watch_busy(&mut self) {
        if self.work.begin_watch() {
            self.env.timers.arm(self.env.now + limits::BUSY_PROBE, Timer::Busy);
        }
    }

    pub(crate) fn busy_timer(&mut self) {
        self.work.end_watch();
        if self.work.is_busy() {
            self.ask_if_busy();
        }
        self.watch_busy();
    }

    /// While the upstream is busy it would answer this request so too. None: it goes on, since Redis allows the command,
    /// since the child's own script is what runs, or since a leased lane has Redis' own answer.
    pub(crate) fn refuse_while_busy(&mut self, child: &mut Child, decided: &mut Decided<'_>) -> Option<Flow> {
        let text = String::from_utf8_lossy(self.work.busy_text()?).into_owned();
        let table = self.commands.table()?;
        let front = self.connections.find(child.sent().lane()).and_then(Lane::front);
        let runs_script = child.sent().in_flight() > 0 && front.is_some_and(|slot| slot.child == child.key());
        if child.lease().is_some() || runs_script {
            return None;
        }
        if table.is_allowed_while_busy(decided.id) {
            if matches!(decided.route, Route::Shared | Route::Count(_)) {
                // A shared lane may carry the script.
                decided.route = Route::Dedicated;
            }
            return None;
        }
        Some(self.turn_away(child, decided, &text))
    }

    /// Whether a lane has waited that long for a reply that should come by itself: what blocks may wait.
    pub(crate) fn is_stalled(&self, lane: &Lane, limit: Millis) -> bool {
        lane.has_written()
            && self.env.now.saturating_sub(lane.record().last_reply) >= limit
            && !lane.front().is_some_and(Slot::may_wait)
    }

    /// Asks whether the upstream is busy, where that would explain what lanes wait for, or is so still.
    pub(crate) fn ask_if_busy(&mut self) {
        let stalled = |lane: &Lane| self.is_stalled(lane, limits::BUSY_PROBE);
        let known = self.work.is_busy() || self.commands.is_due();
        let asks = || known || self.connections.lanes().any(|(_, lane)| stalled(lane));
        if self.work.is_due(self.env.now) && self.control_is_ready() && asks() {
            self.ask_probe();
        }
    }

    /// Asks whether the upstream works. Without any right that could tell, the answer shows only that it lives.
    pub(super) fn ask_probe(&mut self) {
        self.work.asks(self.env.now);
        let right = self.control.own_rights().to_probe().unwrap_or(OwnRight::Ping);
        self.ask(Question::Probe(right));
    }

    /// It was answered, or its connection was lost before. Redis looks at rights first: that one is missing says nothing of
    /// scripts.
    pub(super) fn probe_answered_with(&mut self, right: OwnRight, said: Said<'_>) {
        if let Said::Refused(frame) = said
            && texts::is_lack(frame)
        {
            self.control.own_rights_mut().set(right, true);
            if self.control.own_rights().to_probe().is_some() {
                return self.ask_probe();
            }
            self.note_readiness(said);
            return self.work.forget();
        }
        self.note_readiness(said);
        self.probe_answered(said);
    }

    pub(crate) fn is_upstream_dead(&self, patience: Millis) -> bool {
        let ready = self.control_is_ready();
        let since = if ready { self.work.silent_since() } else { self.control.down_since() };
        since.is_some_and(|since| self.env.now - since >= patience)
    }

    /// SCRIPT KILL or FUNCTION KILL has been answered. If a script ends by it, or none runs, what is known is old.
    pub(crate) fn kill_answered(&mut self, frame: &[u8]) {
        if !reply::is_error(frame) || reply::error_code(frame) == Some(b"NOTBUSY") {
            self.work.doubt();
            self.ask_if_busy();
        }
    }

    /// A reply has taken its slot, which had been at the front of its lane since `front_since`. True if this command kept
    /// the upstream from everything else: the child's next ones of this kind go on a lane apart.
    #[inline]
    pub(crate) fn note_work(
        &mut self,
        key: LaneKey,
        role: LaneRole,
        slot: &Slot,
        front_since: Millis,
        frame: &[u8],
    ) -> bool {
        let commands = &self.commands;
        let allowed = || commands.table().is_some_and(|table| table.is_allowed_while_busy(slot.command));
        let connections = &self.connections;
        let delays = || connections.known(key).is_some_and(|lane| lane.is_shared() && lane.depth() > 0);
        !role.is_own() && self.work.replied(front_since, self.env.now, frame, delays, allowed)
    }

    /// Requests that have waited behind a script for too long are answered with BROKERLOST; their late replies are dropped.
    /// The script's own child keeps its lane and its reply.
    pub(crate) fn give_up_behind_scripts(&mut self, limit: Millis) {
        if !self.work.is_busy() {
            return;
        }
        let stalled = |lane: &Lane| lane.role() == LaneRole::Shared && self.is_stalled(lane, limit);
        for key in self.connections.keys_where(stalled) {
            let behind = self.connections.known_mut(key).map(Lane::give_up_behind_front).unwrap_or_default();
            if !behind.is_empty() {
                let count = behind.len();
                log::warn!("lane_stall_timeout: {count} requests stand behind a script that does not end");
                self.tell_late(key, behind, Failure::Lost(Lost::Busy { after_ms: limit }));
            }
        }
    }

    /// These slots stay, but their children are told this instead of the replies.
    pub(crate) fn tell_late(&mut self, key: LaneKey, slots: Vec<Slot>, failure: Failure) {
        for slot in &slots {
            self.env.notify(Notice::Child(slot.child, ChildNotice::Late));
        }
        self.fail_slots(key, slots, failure);
    }
}
