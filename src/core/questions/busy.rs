//! A script that does not end. Redis runs nothing else meanwhile, and after a while (`busy-reply-threshold`) answers
//! BUSY to all but a few commands; on the lane that carries the script it answers nothing. So the control connection is
//! asked, and what it says is told to whoever asks from then on. Owns what is known of that; the script is ended by
//! SCRIPT KILL, which goes on the control connection too.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::command::Route;
use crate::command::Transaction as TransactionCommand;
use crate::core::child::Child;
use crate::core::connection::failure::LOST;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::Slot;
use crate::core::keys::LaneKey;
use crate::core::notice::Notice;
use crate::core::questions::control::Question;
use crate::core::questions::known::Busy;
use crate::core::request::flow::Decided;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::Request;

impl Shared {
    /// The upstream has answered PING; or the connection was lost before.
    pub(in crate::core) fn probe_answered(&mut self, frame: Option<&[u8]>) {
        self.control.probing_since = None;
        let Some(text) = frame.and_then(|frame| frame.strip_prefix(b"-BUSY")) else {
            self.work.busy = None;
            if frame.is_some() {
                self.ask_for_table_again();
            }
            return;
        };
        let text = [b"BUSY", text.trim_ascii_end()].concat();
        if self.work.busy.is_none() {
            let shown = String::from_utf8_lossy(&text);
            log::warn!("upstream {}: {shown} What children ask now is answered so", self.env.upstream);
        }
        let since = self.work.busy.as_ref().map_or(self.env.now, |busy| busy.since);
        let is_news = self.work.busy.replace(Busy { text, since }).is_none();
        for key in if is_news { self.connections.lanes.keys() } else { Vec::new() } {
            // Who waits until a full lane takes more is told so, too.
            let held = self.connections.lanes.get_mut(key).map(|lane| std::mem::take(&mut lane.held));
            self.lift_held(held.unwrap_or_default());
        }
    }

    /// Whether the upstream has said so.
    pub(in crate::core) fn is_busy(&self) -> bool {
        self.work.busy.is_some()
    }

    /// While the upstream is busy it would answer this request so too. None: it goes on, since Redis allows the command,
    /// since it stands behind the script on a connection of the child's own, or since a leased lane has Redis' own word.
    pub(in crate::core) fn refuse_while_busy(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: &mut Decided,
    ) -> Option<Flow> {
        let busy = self.work.busy.as_ref()?;
        let table = self.control.table.as_ref()?;
        let runs_script = child.in_flight > 0
            && self
                .connections
                .lanes
                .get(child.lane)
                .and_then(Lane::front)
                .is_some_and(|slot| slot.child == child.key);
        if child.lease.is_some() || runs_script {
            return None;
        }
        if table.is_allowed_while_busy(decided.id) {
            if decided.route == Route::Shared {
                // A shared lane may carry the script.
                decided.route = Route::Dedicated;
            }
            return None;
        }
        let text = busy.text.clone();
        Some(match decided.route {
            Route::Transaction(TransactionCommand::Exec) => {
                self.reject_exec(child, request, &String::from_utf8_lossy(&text))
            }
            _ => self.reject(child, text),
        })
    }

    /// Another connection, perhaps to another upstream: nothing is known of its work.
    pub(in crate::core) fn forget_work(&mut self) {
        self.work.busy = None;
    }

    /// Whether a lane has waited that long for a reply that should come by itself: what blocks may wait as long as it
    /// likes.
    pub(in crate::core) fn is_stalled(&self, lane: &Lane, limit: Millis) -> bool {
        if !lane.has_written() || self.env.now.saturating_sub(lane.last_reply) < limit {
            return false;
        }
        !lane.front().is_some_and(Slot::may_wait)
    }

    /// Asks whether the upstream is busy, where that would explain what lanes wait for; and, once it is, whether it
    /// still is.
    pub(in crate::core) fn ask_if_busy(&mut self) {
        let stalled = |lane: &Lane| self.is_stalled(lane, limits::BUSY_PROBE);
        let due = self.env.now >= self.work.asked_at + limits::BUSY_PROBE;
        let known = self.work.busy.is_some() || self.control.table_due;
        let asks = || known || self.connections.lanes.iter().any(|(_, lane)| stalled(lane));
        if due && self.control.probing_since.is_none() && self.control_is_ready() && asks() {
            self.work.asked_at = self.env.now;
            self.control.probing_since = Some(self.env.now);
            self.ask(Question::Probe);
        }
    }

    /// A reply has taken its slot, which had been at the front of its lane since `front_since`. If the upstream did
    /// nothing else meanwhile, it was this command that kept it: the child's next ones of this kind go on a lane apart.
    pub(in crate::core) fn note_work(
        &mut self,
        role: LaneRole,
        slot: &Slot,
        front_since: Millis,
        frame: &[u8],
    ) -> bool {
        if role.is_own() || frame.starts_with(b"-BUSY") {
            return false;
        }
        let ran = self.env.now.saturating_sub(front_since.max(self.work.done_at));
        if self.work.busy.is_none() && ran < limits::SLOW_MIN {
            self.work.done_at = self.env.now;
            return false;
        }
        let table = self.control.table.as_ref();
        if table.is_some_and(|table| table.is_allowed_while_busy(slot.command)) {
            return false;
        }
        self.work.done_at = self.env.now;
        // Errors of rights and arity come before that of a busy script, and prove nothing.
        let was_script = self.work.busy.as_ref().is_some_and(|busy| front_since <= busy.since);
        if was_script || frame.first() != Some(&b'-') {
            self.work.busy = None;
        }
        ran >= limits::SLOW_MIN || was_script
    }

    /// Whoever stands behind a script for too long is told that it is lost; the late replies will find nobody. The
    /// script's own child keeps its lane and its reply.
    pub(in crate::core) fn give_up_behind_scripts(&mut self, limit: Millis) {
        if self.work.busy.is_none() {
            return;
        }
        for key in self.connections.lanes.keys() {
            let stalled = |lane: &Lane| lane.role == LaneRole::Shared && self.is_stalled(lane, limit);
            if !self.connections.lanes.get(key).is_some_and(stalled) {
                continue;
            }
            let behind =
                self.connections.lanes.get_mut(key).map(Lane::give_up_behind_front).unwrap_or_default();
            if behind.is_empty() {
                continue;
            }
            log::warn!(
                "lane_stall_timeout: {} requests stand behind a script that does not end",
                behind.len()
            );
            self.tell_late(key, behind, LOST);
        }
    }

    /// These slots stay, but their children are told this instead of the replies.
    pub(in crate::core) fn tell_late(&mut self, key: LaneKey, slots: Vec<Slot>, text: &str) {
        for slot in &slots {
            self.env.notices.push_back(Notice::Late(slot.child));
        }
        self.fail_slots(key, slots, text);
    }
}
