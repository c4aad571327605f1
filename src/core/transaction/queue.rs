//! One complete request: which way it goes. The only place where a request meets its class; each way has
//! a file of its own (`local`, `multi`, `leased`, `subscription`).

use crate::command::CommandId;
use crate::command::Local;
use crate::command::Transaction as TransactionCommand;
use crate::resp::Request;
use crate::resp::reply;

/// Whether a request, by its usual name, is one that leaves MULTI.
pub(in crate::core) fn end_of_multi(request: &Request<'_>) -> Option<TransactionCommand> {
    match request.arg(0).to_ascii_uppercase().as_slice() {
        b"EXEC" if request.argc() == 1 => Some(TransactionCommand::Exec),
        b"DISCARD" if request.argc() == 1 => Some(TransactionCommand::Discard),
        _ => None,
    }
}

/// Bytes that an argument costs beside its own, where it is kept: its place in the list, and the allocator's.
pub(in crate::core) const KEPT_BESIDES: usize = size_of::<Vec<u8>>() + 16;

/// Where an open MULTI is queued.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::core) enum Transaction {
    /// No MULTI is open.
    #[default]
    None,
    /// Queued here; will be sent as one contiguous block on a shared lane at EXEC.
    Queued(Box<Queued>),
    /// Open on a leased lane; Redis queues it.
    Leased(Box<Queued>),
}

impl Transaction {
    /// Whether MULTI is open.
    pub(in crate::core) fn is_open(&self) -> bool {
        !matches!(self, Transaction::None)
    }

    /// The queue, wherever it is kept.
    pub(in crate::core) fn queued_mut(&mut self) -> Option<&mut Queued> {
        match self {
            Transaction::None => None,
            Transaction::Queued(queued) | Transaction::Leased(queued) => Some(queued),
        }
    }

    /// Number of queued commands, or -1 without MULTI: the `multi=` field of CLIENT INFO.
    pub(in crate::core) fn depth(&self) -> i64 {
        match self {
            Transaction::None => -1,
            Transaction::Queued(queued) | Transaction::Leased(queued) => i64::from(queued.after.commands),
        }
    }

    /// Heap bytes held.
    pub(in crate::core) fn footprint(&self) -> usize {
        match self {
            Transaction::None => 0,
            Transaction::Queued(queued) | Transaction::Leased(queued) => {
                let command = std::mem::size_of::<(CommandId, usize)>();
                std::mem::size_of::<Queued>()
                    + queued.block.capacity()
                    + queued.commands.capacity() * command
                    + queued.local
            }
        }
    }
}

/// The commands of an open MULTI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::core) struct Queued {
    /// The canonical requests, MULTI first. Unused while the MULTI is open on a leased lane.
    pub block: Vec<u8>,
    /// For each request in `block`: its command and where it ends.
    pub commands: Vec<(CommandId, usize)>,
    /// Bytes of the arguments kept in `after.local`.
    pub local: usize,
    /// A command was rejected: EXEC must abort.
    pub dirty: bool,
    /// `transaction_max` was reached: nothing more is taken.
    pub full: bool,
    /// Why EXEC must abort, where the broker knows a better reason than "previous errors".
    pub abort_reason: Option<String>,
    /// What EXEC's reply will mean here.
    pub after: AfterExec,
}

impl Queued {
    /// Whether `bytes` more for the upstream and `argv` kept here fit under `max`. Nothing is taken any
    /// more once something did not.
    pub(in crate::core) fn admit(&mut self, bytes: usize, argv: Option<&Vec<Vec<u8>>>, max: usize) -> bool {
        let kept = argv.map_or(0, |argv| argv.iter().map(|arg| arg.len() + KEPT_BESIDES).sum());
        self.full |= self.block.len() + self.local + bytes + kept > max;
        if self.full {
            let commands = self.after.commands;
            self.after = AfterExec { commands, ..AfterExec::default() };
            (self.block, self.commands, self.local) = (Vec::new(), Vec::new(), 0);
        } else if !self.dirty {
            self.local += kept;
        }
        !self.full
    }
}

/// What the reply to an EXEC changes in the child's session, and what in the reply must be replaced
/// because the broker, not Redis, knows the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::core) struct AfterExec {
    /// Commands queued so far; the index of the next one in EXEC's array.
    pub commands: u32,
    /// (element, command, argv): what the broker answers itself; Redis ran a PING in its place. The command is
    /// known since it was queued: there may be no table, or another one, when EXEC is answered.
    pub local: Vec<(u32, Local, Vec<Vec<u8>>)>,
    /// (element, db): SELECTs; the last one Redis answered with OK holds.
    pub selects: Vec<(u32, u32)>,
    /// The first error Redis answered while the block was queued, without `-` and CRLF.
    pub first_error: Option<Vec<u8>>,
}

impl AfterExec {
    /// The db that holds behind an EXEC with this reply, if it changed it.
    pub(in crate::core) fn selected_db(&self, frame: &[u8]) -> Option<u32> {
        let (mut selects, mut selected) = (self.selects.iter().peekable(), None);
        for (index, range) in reply::elements(frame).enumerate().take_while(|_| !self.selects.is_empty()) {
            if let Some((_, db)) = selects.next_if(|(select, _)| *select as usize == index)
                && &frame[range] == b"+OK\r\n"
            {
                selected = Some(*db);
            }
        }
        selected
    }
}
