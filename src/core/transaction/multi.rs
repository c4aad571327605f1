//! MULTI and EXEC. A transaction that arrives whole goes upstream as it is; one that arrives command by command is queued
//! here and sent as one block at EXEC. Either way the block stands contiguous on one shared lane. Only what cannot be
//! queued here (SELECT, `transactions = leased`) opens its MULTI on a leased lane.

use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::command::{
    CommandId, Local, NO_COMMAND, Route, Transaction as TransactionCommand, Verdict, texts,
};
use crate::config::value::Transactions;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::child::session::ReplyMode;
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::lease::state::LeaseState;
use crate::core::lease::waiting::Want;
use crate::core::notice::Notice;
use crate::core::request::flow::{Decided, Flow};
use crate::core::route::runs_in_a_block;
use crate::core::shared::Shared;
use crate::core::transaction::state::{ExecOutcome, QueuedBlock};
use crate::resp::frame::FrameLimits;
use crate::resp::{Request, Scan, Scanner, encode};

/// What Redis runs in the place of a command the broker answers itself.
const PLACEHOLDER: &[u8] = b"*1\r\n$4\r\nPING\r\n";

const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

impl Shared {
    pub(crate) fn begin_multi(&mut self, child: &mut Child, decided: Decided<'_>, rest: &[u8]) -> Flow {
        if let Err(flow) = self.may_multi(child) {
            return flow;
        }
        let watch_lost = child.session().transaction.is_watch_lost();
        // One whose watched keys are lost is only queued here: its EXEC is null whatever is in it.
        if self.env.settings.transactions == Transactions::Leased && !watch_lost {
            return match self.lease_for(child, LeaseKind::Transaction, Want::default) {
                Ok(lane) => self.on_lease(child, decided, lane),
                Err(flow) => flow,
            };
        }
        // Of a block whose MULTI alone is to go unanswered each command is looked at by itself.
        let skips =
            self.work.is_busy() || child.session().replies == ReplyMode::Skip || child.session().debugs;
        if !watch_lost
            && !skips
            && let Some((block, consumed)) = self.whole_block(child, decided.request, decided.id, rest)
        {
            let last = block.commands.last().map_or(0, |(id, _)| *id);
            return match self.shared_lane_for(child, last, block.bytes.len()) {
                Ok(lane) => {
                    child.set_last_command(block.commands.last().map(|(id, _)| *id));
                    self.send_block(child, lane, block, SlotKind::Relay, SlotKind::Relay);
                    Flow::DoneThrough(consumed)
                }
                Err(flow) => flow,
            };
        }
        child.session_mut().transaction.begin_here(decided.id, decided.request.bytes);
        self.answer_ok(child)
    }

    /// MULTI up to EXEC, if all of it is there and needs nothing of the broker; and its bytes behind MULTI.
    fn whole_block(
        &self,
        child: &Child,
        multi: &Request<'_>,
        id: CommandId,
        rest: &[u8],
    ) -> Option<(QueuedBlock, usize)> {
        let table = self.commands.table()?;
        let frame_limits = FrameLimits { request_max: self.request_max(), authenticated: true };
        let (mut block, mut consumed) = (QueuedBlock::default(), 0);
        block.push(id, multi.bytes);
        let mut scanner = Scanner::default();
        loop {
            match scanner.scan(rest.get(consumed..)?, &frame_limits) {
                Scan::Empty { len } => consumed += len,
                Scan::Frame { len } => {
                    let request = scanner.request(&rest[consumed..]);
                    if self.may_be_too_long(&request) {
                        return None;
                    }
                    let Verdict::Known(known) = table.classify(&request) else { return None };
                    block.push(known.id, request.bytes);
                    consumed += len;
                    match known.route {
                        _ if self.is_denied(child, known.id) => return None,
                        _ if self.judged_script(child, known.id).is_some() => return None,
                        Route::Transaction(TransactionCommand::Exec) if known.arity_ok => {
                            return Some((block, consumed));
                        }
                        _ if known.no_multi => return None,
                        route if !runs_in_a_block(self.route_as(child, known.id, route)) => return None,
                        _ => {}
                    }
                }
                Scan::NeedMore { .. } | Scan::Error(_) => return None,
            }
            scanner.reset();
        }
    }

    /// Writes a transaction contiguously: nothing can come between, and it lives or dies as one.
    fn send_block(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        QueuedBlock { bytes, commands }: QueuedBlock,
        inner: SlotKind,
        last: SlotKind,
    ) {
        let (long, short) = match bytes.len() {
            ..limits::BULK_MIN => (None, bytes),
            len => (Some(self.env.fragments.fragment(bytes, 0..len)), Vec::new()),
        };
        let bytes: &[u8] = long.as_deref().unwrap_or(&short);
        let Some(((last_id, _), others)) = commands.split_last() else { return };
        let start = others.last().map_or(0, |(_, end)| *end);
        self.env.request = long.clone();
        self.send_bound(child, lane, &bytes[..start], others, inner);
        self.send_for(child, lane, &bytes[start..], *last_id, last, SlotFlags::NONE);
        self.env.request = None;
    }

    /// Takes a command into the open MULTI, or a placeholder for one that the broker answers.
    pub(crate) fn queue_command(
        &mut self,
        child: &mut Child,
        decided: Decided<'_>,
        local: Option<Local>,
        lane: Option<LaneKey>,
    ) -> Flow {
        let Decided { request, id, .. } = decided;
        let bytes = if local.is_some() { PLACEHOLDER } else { request.bytes };
        let local = local.map(|command| (command, request.bytes));
        self.queue_bytes(child, id, bytes, local, lane)
    }

