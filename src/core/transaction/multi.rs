//! MULTI and EXEC. A transaction that arrives whole goes upstream as it is; one that arrives command by
//! command is queued here and sent as one block at EXEC. Either way the block stands contiguous on one
//! shared lane, so that Redis runs it as if its child were alone. Only what cannot be queued here (SELECT,
//! `transactions = leased`) opens its MULTI on a leased lane.

use crate::command::CommandId;
use crate::command::Local;
use crate::command::NO_COMMAND;
use crate::command::Route;
use crate::command::Transaction as TransactionCommand;
use crate::command::Verdict;
use crate::command::texts;
use crate::config::value::Transactions;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::child::session::ReplyMode;
use crate::core::connection::slot::SlotFlags;
use crate::core::connection::slot::SlotKind;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::lease::lending::Want;
use crate::core::request::flow::Decided;
use crate::core::request::flow::Flow;
use crate::core::route::runs_in_a_block;
use crate::core::shared::Shared;
use crate::core::transaction::queue::AfterExec;
use crate::core::transaction::queue::Queued;
use crate::core::transaction::queue::Transaction;
use crate::resp::Request;
use crate::resp::Scan;
use crate::resp::Scanner;
use crate::resp::encode;
use crate::resp::frame::FrameLimits;

/// What Redis runs in the place of a command the broker answers itself.
pub(in crate::core) const PLACEHOLDER: &[u8] = b"*1\r\n$4\r\nPING\r\n";

pub(in crate::core) const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

pub(in crate::core) const QUEUED: &[u8] = b"+QUEUED\r\n";

/// A transaction found whole in the input.
pub(in crate::core) struct Block {
    bytes: Vec<u8>,
    commands: Vec<(CommandId, usize)>,
    /// Bytes of the input behind MULTI that it took.
    consumed: usize,
}

impl Shared {
    pub(in crate::core) fn begin_multi(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: Decided,
        rest: &[u8],
    ) -> Flow {
        if let Err(flow) = self.may_multi(child) {
            return flow;
        }
        let watch_lost = child.session.watch_lost;
        // One whose watched keys are lost is only queued here: its EXEC is null whatever is in it.
        if self.env.settings.transactions == Transactions::Leased && !watch_lost {
            return match self.lease_for(child, LeaseKind::Transaction, Want::default) {
                Ok(lane) => self.on_lease(child, request, decided, lane),
                Err(flow) => flow,
            };
        }
        // Of a block whose MULTI alone is to go unanswered each command is looked at by itself.
        let skips = self.work.is_busy() || child.session.replies == ReplyMode::Skip || child.session.debugs;
        if !watch_lost
            && !skips
            && let Some(block) = self.whole_block(child, request, decided.id, rest)
        {
            let last = block.commands.last().map_or(0, |(id, _)| *id);
            return match self.shared_lane_for(child, last, block.bytes.len()) {
                Ok(lane) => {
                    child.last_command = block.commands.last().map(|(id, _)| *id);
                    self.send_block(
                        child,
                        lane,
                        &block.bytes,
                        &block.commands,
                        SlotKind::Relay,
                        SlotKind::Relay,
                    );
                    Flow::DoneThrough(block.consumed)
                }
                Err(flow) => flow,
            };
        }
        let block = request.bytes.to_vec();
        let commands = vec![(decided.id, block.len())];
        child.session.transaction =
            Transaction::Queued(Box::new(Queued { block, commands, ..Queued::default() }));
        self.answer(child, b"+OK\r\n");
        Flow::Done
    }

