//! The control connection: the broker's own questions to the upstream and what their answers change. Holds
//! the upstream's command table, its greeting and what is known to be a valid db. Children's requests come
//! here only for SCRIPT KILL and FUNCTION KILL.

use super::broker::Broker;
use super::child::{Answer, Child, Hold};
use super::dispatch::end_of_multi;
use super::greeting::Greetings;
use super::handshake::Greeting;
use super::lane::{Lane, LaneRole, LaneState, SlotKind};
use super::notice::Notice;
use super::pool::{PoolId, PoolKey};
use super::roster::Unblock;
use super::scripts::{MayCall, ScriptRights};
use super::shared::Shared;
use super::timers::Timer;
use super::upstream_limits::UpstreamLimits;
use super::users::UserId;
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::command::{NO_COMMAND, Policy, Route, Table, Transaction as TransactionCommand, Verdict};
use crate::config::Settings;
use crate::config::value::Auth;
use crate::resp::{FrameLimits, Request, Scan, Scanner, value};
use std::collections::{HashMap, HashSet, VecDeque};

/// Commands that the broker sends in its own name and that a server may have under another one. COMMAND lists a renamed
/// command under its old name alone, so the other one is learnt when a child first uses it, and kept: the next
/// connection needs it.
const SENT: [&str; 4] = ["SELECT", "CLIENT", "MULTI", "DISCARD"];

/// Something asked on the control connection. Answers come in the order of the questions.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// COMMAND: every command the upstream knows.
    Commands,
    /// COMMAND INFO of every name COMMAND listed: which of them are renamed away.
    ConfirmNames,
    /// COMMAND INFO for a name that is not in the table.
    Lookup { child: Key<Child>, name: Vec<u8> },
    /// SELECT n, to learn whether the db exists.
    TryDb { child: Key<Child>, db: u32 },
    /// SELECT of the control connection's own db, after `TryDb`.
    BackToDb,
    /// CLIENT UNBLOCK of a lease that is taken back.
    Unblock { lane: Key<Lane>, id: i64 },
    /// CLIENT UNBLOCK of one child by another.
    UnblockFor { unblock: Unblock, id: i64 },
    /// MULTI, to learn whether our user may: in a block, a MULTI that is refused would let what follows it
    /// run one by one.
    TryMulti,
    /// DISCARD, after `TryMulti`.
    LeaveMulti,
    /// HELLO: who is it now?
    Greeting,
    /// CONFIG GET: how long may an argument be?
    Limits,
    /// ACL DRYRUN: could a script of a child call what is refused to it?
    MayCall(MayCall),
    /// PING: does the upstream live?
    Probe,
}

/// What the control connection is and knows.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) lane: Key<Lane>,
    questions: VecDeque<Question>,
    /// Questions ever asked.
    pub(super) asked: u64,
    pub(super) table: Option<Table>,
    /// Loaded but not yet confirmed.
    loading: Option<Table>,
    /// The table has come on the present connection.
    pub(super) confirmed: bool,
    /// The upstream was too busy to give it: it is asked for again.
    pub(super) table_due: bool,
    pub(super) greetings: Greetings,
    pub(super) limits: UpstreamLimits,
    valid_dbs: HashSet<u32>,
    /// What users may call by scripts, as far as it was asked.
    pub(super) scripts: ScriptRights,
    /// The upstream's answer to MULTI, if it refuses that to our user.
    pub(super) multi_refusal: Option<Vec<u8>>,
    /// The upstream has been replaced: nothing new is asked on this connection, and it is closed when the
    /// last answer has come.
    pub(super) leaving: bool,
    /// Between `TryMulti` and `LeaveMulti`.
    in_multi: bool,
    /// Our user may MULTI but not DISCARD.
    never_try_multi: bool,
    /// Our user may not CLIENT UNBLOCK: no lease is taken back.
    pub(super) unblock_refused: bool,
    /// What the upstream calls the commands that the broker sends in its own name, where that is known to be another
    /// name: `rename-command` may have moved them.
    renamed: HashMap<&'static str, Vec<u8>>,
    pub(super) probing_since: Option<Millis>,
    /// When anything was last heard from the upstream, on any lane.
    pub(super) heard_at: Millis,
    /// Since when there is no working control connection.
    pub(super) down_since: Option<Millis>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            lane: Key::NONE,
            questions: VecDeque::new(),
            asked: 0,
            table: None,
            loading: None,
            confirmed: false,
            table_due: false,
            greetings: Greetings::default(),
            limits: UpstreamLimits::default(),
            valid_dbs: HashSet::new(),
            scripts: ScriptRights::default(),
            multi_refusal: None,
            leaving: false,
            in_multi: false,
            never_try_multi: false,
            unblock_refused: false,
            renamed: HashMap::new(),
            probing_since: None,
            heard_at: 0,
            down_since: Some(0),
        }
    }
}

