//! Commands that may wait for an element: on a leased lane each. One that got no lease while its own timeout ran asks
//! once more on a shared lane, without waiting, so that it is never answered null while what it asks for is there. Owns
//! no queue; the line for leases is `lease`.

use crate::command;
use crate::command::{Blocking, Popped, Route, TimeoutUnit};
use crate::core::child::Child;
use crate::core::child::hold::{Hold, Wait};
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::LeaseKind;
use crate::core::lease::waiting::Want;
use crate::core::request::flow::{Decided, Flow, FlowResult};
use crate::core::shared::Shared;
use crate::resp::{Request, encode, reply};
use std::hash::{DefaultHasher, Hash, Hasher};

impl Shared {
    /// A command that may take as long as it likes: on a leased lane, its own timeout shortened by the
    /// time it had to wait for one. One with which a shared lane was lost is answered there, too, as any other.
    pub(crate) fn block(&mut self, child: &mut Child, decided: Decided<'_>) -> FlowResult {
        let Decided { request, id, route, .. } = decided;
        let blocking = if let Route::Blocking(blocking) = route { Some(blocking) } else { None };
        let timeout = blocking.and_then(|blocking| command::timeout_ms(request, &blocking));
        let timeout = timeout.filter(|timeout| *timeout > 0);
        let in_vain = child.front().wait().filter(|wait| wait.expired);
        if let Some((blocking, wait)) = blocking.zip(in_vain) {
            return self.look_once(child, decided, &blocking, wait);
        }
        let want = || Want { group: blocking.and_then(|blocking| group_of(request, &blocking)), timeout };
        let lane = self.lease_for(child, LeaseKind::Blocking, want)?;
        let waited = child.front().wait().map_or(0, |wait| self.env.now - wait.arrived);
        let mut shortened = Vec::new();
        let bytes = match blocking.zip(timeout).filter(|_| waited > 0) {
            Some((blocking, timeout)) => {
                // Redis looks before it gives up, however short the time: what is there is delivered.
                let left = timeout.saturating_sub(waited).max(1);
                command::with_timeout(request, &blocking, left, &mut shortened);
                &shortened
            }
            None => request.bytes,
        };
        if route == Route::Shared {
            self.send_for(child, lane, bytes, id, SlotKind::Relay, SlotFlags::NONE);
            return Ok(Flow::Hold(Hold::Reply));
        }
        self.send_for(child, lane, bytes, id, SlotKind::Blocking, SlotFlags::MAY_WAIT);
        Ok(Flow::Hold(Hold::BlockingReply))
    }

    /// The request's own timeout has passed and no lease has come: it is looked at once more, as one that does not wait.
    pub(crate) fn look_without_lease(&mut self, child: &mut Child) {
        self.leave_line(child);
        if let Some(wait) = child.front_mut().wait_mut() {
            wait.expired = true;
        }
        self.lift(child);
    }

    fn look_once(
        &mut self,
        child: &mut Child,
        decided: Decided<'_>,
        blocking: &Blocking,
        wait: Wait,
    ) -> FlowResult {
        let Decided { request, id, .. } = decided;
        let Some(table) = self.commands.table() else { return Err(self.wait_for_upstream(child)) };
        let at_once = command::at_once(table.name(id), request, blocking).and_then(|(name, args, popped)| {
            let typed = table.typed(name).filter(|typed| table.is_shared(typed))?;
            Some((typed, args, popped))
        });
        let Some((name, args, popped)) = at_once else {
            if wait.had_lease {
                self.answer_blocking_timeout(child);
                return Ok(Flow::Done);
            }
            let failure = self.no_lease_for(child, wait);
            return Err(self.reject(child, failure));
        };
        let mut bytes = Vec::with_capacity(request.bytes.len() + 32);
        let argv: Vec<&[u8]> = std::iter::once(&name[..]).chain(args.iter().map(Vec::as_slice)).collect();
        encode::request(&mut bytes, &argv);
        let lane = self.shared_lane_for(child, id, bytes.len())?;
        *child.front_mut().wait_mut() = Some(Wait { popped, ..wait });
        self.send_for(child, lane, &bytes, id, SlotKind::Look, SlotFlags::NONE);
        Ok(Flow::Hold(Hold::Reply))
    }

    /// The reply to a request that was looked at without waiting, as the blocking command would have had it.
    pub(crate) fn looked(&mut self, child: &mut Child, frame: &[u8], real: bool) {
        let (Some(wait), proto) = (child.front().wait(), child.session().proto) else { return };
        let mut out = Vec::new();
        let denied = reply::error_code(frame) == Some(b"NOPERM") && wait.popped != Popped::Itself;
        if denied && wait.had_lease {
            encode::null_array(&mut out, proto);
        } else if denied {
            // The user may wait for an element but not take it at once: nothing is known of what is there.
            encode::error(&mut out, self.no_lease_for(child, wait).line());
        } else if !real || !as_popped(wait.popped, frame, proto, &mut out) {
            out.extend_from_slice(frame);
        }
        self.deliver(child, &out);
    }
}

/// Writes the reply in the form that the blocking command has; false if it has that already.
pub(crate) fn as_popped(popped: Popped, frame: &[u8], proto: u8, out: &mut Vec<u8>) -> bool {
    if reply::is_null(frame) {
        encode::null_array(out, proto);
        return true;
    }
    let Some((key, taken)) = reply::element(frame, 0).zip(reply::element(frame, 1)) else { return false };
    let Some(first) = reply::element(&frame[taken.clone()], 0) else { return false };
    let first = &frame[taken.start + first.start..taken.start + first.end];
    match popped {
        Popped::Itself | Popped::AsItIs => return false,
        Popped::Element => {
            encode::array_header(out, 2);
            out.extend_from_slice(&frame[key]);
            out.extend_from_slice(first);
        }
        Popped::Scored => {
            let Some(member) = reply::element(first, 0) else { return false };
            encode::array_header(out, 3);
            out.extend_from_slice(&frame[key]);
            out.extend_from_slice(&first[member.start..]);
        }
    }
    true
}

/// The group of a blocking request. `XREAD ... $` means "from now on": it must not be asked to step back
/// and start again, and so belongs to none.
pub(crate) fn group_of(request: &Request<'_>, blocking: &Blocking) -> Option<u64> {
    if blocking.unit == TimeoutUnit::Millis && request.args().any(|arg| arg == b"$") {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    command::blocking_group(request, blocking).hash(&mut hasher);
    Some(hasher.finish())
}
