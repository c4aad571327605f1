//! Requests of a child that holds a lease for longer than one command: watched keys, an open MULTI, a
//! subscription, CLIENT TRACKING. They all go on that lane, so that Redis sees them in the order the child sent them; what
//! the broker answers itself it still answers itself.

use crate::command::NO_COMMAND;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::lease::state::{Change, LeaseState};
use crate::core::notice::Notice;
use crate::core::request::flow::{Decided, Flow};
use crate::core::route::{Leased, is_harmless_alone};
use crate::core::shared::Shared;
use crate::resp::{Request, encode, reply};

impl Shared {
    pub(crate) fn send_leased(
        &mut self,
        child: &mut Child,
        decided: Decided<'_>,
        leased: Leased,
        lane: LaneKey,
    ) -> Flow {
        let Decided { request, id, .. } = decided;
        if self.may_not_run_alone(child, &decided, leased) {
            return Flow::Hold(Hold::OwnReplies);
        }
        let mut flags = SlotFlags::NONE;
        let (kind, flow) = match leased {
            Leased::Send(kind) => (kind, Flow::Done),
            Leased::Wait => {
                flags = SlotFlags::MAY_WAIT;
                (SlotKind::Relay, Flow::Hold(Hold::BlockingReply))
            }
            Leased::Unwatch => {
                child.session_mut().transaction.forget_watch();
                (SlotKind::Unwatch, Flow::Hold(Hold::Reply))
            }
            Leased::Multi => {
                // What follows one that is refused must not be taken for queued.
                if let Err(flow) = self.may_multi(child) {
                    return flow;
                }
                child.session_mut().transaction.begin_leased();
                (SlotKind::Multi, Flow::Done)
            }
            Leased::Discard => (SlotKind::Discard, Flow::Hold(Hold::Reply)),
            // While keys are watched these keep their db, and the child changes its own.
            Leased::Select => {
                let lease = self.connections.find_mut(lane).and_then(Lane::lease_mut);
                if let (Some(lease), Some(db)) = (lease, db_named(request)) {
                    lease.begin_change(Change::Db(db));
                }
                (SlotKind::Select, Flow::Hold(Hold::Reply))
            }
            Leased::Exec => return self.exec_leased(child, decided, lane),
            Leased::Queue(local) => return self.queue_command(child, decided, local, Some(lane)),
            Leased::QueueSelect => {
                if let Some(db) = db_named(request) {
                    child.session_mut().transaction.note_select(db);
                }
                return self.queue_command(child, decided, None, Some(lane));
            }
            Leased::Count(count) => return self.send_count_leased(child, decided, count, lane),
            Leased::Subscribe(change) => return self.change_subscription(child, decided, change, lane),
            Leased::Pin(pin) => return self.pin(child, request, id, pin, lane),
        };
        self.send_for(child, lane, request.bytes, id, kind, flags);
        flow
    }

    /// Whether a command waits until the MULTI before it has been accepted. Redis runs what stands behind a refused one, and
    /// the lane would not be known to block, to watch a key or to have moved to another db.
    fn may_not_run_alone(&self, child: &Child, decided: &Decided<'_>, leased: Leased) -> bool {
        let harmless = match leased {
            Leased::Exec | Leased::Discard => true,
            Leased::Queue(None) => is_harmless_alone(decided.route),
            _ => false,
        };
        !harmless && child.session().transaction.may_be_refused() && child.sent().in_flight() > 0
    }

    /// The child's lane has to speak its new protocol too, and is closed when the lease ends. The child is greeted when the
    /// lane is, so that every push before the greeting has the old form and every one after it the new.
    pub(crate) fn switch_lease_proto(&mut self, child: &mut Child, proto: u8) -> Flow {
        let Some(held) = child.lease() else { return Flow::Gone };
        if let Some(lane) = self.connections.find_mut(held.lane) {
            lane.need_close();
            if let Some(lease) = lane.lease_mut() {
                lease.begin_change(Change::Protocol(proto));
            }
        }
        let mut hello = Vec::new();
        encode::request(&mut hello, &[b"HELLO", proto.to_string().as_bytes()]);
        self.send_for(child, held.lane, &hello, NO_COMMAND, SlotKind::Housekeeping, SlotFlags::NONE);
        Flow::Hold(Hold::Reply)
    }

    /// The command that would have ended a transaction got no reply: what was watched ends as it would have with it.
    pub(crate) fn transaction_lost(&mut self, child: &mut Child, lane: LaneKey) {
        if let Some(lane) = self.connections.find_mut(lane)
            && let Some(lease) = lane.lease_mut()
        {
            lease.forget_watch();
            lane.need_close();
        }
        child.session_mut().transaction.forget_watch();
    }

    /// Ends the lease if nothing of it is left: no watched key, open MULTI, subscription, or reply owed.
    pub(crate) fn end_lease_if_done(&mut self, child: &mut Child) {
        let Some(held) = child.lease() else { return };
        if child.sent().in_flight() > 0
            || child.listens_on_lease()
            || child.session().is_pinned()
            || child.session().transaction.is_leased()
        {
            return;
        }
        let db = child.session().db;
        // The lane may have been lost in this event: the child hears of that at its end.
        let Some((lane, pool)) = self.connections.find_with_key(held.lane) else { return };
        if lane.is_ready() && lane.lease().is_some_and(LeaseState::is_watching) {
            return;
        }
        // A subscriber's lane is never lent again; nor is one that a SELECT in a transaction has moved.
        lane.need_close_if(held.kind == LeaseKind::Session || pool.db != db);
        self.end_lease(child);
    }

    /// The lane was greeted anew. If that failed it is closed, and the child's HELLO is looked at afresh, without it.
    pub(crate) fn proto_switched(&mut self, child: &mut Child, key: LaneKey, frame: &[u8], real: bool) {
        let lease = self.connections.find_mut(key).and_then(|lane| lane.lease_mut());
        match lease.and_then(LeaseState::take_change) {
            Some(Change::Protocol(proto)) if real && !reply::is_error(frame) => self.greet(child, proto),
            _ => {
                if real {
                    self.env.notify(Notice::LoseLane(key, "HELLO was refused on a leased lane"));
                }
                self.lift(child);
            }
        }
    }

    pub(crate) fn lease_replied(&mut self, child: &mut Child, key: LaneKey, kind: SlotKind, frame: &[u8]) {
        // Of replies that were proven together the first may have ended it.
        let Some((lane, pool)) = self.connections.find_with_key(key) else { return };
        // It may still be inside MULTI.
        let refused = reply::error_code(frame).is_some_and(|code| code != b"EXECABORT");
        let mut unclean = kind.ends_watch() && refused;
        // A shared lane has no lease.
        let Some(lease) = lane.lease_mut() else { return };
        lease.note_watch(kind, frame);
        if matches!(kind, SlotKind::Select | SlotKind::Pin) {
            match lease.take_change().filter(|_| frame == b"+OK\r\n") {
                Some(Change::Db(db)) => {
                    unclean |= db != pool.db;
                    child.session_mut().db = db;
                }
                Some(Change::Pin(pinning)) => pinning.apply(child.session_mut()),
                Some(Change::Protocol(_)) | None => {}
            }
        }
        lane.need_close_if(unclean);
        let not_run = frame.starts_with(b"-NOPERM ") || frame.starts_with(b"-ERR unknown command");
        if not_run && kind.ends_watch() && kind != SlotKind::Unwatch {
            self.lose_if_kept(child, key);
        }
    }
}

fn db_named(request: &Request<'_>) -> Option<u32> {
    std::str::from_utf8(request.arg(1)).ok()?.parse().ok()
}
