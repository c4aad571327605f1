//! A look: the command of a group inside a MULTI on a leased lane, where it does not wait. What is there is taken, and a null
//! says that nothing was. Either on a lane lent for it, once, for those whose time is over: MULTI's answer is awaited before
//! the command is written, and its null is theirs. Or on a lane of the group's own, ahead of the command that waits, several
//! times, where elements lie already (`lease::backlog`): were MULTI refused, each would wait for a millisecond, and what it
//! brought would be a waiter's all the same. Never on a lane that others share.

use crate::base::failure::Failure;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{GroupKey, LaneKey, LeaseKind};
use crate::core::lease::fan_in::Served;
use crate::core::lease::groups::LaneWork;
use crate::core::lease::leases::Demand;
use crate::core::lease::state::Tenant;
use crate::core::shared::Shared;
use crate::resp::{encode, reply};
use std::ops::Range;

impl Shared {
    /// Stands in the line of transactions, which those who wait for elements cannot fill.
    pub(super) fn want_look(&mut self, key: GroupKey) {
        let ticket = self.leases.ticket();
        let Some(group) = self.groups.get_mut(key) else { return };
        let pool = group.pool();
        group.set_look(Some(ticket));
        self.leases.join(
            LeaseKind::Transaction,
            ticket,
            Demand { tenant: Tenant::Look(key), pool, since: self.env.now },
        );
        self.connections.mark_changed();
    }

    pub(super) fn leave_look(&mut self, key: GroupKey) {
        if let Some(ticket) = self.groups.get_mut(key).and_then(|group| group.set_look(None)) {
            self.leases.leave(LeaseKind::Transaction, ticket);
        }
    }

    /// A lane to look on has been lent.
    pub(super) fn lent_to_look(&mut self, key: GroupKey, lane: LaneKey) {
        let now = self.env.now;
        let Some(group) = self.groups.get_mut(key) else { return self.abandon_lease(lane) };
        group.set_look(None);
        group.begin_apart(lane);
        *group.look_refusal_mut() = None;
        if group.first_expiry().is_none_or(|first| first > now) {
            self.part(key, lane);
        } else {
            self.send_multi(lane, SlotFlags::NONE);
        }
        self.tend(key);
    }

    fn send_multi(&mut self, lane: LaneKey, flags: SlotFlags) {
        let mut multi = Vec::new();
        encode::request(&mut multi, &[self.commands.name_of("MULTI")]);
        self.send_for_group(lane, &multi, SlotKind::LookMulti, flags);
    }

    /// Puts the command in the MULTI so many times, and EXEC behind it.
    fn send_look(&mut self, key: GroupKey, lane: LaneKey, count: usize) {
        let Some(group) = self.groups.get(key) else { return };
        let (mut command, mut exec) = (Vec::new(), Vec::new());
        group.request().append(Some(1), &mut command);
        encode::request(&mut exec, &[self.commands.name_of("EXEC")]);
        for _ in 0..count {
            self.send_for_group(lane, &command, SlotKind::LookQueued, SlotFlags::UNIT);
        }
        self.send_for_group(lane, &exec, SlotKind::LookExec, SlotFlags::NONE);
    }

    pub(super) fn look_ahead(&mut self, key: GroupKey, lane: LaneKey, count: usize) {
        self.send_multi(lane, SlotFlags::UNIT);
        self.send_look(key, lane, count);
    }

    pub(super) fn multi_of_look(&mut self, key: GroupKey, lane_key: LaneKey, frame: &[u8]) {
        let now = self.env.now;
        let Some(group) = self.groups.get_mut(key) else { return };
        if group.work_of(lane_key) != Some(LaneWork::Opens) {
            if frame != b"+OK\r\n" {
                group.backlog_mut().refused();
            }
            return;
        }
        let Some(lane) = self.connections.find_mut(lane_key) else { return };
        let usable = lane.is_ready() && !lane.record().close_needed;
        let is_overdue = group.first_expiry().is_some_and(|first| first <= now);
        if frame != b"+OK\r\n" || !usable || !is_overdue || group.unserved() == 0 {
            // Whatever it is, it is not inside a MULTI that could be left.
            lane.need_close();
            return self.look_refused(key, lane_key, frame);
        }
        group.begin(lane_key, LaneWork::Looks { since: now, count: 1 });
        self.send_look(key, lane_key, 1);
    }