impl Control {
    pub(super) fn db_is_valid(&self, db: u32) -> bool {
        self.valid_dbs.contains(&db)
    }

    /// Nothing that was learnt holds for another upstream.
    pub(super) fn forget_upstream(&mut self) {
        self.table = None;
        self.loading = None;
        self.valid_dbs.clear();
        self.multi_refusal = None;
        self.never_try_multi = false;
        self.renamed.clear();
    }

    /// By which name to send one of `SENT`.
    pub(super) fn name_of(&self, command: &'static str) -> &[u8] {
        self.renamed.get(command).map_or(command.as_bytes(), Vec::as_slice)
    }

    /// The table has changed.
    fn learn_names(&mut self) {
        for command in SENT {
            match self.table.as_ref().and_then(|table| table.typed(&command.to_ascii_lowercase())) {
                Some(name) if name.eq_ignore_ascii_case(command.as_bytes()) => {
                    drop(self.renamed.remove(command))
                }
                Some(name) => drop(self.renamed.insert(command, name.to_vec())),
                None => {}
            }
        }
    }

    /// Commands are allowed and refused as other settings say, from the next request on.
    pub(super) fn set_policy(&mut self, policy: &Policy) {
        for table in [&mut self.table, &mut self.loading].into_iter().flatten() {
            table.set_policy(policy.clone());
        }
    }
}

impl Shared {
    /// Has the child that asked look at its request afresh, with this answer to it.
    pub(super) fn give_answer(&mut self, child: Key<Child>, answer: Option<Answer>) {
        self.env.notices.push_back(Notice::Answer(child, answer));
    }

    /// Makes the control lane and dials it, and the probe where the upstream judges children. They are dialled
    /// again for as long as the broker lives.
    pub(super) fn open_control(&mut self) {
        let pool = self.control_pool();
        self.control.lane = self.connections.lanes.insert(Lane::new(pool, LaneRole::Control, self.env.now));
        self.want_connection(self.control.lane);
        if self.users.mode == Auth::Passthrough {
            self.open_probe();
        }
    }

    /// Where the control connection belongs: to no child, but to the upstream's own user.
    pub(super) fn control_pool(&mut self) -> PoolId {
        let db = self.env.upstream.db;
        self.pool_of(PoolKey { user: UserId::UPSTREAM, db, proto: 3, no_touch: false })
    }

    /// The control connection stands: a new incarnation of the upstream may be behind it, so everything
    /// known about it is asked again.
    pub(super) fn control_ready(&mut self, greeting: Greeting) {
        self.control.greeted(greeting);
        self.control.down_since = None;
        self.control.probing_since = None;
        self.control.unblock_refused = false;
        self.control.valid_dbs = HashSet::from([0, self.env.upstream.db]);
        if !self.control.never_try_multi {
            self.ask(Question::TryMulti);
            self.ask(Question::LeaveMulti);
        }
        self.ask_upstream_limits();
        self.ask(Question::Commands);
    }

