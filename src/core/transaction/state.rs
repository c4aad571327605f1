//! One child's transaction: the MULTI that is open, wherever its commands are queued, whether keys it has watched are
//! lost, and what each EXEC under way will mean here. Owns every change of these; sends nothing and answers nothing.

pub(crate) mod moved;

use crate::command::{CommandId, Local, NO_COMMAND, Transaction as TransactionCommand, texts};
use crate::core::pubsub::counted::{Counted, CountedElements};
use crate::resp::{Request, reply};
use std::collections::VecDeque;

/// Whether a request, by its usual name, is one that leaves MULTI.
pub(crate) fn end_of_multi(request: &Request<'_>) -> Option<TransactionCommand> {
    match request.arg(0).to_ascii_uppercase().as_slice() {
        b"EXEC" if request.argc() == 1 => Some(TransactionCommand::Exec),
        b"DISCARD" if request.argc() == 1 => Some(TransactionCommand::Discard),
        _ => None,
    }
}

/// Bytes that a queued command costs beside its own, with the room that a list grows by; and one that the broker answers.
const COMMAND_BYTES: usize = 2 * size_of::<(CommandId, usize)>();
const LOCAL_BYTES: usize = 2 * size_of::<QueuedLocal>();

/// Requests that are written together: MULTI first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct QueuedBlock {
    pub(super) bytes: Vec<u8>,
    /// For each request its command, and where it ends in `bytes`.
    pub(super) commands: Vec<(CommandId, usize)>,
    /// Of a block that was never queued here: what counts listeners, by its index in EXEC's array.
    pub(super) counts: CountedElements,
}

impl QueuedBlock {
    pub(super) fn push(&mut self, id: CommandId, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.commands.push((id, self.bytes.len()));
    }

    /// The first of them, as it was typed.
    pub(super) fn multi(&self) -> &[u8] {
        &self.bytes[..self.commands.first().map_or(0, |(_, end)| *end)]
    }
}

/// A command of a transaction that the broker answers itself; Redis runs a PING in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuedLocal {
    /// Its index in EXEC's array.
    pub(crate) element: u32,
    /// Known since it was queued: there may be no table, or another one, when EXEC is answered.
    pub(crate) command: Local,
    /// Where its request ends in [`Locals::requests`]; it begins where the one before it ends.
    end: usize,
}

/// All of them, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Locals {
    commands: Vec<QueuedLocal>,
    requests: Vec<u8>,
}

impl Locals {
    fn push(&mut self, element: u32, command: Local, request: &[u8]) {
        self.requests.extend_from_slice(request);
        self.commands.push(QueuedLocal { element, command, end: self.requests.len() });
    }

    fn footprint(&self) -> usize {
        self.requests.capacity() + self.commands.capacity() * size_of::<QueuedLocal>()
    }
}

/// Where the commands of an open MULTI are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum QueuedAt {
    /// Here, for one block on a lane for blocks.
    #[default]
    Here,
    /// Still here, and the MULTI is on its way on a leased lane: they follow once it is accepted.
    Moving,
    /// By Redis, on a leased lane. Until its MULTI has been answered it may be refused.
    Leased { accepted: bool },
}

/// The commands of an open MULTI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Queued {
    place: QueuedAt,
    block: QueuedBlock,
    /// What counts under `transaction_max`.
    kept_bytes: usize,
    /// A command was rejected: EXEC must abort.
    spoilt: bool,
    /// `transaction_max` was reached: nothing more is taken.
    full: bool,
    /// Why EXEC must abort, where the broker knows a better reason than "previous errors".
    abort_reason: Option<String>,
    after: AfterExec,
}

impl Queued {
    fn is_leased(&self) -> bool {
        matches!(self.place, QueuedAt::Leased { .. })
    }

    /// Whether this fits under `max_bytes`, of which it keeps so many. Nothing is taken any more once something did not.
    fn admit(&mut self, kept: usize, max_bytes: usize) -> bool {
        self.full |= self.kept_bytes + kept > max_bytes;
        if self.full {
            self.after = AfterExec { commands: self.after.commands, ..AfterExec::default() };
            (self.block, self.kept_bytes) = (QueuedBlock::default(), 0);
        } else if !self.spoilt {
            self.kept_bytes += kept;
        }
        !self.full
    }

