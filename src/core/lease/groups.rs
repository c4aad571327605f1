//! Groups: children that wait for the same thing, which is one blocking command in one pool, byte for byte but the timeout.
//! Owns who waits, in the order of arrival and until when; and which leased lanes carry the command of a group, in the
//! order in which it was written to them, which is the order in which Redis serves them. Never writes a lane, never
//! answers a child.

use crate::base::clock::Millis;
use crate::base::key::Arena;
use crate::base::limits;
use crate::command::WaitRequest;
use crate::core::child::Child;
use crate::core::child::origin::Origin;
use crate::core::keys::{ChildKey, GroupKey, GroupName, LaneKey, PoolId};
use crate::core::lease::backlog::Backlog;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// For ever.
pub(crate) const NEVER: Millis = Millis::MAX;

/// A CLIENT UNBLOCK that is meant for a waiter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unblocked {
    pub(crate) asker: ChildKey,
    /// It is answered UNBLOCKED, instead of as after its timeout.
    pub(crate) error: bool,
}

/// A child that waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) child: ChildKey,
    origin: Origin,
    arrived: Millis,
    /// When its own timeout passes.
    expires: Millis,
    /// What it waits for is a write, too.
    pub(crate) writes: bool,
    pub(crate) unblocked: Option<Unblocked>,
}

impl Waiter {
    pub(crate) fn new(child: &Child, arrived: Millis, expires: Millis, writes: bool) -> Self {
        let origin = child.origin().clone();
        Waiter { child: child.key(), origin, arrived, expires, writes, unblocked: None }
    }
}

/// What a lane does for its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneWork {
    /// The group's command waits on it, since then. Redis gives up at `until`. CLIENT UNBLOCK was first asked for at `asked`,
    /// and may end it at any time since; `pending`, if it has not been answered. A look for so many stands `ahead` of it.
    Waits { since: Millis, until: Millis, asked: Option<Millis>, pending: bool, ahead: usize },
    /// Nothing: it has answered, and a CLIENT UNBLOCK has not been answered yet.
    Rests,
    /// It opens a MULTI, to look.
    Opens,
    /// The command stands in its MULTI, since then, so many times: each takes at once what is there.
    Looks { since: Millis, count: usize },
}

impl LaneWork {
    /// How many elements its look may bring.
    pub(crate) fn looks(self) -> usize {
        match self {
            LaneWork::Waits { ahead: count, .. } | LaneWork::Looks { count, .. } => count,
            LaneWork::Rests | LaneWork::Opens => 0,
        }
    }

    /// Whether it may bring one that it waits for.
    fn waits(self) -> bool {
        matches!(self, LaneWork::Waits { .. })
    }

    /// How many elements it may bring.
    pub(crate) fn commands(self) -> usize {
        usize::from(self.waits()) + self.looks()
    }

    /// When nothing was there, if its answer is null now. None, if neither its time was over nor the broker has ended it.
    pub(crate) fn null_as_of(self, now: Millis) -> Option<Millis> {
        match self {
            LaneWork::Waits { until, asked: Some(asked), .. } => Some(asked.min(until)),
            LaneWork::Waits { until, asked: None, .. } => (until <= now).then_some(until),
            LaneWork::Looks { since, .. } => Some(since),
            LaneWork::Rests | LaneWork::Opens => None,
        }
    }
}

#[derive(Debug)]
struct GroupLane {
    lane: LaneKey,
    work: LaneWork,
    /// The ticket of the last who waited when it began that.
    newest: u64,
    /// It was lent for one look, and not to wait.
    apart: bool,
    /// Its command must not be written again: somebody else needs the lane, or it leads to an upstream that was replaced.
    leaves: bool,
}