    pub(super) fn ask(&mut self, question: Question) {
        let mut command = redis::Cmd::new();
        match &question {
            Question::MayCall(asked) => {
                command = self.dry_run(asked);
                &mut command
            }
            Question::Commands => command.arg("COMMAND"),
            Question::ConfirmNames => {
                command.arg("COMMAND").arg("INFO");
                let names = self.control.loading.iter().flat_map(Table::names);
                names.fold(&mut command, |command, name| command.arg(name))
            }
            Question::Lookup { name, .. } => command.arg("COMMAND").arg("INFO").arg(name),
            Question::TryDb { db, .. } => command.arg(self.control.name_of("SELECT")).arg(db),
            Question::BackToDb => command.arg(self.control.name_of("SELECT")).arg(self.env.upstream.db),
            Question::Unblock { id, .. } => {
                command.arg(self.control.name_of("CLIENT")).arg("UNBLOCK").arg(id).arg("TIMEOUT")
            }
            Question::UnblockFor { unblock, id } => {
                let reason = if unblock.error { "ERROR" } else { "TIMEOUT" };
                command.arg(self.control.name_of("CLIENT")).arg("UNBLOCK").arg(id).arg(reason)
            }
            Question::TryMulti => command.arg(self.control.name_of("MULTI")),
            Question::LeaveMulti => command.arg(self.control.name_of("DISCARD")),
            Question::Greeting => command.arg("HELLO"),
            Question::Limits => {
                command.arg("CONFIG").arg("GET").arg("proto-max-bulk-len").arg("client-query-buffer-limit")
            }
            Question::Probe => command.arg("PING"),
        };
        let lane = self.control.lane;
        self.control.asked += 1;
        self.control.questions.push_back(question);
        self.send(lane, &command.get_packed_command(), Key::NONE, NO_COMMAND, SlotKind::Question, 0);
    }

    /// The upstream is no longer busy.
    pub(super) fn ask_for_table_again(&mut self) {
        if std::mem::take(&mut self.control.table_due) {
            self.ask(Question::Commands);
        }
    }

    fn lookup_answered(&mut self, child: Key<Child>, name: &[u8], frame: Option<&[u8]>) {
        let Some(frame) = frame else { return self.give_answer(child, None) };
        let known = match (value::parse(frame), &mut self.control.table) {
            (Some(reply), Some(table)) => table.learn(name, &reply),
            _ => false,
        };
        if known {
            self.control.learn_names();
        }
        let refused = (frame.first() == Some(&b'-')).then(|| Answer::Frame(frame.to_vec()));
        let answer = if known { None } else { refused.or(Some(Answer::UnknownCommand)) };
        self.give_answer(child, answer);
    }

    /// The request at hand can only be answered by a living upstream.
    pub(super) fn wait_for_upstream(&mut self, child: &mut Child) -> super::dispatch::Flow {
        let latest = self.env.now + self.env.settings.queue_timeout;
        let until = *child.upstream_until.get_or_insert(latest);
        self.env.timers.arm(until, Timer::Child(child.key));
        super::dispatch::Flow::Hold(Hold::Upstream)
    }

    pub(super) fn upstream_wait_over(&mut self, child: &mut Child) {
        if self.front_ends_multi(child) {
            // Its child takes the MULTI for ended, whatever EXEC was answered.
            self.forget_transaction(child);
        }
        let down = self.down_for(child);
        self.fail_front(child, &down);
    }

    fn front_ends_multi(&self, child: &Child) -> bool {
        let open = child.session.transaction.is_open();
        open && self.of_front(child, |request| end_of_multi(request).is_some())
    }

