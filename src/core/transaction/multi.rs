//! MULTI and EXEC. A transaction that arrives whole goes upstream as it is, if it would do no harm command by command
//! should its MULTI be refused; any other is queued here and sent as one block at EXEC, behind a MULTI that has been
//! accepted (`armed`). Either way the block stands contiguous on one shared lane. Only what cannot be queued here (SELECT,
//! `transactions = leased`) opens its MULTI on a leased lane.

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
use crate::core::connection::role::Traffic;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::lease::state::LeaseState;
use crate::core::notice::Notice;
use crate::core::pubsub::counted::Counted;
use crate::core::request::flow::{Decided, Flow};
use crate::core::route::is_harmless_alone;
use crate::core::shared::Shared;
use crate::core::transaction::state::{ExecOutcome, Move, QueuedBlock};
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
            return match self.lease_for(child, LeaseKind::Transaction) {
                Ok(lane) => self.on_lease(child, decided, lane),
                Err(flow) => flow,
            };
        }
        // Of a block whose MULTI alone is to go unanswered each command is looked at by itself.
        let skips =
            self.work.is_busy() || child.session().replies == ReplyMode::Skip || child.session().debugs;
        if !watch_lost
            && !skips
            && let Some((mut block, consumed)) = self.whole_block(child, decided.request, decided.id, rest)
            && let Some((last, _)) = block.commands.last().copied()
            && !child.sent().goes_apart(last)
        {
            return match self.shared_lane_for(child, last, block.bytes.len()) {
                Ok(lane) => {
                    // Whoever has run this request counts the last of them.
                    for (id, _) in &block.commands[..block.commands.len() - 1] {
                        child.set_last_command(Some(*id));
                        self.count_request(child);
                    }
                    child.set_last_command(Some(last));
                    let counts = std::mem::take(&mut block.counts);
                    let exec = if counts.is_empty() { SlotKind::Relay } else { SlotKind::Exec };
                    if exec == SlotKind::Exec {
                        child.session_mut().transaction.exec_whole(counts);
                    }
                    self.send_unit(child, lane, block, 0, |is_last| {
                        if is_last { (exec, SlotFlags::NONE) } else { (SlotKind::Relay, SlotFlags::UNIT) }
                    });
                    Flow::DoneThrough(consumed)
                }
                Err(flow) => flow,
            };
        }
        child.session_mut().transaction.begin_here(decided.id, decided.request.bytes);
        self.answer_ok(child)
    }

    /// MULTI up to EXEC, if all of it is there, needs nothing of the broker and would do no harm command by command; and
    /// its bytes behind MULTI.
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
                        Route::Count(count) if !self.hubs.is_empty() && known.arity_ok => {
                            // MULTI and the command itself are in the block.
                            let index = block.commands.len() as u32 - 2;
                            block.counts.push(index, Counted::of(count, &request));
                        }
                        route if !is_harmless_alone(self.route_as(child, known.id, route)) => return None,
                        _ => {}
                    }
                }
                Scan::NeedMore { .. } | Scan::Error(_) => return None,
            }
            scanner.reset();
        }
    }

    /// Writes the requests of a block contiguously, but for the first `skipped`, which may be all: nothing can come between,
    /// and they live or die as one. `stands` says what each is, the last one or another.
    pub(super) fn send_unit(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        QueuedBlock { bytes, commands, .. }: QueuedBlock,
        skipped: usize,
        stands: impl Fn(bool) -> (SlotKind, SlotFlags),
    ) {
        let (long, short) = match bytes.len() {
            ..limits::BULK_MIN => (None, bytes),
            len => (Some(self.env.fragments.fragment(bytes, 0..len)), Vec::new()),
        };
        let bytes: &[u8] = long.as_deref().unwrap_or(&short);
        let Some(((last_id, _), others)) = commands.split_last() else { return };
        if others.len() < skipped {
            return;
        }
        let start = others.last().map_or(0, |(_, end)| *end);
        self.env.request = long.clone();
        let from = skipped.checked_sub(1).map_or(0, |before| commands[before].1);
        self.send_bound(child, lane, bytes, (others.get(skipped..).unwrap_or_default(), from), stands(false));
        let (last, flags) = stands(true);
        self.send_for(child, lane, &bytes[start..], *last_id, last, flags);
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
        if let Route::Count(count) = decided.route {
            let max_bytes = self.env.settings.transaction_max;
            if !child.session_mut().transaction.note_count(Counted::of(count, request), max_bytes) {
                return self.reject(child, Failure::Limited(Limit::Transaction { max_bytes }));
            }
        }
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
        let ExecOutcome::Send = outcome else {
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
                ExecOutcome::Empty | ExecOutcome::Send => self.answer(child, b"*0\r\n"),
            }
            return Flow::Done;
        };
        let lane = match self.lane_for(child, Traffic::Blocks) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        // As typed: where EXEC is renamed, another name would leave the lane inside MULTI.
        let (block, has_answers) = child.session_mut().transaction.exec_here(id, request.bytes);
        self.send_armed(child, lane, block);
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

    /// SELECT must never reach a shared lane: the transaction moves to a leased one, with all that is queued, once its MULTI
    /// is accepted there.
    pub(crate) fn escalate(&mut self, child: &mut Child, decided: Decided<'_>) -> Flow {
        if child.session().transaction.is_spoilt() {
            // It will not be executed anyway.
            return self.queue_bytes(child, decided.id, PLACEHOLDER, None, None);
        }
        let lane = match self.lease_for(child, LeaseKind::Transaction) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        match child.session_mut().transaction.move_to_lease() {
            Move::Ask { id, multi } => {
                self.send_for(child, lane, &multi, id, SlotKind::Swallow, SlotFlags::NONE);
                Flow::Hold(Hold::OwnReplies)
            }
            Move::Refused => {
                self.end_lease_if_done(child);
                self.queue_bytes(child, decided.id, PLACEHOLDER, None, None)
            }
            Move::Send(block) => {
                self.send_unit(child, lane, block, 1, |is_last| {
                    (SlotKind::Swallow, if is_last { SlotFlags::NONE } else { SlotFlags::UNIT })
                });
                self.on_lease(child, decided, lane)
            }
        }
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
