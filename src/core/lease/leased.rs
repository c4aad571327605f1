//! Requests of a child that holds a lease for longer than one command: watched keys, an open MULTI, a
//! subscription, CLIENT TRACKING. They all go on that lane, so that Redis sees them in the order the child sent them; what
//! the broker answers itself it still answers itself.

use crate::base::limits;
use crate::command::Local;
use crate::command::NO_COMMAND;
use crate::command::Route;
use crate::command::Transaction as TransactionCommand;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::FLAG_MAY_WAIT;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::notice::Notice;
use crate::core::request::flow::Decided;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::transaction::queue::Queued;
use crate::core::transaction::queue::Transaction;
use crate::resp::Request;

impl Shared {
    pub(in crate::core) fn on_lease(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: Decided,
        lane: LaneKey,
    ) -> Flow {
        let subscribed_resp2 = child.session.proto == 2 && child.listens_on_lease();
        let (watch_lost, tracking) = (child.session.watch_lost, child.session.tracking.is_some());
        if self.connections.lanes.get(lane).is_some_and(|lane| lane.out.len() >= limits::LANE_WINDOW) {
            if let Some(lane) = self.connections.lanes.get_mut(lane) {
                lane.held.push(child.key);
            }
            return Flow::Hold(Hold::Lane);
        }
        if let Transaction::Leased(_) = child.session.transaction {
            return self.forward_in_multi(child, request, decided, lane);
        }
        if decided.route == Route::Replicas && !subscribed_resp2 && self.wrote_elsewhere(child, lane) {
            return self.wait_for_replicas(child, request, decided.id);
        }
        let kind = match decided.route {
            Route::Refused => return self.refuse(child, request, decided.id),
            Route::Local(local @ (Local::Quit | Local::Reset)) => return self.local(child, local, request),
            Route::Subscribe(subscribe)
                if self.subscribes_shared(child) && !self.hears_invalidations(child, request, subscribe) =>
            {
                return self.change_topics(child, request, subscribe);
            }
            Route::Subscribe(subscribe) => {
                return self.change_subscription(child, request, decided.id, subscribe, lane);
            }
            // Redis itself says what a RESP2 subscriber may not do. An EXEC that is rejected forgets the watched keys.
            Route::Transaction(TransactionCommand::Exec) if subscribed_resp2 => {
                return self.reject_exec(child, request, "");
            }
            _ if subscribed_resp2 => SlotKind::Relay,
            Route::Pin(pin) => return self.pin(child, request, decided, pin, lane),
            Route::Local(Local::ClientCaching) if tracking => SlotKind::Caching,
            Route::Local(Local::ClientTrackinginfo) if tracking => SlotKind::TrackingInfo,
            Route::Local(Local::Select) => return self.select_on_lease(child, request, decided, lane),
            Route::Local(local) => return self.local(child, local, request),
            Route::Transaction(TransactionCommand::Watch) if watch_lost => return self.watch_in_vain(child),
            Route::Transaction(TransactionCommand::Multi) if watch_lost => {
                return self.begin_multi(child, request, decided, &[]);
            }
            Route::Transaction(TransactionCommand::Multi) => {
                // What follows one that is refused must not be taken for queued.
                if let Err(flow) = self.may_multi(child) {
                    return flow;
                }
                child.session.transaction = Transaction::Leased(Box::<Queued>::default());
                SlotKind::Multi
            }
            Route::Transaction(TransactionCommand::Watch) => SlotKind::Watch,
            Route::Transaction(TransactionCommand::Unwatch) => {
                child.session.watch_lost = false;
                SlotKind::Unwatch
            }
            // Without MULTI: refused by Redis, and nothing changes.
            Route::Transaction(TransactionCommand::Exec | TransactionCommand::Discard)
            | Route::Shared
            | Route::Blocking(_)
            | Route::Dedicated
            | Route::Replicas
            | Route::Control => SlotKind::Relay,
        };
        let waits = matches!(decided.route, Route::Blocking(_) | Route::Dedicated | Route::Replicas);
        let flags = if waits { FLAG_MAY_WAIT } else { 0 };
        self.send_for(child, lane, request.bytes, decided.id, kind, flags);
        match (kind, decided.route) {
            (SlotKind::Unwatch, _) => Flow::Hold(Hold::Blocked),
            _ if waits => Flow::Hold(Hold::Element),
            _ => Flow::Done,
        }
    }

    /// WATCH after an earlier one was lost with its connection: the next EXEC answers null whatever becomes
    /// of these keys, and must not be let through by a connection that knows only them.
    pub(in crate::core) fn watch_in_vain(&mut self, child: &mut Child) -> Flow {
        self.answer(child, b"+OK\r\n");
        Flow::Done
    }

