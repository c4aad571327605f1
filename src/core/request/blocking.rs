//! Commands that may wait for an element. Their children wait in groups, which share leased lanes (`lease::fan_in`); what
//! waits for something else has a lane to itself. Owns how a child joins its group, is served and leaves; never which lane
//! serves it.

use crate::base::failure::Failure;
use crate::command;
use crate::command::{Route, WaitRequest};
use crate::core::child::Child;
use crate::core::child::hold::{Hold, Wait};
use crate::core::child::outbox::Frame;
use crate::core::child::sent::LastWrite;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{ChildKey, LaneKey, LeaseKind};
use crate::core::lease::groups::{NEVER, Unblocked, Waiter};
use crate::core::request::flow::{Decided, Flow, FlowResult};
use crate::core::shared::Shared;
use crate::resp::{Request, reply};
use std::ops::Range;

impl Shared {
    /// A command that may take as long as it likes. One with which a shared lane was lost is answered on a lane of its own,
    /// too, as any other.
    pub(crate) fn block(&mut self, child: &mut Child, decided: Decided<'_>) -> FlowResult {
        let Decided { request, id, route, .. } = decided;
        if let Route::Blocking(blocking) = route
            // What has no timeout in Redis' eyes is answered at once, with an error.
            && let Some(timeout) = command::timeout_ms(request, &blocking)
        {
            let what = WaitRequest::of(request, &blocking);
            return self.wait_in_group(child, decided, what, timeout);
        }
        let lane = self.lease_for(child, LeaseKind::Blocking)?;
        if route == Route::Shared {
            self.send_for(child, lane, request.bytes, id, SlotKind::Relay, SlotFlags::NONE);
            return Ok(Flow::Hold(Hold::Reply));
        }
        self.send_for(child, lane, request.bytes, id, SlotKind::Blocking, SlotFlags::MAY_WAIT);
        Ok(Flow::Hold(Hold::BlockingReply))
    }

    fn wait_in_group(
        &mut self,
        child: &mut Child,
        Decided { request, id, .. }: Decided<'_>,
        what: WaitRequest,
        timeout: u64,
    ) -> FlowResult {
        if child.is_under_way() {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        let now = self.env.now;
        // One that has waited in another process has its old place, and what is left of its time.
        let moved = child.front().wait().and_then(|wait| Some((wait, wait.moved?)));
        let ticket = moved.map_or_else(|| self.leases.ticket(), |(wait, _)| wait.ticket);
        let arrived = moved.map_or(now, |(wait, _)| wait.arrived);
        let pool = self.connections.pool_of(child.pool_key());
        self.connections.keep_warm(pool);
        let writes = self.commands.table().is_some_and(|table| table.is_write(id));
        let restarts = !(what.is_alone() && begins_now(request));
        let before = self.groups.footprint();
        let group = self.groups.of(pool, what, restarts, now);
        self.env.memory += self.groups.footprint() - before;
        let expires = if timeout == 0 { NEVER } else { now.saturating_add(timeout) };
        let expires = moved.map_or(expires, |(_, until)| until);
        if let Some(found) = self.groups.get_mut(group) {
            found.join(ticket, Waiter::new(child, arrived, expires, writes));
        }
        let wait = Wait { arrived, ..Wait::new(LeaseKind::Blocking, now) };
        *child.front_mut().wait_mut() = Some(Wait { ticket, group, ..wait });
        self.joined(group);
        Ok(Flow::Hold(Hold::Element))
    }

    /// The child no longer waits in its group.
    pub(crate) fn leave_group(&mut self, wait: Wait) {
        if let Some(waiter) = self.groups.get_mut(wait.group).and_then(|group| group.leave(wait.ticket)) {
            self.answer_unblock(&waiter, false);
            self.tend(wait.group);
        }
    }

    /// A lane of its group has answered the child, by this part of a frame.
    pub(crate) fn serve_from(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        writes: bool,
        frame: &[u8],
        range: Range<usize>,
    ) {
        let answer = &frame[range];
        if writes && !reply::is_error(answer) && !reply::is_null(answer) {
            self.note_pop(child, lane);
        }
        self.serve(child, answer);
    }

    /// What the child has waited for has come.
    pub(crate) fn serve(&mut self, child: &mut Child, frame: &[u8]) {
        if child.outbox().output().len() >= self.env.settings.child_output_max {
            return self.close_full(child);
        }
        child.front_mut().set_answered();
        if !child.session().is_muted() {
            let long = self.env.reply.as_ref().and_then(|reply| reply.part_at(frame));
            let frame = long.as_ref().map_or(Frame::of(frame), Frame::shared);
            child.outbox_mut().answer(frame, &mut self.env.spares);
            self.mark_child(child);
        }
        self.lift(child);
    }

    /// What the child has waited for will not come.
    pub(crate) fn wait_failed(&mut self, child: &mut Child, failure: Failure, writes: bool) {
        if writes && failure == Failure::LOST {
            child.sent_mut().set_last_write(LastWrite::Lost);
        }
        self.fail_front(child, failure);
    }

    /// CLIENT UNBLOCK of a child that waits in a group: its time is over, and the asker hears when it has been told so. False
    /// if it was ended before.
    pub(crate) fn unblock_waiter(&mut self, target: &Child, asker: ChildKey, error: bool) -> bool {
        let (now, wait) = (self.env.now, target.front().wait());
        let Some((wait, group)) = wait.and_then(|wait| Some((wait, self.groups.get_mut(wait.group)?))) else {
            return false;
        };
        let ended = group.unblock(wait.ticket, Unblocked { asker, error }, now);
        if ended {
            group.not_before(now);
            self.tend(wait.group);
        }
        ended
    }
}

/// `XREAD ... $` waits for what comes from now on: asked again, it would miss what came in between.
fn begins_now(request: &Request<'_>) -> bool {
    request.args().any(|arg| arg == b"$")
}
