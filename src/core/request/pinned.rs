//! Children that have changed the connection their requests run on (CLIENT TRACKING, IMPORT-SOURCE, MONITOR): they
//! keep a leased lane until they have changed it back, RESET or go, and nobody has it after them. Knows what
//! changes; what it means for the keys is Redis' own affair.

use crate::command::{CommandId, Pin};
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::LaneKey;
use crate::core::lease::pinning::Pinning;
use crate::core::lease::state::Change;
use crate::core::request::flow::{Flow, canonical_int};
use crate::core::shared::Shared;
use crate::resp::{Request, encode};

impl Shared {
    /// Sends a command that changes the child's own lane. Nothing of the child follows before the answer.
    pub(crate) fn pin(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
        pin: Pin,
        lane: LaneKey,
    ) -> Flow {
        if child.is_under_way() {
            return Flow::Hold(Hold::OwnReplies);
        }
        if pin == Pin::Monitor && child.session().monitoring {
            // Redis does not answer a second one.
            return Flow::Done;
        }
        if !child.session().is_pinned() && !child.session().name.is_empty() {
            // It is the child's own connection now, and goes by its name.
            let mut name = Vec::new();
            encode::request(&mut name, &[request.arg(0), b"SETNAME", child.session().name.as_ref()]);
            self.send_for(child, lane, &name, id, SlotKind::Swallow, SlotFlags::NONE);
        }
        let (bytes, redirect) = self.redirected(request);
        let on = request.arg(2).eq_ignore_ascii_case(b"on");
        if let Some(lease) = self.connections.find_mut(lane).and_then(|lane| lane.lease_mut()) {
            lease.begin_change(Change::Pin(Pinning { pin, on, redirect }));
        }
        self.send_for(child, lane, &bytes, id, SlotKind::Pin, SlotFlags::NONE);
        self.convert_to_session(child, lane);
        Flow::Hold(Hold::Reply)
    }

    /// The request with the upstream's id in the place of the child's that it names. A child without a
    /// connection of its own upstream is nobody there: id 0, of whom Redis says that it does not exist.
    fn redirected(&self, request: &Request<'_>) -> (Vec<u8>, u64) {
        let names_id = |index: &usize| {
            request.arg(*index).eq_ignore_ascii_case(b"redirect")
                && canonical_int(request.arg(index + 1)).is_some()
        };
        let mut named = (3..request.argc().saturating_sub(1)).filter(names_id);
        let Some(first) = named.next() else { return (request.bytes.to_vec(), 0) };
        // Redis looks the first id up, and refuses a second one whatever it is: it reads no further.
        let second = named.next();
        let id = canonical_int(request.arg(first + 1)).unwrap_or_default();
        let of_child = |lane: &&Lane| lane.lease().is_some_and(|lease| lease.is_kept_by(id));
        let lane = self.connections.lanes().map(|(_, lane)| lane).find(of_child);
        let upstream_id = lane.map_or(0, |lane| lane.record().upstream_id).to_string();
        let mut argv: Vec<&[u8]> = request.args().take(second.map_or(request.argc(), |at| at + 2)).collect();
        for index in [Some(first), second].into_iter().flatten() {
            argv[index + 1] = upstream_id.as_bytes();
        }
        let mut bytes = Vec::with_capacity(request.bytes.len());
        encode::request(&mut bytes, &argv);
        (bytes, id as u64)
    }

    /// TRACKINGINFO with the child's id in the place of the upstream's.
    pub(crate) fn tracking_info(&self, child: &Child, frame: &[u8]) -> Vec<u8> {
        const FIELD: &[u8] = b"$8\r\nredirect\r\n:";
        let redirect = child.session().tracking.unwrap_or(0);
        let mut patched = frame.to_vec();
        if redirect > 0
            && let Some(at) = memchr::memmem::find(frame, FIELD)
            && let Some(length) = frame[at + FIELD.len()..].iter().position(|byte| *byte == b'\r')
        {
            let number = at + FIELD.len()..at + FIELD.len() + length;
            patched.splice(number, redirect.to_string().into_bytes());
        }
        patched
    }
}