    /// SELECT while keys are watched: the watched keys keep their db, the child changes its own.
    fn select_on_lease(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: Decided,
        lane_key: LaneKey,
    ) -> Flow {
        let db = std::str::from_utf8(request.arg(1)).ok().and_then(|text| text.parse().ok());
        if let Some(lease) = self.connections.lanes.get_mut(lane_key).and_then(|lane| lane.lease.as_mut()) {
            lease.selecting = db;
        }
        self.send_for(child, lane_key, request.bytes, decided.id, SlotKind::Select, 0);
        Flow::Hold(Hold::Blocked)
    }

    /// The protocol of a child that holds a lease changes: its lane has to speak it too, and is closed when
    /// the lease ends. The child is greeted when the lane is, so that every push before the greeting has
    /// the old form and every one after it the new.
    pub(in crate::core) fn switch_lease_proto(&mut self, child: &mut Child, proto: u8) -> Flow {
        let Some(held) = child.lease else { return Flow::Gone };
        if let Some(lane) = self.connections.lanes.get_mut(held.lane)
            && let Some(lease) = &mut lane.lease
        {
            lane.burnt = true;
            lease.switching = Some(proto);
        }
        let hello = redis::cmd("HELLO").arg(proto).get_packed_command();
        self.send_for(child, held.lane, &hello, NO_COMMAND, SlotKind::Housekeeping, 0);
        Flow::Hold(Hold::Blocked)
    }

    /// The command that would have ended a transaction got no reply. The child is told, and what it watched
    /// ends with the attempt as it would have with the reply.
    pub(in crate::core) fn transaction_lost(&mut self, child: &mut Child, lane: LaneKey) {
        if let Some(lane) = self.connections.lanes.get_mut(lane)
            && let Some(lease) = &mut lane.lease
        {
            lease.watching = false;
            lane.burnt = true;
        }
        child.session.watch_lost = false;
    }

    /// Ends the child's lease if nothing of it is left: no watched key, no open MULTI, no subscription, no
    /// reply owed.
    pub(in crate::core) fn end_lease_if_done(&mut self, child: &mut Child) {
        let Some(held) = child.lease else { return };
        if child.in_flight > 0
            || child.listens_on_lease()
            || child.session.is_pinned()
            || matches!(child.session.transaction, Transaction::Leased(_))
        {
            return;
        }
        let db = child.session.db;
        let Some(lane) = self.connections.lanes.get_mut(held.lane) else { return };
        if lane.state == LaneState::Ready && lane.lease.as_ref().is_some_and(|lease| lease.watching) {
            return;
        }
        // A subscriber's lane is never lent again; nor is one that a SELECT in a transaction has moved.
        lane.burnt |=
            held.kind == LeaseKind::Session || self.connections.pools[lane.pool.0 as usize].key.db != db;
        self.end_lease(child);
    }

    /// The lane was greeted in the child's new protocol. If that failed the lane is of no use any more, and
    /// the child's HELLO is looked at afresh, without it.
    pub(in crate::core) fn proto_switched(
        &mut self,
        child: &mut Child,
        lane_key: LaneKey,
        frame: &[u8],
        real: bool,
    ) {
        let lease = self.connections.lanes.get_mut(lane_key).and_then(|lane| lane.lease.as_mut());
        match lease.and_then(|lease| lease.switching.take()) {
            Some(proto) if real && frame.first() != Some(&b'-') => self.greet(child, proto),
            _ => {
                if real {
                    self.env
                        .notices
                        .push_back(Notice::LoseLane(lane_key, "HELLO was refused on a leased lane"));
                }
                self.lift(child);
            }
        }
    }

    /// What a reply on a leased lane means for the lease.
    pub(in crate::core) fn lease_replied(
        &mut self,
        child: &mut Child,
        lane_key: LaneKey,
        kind: SlotKind,
        frame: &[u8],
    ) {
        let Some(lane) = self.connections.lanes.get_mut(lane_key) else { return };
        let pool_db = self.connections.pools[lane.pool.0 as usize].key.db;
        let Some(lease) = &mut lane.lease else { return };
        let ok = frame == b"+OK\r\n";
        if kind.ends_watch() && frame.first() == Some(&b'-') && !frame.starts_with(b"-EXECABORT") {
            // It may still be inside MULTI.
            lane.burnt = true;
        }
        match kind {
            SlotKind::Watch => lease.watching |= ok,
            SlotKind::Exec => lease.watching &= frame.starts_with(b"-ERR EXEC without MULTI"),
            SlotKind::Unwatch => lease.watching &= frame.first() == Some(&b'-'),
            // Refused for any other reason, the lane is inside MULTI for good, and goes.
            SlotKind::Discard | SlotKind::AbortedExec => {
                lease.watching &= frame.starts_with(b"-ERR DISCARD without MULTI");
            }
            SlotKind::Select => {
                if let (true, Some(db)) = (ok, lease.selecting.take()) {
                    lane.burnt |= db != pool_db;
                    child.session.db = db;
                }
            }
            SlotKind::Pin => {
                if let (Some(pinning), true) = (lease.pinning.take(), ok) {
                    pinning.apply(&mut child.session);
                }
            }
            _ => {}
        }
    }
}