#[derive(Debug)]
pub(crate) struct Group {
    pool: PoolId,
    request: WaitRequest,
    /// It may be asked once more at another upstream.
    restarts: bool,
    /// By ticket: oldest first.
    waiting: BTreeMap<u64, Waiter>,
    /// Of those that do not wait for ever.
    expiries: BTreeSet<(Millis, u64)>,
    /// In the order in which the command was written to them.
    lanes: Vec<GroupLane>,
    backlog: Backlog,
    /// The tickets by which it stands in the line for leases.
    line: Vec<u64>,
    /// Since when somebody is to be told null for whom nothing says so.
    overdue_since: Option<Millis>,
    /// The ticket by which it stands in the line for a lane to look on.
    look: Option<u64>,
    /// The upstream's words where a look was refused before its EXEC.
    look_refusal: Option<Vec<u8>>,
    /// Since when it has no lease.
    bare_since: Millis,
    /// It is not looked at for those whose time has passed before then.
    next_look: Millis,
    /// Lanes that are too many are not asked to end before then.
    next_unblock: Millis,
    /// The next of its timers that is meant.
    timer: Millis,
    /// Those who wait are about to go to another process, in which they ask again: the command is not written any more.
    moving: bool,
}

impl Group {
    fn new(pool: PoolId, request: WaitRequest, restarts: bool, look_after: u32, now: Millis) -> Self {
        Group {
            pool,
            request,
            restarts,
            waiting: BTreeMap::new(),
            expiries: BTreeSet::new(),
            lanes: Vec::new(),
            backlog: Backlog::new(look_after),
            line: Vec::new(),
            overdue_since: None,
            look: None,
            look_refusal: None,
            bare_since: now,
            next_look: now,
            next_unblock: now,
            timer: NEVER,
            moving: false,
        }
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.pool
    }

    pub(crate) fn request(&self) -> &WaitRequest {
        &self.request
    }

    pub(crate) fn restarts(&self) -> bool {
        self.restarts
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.moving
    }

    pub(crate) fn set_moving(&mut self, moving: bool) {
        self.moving = moving;
    }

    /// Those who wait may be taken out: no command is out for them, and nobody is to be told that its time is over.
    pub(crate) fn may_leave(&self, now: Millis) -> bool {
        self.moving
            && self.lanes.is_empty()
            && self.look.is_none()
            && self.first_expiry().is_none_or(|at| at > now)
    }