    /// Whether the request at the front opens a MULTI.
    pub(super) fn front_begins_multi(&self, child: &Child) -> bool {
        let open = child.session.transaction.is_open();
        let is_multi =
            |request: &Request<'_>| match self.control.table.as_ref().map(|table| table.classify(request)) {
                Some(Verdict::Known(known)) => {
                    known.route == Route::Transaction(TransactionCommand::Multi) && known.arity_ok
                }
                Some(_) => false,
                None => request.argc() == 1 && request.arg(0).eq_ignore_ascii_case(b"multi"),
            };
        !open && self.of_front(child, is_multi)
    }

    /// Asks something of the request at the front, which is on hold. False if there is none.
    fn of_front(&self, child: &Child, ask: impl FnOnce(&Request<'_>) -> bool) -> bool {
        let frame_limits = FrameLimits { request_max: usize::MAX, authenticated: true };
        let (mut scanner, mut input) = (Scanner::default(), child.input.as_slice());
        while let Scan::Empty { len } = scanner.scan(input, &frame_limits) {
            input = &input[len..];
            scanner.reset();
        }
        matches!(scanner.scan(input, &frame_limits), Scan::Frame { .. }) && ask(&scanner.request(input))
    }

    /// The control connection is gone; questions it had not answered are settled by `lane_lost`.
    pub(super) fn control_lost(&mut self) {
        self.control.down_since.get_or_insert(self.env.now);
        self.control.probing_since = None;
        self.forget_work();
        self.control.loading = None;
        self.control.confirmed = false;
        self.control.table_due = false;
        self.control.leaving = false;
    }

    /// Whether the control connection carries questions right now.
    pub(super) fn control_is_ready(&self) -> bool {
        !self.control.leaving
            && self
                .connections
                .lanes
                .get(self.control.lane)
                .is_some_and(|lane| lane.state == LaneState::Ready)
    }
}

impl Shared {
    /// The answer to the oldest question; `None` when the connection was lost before it came.
    pub(super) fn question_answered(&mut self, frame: Option<&[u8]>) {
        let Some(question) = self.control.questions.pop_front() else { return };
        // What a former upstream says is of use only about its own leases.
        let unblock = matches!(question, Question::Unblock { .. } | Question::UnblockFor { .. });
        let frame = frame.filter(|_| unblock || !self.control.leaving);
        match question {
            Question::Commands => self.commands_answered(frame),
            Question::ConfirmNames => self.names_confirmed(frame),
            Question::Lookup { child, name } => self.lookup_answered(child, &name, frame),
            Question::TryDb { child, db } => {
                if let Some(frame) = frame {
                    let answer = (frame.first() == Some(&b'-')).then(|| Answer::Frame(frame.to_vec()));
                    if answer.is_none() {
                        self.control.valid_dbs.insert(db);
                        self.ask(Question::BackToDb);
                    }
                    self.give_answer(child, answer);
                } else {
                    self.give_answer(child, None);
                }
            }
            Question::BackToDb => {
                if let Some(frame) = frame.filter(|frame| *frame != b"+OK\r\n") {
                    let text = String::from_utf8_lossy(frame);
                    self.control_refused(&format!(
                        "SELECT was answered with: {}",
                        text.trim_start_matches('-').trim_end()
                    ));
                }
            }
            Question::Unblock { lane, .. } => {
                if let Some(frame) = frame.filter(|frame| frame.first() == Some(&b'-')) {
                    let text = String::from_utf8_lossy(&frame[1..]);
                    log::warn!("no lease can be taken back, CLIENT UNBLOCK was refused: {}", text.trim_end());
                    self.control.unblock_refused = true;
                }
                self.unblock_answered(lane, frame);
            }
            Question::UnblockFor { unblock, .. } => self.unblock_for_answered(unblock, frame),
            Question::TryMulti => {
                let refusal = frame.filter(|frame| frame.starts_with(b"-NOPERM"));
                self.control.multi_refusal = refusal.map(<[u8]>::to_vec);
                self.control.in_multi = frame == Some(b"+OK\r\n");
            }
            Question::LeaveMulti => {
                let left = !std::mem::take(&mut self.control.in_multi) || frame == Some(b"+OK\r\n");
                if let Some(frame) = frame.filter(|_| !left) {
                    self.control.never_try_multi = true;
                    let text = String::from_utf8_lossy(frame);
                    self.control_refused(&format!(
                        "DISCARD was answered with: {}",
                        text.trim_start_matches('-').trim_end()
                    ));
                }
            }
            Question::Greeting => self.greeting_answered(frame),
            Question::Limits => self.upstream_limits_answered(frame),
            Question::Probe => self.probe_answered(frame),
            Question::MayCall(asked) => self.may_call_answered(&asked, frame),
        }
    }