    fn footprint(&self) -> usize {
        size_of::<Queued>()
            + self.block.bytes.capacity()
            + self.block.commands.capacity() * size_of::<(CommandId, usize)>()
            + self.after.footprint()
    }
}

/// What the reply to an EXEC changes in the session, and what in it is the broker's to answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AfterExec {
    /// Commands queued so far; the index of the next one in EXEC's array.
    commands: u32,
    local: Locals,
    /// (element, db): SELECTs; the last one Redis answered with OK holds.
    selects: Vec<(u32, u32)>,
    /// What counts listeners.
    counts: CountedElements,
    /// Its reply has come and waits for its proof.
    has_arrived: bool,
    /// The first error Redis answered while the block was queued, without `-` and CRLF.
    first_error: Option<Vec<u8>>,
}

impl AfterExec {
    /// Whether there is anything in its reply that the broker answers itself.
    pub(crate) fn has_local(&self) -> bool {
        !self.local.commands.is_empty()
    }

    /// Command `index` of those that the broker answers itself, in the order of the elements, with its request.
    pub(crate) fn local(&self, index: usize) -> Option<(QueuedLocal, &[u8])> {
        let begin = index.checked_sub(1).map_or(0, |before| self.local.commands[before].end);
        let local = *self.local.commands.get(index)?;
        Some((local, &self.local.requests[begin..local.end]))
    }

    pub(crate) fn footprint(&self) -> usize {
        self.local.footprint()
            + self.selects.capacity() * size_of::<(u32, u32)>()
            + self.counts.footprint()
            + self.first_error.as_ref().map_or(0, Vec::capacity)
    }

    /// What in its reply counts listeners.
    pub(crate) fn counts(&self) -> &CountedElements {
        &self.counts
    }

    pub(crate) fn first_error(&self) -> Option<&[u8]> {
        self.first_error.as_deref()
    }

    /// The db that holds behind an EXEC with this reply, if it changed it.
    pub(crate) fn selected_db(&self, frame: &[u8]) -> Option<u32> {
        let mut selects = self.selects.iter().peekable();
        let elements = reply::elements(frame).enumerate().take_while(|_| !self.selects.is_empty());
        let carried_out = |(index, range)| {
            let (_, db) = selects.next_if(|(select, _)| *select as usize == index)?;
            (&frame[range] == b"+OK\r\n").then_some(*db)
        };
        elements.filter_map(carried_out).last()
    }
}

/// How a MULTI that is queued here gets on its leased lane, a step at a time.
#[derive(Debug)]
pub(super) enum Move {
    /// The MULTI is sent first, as it was typed.
    Ask { id: CommandId, multi: Vec<u8> },
    /// It was refused: EXEC will say so.
    Refused,
    /// It was accepted: the commands follow.
    Send(QueuedBlock),
}

/// What an EXEC of a MULTI that is queued here comes to.
#[derive(Debug)]
pub(super) enum ExecOutcome {
    /// A command was rejected: the error that says so.
    Aborted(String),
    /// The connection that watched its keys was lost: it answers null.
    WatchLost,
    Empty,
    /// It is sent.
    Send,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TransactionState {
    multi: Option<Box<Queued>>,
    /// The connection that watched keys was lost: the next EXEC must answer null.
    watch_lost: bool,
    /// One for each EXEC upstream.
    execs: VecDeque<AfterExec>,
}

impl TransactionState {
    pub(crate) fn is_open(&self) -> bool {
        self.multi.is_some()
    }

    pub(crate) fn is_queued_here(&self) -> bool {
        self.multi.as_ref().is_some_and(|queued| !queued.is_leased())
    }

    /// Whether its MULTI is on a leased lane.
    pub(crate) fn is_leased(&self) -> bool {
        self.multi.as_ref().is_some_and(|queued| queued.place != QueuedAt::Here)
    }

    /// Whether what is sent now may yet turn out to stand in no MULTI.
    pub(crate) fn may_be_refused(&self) -> bool {
        self.multi.as_ref().is_some_and(|queued| queued.place == QueuedAt::Leased { accepted: false })
    }

    /// The MULTI on the leased lane has been accepted.
    pub(crate) fn multi_accepted(&mut self) {
        if let Some(queued) = self.multi.as_mut().filter(|queued| queued.is_leased()) {
            queued.place = QueuedAt::Leased { accepted: true };
        }
    }

