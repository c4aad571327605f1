//! What a pause means for requests and connections: what is in flight comes to rest, and no request of a child is written until
//! RESUME, or until the pause has lasted long enough. A request that would be written stays in its child's input; what stood in a
//! line stands in it still, and the time does not count. And a move in such a pause: the control connection leads to the other
//! server first, alone. Never decides who may ask for it.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::value::UpstreamRole;
use crate::core::action::Action;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::Slot;
use crate::core::console::orders::{OrderOutcome, frame_of};
use crate::core::keys::{ChildKey, LaneKey, LeaseKind};
use crate::core::lease::groups::Group;
use crate::core::lease::state::LeaseState;
use crate::core::nodes::master::ServerRole;
use crate::core::notice::{ChildNotice, Notice};
use crate::core::route::Way;
use crate::core::shared::Shared;
use crate::core::steering::moves::MoveStage;
use crate::core::steering::pause::{Pause, PauseStage};
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;

impl Shared {
    /// Whether this request waits for the end of a pause: it would be written, and is no part of what a child has begun with
    /// WATCH or with a MULTI on its own lane.
    pub(crate) fn is_held_by_pause(&self, child: &Child, way: Way) -> bool {
        let finishes = child.session().transaction.is_leased() || self.leases_transaction(child);
        way.goes_upstream() && !finishes
    }

    /// A child asks for a pause of at most this long. It hears of it once all is at rest.
    pub(crate) fn ask_for_pause(&mut self, asker: ChildKey, timeout: Option<Millis>) {
        if self.moving.is_under_way() {
            return self.answer_asker(asker, Err("a move to another upstream is under way".to_owned()));
        }
        if let Err(why) = self.may_steer() {
            return self.answer_asker(asker, Err(why));
        }
        self.begin_pause(timeout.unwrap_or(self.env.settings.pause_timeout));
        self.pause.by_hand = true;
        self.pause.askers.push(asker);
        if self.pause.is_at_rest() {
            self.tell_askers(&Ok(Vec::new()));
        }
    }

    /// Whether requests may be held: not those that another process has taken over, or will.
    pub(crate) fn may_steer(&self) -> Result<(), String> {
        match () {
            () if self.env.draining => Err("the broker drains".to_owned()),
            () if self.connections.are_shared_out() => {
                Err("a hand-over to another process is under way".to_owned())
            }
            () => Ok(()),
        }
    }

    /// The same for a move, which may also be made during a pause.
    pub(crate) fn begin_pause_for_move(&mut self) {
        if !self.pause.by_hand {
            return self.begin_pause(self.env.settings.pause_timeout);
        }
        if self.pause.is_at_rest() {
            self.env.actions.push(Action::TryUpstream);
        }
    }

    /// The move is over. A pause that was asked for goes on, if its time is not over.
    pub(crate) fn end_pause_for_move(&mut self, why: &str) {
        if !self.pause.by_hand || self.pause.until <= self.env.now {
            self.resume_all(why);
        }
    }

    /// A second one only changes how long it may last.
    fn begin_pause(&mut self, timeout: Millis) {
        let now = self.env.now;
        self.pause.until = now.saturating_add(timeout);
        if !self.pause.holds() {
            log::info!("paused for at most {timeout} ms");
            (self.pause.stage, self.pause.began) = (PauseStage::Settling, now);
            self.env.standstill.begin(now);
        }
        self.watch_pause();
    }

    /// Looks at it now, and from now on when there may be something to do.
    pub(crate) fn watch_pause(&mut self) {
        self.pause.due = self.env.now;
        self.pause_timer();
    }

