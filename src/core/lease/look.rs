//! A look for those of a group whose time is over: its command inside a MULTI on a leased lane, where it does not wait. What
//! is there is taken, and a null says that nothing was. MULTI's answer is awaited before the command is written: refused,
//! it would leave a command on the lane that waits. Never on a lane that others share.

use crate::base::failure::Failure;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{GroupKey, LaneKey, LeaseKind};
use crate::core::lease::groups::{Group, LaneWork, Waiter};
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
        self.leases.join(LeaseKind::Transaction, ticket, Demand { tenant: Tenant::Look(key), pool });
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
        group.begin(lane, LaneWork::Opens);
        if group.first_expiry().is_none_or(|first| first > now) {
            self.part(key, lane);
            return self.tend(key);
        }
        *group.look_refusal_mut() = None;
        let mut multi = Vec::new();
        encode::request(&mut multi, &[self.commands.name_of("MULTI")]);
        self.send_for_group(lane, &multi, SlotKind::LookMulti, SlotFlags::NONE);
        self.tend(key);
    }

    pub(super) fn multi_of_look(&mut self, key: GroupKey, lane_key: LaneKey, frame: &[u8]) {
        let now = self.env.now;
        let Some(lane) = self.connections.find_mut(lane_key) else { return };
        let usable = lane.is_ready() && !lane.record().close_needed;
        let Some(group) = self.groups.get_mut(key) else { return };
        let is_overdue = group.first_expiry().is_some_and(|first| first <= now);
        let is_wanted = is_overdue && group.waiting() > group.commands();
        if frame != b"+OK\r\n" || !usable || !is_wanted {
            // Whatever it is, it is not inside a MULTI that could be left.
            lane.need_close();
            let bare = group.held() == 0;
            let pool = group.pool();
            self.part(key, lane_key);
            if frame != b"+OK\r\n" {
                let failure = match reply::error_text(frame).filter(|_| !bare) {
                    Some(text) => Failure::from(text),
                    None => self.no_lease_in(pool, LeaseKind::Blocking, now),
                };
                self.fail_expired(key, &failure);
            }
            return self.tend(key);
        }
        group.begin(lane_key, LaneWork::Looks { since: now });
        let (mut command, mut exec) = (Vec::new(), Vec::new());
        group.request().append(Some(1), &mut command);
        encode::request(&mut exec, &[self.commands.name_of("EXEC")]);
        self.send_for_group(lane_key, &command, SlotKind::LookQueued, SlotFlags::UNIT);
        self.send_for_group(lane_key, &exec, SlotKind::LookExec, SlotFlags::NONE);
    }

    pub(super) fn look_queued(&mut self, key: GroupKey, frame: &[u8]) {
        if reply::is_error(frame)
            && let Some(group) = self.groups.get_mut(key)
        {
            *group.look_refusal_mut() = Some(frame.to_vec());
        }
    }

    /// EXEC was answered. Returns whose the answer is and where it stands; an error that stands for one is told by a notice.
    pub(super) fn looked(
        &mut self,
        key: GroupKey,
        lane_key: LaneKey,
        frame: &[u8],
    ) -> Option<(Waiter, Range<usize>)> {
        let group = self.groups.get_mut(key)?;
        let (rank, work) = group.answered(lane_key)?;
        let refusal = group.look_refusal_mut().take();
        let pool = group.pool();
        let is_over = frame.starts_with(b"*") || reply::error_code(frame) == Some(b"EXECABORT");
        if let Some(lane) = self.connections.find_mut(lane_key) {
            lane.need_close_if(!is_over);
        }
        let taken = if frame.starts_with(b"*") { reply::element(frame, 0) } else { None };
        let told = match taken {
            Some(range) if reply::is_null(&frame[range.clone()]) => {
                let mut null = Vec::new();
                encode::null_array(&mut null, self.connections.pool(pool).key().proto);
                if let Some(as_of) = work.null_as_of(self.env.now) {
                    self.tell_expired(key, as_of, &null);
                }
                None
            }
            Some(range) => self.take_rank(key, rank).map(|waiter| (waiter, range)),
            None => {
                let text = reply::error_text(refusal.as_deref().unwrap_or(frame)).unwrap_or_default();
                let now = self.env.now;
                if let Some(waiter) =
                    self.groups.get_mut(key).and_then(|group: &mut Group| group.take_expired(now))
                {
                    self.fail_waiter(&waiter, text.into());
                }
                None
            }
        };
        self.part(key, lane_key);
        self.tend(key);
        told
    }
}