    /// Number of queued commands, or -1 without MULTI: the `multi=` field of CLIENT INFO.
    pub(crate) fn depth(&self) -> i64 {
        self.multi.as_ref().map_or(-1, |queued| i64::from(queued.after.commands))
    }

    #[inline]
    pub(crate) fn footprint(&self) -> usize {
        if self.multi.is_none() && self.execs.is_empty() {
            return 0;
        }
        let execs: usize = self.execs.iter().map(AfterExec::footprint).sum();
        self.multi.as_ref().map_or(0, |queued| queued.footprint()) + execs
    }

    pub(crate) fn is_watch_lost(&self) -> bool {
        self.watch_lost
    }

    pub(crate) fn lose_watch(&mut self) {
        self.watch_lost = true;
    }

    pub(crate) fn forget_watch(&mut self) {
        self.watch_lost = false;
    }

    pub(super) fn begin_here(&mut self, id: CommandId, multi: &[u8]) {
        let mut queued = Queued::default();
        queued.block.push(id, multi);
        self.multi = Some(Box::new(queued));
    }

    pub(crate) fn begin_leased(&mut self) {
        self.multi =
            Some(Box::new(Queued { place: QueuedAt::Leased { accepted: false }, ..Queued::default() }));
    }

    /// MULTI is open for the child, though not upstream: its EXEC aborts.
    pub(crate) fn begin_spoilt(&mut self, abort_reason: Option<String>) {
        self.multi = Some(Box::new(Queued { spoilt: true, abort_reason, ..Queued::default() }));
    }

    /// A leased lane is to queue from now on.
    pub(super) fn move_to_lease(&mut self) -> Move {
        let Some(queued) = self.multi.as_mut() else { return Move::Refused };
        match (queued.place, &queued.after.first_error) {
            (QueuedAt::Here, _) => {
                queued.place = QueuedAt::Moving;
                let id = queued.block.commands.first().map_or(NO_COMMAND, |(id, _)| *id);
                Move::Ask { id, multi: queued.block.multi().to_vec() }
            }
            (_, Some(error)) => {
                let reason = String::from_utf8_lossy(error).into_owned();
                (queued.place, queued.spoilt, queued.abort_reason) = (QueuedAt::Here, true, Some(reason));
                Move::Refused
            }
            (_, None) => {
                queued.place = QueuedAt::Leased { accepted: true };
                Move::Send(std::mem::take(&mut queued.block))
            }
        }
    }

    /// The leased lane is gone. MULTI stays open for the child, spoilt.
    pub(crate) fn lane_lost(&mut self, watching: bool, reason: &str) {
        self.watch_lost |= watching;
        if let Some(queued) = self.multi.as_mut().filter(|queued| queued.place != QueuedAt::Here) {
            (queued.place, queued.spoilt, queued.abort_reason) =
                (QueuedAt::Here, true, Some(reason.to_owned()));
        }
    }

    pub(crate) fn multi_refused(&mut self) {
        self.multi = None;
    }

    /// A command was rejected: an open MULTI aborts.
    pub(crate) fn spoil(&mut self) {
        if let Some(queued) = &mut self.multi {
            queued.spoilt = true;
        }
    }

    /// Whether EXEC of the open MULTI will execute nothing.
    pub(super) fn is_spoilt(&self) -> bool {
        self.watch_lost || self.multi.as_ref().is_some_and(|queued| queued.spoilt)
    }

    /// Queues a command, or counts one that Redis queues. What Redis queues is its own affair; what is kept here is
    /// bounded here: false if that does not fit under `max_bytes`.
    pub(super) fn queue(
        &mut self,
        id: CommandId,
        bytes: &[u8],
        local: Option<(Local, &[u8])>,
        max_bytes: usize,
    ) -> bool {
        let Some(queued) = &mut self.multi else { return false };
        let leased = queued.is_leased();
        let keeps = !leased || local.is_some();
        let here = if leased { 0 } else { bytes.len() + COMMAND_BYTES };
        let kept = here + local.map_or(0, |(_, request)| request.len() + LOCAL_BYTES);
        if keeps && !queued.admit(kept, max_bytes) {
            return false;
        }
        // A spoilt transaction is never executed: its commands are only counted.
        if !queued.spoilt {
            if !leased {
                queued.block.push(id, bytes);
            }
            if let Some((command, request)) = local {
                queued.after.local.push(queued.after.commands, command, request);
            }
        }
        queued.after.commands += 1;
        true
    }