    /// RESUME, for a child of this label.
    pub(crate) fn resume_by(&mut self, label: &str) -> Result<(), &'static str> {
        if self.moving.is_under_way() {
            return Err("a move to another upstream is under way, and ends by itself");
        }
        let resumed = self.resume_all(&format!("child {label} asks for RESUME"));
        resumed.then_some(()).ok_or("the broker is not paused")
    }

    /// Requests go on. False if there is no pause.
    pub(crate) fn resume_all(&mut self, why: &str) -> bool {
        if !self.pause.holds() {
            return false;
        }
        let lasted = self.env.now - self.pause.began;
        log::info!("resumed after {lasted} ms: {why}");
        self.tell_askers(&Err(format!("resumed before all was at rest: {why}")));
        self.pause = Pause::default();
        self.env.standstill.end(self.env.now);
        self.env.sweeps.begin(Sweep::Resumed);
        for key in self.connections.keys_where(Lane::is_shared) {
            self.connections.mark(key);
        }
        self.connections.mark_changed();
        self.tend_all();
        true
    }

    /// The time of a pause is over, or it is time to look again at what has not come to rest.
    pub(crate) fn pause_timer(&mut self) {
        let (now, until) = (self.env.now, self.pause.until);
        if !self.pause.holds() || now < self.pause.due {
            return;
        }
        // A move that has come so far ends by itself, and the pause with it.
        let is_trying = self.moving.is_trying();
        if until <= now && !is_trying {
            return self.pause_timed_out();
        }
        if self.pause.is_settling() {
            self.take_back_blocked();
        }
        let is_watched = is_trying || self.pause.is_settling();
        let next = if is_watched { now + limits::PAUSE_LOOK } else { until };
        self.pause.due = next;
        self.env.timers.arm(next, Timer::Pause);
    }

    fn pause_timed_out(&mut self) {
        let restless = self.restless();
        if self.pause.is_settling() && !restless.is_empty() {
            log::warn!("the pause ends by itself: {} still at work", lanes_in_words(restless.len()));
        } else {
            log::warn!("the pause ends by itself after {} ms", self.env.now - self.pause.began);
        }
        if self.moving.is_under_way() {
            return self.stop_move("not everything came to rest within pause_timeout");
        }
        self.resume_all("pause_timeout");
    }

    /// Whether all has come to rest that had not. Called between steps.
    pub(crate) fn note_rest(&mut self) -> bool {
        if !self.pause.is_settling() || !self.restless().is_empty() {
            return false;
        }
        log::info!("all is at rest after {} ms", self.env.now - self.pause.began);
        self.pause.stage = PauseStage::AtRest;
        self.tell_askers(&Ok(Vec::new()));
        if self.moving.is_under_way() {
            self.env.actions.push(Action::TryUpstream);
        }
        true
    }

    /// Lanes on which something is in flight.
    fn restless(&self) -> Vec<LaneKey> {
        self.connections.keys_where(|lane| self.is_restless(lane))
    }

    /// Not the broker's own questions, and not what waits for what comes from now on, which would miss that.
    fn is_restless(&self, lane: &Lane) -> bool {
        let is_busy = lane.is_owed_replies() || lane.is_ready() && !lane.is_idle();
        match lane.role() {
            LaneRole::Control | LaneRole::Probe => false,
            LaneRole::Subscriber => lane.is_ready() && lane.owed() > 0,
            LaneRole::Shared => is_busy,
            LaneRole::Lease => match lane.lease() {
                Some(lease) if lease.is_over() => is_busy,
                Some(lease) if lease.kind() == LeaseKind::Transaction || lease.is_watching() => true,
                Some(_) => is_busy && !self.stays_blocked(lane),
                None => is_busy,
            },
        }
    }

    /// Whether a blocked command is not taken back: it cannot be asked again, or nobody may end it.
    fn stays_blocked(&self, lane: &Lane) -> bool {
        let waits = lane.front().is_some_and(Slot::may_wait);
        waits && self.group_of(lane).is_some_and(|group| !group.restarts() || !self.control.may_unblock())
    }

    fn group_of(&self, lane: &Lane) -> Option<&Group> {
        self.groups.get(lane.lease()?.group()?)
    }

    /// Has what waits for elements end: it stands in its line, and is asked again.
    fn take_back_blocked(&mut self) {
        let waits = |lane: &Lane| {
            let free = |lease: &LeaseState| !lease.is_over() && !lease.is_unblocking();
            lane.is_ready() && lane.front().is_some_and(Slot::may_wait) && lane.lease().is_some_and(free)
        };
        for key in self.connections.keys_where(waits) {
            let Some(lane) = self.connections.find(key) else { continue };
            let group = lane.lease().and_then(LeaseState::group);
            if let Some(group) = group.filter(|key| self.groups.get(*key).is_some_and(Group::restarts)) {
                self.unblock_lane(group, key);
            }
        }
    }

    /// Whoever asked for the pause hears what has become of it.
    fn tell_askers(&mut self, outcome: &OrderOutcome) {
        for asker in std::mem::take(&mut self.pause.askers) {
            self.answer_asker(asker, outcome.clone());
        }
    }

    pub(crate) fn answer_asker(&mut self, asker: ChildKey, outcome: OrderOutcome) {
        self.env.notify(Notice::Child(asker, ChildNotice::Ordered(frame_of(outcome))));
    }

    /// The pause is over: a child that waited for that goes on.
    pub(crate) fn end_paused(&mut self, child: &mut Child) -> bool {
        let waited = child.hold() == Hold::Paused;
        if waited {
            self.lift(child);
        }
        waited
    }
}

impl Shared {
    /// The other upstream, and the one that there is, change their places: the control connection leads there.
    pub(crate) fn change_places(&mut self) {
        let Some(one) = &mut self.moving.under_way else { return };
        let (other, number) = one.other.clone();
        one.is_elsewhere = !one.is_elsewhere;
        one.other = (std::mem::replace(&mut self.env.upstream, other), self.env.upstream_number);
        self.env.upstream_number = number;
        self.lead_control();
        // Whatever is being connected would greet one server as the other wants it.
        let control = self.control.lane();
        for key in self.connections.keys_where(Lane::is_connecting) {
            if key != control {
                self.connections.dial_afresh(&mut self.env, key);
            }
        }
        self.move_control();
    }

    pub(crate) fn tried(&mut self, verdict: Result<(), String>) {
        if let Some(one) = &mut self.moving.under_way
            && !matches!(one.stage, MoveStage::Tried(_))
        {
            one.stage = MoveStage::Tried(verdict);
            self.env.actions.push(Action::UpstreamTried);
        }
    }

    /// It does not come to its end, for a reason of the broker's own.
    pub(crate) fn stop_move(&mut self, why: &str) {
        self.tried(Err(why.to_owned()));
    }

    /// Why the new server does not serve, whatever it may say later.
    pub(crate) fn refuse_role(&self) -> Option<String> {
        let role = self.control.greeting().and_then(ServerRole::of);
        let is_replica = role == Some(ServerRole::Replica);
        let refused = is_replica && self.env.settings.upstream_role != UpstreamRole::Any;
        refused.then(|| "it is a replica, and read-only".to_owned())
    }
}

fn lanes_in_words(count: usize) -> String {
    if count == 1 { "one connection is".to_owned() } else { format!("{count} connections are") }
}
