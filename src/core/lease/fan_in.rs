//! Fan in: many children that wait for the same share a few leased lanes. Decides when the command of a group is written to
//! a lane, whose its answer is, and when a lane is given back, taken back or closed. What a lane answers goes to the waiter
//! of its rank: the oldest lane serves the one who came first, as Redis serves the oldest connection first. Never runs a
//! child's request; a child is told by a notice, or by `reply`.

use crate::base::clock::Millis;
use crate::base::failure::Failure;
use crate::base::limits;
use crate::command::texts::{self, Wording};
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::{GroupKey, LaneKey, LeaseKind, PoolId};
use crate::core::lease::groups::{Group, LaneWork, NEVER, Waiter};
use crate::core::lease::leases::Demand;
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::questions::control::Question;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::{encode, reply};
use std::ops::Range;

/// A waiter and the part of a frame that is its answer.
pub(crate) type Served = (Waiter, Range<usize>);

impl Shared {
    // ---- lanes ----------------------------------------------------------------------------------------

    /// The group has been lent this lane.
    pub(super) fn lent_to_group(&mut self, key: GroupKey, lane: LaneKey, ticket: u64) {
        let Some(group) = self.groups.get_mut(key) else { return self.abandon_lease(lane) };
        group.granted(ticket);
        group.begin(lane, LaneWork::Rests);
        if group.may_begin() && !self.pause.holds() {
            self.write_to(key, lane);
        } else {
            self.part(key, lane);
        }
        self.tend(key);
    }

    /// Somebody has joined the group: a lane that is free serves it at once.
    pub(crate) fn joined(&mut self, key: GroupKey) {
        if self.line_up(key) {
            self.pump_leases();
        }
        self.tend(key);
    }

    /// Puts the group's command on one of its lanes, with the longest time that any of its waiters has left; the shortest
    /// where the broker may not CLIENT UNBLOCK.
    fn write_to(&mut self, key: GroupKey, lane: LaneKey) {
        let now = self.env.now;
        let Some(group) = self.groups.get_mut(key) else { return };
        // What nobody can end has to end by itself as soon as anybody's time is over.
        let last = match self.control.may_unblock() {
            true => group.last_expiry(),
            false => group.first_expiry().unwrap_or(NEVER),
        };
        // Before Redis 7.0 less than a millisecond, which 0.001 is when it is multiplied, is for ever.
        let least = if self.commands.wording() == Wording::Before7 { 2 } else { 1 };
        // Redis looks before it gives up, however short the time: what is there is delivered.
        let left = (last != NEVER).then(|| last.saturating_sub(now).max(least));
        let until = left.map_or(NEVER, |left| now + left);
        let ahead = group.look_depth();
        group.begin(lane, LaneWork::Waits { since: now, until, asked: None, pending: false, ahead });
        if ahead > 0 {
            self.look_ahead(key, lane, ahead);
        }
        let mut bytes = Vec::new();
        if let Some(group) = self.groups.get(key) {
            group.request().append(left, &mut bytes);
        }
        self.send_for_group(lane, &bytes, SlotKind::Element, SlotFlags::MAY_WAIT);
    }

    /// A lane of the group has answered. It takes the command again where there are waiters for whom none is out, unless
    /// somebody else has more need of it, or its time is over.
    pub(super) fn serve_on(&mut self, key: GroupKey, lane_key: LaneKey) {
        let serves = self.may_serve(key, lane_key);
        // It may have been lost in this event.
        let Some(lane) = self.connections.find(lane_key) else { return };
        let usable = lane.is_ready() && !lane.record().close_needed;
        if usable && lane.lease().is_some_and(LeaseState::is_unblocking) {
            // The CLIENT UNBLOCK under way could end what is written now.
            return self.tend(key);
        }
        if serves && self.groups.get(key).is_some_and(Group::may_begin) {
            self.write_to(key, lane_key);
        } else {
            self.part(key, lane_key);
        }
        self.tend(key);
    }