    pub(crate) fn note_select(&mut self, db: u32) {
        if let Some(queued) = &mut self.multi {
            queued.after.selects.push((queued.after.commands, db));
        }
    }

    /// The command that is queued next counts listeners. False if that does not fit under `max_bytes`.
    pub(super) fn note_count(&mut self, counted: Counted, max_bytes: usize) -> bool {
        let Some(queued) = &mut self.multi else { return false };
        let fits = queued.admit(counted.footprint(), max_bytes);
        if fits && !queued.spoilt {
            queued.after.counts.push(queued.after.commands, counted);
        }
        fits
    }

    /// Redis has answered a command of a block with this frame, whose child had its answer before.
    pub(crate) fn note_reply(&mut self, frame: &[u8]) {
        // Of a MULTI that went on a leased lane before its EXEC has come, else of one whose EXEC is under way.
        let open = self.multi.as_mut().map(|queued| &mut queued.after);
        if let (Some(b'-'), Some(after)) = (frame.first(), self.execs.front_mut().or(open))
            && after.first_error.is_none()
        {
            after.first_error = reply::text(frame).map(<[u8]>::to_vec);
        }
    }

    pub(crate) fn end(&mut self) {
        (self.multi, self.watch_lost) = (None, false);
    }

    pub(super) fn exec_outcome(&self) -> ExecOutcome {
        match &self.multi {
            Some(queued) if queued.spoilt => {
                let reason = queued.abort_reason.as_deref().map(texts::exec_aborted);
                ExecOutcome::Aborted(reason.unwrap_or_else(|| texts::EXECABORT_PREVIOUS.to_owned()))
            }
            _ if self.watch_lost => ExecOutcome::WatchLost,
            Some(queued) if queued.after.commands > 0 => ExecOutcome::Send,
            _ => ExecOutcome::Empty,
        }
    }

    /// EXEC, as typed, ends the MULTI. Returns the whole block, and whether the broker has answers to add to its reply.
    pub(super) fn exec_here(&mut self, id: CommandId, exec: &[u8]) -> (QueuedBlock, bool) {
        debug_assert!(self.is_queued_here(), "EXEC of what is not queued here");
        let Queued { mut block, after, .. } = self.multi.take().map(|queued| *queued).unwrap_or_default();
        block.push(id, exec);
        let has_answers = after.has_local();
        self.execs.push_back(after);
        (block, has_answers)
    }

    /// A block is sent that was never queued here. These of its commands count listeners.
    pub(super) fn exec_whole(&mut self, counts: CountedElements) {
        self.execs.push_back(AfterExec { counts, ..AfterExec::default() });
    }

    /// EXEC ends the MULTI that is open on a leased lane. False if it is spoilt: it must be discarded there.
    pub(super) fn exec_leased(&mut self) -> bool {
        let Some(queued) = self.multi.take().filter(|queued| queued.is_leased() && !queued.spoilt) else {
            return false;
        };
        self.execs.push_back(queued.after);
        true
    }

    /// EXEC is sent so that Redis rejects it: MULTI is left, and what was watched is forgotten.
    pub(super) fn exec_rejected(&mut self) {
        self.end();
        self.execs.push_back(AfterExec::default());
    }

    /// Whether the reply to the oldest EXEC upstream is the child's as it comes, and changes nothing here.
    pub(crate) fn exec_is_plain(&self) -> bool {
        self.execs
            .front()
            .is_some_and(|after| !after.has_local() && after.selects.is_empty() && after.counts.is_empty())
    }

    /// The reply to the oldest EXEC without one has come, and is kept until it is proven. What it counts is corrected once:
    /// now.
    pub(crate) fn exec_arrived(&mut self) -> CountedElements {
        let Some(after) = self.execs.iter_mut().find(|after| !after.has_arrived) else {
            return CountedElements::default();
        };
        after.has_arrived = true;
        std::mem::take(&mut after.counts)
    }

    /// An EXEC upstream is answered, or will not be.
    pub(crate) fn exec_answered(&mut self) -> AfterExec {
        self.execs.pop_front().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn execs_len(&self) -> usize {
        self.execs.len()
    }
}
