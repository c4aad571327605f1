//! The control connection: the broker's own questions to the upstream, in the order in which they are answered. Owns what
//! is under way there, and what the answers say of the upstream and of the broker's own user. Knows no child's request.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::command::texts;
use crate::core::connection::handshake::Greeting;
use crate::core::keys::{ChildKey, LaneKey};
use crate::core::questions::commands::Commands;
use crate::core::questions::known::{BULK_SETTING, Fresh, QUERY_SETTING, UpstreamLimits};
use crate::core::questions::own_rights::{OwnRight, OwnRights};
use crate::core::questions::rights::MayCall;
use crate::resp::{encode, reply};
use std::collections::{HashSet, VecDeque};

/// Something asked on the control connection. Answers come in the order of the questions.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// COMMAND: every command the upstream knows.
    Commands,
    /// COMMAND INFO of every name COMMAND listed: which of them are renamed away.
    ConfirmNames,
    /// COMMAND INFO for a name that is not in the table.
    Lookup { child: ChildKey, name: Vec<u8> },
    /// SELECT n, to learn whether the db exists.
    TryDb { child: ChildKey, db: u32 },
    /// SELECT of the control connection's own db, after `TryDb`.
    BackToDb { db: u32 },
    /// CLIENT UNBLOCK of a lease that is taken back.
    Unblock { lane: LaneKey, id: i64 },
    /// CLIENT UNBLOCK of one child by another.
    UnblockFor { unblock: Unblock, id: i64 },
    /// MULTI, to learn whether our user may: in a block that is refused the rest would run one by one.
    TryMulti,
    /// DISCARD, after `TryMulti`.
    LeaveMulti,
    /// What children need an answer to that is younger than their request.
    Fresh(Needed),
    /// ACL DRYRUN: may the user of this name run what is refused to a child?
    MayCall { asked: MayCall, user: Vec<u8> },
    /// PING, or what does as well: does the upstream live? With what is asked for.
    Probe(OwnRight),
    /// Has our user this right?
    MayUse(OwnRight),
}

impl Question {
    /// Whether the answer matters even if the upstream has been replaced: it is about one of its own leases.
    fn is_about_leases(&self) -> bool {
        matches!(self, Question::Unblock { .. } | Question::UnblockFor { .. })
    }

    pub(super) fn request(&self, commands: &Commands) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |argv: &[&[u8]]| encode::request(&mut out, argv);
        match self {
            Question::Commands => put(&[b"COMMAND"]),
            Question::ConfirmNames => {
                let mut argv: Vec<&[u8]> = vec![b"COMMAND", b"INFO"];
                argv.extend(commands.loading_names().map(str::as_bytes));
                put(&argv);
            }
            Question::Lookup { name, .. } => put(&[b"COMMAND", b"INFO", name]),
            Question::TryDb { db, .. } | Question::BackToDb { db } => {
                put(&[commands.name_of("SELECT"), db.to_string().as_bytes()]);
            }
            Question::Unblock { id, .. } | Question::UnblockFor { id, .. } => {
                let error = matches!(self, Question::UnblockFor { unblock: Unblock { error: true, .. }, .. });
                let reason: &[u8] = if error { b"ERROR" } else { b"TIMEOUT" };
                put(&[commands.name_of("CLIENT"), b"UNBLOCK", id.to_string().as_bytes(), reason]);
            }
            Question::TryMulti => put(&[commands.name_of("MULTI")]),
            Question::LeaveMulti => put(&[commands.name_of("DISCARD")]),
            Question::Fresh(Needed::Greeting) => put(&[b"HELLO", b"3"]),
            Question::Fresh(Needed::Limits) => {
                put(&[b"CONFIG", b"GET", BULK_SETTING.as_bytes(), QUERY_SETTING.as_bytes()]);
            }
            Question::MayCall { asked, user } => {
                let words = commands.table().map(|table| table.least_request(asked.id)).unwrap_or_default();
                let mut argv: Vec<&[u8]> = vec![b"ACL", b"DRYRUN", user];
                argv.extend(words.iter().map(AsRef::<[u8]>::as_ref));
                put(&argv);
            }
            Question::Probe(right) | Question::MayUse(right) => match right {
                OwnRight::Echo => put(&[b"ECHO", b"broker"]),
                OwnRight::Dbsize => put(&[b"DBSIZE"]),
                // Of nobody: no connection has this number.
                OwnRight::Unblock => put(&[commands.name_of("CLIENT"), b"UNBLOCK", b"0"]),
                _ => put(&[b"PING"]),
            },
        }
        out
    }
}