    /// Whether the lane may go on for the group: nobody has more need of it, and its time is not over.
    fn may_serve(&mut self, key: GroupKey, lane_key: LaneKey) -> bool {
        let (now, lifetime) = (self.env.now, self.env.settings.upstream_lifetime);
        let Some(lane) = self.connections.find_mut(lane_key) else { return false };
        let age = now.saturating_sub(lane.record().connected_at);
        lane.need_close_if(lifetime > 0 && age >= lifetime);
        let usable = lane.is_ready() && !lane.record().close_needed;
        let max = self.env.settings.leases_per_group_max;
        let Some(group) = self.groups.get(key) else { return false };
        usable
            && !self.pause.holds()
            && !self.leases.is_short()
            && !group.leaves(lane_key)
            && group.held() <= group.lanes_max(max)
    }

    /// The group gives the lane back. Closed, if something is still on it.
    pub(super) fn part(&mut self, key: GroupKey, lane_key: LaneKey) {
        if let Some(group) = self.groups.get_mut(key) {
            group.remove(lane_key, self.env.now);
        }
        let Some(lane) = self.connections.find_mut(lane_key) else { return };
        let busy = !lane.is_idle();
        lane.need_close_if(busy);
        if let Some(lease) = lane.lease_mut() {
            lease.end();
        }
        self.give_back(lane_key);
    }