    /// Who waits, with the ticket and the end of its time, in the order of arrival.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = (u64, ChildKey, Millis)> {
        self.waiting.iter().map(|(ticket, waiter)| (*ticket, waiter.child, waiter.expires))
    }

    // ---- who waits ------------------------------------------------------------------------------------

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn join(&mut self, ticket: u64, waiter: Waiter) {
        if waiter.expires != NEVER {
            self.expiries.insert((waiter.expires, ticket));
        }
        self.waiting.insert(ticket, waiter);
    }

    pub(crate) fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.waiting.remove(&ticket)?;
        self.expiries.remove(&(waiter.expires, ticket));
        Some(waiter)
    }

    /// The tickets of so many waiters from this rank on, in the order of arrival; of the last ones where there are fewer.
    pub(crate) fn tickets_from(&self, rank: usize, count: usize) -> Vec<u64> {
        let first = rank.min(self.waiting.len().saturating_sub(count));
        self.waiting.keys().skip(first).take(count).copied().collect()
    }

    /// These waiters themselves.
    pub(crate) fn take_from(&mut self, rank: usize, count: usize) -> Vec<Waiter> {
        let tickets = self.tickets_from(rank, count);
        tickets.into_iter().filter_map(|ticket| self.leave(ticket)).collect()
    }

    /// One of those whose time was over then, if there are more waiters than commands that may still bring an element: none
    /// may come for nobody.
    pub(crate) fn take_unserved(&mut self, as_of: Millis) -> Option<Waiter> {
        if self.unserved() > 0 { self.take_expired(as_of) } else { None }
    }

    /// One of those whose time was over then.
    pub(crate) fn take_expired(&mut self, as_of: Millis) -> Option<Waiter> {
        let (_, ticket) = *self.expiries.first().filter(|(expires, _)| *expires <= as_of)?;
        self.leave(ticket)
    }

    /// When the first of all is over.
    pub(crate) fn first_expiry(&self) -> Option<Millis> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// Until when the last of all waits.
    pub(crate) fn last_expiry(&self) -> Millis {
        let all_end = self.expiries.len() == self.waiting.len();
        self.expiries.last().filter(|_| all_end).map_or(NEVER, |(expires, _)| *expires)
    }

    /// CLIENT UNBLOCK: the waiter's time is over. False if it was ended so before, or does not wait.
    pub(crate) fn unblock(&mut self, ticket: u64, unblocked: Unblocked, now: Millis) -> bool {
        let Some(waiter) = self.waiting.get_mut(&ticket).filter(|waiter| waiter.unblocked.is_none()) else {
            return false;
        };
        self.expiries.remove(&(waiter.expires, ticket));
        (waiter.expires, waiter.unblocked) = (waiter.expires.min(now), Some(unblocked));
        self.expiries.insert((waiter.expires, ticket));
        true
    }

    /// Of a group without a lease: the oldest waiter whose time is not over, and since when it has waited for one.
    pub(crate) fn oldest_bare(&self, now: Millis) -> Option<(u64, Millis)> {
        if self.held() > 0 {
            return None;
        }
        // A look may bring an element.
        let mut unserved = self.waiting.iter().skip(self.commands());
        let oldest = unserved.find(|(_, waiter)| waiter.expires > now);
        oldest.map(|(ticket, waiter)| (*ticket, waiter.arrived.max(self.bare_since)))
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = ChildKey> {
        self.waiting.values().map(|waiter| waiter.child)
    }

    #[cfg(test)]
    pub(crate) fn has_waiter(&self, ticket: u64, child: ChildKey) -> bool {
        self.waiting.get(&ticket).is_some_and(|waiter| waiter.child == child)
    }

    #[cfg(test)]
    pub(crate) fn has_timer(&self) -> bool {
        self.timer != NEVER
    }

    /// Whom the lane serves next, for the message that all leases are lent.
    pub(crate) fn origin_at(&self, lane: LaneKey) -> Option<&Origin> {
        let rank = self.lanes.iter().position(|member| member.lane == lane)?;
        let waiter = self.waiting.values().nth(rank).or(self.waiting.values().next());
        waiter.map(|waiter| &waiter.origin)
    }

    // ---- its lanes ------------------------------------------------------------------------------------

    fn lane(&mut self, lane: LaneKey) -> Option<&mut GroupLane> {
        self.lanes.iter_mut().find(|member| member.lane == lane)
    }

    #[cfg(test)]
    pub(crate) fn has(&self, lane: LaneKey) -> bool {
        self.lanes.iter().any(|member| member.lane == lane)
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = (LaneKey, LaneWork)> {
        self.lanes.iter().map(|member| (member.lane, member.work))
    }

    pub(crate) fn work_of(&self, lane: LaneKey) -> Option<LaneWork> {
        self.lanes.iter().find(|member| member.lane == lane).map(|member| member.work)
    }

    /// The lane begins something else: it is the youngest of all from now on.
    pub(crate) fn begin(&mut self, lane: LaneKey, work: LaneWork) {
        let newest = self.waiting.last_key_value().map_or(0, |(ticket, _)| *ticket);
        let before = self.lanes.iter().position(|member| member.lane == lane).map(|at| self.lanes.remove(at));
        let (apart, leaves) = before.map_or((false, false), |member| (member.apart, member.leaves));
        self.lanes.push(GroupLane { lane, work, newest, apart, leaves });
    }

    /// The lane was lent for one look.
    pub(crate) fn begin_apart(&mut self, lane: LaneKey) {
        self.begin(lane, LaneWork::Opens);
        if let Some(member) = self.lane(lane) {
            member.apart = true;
        }
    }

    pub(crate) fn is_apart(&self, lane: LaneKey) -> bool {
        self.lanes.iter().any(|member| member.lane == lane && member.apart)
    }

    /// What waits on it has been answered, or its look on a lane apart: the rank that it had, and what it was at.
    pub(crate) fn answered(&mut self, lane: LaneKey) -> Option<(usize, LaneWork)> {
        let rank = self.rank(lane)?;
        let member = self.lane(lane)?;
        Some((rank, std::mem::replace(&mut member.work, LaneWork::Rests)))
    }

    /// So many commands of its look have been answered: the rank that they had.
    pub(crate) fn look_answered(&mut self, lane: LaneKey, commands: usize) -> Option<usize> {
        let rank = self.rank(lane)?;
        if let LaneWork::Waits { ahead: count, .. } | LaneWork::Looks { count, .. } =
            &mut self.lane(lane)?.work
        {
            *count = count.saturating_sub(commands);
        }
        Some(rank)
    }

    /// Whether the waiter of this ticket has come since the lane's command was written.
    pub(crate) fn has_come_since(&self, lane: LaneKey, ticket: u64) -> bool {
        let newest = self.lanes.iter().find(|member| member.lane == lane).map_or(0, |member| member.newest);
        ticket > newest
    }

    /// Which waiter the next answer of the lane is for, by arrival: what was written before is served before.
    fn rank(&self, lane: LaneKey) -> Option<usize> {
        let at = self.lanes.iter().position(|member| member.lane == lane)?;
        Some(self.lanes[..at].iter().map(|member| member.work.commands()).sum())
    }

    /// The lane is no longer the group's.
    pub(crate) fn remove(&mut self, lane: LaneKey, now: Millis) {
        let had = self.held();
        self.lanes.retain(|member| member.lane != lane);
        if had > 0 && self.held() == 0 {
            self.bare_since = now;
        }
    }

    /// The lane is lost. Returns those whom it would have served: by its look, if that `was_looking`, and by the command that
    /// waits on it, if that `was_waiting`.
    pub(crate) fn lose(
        &mut self,
        lane: LaneKey,
        now: Millis,
        was_looking: bool,
        was_waiting: bool,
    ) -> Vec<Waiter> {
        let (Some(rank), Some(work)) = (self.rank(lane), self.work_of(lane)) else { return Vec::new() };
        self.remove(lane, now);
        let looks = if was_looking { work.looks() } else { 0 };
        self.take_from(rank, looks + usize::from(was_waiting && work.waits()))
    }

    /// The lane is given back once it has answered.
    pub(crate) fn let_go(&mut self, lane: LaneKey) {
        if let Some(member) = self.lane(lane) {
            member.leaves = true;
        }
    }

    pub(crate) fn leaves(&self, lane: LaneKey) -> bool {
        self.lanes.iter().any(|member| member.lane == lane && member.leaves)
    }

    /// CLIENT UNBLOCK is asked for.
    pub(crate) fn unblock_asked(&mut self, lane: LaneKey, now: Millis) {
        if let Some(GroupLane { work: LaneWork::Waits { asked, pending, .. }, .. }) = self.lane(lane) {
            (*asked, *pending) = (Some(asked.unwrap_or(now)), true);
        }
    }

    /// It was answered, and has not ended the command; or it will not be answered. Lanes that are too many are asked again at
    /// `next`: a connection may stand still for longer than the one that asks.
    pub(crate) fn unblock_missed(&mut self, lane: LaneKey, next: Millis) {
        self.next_unblock = next;
        if let Some(GroupLane { work: LaneWork::Waits { pending, .. }, .. }) = self.lane(lane) {
            *pending = false;
        }
    }

    pub(crate) fn next_unblock(&self) -> Millis {
        self.next_unblock
    }

    /// How many lanes wait that nobody needs, or that may not, if it may have `max` leases.
    pub(crate) fn surplus(&self, max: usize) -> usize {
        let needed = if self.moving { 0 } else { self.waiting.len().min(self.lanes_max(max)) };
        self.idle_waits().count().saturating_sub(needed)
    }

    /// Leases it has for waiting.
    pub(crate) fn held(&self) -> usize {
        self.lanes.iter().filter(|member| !member.apart).count()
    }

    /// Commands that are out: so many elements may come.
    pub(crate) fn commands(&self) -> usize {
        self.lanes.iter().map(|member| member.work.commands()).sum()
    }

    /// Waiters for whom no command is out.
    pub(crate) fn unserved(&self) -> usize {
        self.waiting.len().saturating_sub(self.commands())
    }

    pub(crate) fn backlog_mut(&mut self) -> &mut Backlog {
        &mut self.backlog
    }

    /// For how many a lane that takes the command should look before. The command itself serves one.
    pub(crate) fn look_depth(&self) -> usize {
        self.backlog.depth(self.request.footprint()).min(self.unserved().saturating_sub(1))
    }

    /// A lane on which the command waits though nobody is left whom it would serve.
    pub(crate) fn spare_command(&self) -> Option<LaneKey> {
        // What a look ahead of it takes would be lost with the lane.
        let waits = |member: &&GroupLane| member.work.waits() && member.work.looks() == 0;
        let youngest = self.lanes.iter().rev().find(waits);
        youngest.filter(|_| self.commands() > self.waiting.len()).map(|member| member.lane)
    }

    /// A CLIENT UNBLOCK for it is under way: what is answered tells.
    pub(crate) fn is_unblocking(&self) -> bool {
        let asked = |member: &GroupLane| {
            matches!(member.work, LaneWork::Rests | LaneWork::Waits { pending: true, .. })
        };
        self.lanes.iter().any(asked)
    }

    /// One of its lanes looks ahead of the command that waits.
    fn looks_ahead(&self) -> bool {
        self.lanes.iter().any(|member| !member.apart && member.work.looks() > 0)
    }

    /// Whether a lane may take the command. Not while one looks ahead: how many that serves is known once it is answered, and
    /// whose an element is that was taken after it could not be told.
    pub(crate) fn may_begin(&self) -> bool {
        self.unserved() > 0 && !self.looks_ahead() && !self.moving
    }

    /// A look is under way.
    pub(crate) fn is_looking(&self) -> bool {
        self.lanes.iter().any(|member| member.work == LaneWork::Opens || member.work.looks() > 0)
    }

    /// Those of them that nobody has asked to end, youngest first, and until when each waits.
    pub(crate) fn idle_waits(&self) -> impl Iterator<Item = (LaneKey, Millis)> {
        self.lanes.iter().rev().filter(|member| !member.leaves).filter_map(|member| match member.work {
            LaneWork::Waits { until, pending: false, ahead: 0, .. } => Some((member.lane, until)),
            _ => None,
        })
    }

    // ---- the line for leases --------------------------------------------------------------------------

    /// The tickets by which it should stand in the line, if it may have `max` leases: those of waiters for whom no command is
    /// out, nor will be on a lane that it has.
    pub(crate) fn wanted(&self, max: usize) -> Vec<u64> {
        if self.looks_ahead() || self.moving {
            return Vec::new();
        }
        let (held, commands) = (self.held(), self.commands());
        let free = self.lanes.iter().filter(|member| !member.apart && member.work.commands() == 0).count();
        let more = self.lanes_max(max).saturating_sub(held);
        let lacking = self.waiting.len().saturating_sub(commands + free).min(more);
        self.waiting.keys().skip(commands).take(lacking).copied().collect()
    }

    /// How many leases it may have, if groups may have `max`.
    pub(crate) fn lanes_max(&self, max: usize) -> usize {
        if self.request.is_alone() { 1 } else { max }
    }

    pub(crate) fn line(&self) -> &[u64] {
        &self.line
    }

    pub(crate) fn set_line(&mut self, tickets: Vec<u64>) -> Vec<u64> {
        std::mem::replace(&mut self.line, tickets)
    }

    /// One of its places has come to the head of the line.
    pub(crate) fn granted(&mut self, ticket: u64) {
        self.line.retain(|other| *other != ticket);
    }

    pub(crate) fn look(&self) -> Option<u64> {
        self.look
    }

    pub(crate) fn set_look(&mut self, ticket: Option<u64>) -> Option<u64> {
        std::mem::replace(&mut self.look, ticket)
    }

    pub(crate) fn overdue_since(&self) -> Option<Millis> {
        self.overdue_since
    }

    pub(crate) fn set_overdue(&mut self, since: Option<Millis>) {
        self.overdue_since = since.map(|now| self.overdue_since.unwrap_or(now));
    }

    pub(crate) fn look_refusal_mut(&mut self) -> &mut Option<Vec<u8>> {
        &mut self.look_refusal
    }

    pub(crate) fn next_look(&self) -> Millis {
        self.next_look
    }

    pub(crate) fn not_before(&mut self, at: Millis) {
        self.next_look = at;
    }

    /// Whether a timer has to be set for then; it is meant from now on.
    pub(crate) fn wants_timer(&mut self, due: Millis) -> bool {
        let sooner = due < self.timer;
        self.timer = self.timer.min(due);
        sooner
    }

    pub(crate) fn timer_fired(&mut self) {
        self.timer = NEVER;
    }
}

#[derive(Debug)]
pub(crate) struct Groups {
    groups: Arena<Group, GroupName>,
    by_request: HashMap<(PoolId, WaitRequest), GroupKey>,
    footprint: usize,
    /// See `limits::LOOK_AFTER`.
    look_after: u32,
}

impl Default for Groups {
    fn default() -> Self {
        let (groups, by_request) = Default::default();
        Groups { groups, by_request, footprint: 0, look_after: limits::LOOK_AFTER }
    }
}

impl Groups {
    /// Groups that come look for more elements behind the first one: few children wait in the simulation.
    #[cfg(test)]
    pub(crate) fn look_soon(&mut self) {
        self.look_after = 1;
    }

    /// The group that waits for this; a new one if there is none.
    pub(crate) fn of(&mut self, pool: PoolId, request: WaitRequest, restarts: bool, now: Millis) -> GroupKey {
        let name = (pool, request);
        if let Some(key) = self.by_request.get(&name).filter(|_| !name.1.is_alone()) {
            return *key;
        }
        self.footprint += name.1.footprint();
        let key = self.groups.insert(Group::new(pool, name.1.clone(), restarts, self.look_after, now));
        if !name.1.is_alone() {
            self.by_request.insert(name, key);
        }
        key
    }

    /// It may have gone: its key was kept by a timer, a lease or a child.
    pub(crate) fn get(&self, key: GroupKey) -> Option<&Group> {
        self.groups.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: GroupKey) -> Option<&mut Group> {
        self.groups.get_mut(key)
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupKey, &Group)> {
        self.groups.iter()
    }

    pub(crate) fn keys(&self) -> Vec<GroupKey> {
        self.groups.keys()
    }

    /// Nobody waits, and it has no lane.
    pub(crate) fn forget(&mut self, key: GroupKey) {
        let Some(group) = self.groups.remove(key) else { return };
        debug_assert!(group.waiting.is_empty() && group.lanes.is_empty(), "a group that is needed");
        self.footprint -= group.request.footprint();
        if !group.request.is_alone() {
            self.by_request.remove(&(group.pool, group.request));
        }
    }

    /// Children that wait without a lane that serves them.
    pub(crate) fn bare_waiters(&self) -> usize {
        self.groups.iter().map(|(_, group)| group.waiting().saturating_sub(group.held())).sum()
    }

    /// Heap bytes of the requests.
    pub(crate) fn footprint(&self) -> usize {
        self.footprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Key;
    use crate::command::{Blocking, TimeoutUnit, with_request};

    fn request(args: &[&[u8]], unit: TimeoutUnit) -> WaitRequest {
        with_request(args, |request| WaitRequest::of(request, &Blocking { timeout: 2, unit }))
    }

    fn pop(key: &[u8]) -> WaitRequest {
        request(&[b"BLPOP", key, b"1"], TimeoutUnit::Seconds)
    }

    /// A group in which so many wait, each a millisecond longer than the one before it; and so many lanes.
    fn group(waiters: u64, lanes: usize) -> (Group, Vec<LaneKey>) {
        let mut group = Group::new(PoolId(0), pop(b"k"), true, limits::LOOK_AFTER, 0);
        for ticket in 1..=waiters {
            group.join(ticket, Waiter::new(&Child::default(), 0, 100 + ticket, true));
        }
        let mut arena: Arena<(), crate::core::keys::LaneName> = Arena::default();
        let keys: Vec<LaneKey> = (0..lanes).map(|_| arena.insert(())).collect();
        for key in &keys {
            group.begin(*key, waits(NEVER, None));
        }
        (group, keys)
    }

    fn waits(until: Millis, asked: Option<Millis>) -> LaneWork {
        LaneWork::Waits { since: 0, until, asked, pending: asked.is_some(), ahead: 0 }
    }

    fn expiry(waiter: Option<Waiter>) -> Option<Millis> {
        waiter.map(|waiter| waiter.expires)
    }

    fn taken(group: &mut Group, rank: usize) -> Option<Millis> {
        expiry(group.take_from(rank, 1).pop())
    }

    #[test]
    fn only_what_is_equal_in_every_byte_shares_a_group() {
        let mut groups = Groups::default();
        let one = groups.of(PoolId(0), pop(b"k"), true, 0);
        assert_eq!(groups.of(PoolId(0), pop(b"k"), true, 0), one);
        assert_ne!(groups.of(PoolId(0), pop(b"K"), true, 0), one);
        assert_ne!(groups.of(PoolId(1), pop(b"k"), true, 0), one);
        let stream = || request(&[b"XREAD", b"BLOCK", b"1"], TimeoutUnit::Millis);
        let alone = groups.of(PoolId(0), stream(), true, 0);
        assert_ne!(groups.of(PoolId(0), stream(), true, 0), alone, "a stream is read by each for itself");
        for key in groups.keys() {
            groups.forget(key);
        }
        assert_eq!((groups.footprint(), groups.by_request.len()), (0, 0));
    }

    #[test]
    fn the_oldest_lane_serves_the_first_waiter() {
        let (mut group, lanes) = group(3, 3);
        let (rank, _) = group.answered(lanes[1]).expect("its rank");
        assert_eq!(taken(&mut group, rank), Some(102));
        let (rank, _) = group.answered(lanes[0]).expect("its rank");
        assert_eq!((rank, taken(&mut group, rank)), (0, Some(101)));
        // Written again, it is the youngest.
        group.begin(lanes[0], waits(NEVER, None));
        assert_eq!(group.answered(lanes[0]).map(|(rank, _)| rank), Some(1));
        assert_eq!(taken(&mut group, 1), Some(103), "the last one, where there are fewer");
        assert!(group.take_from(0, 1).is_empty());
    }

    /// Lanes with the command, and a look for so many ahead of it.
    fn look_on(group: &mut Group, lanes: &[LaneKey], ahead: usize) {
        for lane in lanes {
            group
                .begin(*lane, LaneWork::Waits { since: 0, until: NEVER, asked: None, pending: false, ahead });
        }
    }

    fn expiries(waiters: Vec<Waiter>) -> Vec<Millis> {
        waiters.iter().map(|one| one.expires).collect()
    }

    #[test]
    fn what_was_written_first_is_served_first() {
        let (mut group, lanes) = group(12, 2);
        look_on(&mut group, &lanes, 3);
        assert_eq!((group.commands(), group.unserved(), group.held()), (8, 4, 2));
        assert!(group.is_looking() && group.idle_waits().next().is_none());
        // The second lane is read first, and had its turn behind the first.
        assert_eq!(group.look_answered(lanes[1], 3), Some(4));
        assert_eq!(expiries(group.take_from(4, 3)), [105, 106, 107]);
        assert_eq!(group.answered(lanes[1]).map(|(rank, _)| rank), Some(4));
        assert_eq!(expiries(group.take_from(4, 1)), [108]);
        assert_eq!(group.look_answered(lanes[0], 3), Some(0));
        assert_eq!(group.idle_waits().count(), 1);
        assert_eq!(expiries(group.take_from(0, 3)), [101, 102, 103]);
        assert_eq!(expiries(group.take_from(9, 2)), [111, 112], "the last ones, where there are fewer");
    }

    #[test]
    fn a_lost_lane_is_lost_to_those_it_would_have_served() {
        for (was_looking, was_waiting, lost) in [
            (true, true, vec![101, 102, 103, 104]),
            (true, false, vec![101, 102, 103]),
            (false, false, vec![]),
        ] {
            let (mut group, lanes) = group(9, 3);
            look_on(&mut group, &lanes, 3);
            assert_eq!(expiries(group.lose(lanes[0], 0, was_looking, was_waiting)), lost);
        }
    }

    #[test]
    fn a_null_is_told_to_no_more_than_would_leave_a_command_for_nobody() {
        let (mut group, lanes) = group(4, 3);
        group.answered(lanes[0]);
        assert_eq!(expiry(group.take_unserved(102)), Some(101));
        assert_eq!(expiry(group.take_unserved(102)), Some(102));
        assert!(group.take_unserved(200).is_none(), "two commands are out, and two wait");
        group.remove(lanes[1], 0);
        assert!(group.take_unserved(102).is_none(), "the time of nobody else is over");
    }

    #[test]
    fn a_null_holds_for_the_moment_behind_which_it_was_asked_for() {
        assert_eq!(waits(100, None).null_as_of(99), None, "nobody knows why");
        assert_eq!(waits(100, None).null_as_of(120), Some(100));
        assert_eq!(waits(NEVER, Some(50)).null_as_of(120), Some(50));
        assert_eq!(waits(40, Some(50)).null_as_of(120), Some(40));
        assert_eq!(LaneWork::Looks { since: 7, count: 1 }.null_as_of(9), Some(7));
    }

    /// Asked for on a connection that was lost, it may reach the upstream all the same.
    #[test]
    fn an_unblock_without_an_answer_may_still_end_the_command() {
        let (mut group, lanes) = group(1, 1);
        group.unblock_asked(lanes[0], 50);
        group.unblock_missed(lanes[0], 55);
        assert!(!group.is_unblocking());
        group.unblock_asked(lanes[0], 70);
        assert_eq!(group.work_of(lanes[0]).and_then(|work| work.null_as_of(90)), Some(50));
    }

    #[test]
    fn a_group_lines_up_for_what_it_lacks() {
        let (mut group, lanes) = group(6, 1);
        assert_eq!(group.wanted(4), [2, 3, 4]);
        assert!(group.wanted(1).is_empty());
        assert_eq!(group.oldest_bare(0), None);
        group.remove(lanes[0], 30);
        assert_eq!(group.wanted(2), [1, 2]);
        assert_eq!(group.oldest_bare(0), Some((1, 30)));
        group.begin_apart(lanes[0]);
        group.begin(lanes[0], LaneWork::Looks { since: 0, count: 1 });
        assert_eq!(group.wanted(9), [2, 3, 4, 5, 6], "a look may serve one of them");
        group.begin(lanes[0], LaneWork::Looks { since: 0, count: 6 });
        assert!(group.wanted(9).is_empty(), "it may serve them all");
    }

    #[test]
    fn who_is_unblocked_has_no_time_left() {
        let (mut group, _) = group(2, 1);
        let unblocked = Unblocked { asker: Key::NONE, error: true };
        assert!(group.unblock(2, unblocked, 5) && !group.unblock(2, unblocked, 5));
        assert_eq!((group.first_expiry(), group.last_expiry()), (Some(5), 101));
        assert!(group.take_unserved(5).is_some_and(|waiter| waiter.unblocked.is_some_and(|one| one.error)));
    }
}