/// What has become of a question.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'a> {
    /// The connection was lost before the answer, or the answer is of an upstream that has been replaced.
    Nothing,
    /// A script keeps the upstream from answering: this says nothing about the question.
    Busy(&'a [u8]),
    Refused(&'a [u8]),
    Reply(&'a [u8]),
}

impl<'a> Said<'a> {
    pub(super) fn of(frame: Option<&'a [u8]>) -> Self {
        match frame.map(|frame| (frame, reply::error_code(frame))) {
            None => Said::Nothing,
            Some((frame, Some(b"BUSY"))) => Said::Busy(frame),
            Some((frame, Some(_))) => Said::Refused(frame),
            Some((frame, None)) => Said::Reply(frame),
        }
    }

    pub(crate) fn frame(self) -> Option<&'a [u8]> {
        if let Said::Reply(frame) = self { Some(frame) } else { self.refusal() }
    }

    pub(crate) fn refusal(self) -> Option<&'a [u8]> {
        if let Said::Busy(frame) | Said::Refused(frame) = self { Some(frame) } else { None }
    }
}

/// Of which answers children need one that is younger than their request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Needed {
    /// HELLO: who is it now?
    Greeting,
    /// CONFIG GET: how long may an argument be?
    Limits,
}

/// A CLIENT UNBLOCK on its way for a child.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unblock {
    pub(crate) asker: ChildKey,
    pub(crate) target: ChildKey,
    pub(crate) lane: LaneKey,
    /// The target is answered UNBLOCKED, instead of as after its timeout.
    pub(crate) error: bool,
    /// It has been answered once with "not blocked".
    pub(crate) again: bool,
}

/// Whether the broker's own user may MULTI.
#[derive(Debug, Default)]
struct MultiRight {
    refusal: Option<Vec<u8>>,
    /// When it was last refused, or could not be asked for.
    refused_at: Millis,
    /// Children whose MULTI waits for the answer.
    waiting: Vec<ChildKey>,
    open: bool,
    /// The user may MULTI but not DISCARD: it is never tried again.
    no_discard: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Control {
    lane: LaneKey,
    questions: VecDeque<Question>,
    /// Questions ever asked.
    asked: u64,
    /// The upstream has been replaced: nothing new is asked here, and the last answer closes the connection.
    leaving: bool,
    greeting: Option<Greeting>,
    limits: UpstreamLimits,
    /// Of what `Needed` lists.
    fresh: [Fresh; 2],
    valid_dbs: HashSet<u32>,
    multi: MultiRight,
    own_rights: OwnRights,
    /// The number of the present connection's greeting among the questions.
    hello: u64,
    up: bool,
    /// When the connection was lost, and since when nothing had been heard then.
    down_since: Millis,
    silent_since: Millis,
}

impl Control {
    pub(crate) fn open(&mut self, lane: LaneKey) {
        self.lane = lane;
    }

    #[inline]
    pub(crate) fn lane(&self) -> LaneKey {
        self.lane
    }

    /// The connection is being greeted: what the upstream says of itself is as old as this question.
    pub(crate) fn greets(&mut self) {
        self.asked += 1;
        self.hello = self.asked;
    }

    /// A new incarnation of the upstream may be behind the connection: everything is asked again.
    pub(crate) fn connected(&mut self, greeting: Greeting, own_db: u32) {
        self.greeting = Some(greeting);
        self.fresh[Needed::Greeting as usize].came(self.hello);
        self.up = true;
        self.own_rights.ask_anew();
        self.valid_dbs = HashSet::from([0, own_db]);
    }

    /// The connection is lost. Each question that it had not answered is told so on its own. The upstream was silent from
    /// `silent_since` on.
    pub(crate) fn lost(&mut self, now: Millis, silent_since: Millis) {
        if std::mem::take(&mut self.up) {
            (self.down_since, self.silent_since) = (now, silent_since);
        }
        self.leaving = false;
    }

    /// For people: one that hangs is away for as long as it has said nothing, not from the closing of its connections on.
    pub(crate) fn away_since(&self) -> Option<Millis> {
        (!self.up).then_some(self.silent_since)
    }

    pub(crate) fn down_since(&self) -> Option<Millis> {
        (!self.up).then_some(self.down_since)
    }