    /// Somebody has to have this very lane: it is asked to end, and not written again.
    pub(crate) fn free_from_group(&mut self, key: GroupKey, lane: LaneKey) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let is_idle = matches!(group.work_of(lane), Some(LaneWork::Waits { pending: false, .. }));
        group.let_go(lane);
        if is_idle {
            self.unblock_lane(key, lane);
        }
        self.tend(key);
    }

    /// The lane of a group is gone. What was written may have been executed, and its answer lost: the waiters whom it would
    /// have served are told so. The others ask anew.
    pub(crate) fn group_lane_lost(&mut self, key: GroupKey, lane: LaneKey, lost: &[Slot]) {
        let now = self.env.now;
        let is_lost = |kind| lost.iter().any(|slot| slot.kind == kind);
        let (was_looking, was_waiting) = (is_lost(SlotKind::LookExec), is_lost(SlotKind::Element));
        let Some(group) = self.groups.get_mut(key) else { return };
        for waiter in group.lose(lane, now, was_looking, was_waiting) {
            self.fail_waiter(&waiter, Failure::LOST);
        }
        self.tend(key);
    }

    // ---- answers --------------------------------------------------------------------------------------

    /// A lane of a group has answered. Returns the waiters whose answer it is, each with its part of the frame.
    pub(crate) fn group_answered(&mut self, lane: LaneKey, kind: SlotKind, frame: &[u8]) -> Vec<Served> {
        let lease = self.connections.find(lane).and_then(Lane::lease);
        let Some(key) = lease.and_then(LeaseState::group) else { return Vec::new() };
        match kind {
            SlotKind::LookMulti => self.multi_of_look(key, lane, frame),
            SlotKind::LookQueued => return self.look_not_queued(key, lane, frame),
            SlotKind::LookExec => return self.looked(key, lane, frame),
            _ => return self.element_came(key, lane, frame),
        }
        Vec::new()
    }

    /// The command of a group has been answered. Returns whose the answer is; those for whom a null says that their time is
    /// over are told by notices.
    fn element_came(&mut self, key: GroupKey, lane: LaneKey, frame: &[u8]) -> Vec<Served> {
        let now = self.env.now;
        let is_demoted = frame.starts_with(texts::DEMOTED) || self.is_from_former_master(lane, frame);
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        let Some((rank, work)) = group.answered(lane) else { return Vec::new() };
        if is_demoted && group.restarts() {
            // Nothing was executed, and the connection is of no more use: whoever has waited there waits elsewhere.
            group.let_go(lane);
            self.connections.known_mut(lane).map(Lane::need_close);
            self.serve_on(key, lane);
            return Vec::new();
        }
        let is_null = reply::is_null(frame);
        if let LaneWork::Waits { since, .. } = work
            && !is_null
        {
            group.backlog_mut().element_came(frame.len(), now.saturating_sub(since));
        }
        let mut told = Vec::new();
        match work.null_as_of(now).filter(|_| is_null) {
            Some(as_of) => self.tell_expired(key, as_of, frame),
            None => told = self.take_waiters(key, (lane, rank), frame, std::iter::once(0..frame.len())),
        }
        self.serve_on(key, lane);
        told
    }

    /// Whose these parts of an answer are: the waiters from the rank of its lane on, unless all have gone. An error may be
    /// about the time before its waiter came, who asks anew.
    pub(super) fn take_waiters(
        &mut self,
        key: GroupKey,
        (lane, rank): (LaneKey, usize),
        frame: &[u8],
        parts: impl ExactSizeIterator<Item = Range<usize>>,
    ) -> Vec<Served> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        let tickets = group.tickets_from(rank, parts.len());
        self.env.counters.orphaned_replies += (parts.len() - tickets.len()) as u64;
        let mut told = Vec::with_capacity(tickets.len());
        for (ticket, part) in tickets.into_iter().zip(parts) {
            if reply::is_error(&frame[part.clone()]) && group.has_come_since(lane, ticket) {
                continue;
            }
            told.extend(group.leave(ticket).map(|waiter| (waiter, part)));
        }
        told.iter().for_each(|(waiter, _)| self.answer_unblock(waiter, false));
        told
    }

    /// Nothing was there at that time: those whose time was over are told so.
    pub(super) fn tell_expired(&mut self, key: GroupKey, as_of: Millis, null: &[u8]) {
        while let Some(waiter) = self.groups.get_mut(key).and_then(|group| group.take_unserved(as_of)) {
            let mut frame = Vec::new();
            if waiter.unblocked.is_some_and(|unblocked| unblocked.error) {
                encode::error(&mut frame, texts::UNBLOCKED);
            } else {
                frame.extend_from_slice(null);
            }
            self.answer_unblock(&waiter, true);
            self.env.notify(Notice::Child(waiter.child, ChildNotice::Served(frame)));
        }
    }

    /// Whoever has unblocked this waiter hears whether that has ended its wait.
    pub(crate) fn answer_unblock(&mut self, waiter: &Waiter, ended: bool) {
        if let Some(unblocked) = waiter.unblocked {
            self.answer_to_unblock(unblocked.asker, ended);
        }
    }

    pub(super) fn fail_waiter(&mut self, waiter: &Waiter, failure: Failure) {
        self.answer_unblock(waiter, true);
        let writes = waiter.writes;
        self.env.notify(Notice::Child(waiter.child, ChildNotice::WaitFailed { failure, writes }));
    }

    // ---- what follows every change --------------------------------------------------------------------

    /// Somebody has come or gone, a lane has answered, or time has passed: lanes that are too many end, those whose time is
    /// over are looked after, leases that are wanting are lined up for.
    pub(crate) fn tend(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get(key) else { return };
        if group.waiting() == 0 {
            return self.wind_up(key);
        }
        self.end_surplus(key);
        self.end_overdue(key);
        self.line_up(key);
        self.set_group_timer(key);
    }

    /// Nobody waits any more. Lanes on which the command waits are closed, but for those that are unblocked already: what
    /// these answer goes to whoever comes meanwhile.
    fn wind_up(&mut self, key: GroupKey) {
        let lanes: Vec<_> = self.groups.get(key).into_iter().flat_map(Group::lanes).collect();
        for (lane, work) in lanes {
            let answers = matches!(work, LaneWork::Waits { pending: true, .. } | LaneWork::Looks { .. });
            if !answers {
                self.part(key, lane);
            }
        }
        self.line_up(key);
        self.leave_look(key);
        if self.groups.get(key).is_some_and(|group| group.lanes().next().is_none()) {
            self.forget_group(key);
        }
    }

    fn forget_group(&mut self, key: GroupKey) {
        let before = self.groups.footprint();
        self.groups.forget(key);
        self.env.memory -= before - self.groups.footprint();
    }

    /// More lanes wait than children: the youngest ones are asked to end. What they answer is read.
    fn end_surplus(&mut self, key: GroupKey) {
        let (now, max) = (self.env.now, self.env.settings.leases_per_group_max);
        if self.control_is_ready() && !self.control.may_unblock() {
            return self.close_surplus(key);
        }
        let Some(group) = self.groups.get(key) else { return };
        let surplus = group.surplus(max);
        if surplus == 0 || now < group.next_unblock() {
            return;
        }
        // What ends by itself in a moment needs no help.
        let lasting = group.idle_waits().filter(|(_, until)| *until > now + limits::LEASE_GRACE);
        let ending: Vec<LaneKey> = lasting.take(surplus).map(|(lane, _)| lane).collect();
        for lane in ending {
            self.unblock_lane(key, lane);
        }
    }

    /// A waiter has died, and the broker may not CLIENT UNBLOCK: its command ends with its connection, as it would have
    /// without a broker.
    fn close_surplus(&mut self, key: GroupKey) {
        while let Some(lane) = self.groups.get(key).and_then(Group::spare_command) {
            self.part(key, lane);
        }
    }

    /// Whether CLIENT UNBLOCK can be had for this lane. The id of one that leads to a former upstream may be anybody's at
    /// the present one.
    fn may_unblock(&self, lane: LaneKey) -> bool {
        let here = |lane: &Lane| !lane.record().is_on_previous_upstream && lane.is_ready();
        self.control_is_ready() && self.control.may_unblock() && self.connections.find(lane).is_some_and(here)
    }

    /// Asks the upstream to end the command on this lane. False if that cannot be asked.
    pub(crate) fn unblock_lane(&mut self, key: GroupKey, lane_key: LaneKey) -> bool {
        if !self.may_unblock(lane_key) {
            return false;
        }
        let Some(lane) = self.connections.known_mut(lane_key) else { return false };
        let id = lane.record().upstream_id;
        if let Some(lease) = lane.lease_mut() {
            lease.unblock_asked();
        }
        if let Some(group) = self.groups.get_mut(key) {
            group.unblock_asked(lane_key, self.env.now);
        }
        self.ask(Question::Unblock { lane: lane_key, id });
        true
    }

    /// CLIENT UNBLOCK for a lane of a group has been answered, or never will be.
    pub(super) fn group_unblock_answered(&mut self, key: GroupKey, lane_key: LaneKey, answer: Option<&[u8]>) {
        let now = self.env.now;
        let Some(group) = self.groups.get_mut(key) else { return };
        match group.work_of(lane_key) {
            Some(LaneWork::Rests) => return self.serve_on(key, lane_key),
            // Its answer is on its way.
            Some(_) if answer == Some(b":1\r\n") => return,
            _ => {}
        }
        // It may have come before the command it was to end, or behind its answer.
        group.unblock_missed(lane_key, now + limits::UNBLOCK_RETRY);
        group.not_before(now + limits::UNBLOCK_RETRY);
        self.env.timers.arm(now + limits::UNBLOCK_RETRY, Timer::Leases);
        self.tend(key);
    }

    /// Those whose time is over are told null once the upstream has said that nothing is there: by a lane whose own time is
    /// over too, by one that is unblocked, or by a look.
    fn end_overdue(&mut self, key: GroupKey) {
        let now = self.env.now;
        let Some(group) = self.groups.get_mut(key) else { return };
        let Some(first) = group.first_expiry().filter(|at| *at <= now) else {
            group.set_overdue(None);
            return self.leave_look(key);
        };
        let is_known_soon = group.is_unblocking() || group.is_looking();
        if is_known_soon || patience(group, first).is_some_and(|until| until > now) {
            return;
        }
        group.set_overdue(Some(now));
        group.not_before(now + limits::LOOK_PAUSE);
        // A look beside as many commands as waiters could bring one element too many.
        let may_look = group.unserved() > 0 && group.look().is_none();
        let youngest = group.idle_waits().next();
        if !youngest.is_some_and(|(lane, _)| self.unblock_lane(key, lane)) && may_look {
            self.want_look(key);
        }
    }

    /// Takes the places in the line for leases that the group should have, and leaves the others. True if it stands there.
    fn line_up(&mut self, key: GroupKey) -> bool {
        let (kind, max) = (LeaseKind::Blocking, self.env.settings.leases_per_group_max);
        let Some(group) = self.groups.get_mut(key) else { return false };
        let wanted = group.wanted(max);
        let (bare, pool) = (group.held() == 0, group.pool());
        if wanted.is_empty() && group.line().is_empty() {
            return false;
        }
        let stands = !wanted.is_empty();
        for ticket in group.set_line(wanted.clone()) {
            self.leases.leave(kind, ticket);
        }
        for (index, ticket) in wanted.into_iter().enumerate() {
            let demand = Demand { tenant: Tenant::Group(key), pool, since: self.env.now };
            if bare && index == 0 {
                self.leases.join(kind, ticket, demand);
            } else {
                self.leases.join_for_more(kind, ticket, demand);
            }
        }
        // The queues are served at the end of the event: the caller may be in the middle of one.
        self.connections.mark_changed();
        stands
    }

    // ---- time -----------------------------------------------------------------------------------------

    fn set_group_timer(&mut self, key: GroupKey) {
        let due = self.group_due(key);
        let Some(group) = self.groups.get_mut(key).filter(|_| due != NEVER) else { return };
        if group.wants_timer(due) {
            self.env.timers.arm(due, Timer::Group(key));
        }
    }

    /// When something has to be done for the group that nothing else will cause.
    fn group_due(&self, key: GroupKey) -> Millis {
        let now = self.env.now;
        let Some(group) = self.groups.get(key) else { return NEVER };
        let overdue = match group.first_expiry() {
            None => NEVER,
            Some(first) if first > now => {
                patience(group, first).filter(|until| *until == NEVER).unwrap_or(first)
            }
            Some(_) if group.is_unblocking() || group.is_looking() => NEVER,
            Some(first) => {
                let given_up = group.overdue_since().map_or(NEVER, |since| self.lease_wait_due(since));
                patience(group, first).unwrap_or(now).min(given_up)
            }
        };
        let bare = group.oldest_bare(now);
        let bare = bare.map_or(NEVER, |(_, since)| self.lease_wait_due(since));
        let is_over = group.surplus(self.env.settings.leases_per_group_max) > 0 && group.next_unblock() > now;
        let surplus = if is_over { group.next_unblock() } else { NEVER };
        let due = overdue.min(bare).min(surplus);
        if due == NEVER { NEVER } else { due.max(now + 1) }
    }

    /// When somebody who has waited for a lease since then is to be looked after.
    fn lease_wait_due(&self, since: Millis) -> Millis {
        let (now, limit) = (self.env.now, self.env.settings.lease_wait_timeout);
        let queue_timeout = self.env.settings.queue_timeout;
        if !self.upstream_is_up() {
            return self.env.wait_ends(since, limit.min(queue_timeout)).max(now + 1);
        }
        // Looks in from time to time, should the upstream go away meanwhile.
        self.env.wait_ends(since, limit).min(now + queue_timeout.max(10))
    }

    /// Why somebody who has waited for a lease since then waits no longer, if so.
    fn lease_wait_over_since(&mut self, key: GroupKey, since: Millis) -> Option<Failure> {
        let pool = self.groups.get(key)?.pool();
        let waited = self.env.waited(since);
        if !self.upstream_is_up() && waited >= self.env.settings.queue_timeout {
            return Some(self.down_in(pool));
        }
        let is_over = waited >= self.env.settings.lease_wait_timeout;
        is_over.then(|| self.no_lease_in(pool, LeaseKind::Blocking, since))
    }

    pub(crate) fn group_timer(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get_mut(key) else { return };
        group.timer_fired();
        self.give_up_bare(key);
        self.give_up_look(key);
        self.tend(key);
    }

    /// Without any lease nobody waits for longer than `lease_wait_timeout`.
    fn give_up_bare(&mut self, key: GroupKey) {
        let now = self.env.now;
        let mut told: Option<(Millis, Failure)> = None;
        while let Some((ticket, since)) = self.groups.get(key).and_then(|group| group.oldest_bare(now)) {
            // Those who have waited as long are told the same.
            let failure = match told.take().filter(|(known, _)| *known == since) {
                Some((_, failure)) => failure,
                None => match self.lease_wait_over_since(key, since) {
                    Some(failure) => failure,
                    None => return,
                },
            };
            if let Some(waiter) = self.groups.get_mut(key).and_then(|group| group.leave(ticket)) {
                self.fail_waiter(&waiter, failure.clone());
            }
            told = Some((since, failure));
        }
    }

    /// Neither has a lane said that nothing is there, nor could anybody look.
    fn give_up_look(&mut self, key: GroupKey) {
        let busy = |group: &&Group| group.is_unblocking() || group.is_looking();
        let Some(group) = self.groups.get(key).filter(|group| !busy(group)) else { return };
        if let Some(since) = group.overdue_since()
            && let Some(failure) = self.lease_wait_over_since(key, since)
        {
            self.leave_look(key);
            self.fail_expired(key, &failure);
        }
    }

    pub(super) fn fail_expired(&mut self, key: GroupKey, failure: &Failure) {
        let now = self.env.now;
        while let Some(waiter) = self.groups.get_mut(key).and_then(|group| group.take_expired(now)) {
            let spare = self.groups.get(key).and_then(Group::spare_command);
            // What waits there might take an element for nobody.
            let lost = spare.map(|lane| self.part(key, lane));
            self.fail_waiter(&waiter, if lost.is_some() { Failure::LOST } else { failure.clone() });
        }
    }

    /// Settings have changed: every group looks at its deadlines and its leases afresh.
    pub(crate) fn tend_all(&mut self) {
        for key in self.groups.keys() {
            if let Some(group) = self.groups.get_mut(key) {
                group.timer_fired();
            }
            self.tend(key);
            self.env.timers.arm(self.env.now, Timer::Group(key));
        }
    }

    /// The upstream refuses the pool of these groups: those of them without a lease are told so.
    pub(crate) fn fail_groups_of(&mut self, pool: PoolId, text: &str) {
        for key in self.groups.keys() {
            let is_bare =
                |group: &&mut Group| group.pool() == pool && group.held() == 0 && group.commands() == 0;
            while let Some(waiter) =
                self.groups.get_mut(key).filter(is_bare).and_then(|group| group.take_from(0, 1).pop())
            {
                self.fail_waiter(&waiter, text.into());
            }
            self.tend(key);
        }
    }
}

/// Until when the first whose time is over waits: for ever for a lane whose own time ends with it; for a while for a lease
/// to come, or for others whose time is over a little later.
fn patience(group: &Group, first: Millis) -> Option<Millis> {
    let ends = |(_, until): &(LaneKey, Millis)| (first..=first + limits::LEASE_GRACE).contains(until);
    let by_itself = group.idle_waits().any(|wait| ends(&wait)).then_some(NEVER);
    let lease = (group.held() == 0).then_some(first + limits::LEASE_GRACE);
    [by_itself, lease, Some(group.next_look())].into_iter().flatten().max()
}