    /// The lane that was to look has to go. Those whose time is over hear why, if it was refused.
    fn look_refused(&mut self, key: GroupKey, lane: LaneKey, frame: &[u8]) {
        let now = self.env.now;
        let Some(group) = self.groups.get(key) else { return };
        let (bare, pool) = (group.held() == 0, group.pool());
        self.part(key, lane);
        if frame != b"+OK\r\n" {
            let failure = match reply::error_text(frame).filter(|_| !bare) {
                Some(text) => Failure::from(text),
                None => self.no_lease_in(pool, LeaseKind::Blocking, now),
            };
            self.fail_expired(key, &failure);
        }
        self.tend(key);
    }

    /// A command of a look is not queued: it was refused, or executed where its MULTI was refused. Returns whose its answer is
    /// then.
    pub(super) fn look_not_queued(&mut self, key: GroupKey, lane: LaneKey, frame: &[u8]) -> Vec<Served> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        if reply::is_error(frame) {
            if group.is_apart(lane) {
                *group.look_refusal_mut() = Some(frame.to_vec());
            }
            return Vec::new();
        }
        match group.look_answered(lane, 1) {
            Some(rank) if !reply::is_null(frame) => {
                self.take_waiters(key, (lane, rank), frame, std::iter::once(0..frame.len()))
            }
            _ => Vec::new(),
        }
    }

    /// EXEC was answered. Returns whose the elements are and where they stand.
    pub(super) fn looked(&mut self, key: GroupKey, lane_key: LaneKey, frame: &[u8]) -> Vec<Served> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        let Some(work) = group.work_of(lane_key) else { return Vec::new() };
        let Some(rank) = group.look_answered(lane_key, work.looks()) else { return Vec::new() };
        let is_apart = group.is_apart(lane_key);
        let is_executed = frame.starts_with(b"*");
        let is_over = is_executed || reply::error_code(frame) == Some(b"EXECABORT");
        if let Some(lane) = self.connections.find_mut(lane_key) {
            lane.need_close_if(!is_over);
        }
        let is_null = |part: &Range<usize>| reply::is_null(&frame[part.clone()]);
        let (nulls, found): (Vec<_>, Vec<_>) = reply::elements(frame).partition(is_null);
        if is_executed && !is_apart {
            let longest = found.iter().map(Range::len).max().unwrap_or_default();
            group.backlog_mut().looked(nulls.len() + found.len(), found.len(), longest);
        }
        // Too long to be kept, it has been dropped, and with it what it was to bring.
        let parts = if is_lost(frame) { vec![0..frame.len(); work.looks()] } else { found };
        let told = self.take_waiters(key, (lane_key, rank), frame, parts.into_iter());
        if is_apart {
            self.end_look(key, lane_key, work, frame);
        }
        self.tend(key);
        told
    }

    /// A look for those whose time is over has been answered: they are told that nothing was there, or one of them why not.
    fn end_look(&mut self, key: GroupKey, lane: LaneKey, work: LaneWork, frame: &[u8]) {
        let now = self.env.now;
        let Some(group) = self.groups.get_mut(key) else { return };
        group.answered(lane);
        let refusal = group.look_refusal_mut().take();
        let pool = group.pool();
        let nothing = |part: Range<usize>| reply::is_null(&frame[part]);
        if reply::is_error(frame) && !is_lost(frame) {
            let text = reply::error_text(refusal.as_deref().unwrap_or(frame)).unwrap_or_default();
            if let Some(waiter) = group.take_expired(now) {
                self.fail_waiter(&waiter, text.as_str().into());
            }
        } else if reply::element(frame, 0).is_some_and(nothing)
            && let Some(as_of) = work.null_as_of(now)
        {
            let mut null = Vec::new();
            encode::null_array(&mut null, self.connections.pool(pool).key().proto);
            self.tell_expired(key, as_of, &null);
        }
        self.part(key, lane);
    }
}

fn is_lost(frame: &[u8]) -> bool {
    reply::error_code(frame) == Some(b"BROKERLOST")
}