    /// MULTI up to EXEC, if all of it has arrived and nothing in it needs the broker.
    fn whole_block(&self, child: &Child, multi: &Request<'_>, id: CommandId, rest: &[u8]) -> Option<Block> {
        let table = self.commands.table()?;
        let frame_limits = FrameLimits { request_max: self.request_max(), authenticated: true };
        let mut block = Block { bytes: multi.bytes.to_vec(), commands: Vec::new(), consumed: 0 };
        block.commands.push((id, block.bytes.len()));
        let mut scanner = Scanner::default();
        loop {
            match scanner.scan(rest.get(block.consumed..)?, &frame_limits) {
                Scan::Empty { len } => block.consumed += len,
                Scan::Frame { len } => {
                    let request = scanner.request(&rest[block.consumed..]);
                    if self.may_be_too_long(&request) {
                        return None;
                    }
                    let Verdict::Known(known) = table.classify(&request) else { return None };
                    block.bytes.extend_from_slice(request.bytes);
                    block.commands.push((known.id, block.bytes.len()));
                    block.consumed += len;
                    match known.route {
                        _ if self.is_denied(child, known.id) => return None,
                        _ if self.judged_script(child, known.id).is_some() => return None,
                        Route::Transaction(TransactionCommand::Exec) if known.arity_ok => return Some(block),
                        route
                            if known.no_multi || !runs_in_a_block(self.route_as(child, known.id, route)) =>
                        {
                            return None;
                        }
                        _ => {}
                    }
                }
                Scan::NeedMore { .. } | Scan::Error { .. } => return None,
            }
            scanner.reset();
        }
    }

    /// Writes a transaction contiguously: nothing can come between, and it lives or dies as one.
    fn send_block(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        bytes: &[u8],
        commands: &[(CommandId, usize)],
        inner: SlotKind,
        last: SlotKind,
    ) {
        let mut start = 0;
        for (index, (id, end)) in commands.iter().enumerate() {
            let is_last = index + 1 == commands.len();
            let (kind, flags) = if is_last { (last, SlotFlags::NONE) } else { (inner, SlotFlags::UNIT) };
            self.send_for(child, lane, &bytes[start..*end], *id, kind, flags);
            start = *end;
        }
    }

    // ---- queued here ----------------------------------------------------------------------------------

    /// Takes a command into the MULTI that is queued here. Redis runs a placeholder for what the broker answers.
    pub(in crate::core) fn queue_command(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
        local: Option<Local>,
    ) -> Flow {
        match local {
            Some(local) => {
                let argv = request.args().map(<[u8]>::to_vec).collect();
                self.queue_bytes(child, id, PLACEHOLDER, Some((local, argv)))
            }
            None => self.queue_bytes(child, id, request.bytes, None),
        }
    }

    fn queue_bytes(
        &mut self,
        child: &mut Child,
        id: CommandId,
        bytes: &[u8],
        local: Option<(Local, Vec<Vec<u8>>)>,
    ) -> Flow {
        let max = self.env.settings.transaction_max;
        let Some(queued) = child.session.transaction.queued_mut() else { return Flow::Done };
        if !queued.admit(bytes.len(), local.as_ref().map(|(_, argv)| argv), max) {
            return self.reject(child, format!("BROKERLIMIT transaction_max is {max} bytes"));
        }
        // A spoilt transaction is never sent: its commands are only counted.
        if !queued.dirty {
            queued.block.extend_from_slice(bytes);
            queued.commands.push((id, queued.block.len()));
            queued.after.local.extend(local.map(|(local, argv)| (queued.after.commands, local, argv)));
        }
        queued.after.commands += 1;
        self.answer(child, QUEUED);
        Flow::Done
    }

    pub(in crate::core) fn exec_queued(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
    ) -> Flow {
        let Transaction::Queued(queued) = &child.session.transaction else { return Flow::Done };
        if queued.dirty {
            let text = match &queued.abort_reason {
                Some(reason) => texts::exec_aborted(reason),
                None => texts::EXECABORT_PREVIOUS.to_owned(),
            };
            self.forget_transaction(child);
            return self.answer_done(child, text);
        }
        if child.session.watch_lost {
            self.forget_transaction(child);
            self.answer_null_array(child);
            return Flow::Done;
        }
        if queued.after.commands == 0 {
            self.forget_transaction(child);
            self.answer(child, b"*0\r\n");
            return Flow::Done;
        }
        let len = queued.block.len();
        let lane = match self.shared_lane_for(child, id, len) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        let Transaction::Queued(queued) = std::mem::take(&mut child.session.transaction) else {
            return Flow::Done;
        };
        let Queued { mut block, mut commands, after, .. } = *queued;
        // As typed: where EXEC is renamed, another name would leave the lane inside MULTI.
        block.extend_from_slice(request.bytes);
        commands.push((id, block.len()));
        // What the broker answers itself may change the session: nothing may run before it has.
        let settles_session = !after.local.is_empty();
        child.execs.push_back(after);
        self.send_block(child, lane, &block, &commands, SlotKind::Swallow, SlotKind::Exec);
        if settles_session { Flow::Hold(Hold::Reply) } else { Flow::Done }
    }