    /// The upstream has been replaced: the connection stays for what was asked on it.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Nothing that was learnt holds for another upstream.
    pub(crate) fn forget_upstream(&mut self) {
        self.valid_dbs.clear();
        (self.multi.refusal, self.multi.no_discard) = (None, false);
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    pub(super) fn sent(&mut self, question: Question) {
        self.asked += 1;
        self.questions.push_back(question);
    }

    /// The oldest question and what became of it. An upstream that was replaced is heard about its own leases alone.
    pub(super) fn answered<'a>(&mut self, frame: Option<&'a [u8]>) -> Option<(Question, Said<'a>)> {
        debug_assert!(!self.questions.is_empty(), "an answer to no question");
        let question = self.questions.pop_front()?;
        let said = Said::of(frame.filter(|_| !self.leaving || question.is_about_leases()));
        Some((question, said))
    }

    pub(super) fn fresh(&mut self, needed: Needed) -> &mut Fresh {
        &mut self.fresh[needed as usize]
    }

    /// Whether it is being asked.
    pub(crate) fn is_asked(&self, needed: Needed) -> bool {
        self.fresh[needed as usize].is_under_way()
    }

    pub(crate) fn db_is_valid(&self, db: u32) -> bool {
        self.valid_dbs.contains(&db)
    }

    pub(super) fn db_exists(&mut self, db: u32) {
        self.valid_dbs.insert(db);
    }

    pub(crate) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    pub(crate) fn is_valkey(&self) -> bool {
        self.greeting.as_ref().and_then(|greeting| greeting.text("server")).as_deref() == Some("valkey")
    }

    pub(super) fn set_greeting(&mut self, greeting: Greeting) {
        self.greeting = Some(greeting);
    }

    pub(crate) fn limits(&self) -> &UpstreamLimits {
        &self.limits
    }

    pub(super) fn limits_mut(&mut self) -> &mut UpstreamLimits {
        &mut self.limits
    }

    pub(super) fn set_limits(&mut self, frame: &[u8]) {
        self.limits.take(frame);
    }

    pub(crate) fn own_rights(&self) -> &OwnRights {
        &self.own_rights
    }

    pub(super) fn own_rights_mut(&mut self) -> &mut OwnRights {
        &mut self.own_rights
    }

    pub(crate) fn may_unblock(&self) -> bool {
        !self.own_rights.lacks(OwnRight::Unblock)
    }

    /// Why our user may not MULTI, in the upstream's words.
    pub(crate) fn multi_refusal(&self) -> Option<&[u8]> {
        self.multi.refusal.as_deref()
    }

    /// Rights come back without notice: a refusal holds for a moment only.
    pub(crate) fn multi_is_stale(&self, now: Millis) -> bool {
        self.multi.refusal.is_some() && self.multi.refused_at + limits::RIGHTS_FRESH <= now
    }

    /// It was refused on a connection of children.
    pub(crate) fn refuse_multi(&mut self, frame: &[u8], now: Millis) {
        (self.multi.refusal, self.multi.refused_at) = (Some(frame.to_vec()), now);
    }

    pub(crate) fn forget_multi_refusal(&mut self) {
        self.multi.refusal = None;
    }

    /// A child's MULTI waits until it is known. True if that has to be asked.
    pub(crate) fn wait_for_multi(&mut self, child: ChildKey) -> bool {
        self.multi.waiting.push(child);
        self.multi.waiting.len() == 1
    }

    /// Whether to ask for it: a MULTI that cannot be discarded would cost the connection.
    pub(crate) fn may_try_multi(&self) -> bool {
        !self.multi.no_discard
    }

    /// MULTI was answered, or never will be: then what was known holds. In a block, one that is refused would let what
    /// follows it run one by one. Returns who has waited for this.
    pub(super) fn tried_multi(&mut self, frame: Option<&[u8]>, now: Millis) -> Vec<ChildKey> {
        self.multi.open = frame == Some(b"+OK\r\n");
        let refusal = frame.filter(|frame| texts::is_lack(frame));
        if self.multi.open || refusal.is_some() {
            self.multi.refusal = refusal.map(<[u8]>::to_vec);
        }
        self.multi.refused_at = now;
        std::mem::take(&mut self.multi.waiting)
    }

    /// DISCARD was answered, or never will be. True if the connection is inside MULTI for good.
    pub(super) fn is_stuck_in_multi(&mut self, frame: Option<&[u8]>) -> bool {
        let stuck = std::mem::take(&mut self.multi.open) && frame.is_some_and(|frame| frame != b"+OK\r\n");
        self.multi.no_discard |= stuck;
        stuck
    }
}