    fn queue_bytes(
        &mut self,
        child: &mut Child,
        id: CommandId,
        bytes: &[u8],
        local: Option<(Local, &[u8])>,
        lane: Option<LaneKey>,
    ) -> Flow {
        let max_bytes = self.env.settings.transaction_max;
        if !child.session_mut().transaction.queue(id, bytes, local, max_bytes) {
            return self.reject(child, Failure::Limited(Limit::Transaction { max_bytes }));
        }
        match lane {
            Some(lane) => self.send_for(child, lane, bytes, id, SlotKind::Relay, SlotFlags::NONE),
            None => self.answer(child, b"+QUEUED\r\n"),
        }
        Flow::Done
    }

    /// EXEC of a MULTI that is queued here.
    pub(crate) fn exec_queued(&mut self, child: &mut Child, request: &Request<'_>, id: CommandId) -> Flow {
        let outcome = child.session().transaction.exec_outcome();
        let ExecOutcome::Send(len) = outcome else {
            if child.lease().is_some() && child.is_under_way() {
                return Flow::Hold(Hold::OwnReplies);
            }
            self.leave_multi(child);
            match outcome {
                ExecOutcome::Aborted(text) => self.answer_error(child, text),
                ExecOutcome::WatchLost => {
                    let mut reply = Vec::new();
                    encode::null_array(&mut reply, child.session().proto);
                    self.answer(child, &reply);
                }
                ExecOutcome::Empty | ExecOutcome::Send(_) => self.answer(child, b"*0\r\n"),
            }
            return Flow::Done;
        };
        let lane = match self.shared_lane_for(child, id, len) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        // As typed: where EXEC is renamed, another name would leave the lane inside MULTI.
        let (block, has_answers) = child.session_mut().transaction.exec_here(id, request.bytes);
        self.send_block(child, lane, block, SlotKind::Swallow, SlotKind::Exec);
        // What the broker answers itself may change the session: nothing may run before it has.
        if has_answers { Flow::Hold(Hold::Reply) } else { Flow::Done }
    }

    /// DISCARD of a MULTI that is queued here.
    pub(crate) fn discard_queued(&mut self, child: &mut Child) -> Flow {
        if child.lease().is_some() && child.is_under_way() {
            return Flow::Hold(Hold::OwnReplies);
        }
        self.leave_multi(child);
        self.answer_ok(child)
    }

    /// EXEC or DISCARD has ended a MULTI without reaching the upstream. The child's leased lane still watches what Redis
    /// would have forgotten with it: so the lane goes, even if the child has more on it.
    pub(crate) fn leave_multi(&mut self, child: &mut Child) {
        let in_multi = child.session().transaction.is_leased();
        child.session_mut().transaction.end();
        let Some(held) = child.lease() else { return };
        let lease = self.connections.find(held.lane).and_then(Lane::lease);
        if in_multi || lease.is_some_and(LeaseState::is_watching) {
            self.transaction_lost(child, held.lane);
            self.lose_if_kept(child, held.lane);
        }
        self.end_lease_if_done(child);
    }

    /// A lane that stands in a transaction of which its child knows nothing is of no use to it.
    pub(crate) fn lose_if_kept(&mut self, child: &Child, lane: LaneKey) {
        if child.session().is_pinned() || child.listens_on_lease() {
            self.env.notify(Notice::LoseLane(lane, "a transaction on it could not be left"));
        }
    }

    /// A rejected EXEC leaves MULTI and says why in a form of its own.
    pub(crate) fn reject_exec(&mut self, child: &mut Child, request: &Request<'_>, text: &str) -> Flow {
        let Some(lease) = child.lease() else {
            child.session_mut().transaction.end();
            self.answer_error(child, texts::exec_aborted(text));
            return Flow::Done;
        };
        // Redis leaves MULTI and forgets the watched keys with it, so it must be the one to say so.
        child.session_mut().transaction.exec_rejected();
        self.send_for(child, lease.lane, request.bytes, NO_COMMAND, SlotKind::Exec, SlotFlags::NONE);
        Flow::Hold(Hold::Reply)
    }

    pub(crate) fn reject_in_multi(&mut self, child: &mut Child, id: CommandId) -> Flow {
        let name = self.commands.name(id).replace('|', " ").to_uppercase();
        self.reject(child, format!("ERR {name} inside MULTI is not supported by the broker"))
    }

    /// SELECT must never reach a shared lane: the transaction moves to a leased one, with all that is queued.
    pub(crate) fn escalate(&mut self, child: &mut Child, decided: Decided<'_>) -> Flow {
        if child.session().transaction.is_spoilt() {
            // It will not be executed anyway.
            return self.queue_bytes(child, decided.id, PLACEHOLDER, None, None);
        }
        let lane = match self.lease_for(child, LeaseKind::Transaction, Want::default) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        let block = child.session_mut().transaction.move_to_lease().unwrap_or_default();
        self.send_block(child, lane, block, SlotKind::Swallow, SlotKind::Swallow);
        self.on_lease(child, decided, lane)
    }

    /// EXEC of a MULTI that is open on a leased lane.
    pub(crate) fn exec_leased(&mut self, child: &mut Child, decided: Decided<'_>, lane: LaneKey) -> Flow {
        let (bytes, kind) = if child.session_mut().transaction.exec_leased() {
            (decided.request.bytes, SlotKind::Exec)
        } else {
            (DISCARD, SlotKind::AbortedExec)
        };
        self.send_for(child, lane, bytes, decided.id, kind, SlotFlags::NONE);
        Flow::Hold(Hold::Reply)
    }
}