    pub(in crate::core) fn forget_transaction(&mut self, child: &mut Child) {
        child.session.transaction = Transaction::None;
        child.session.watch_lost = false;
    }

    /// A rejected EXEC leaves MULTI and says why in a form of its own.
    pub(in crate::core) fn reject_exec(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        text: &str,
    ) -> Flow {
        self.forget_transaction(child);
        if let Some(lease) = child.lease {
            // Redis leaves MULTI and forgets the watched keys with it, so it must be the one to say so.
            child.execs.push_back(AfterExec::default());
            self.send_for(child, lease.lane, request.bytes, NO_COMMAND, SlotKind::Exec, SlotFlags::NONE);
            return Flow::Hold(Hold::Reply);
        }
        self.answer_done(child, texts::exec_aborted(text))
    }

    pub(in crate::core) fn reject_in_multi(&mut self, child: &mut Child, id: CommandId) -> Flow {
        let name = self.commands.name(id);
        let name = name.replace('|', " ").to_uppercase();
        self.reject(child, format!("ERR {name} inside MULTI is not supported by the broker"))
    }

    fn answer_done(&mut self, child: &mut Child, text: impl AsRef<[u8]>) -> Flow {
        self.answer_error(child, text);
        Flow::Done
    }

    pub(in crate::core) fn answer_null_array(&mut self, child: &mut Child) {
        let mut reply = Vec::new();
        encode::null_array(&mut reply, child.session.proto);
        self.answer(child, &reply);
    }

    // ---- on a leased lane -----------------------------------------------------------------------------

    /// SELECT inside MULTI must never reach a shared lane: the transaction moves to a leased one, with all
    /// that was queued so far.
    pub(in crate::core) fn escalate(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: Decided,
    ) -> Flow {
        let spoilt = child.session.watch_lost
            || matches!(&child.session.transaction, Transaction::Queued(queued) if queued.dirty);
        if spoilt {
            // It will not be executed anyway.
            return self.queue_bytes(child, decided.id, PLACEHOLDER, None);
        }
        let lane = match self.lease_for(child, LeaseKind::Transaction, Want::default) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        let Transaction::Queued(mut queued) = std::mem::take(&mut child.session.transaction) else {
            return Flow::Done;
        };
        let (block, commands) = (std::mem::take(&mut queued.block), std::mem::take(&mut queued.commands));
        child.session.transaction = Transaction::Leased(queued);
        self.send_block(child, lane, &block, &commands, SlotKind::Swallow, SlotKind::Swallow);
        self.on_lease(child, request, decided, lane)
    }

    /// Redis queues a command of a MULTI that is open on a leased lane, or a placeholder for what the broker answers.
    pub(in crate::core) fn queue_leased(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
        local: Option<Local>,
        lane: LaneKey,
    ) -> Flow {
        let max = self.env.settings.transaction_max;
        let Some(queued) = child.session.transaction.queued_mut() else { return Flow::Done };
        let mut bytes = request.bytes;
        if let Some(local) = local {
            let argv = request.args().map(<[u8]>::to_vec).collect();
            // What Redis queues is its own affair; what is kept here is bounded here.
            if !queued.admit(0, Some(&argv), max) {
                return self.reject(child, format!("BROKERLIMIT transaction_max is {max} bytes"));
            }
            queued.after.local.push((queued.after.commands, local, argv));
            bytes = PLACEHOLDER;
        }
        queued.after.commands += 1;
        self.send_for(child, lane, bytes, id, SlotKind::Relay, SlotFlags::NONE);
        Flow::Done
    }

    pub(in crate::core) fn exec_leased(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
        lane: LaneKey,
    ) -> Flow {
        let Some(queued) = child.session.transaction.queued_mut() else { return Flow::Done };
        let (dirty, after): (bool, AfterExec) = (queued.dirty, std::mem::take(&mut queued.after));
        child.session.transaction = Transaction::None;
        if dirty {
            self.send_for(child, lane, DISCARD, id, SlotKind::AbortedExec, SlotFlags::NONE);
        } else {
            child.execs.push_back(after);
            self.send_for(child, lane, request.bytes, id, SlotKind::Exec, SlotFlags::NONE);
        }
        Flow::Hold(Hold::Reply)
    }
}