    fn commands_answered(&mut self, frame: Option<&[u8]>) {
        let Some(frame) = frame else { return };
        if frame.starts_with(b"-BUSY") {
            return self.table_is_due(frame);
        }
        if let Some(error) = refusal_text(frame) {
            return self.control_refused(&format!("COMMAND was answered with: {error}"));
        }
        let reply = value::parse(frame).ok_or_else(|| "COMMAND: not a reply".to_owned());
        match reply.and_then(|reply| Table::from_command_reply(&reply, policy_of(&self.env.settings))) {
            Ok(table) => {
                self.control.loading = Some(table);
                self.ask(Question::ConfirmNames);
            }
            Err(why) => self.control_refused(&why),
        }
    }

    fn names_confirmed(&mut self, frame: Option<&[u8]>) {
        let (Some(frame), Some(mut table)) = (frame, self.control.loading.take()) else { return };
        if frame.starts_with(b"-BUSY") {
            return self.table_is_due(frame);
        }
        if let Some(error) = refusal_text(frame) {
            return self.control_refused(&format!("COMMAND INFO was answered with: {error}"));
        }
        let reply = value::parse(frame).ok_or_else(|| "COMMAND INFO: not a reply".to_owned());
        match reply.and_then(|reply| table.confirm(&reply)) {
            Ok(()) => {
                self.control.table = Some(table);
                self.control.confirmed = true;
                self.control.learn_names();
                log::info!("upstream {} is up", self.env.upstream);
                self.forget_refusal_of_control();
                // They were numbered by the former one.
                self.env.notices.push_back(Notice::TableChanged);
                self.table_for_users();
                self.forget_script_rights();
                self.env.notices.push_back(Notice::UpstreamAnswers);
            }
            Err(why) => self.control_refused(&why),
        }
    }

    /// A script is busy. The connection is kept, since it is the one that can end it; a table from before still holds.
    fn table_is_due(&mut self, frame: &[u8]) {
        self.control.table_due = true;
        if let Some(error) = refusal_text(frame) {
            let pool = self.control_pool();
            self.note_refusal(pool, &format!("COMMAND was answered with: {error}"));
        }
        self.probe_answered(Some(frame));
        if self.control.table.is_some() {
            self.env.notices.push_back(Notice::UpstreamAnswers);
        }
    }

    /// The control connection is of no use: without the table, or in another db than its own. It is asked for again on
    /// the next connection, which is dialled less and less often.
    fn control_refused(&mut self, why: &str) {
        let pool = self.control_pool();
        self.note_refusal(pool, why);
        self.lane_lost(self.control.lane, why);
    }

    /// An answer has come on a control connection that stays only for those under way.
    pub(super) fn leave_if_answered(&mut self) {
        let idle = self.connections.lanes.get(self.control.lane).is_some_and(Lane::is_idle);
        if self.control.leaving && idle {
            self.replace_control();
        }
    }
}

impl Broker {
    /// Whoever waits for a living upstream looks again.
    pub(super) fn wake_upstream_waiters(&mut self) {
        for key in self.children.keys() {
            if let Some(child) = self.children.get_mut(key)
                && child.hold == Hold::Upstream
            {
                self.shared.lift(child);
            }
        }
    }
}

/// The text of an error, without its `-`.
fn refusal_text(frame: &[u8]) -> Option<String> {
    let error = frame.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(error).trim_end().to_owned())
}

/// What the settings say about commands.
pub(super) fn policy_of(settings: &Settings) -> Policy {
    Policy::new(&settings.commands_allow, &settings.commands_deny, &settings.commands_lease)
}
