//! The control connection: the broker's own questions to the upstream and what their answers change. Holds
//! the upstream's command table, its greeting and what is known to be a valid db. Children's requests come
//! here only for SCRIPT KILL and FUNCTION KILL.

use crate::base::key::Key;
use crate::command::NO_COMMAND;
use crate::command::Policy;
use crate::command::Route;
use crate::command::Table;
use crate::command::Transaction as TransactionCommand;
use crate::command::Verdict;
use crate::config::Settings;
use crate::config::value::Auth;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Answer;
use crate::core::child::hold::Hold;
use crate::core::connection::handshake::Greeting;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::ChildKey;
use crate::core::keys::PoolId;
use crate::core::keys::PoolKey;
use crate::core::keys::UserId;
use crate::core::notice::Notice;
use crate::core::questions::control::Question;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::core::transaction::queue::end_of_multi;
use crate::resp::FrameLimits;
use crate::resp::Request;
use crate::resp::Scan;
use crate::resp::Scanner;
use crate::resp::value;
use std::collections::HashSet;

impl Shared {
    /// Has the child that asked look at its request afresh, with this answer to it.
    pub(in crate::core) fn give_answer(&mut self, child: ChildKey, answer: Option<Answer>) {
        self.env.notices.push_back(Notice::Answer(child, answer));
    }

    /// Makes the control lane and dials it, and the probe where the upstream judges children. They are dialled
    /// again for as long as the broker lives.
    pub(in crate::core) fn open_control(&mut self) {
        let pool = self.control_pool();
        self.control.lane = self.connections.lanes.insert(Lane::new(pool, LaneRole::Control, self.env.now));
        self.want_connection(self.control.lane);
        if self.users.mode == Auth::Passthrough {
            self.open_probe();
        }
    }

    /// Where the control connection belongs: to no child, but to the upstream's own user.
    pub(in crate::core) fn control_pool(&mut self) -> PoolId {
        let db = self.env.upstream.db;
        self.pool_of(PoolKey { user: UserId::UPSTREAM, db, proto: 3, no_touch: false })
    }

    /// The control connection stands: a new incarnation of the upstream may be behind it, so everything
    /// known about it is asked again.
    pub(in crate::core) fn control_ready(&mut self, greeting: Greeting) {
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

    pub(in crate::core) fn ask(&mut self, question: Question) {
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
    pub(in crate::core) fn ask_for_table_again(&mut self) {
        if std::mem::take(&mut self.control.table_due) {
            self.ask(Question::Commands);
        }
    }

    fn lookup_answered(&mut self, child: ChildKey, name: &[u8], frame: Option<&[u8]>) {
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
    pub(in crate::core) fn wait_for_upstream(&mut self, child: &mut Child) -> Flow {
        let latest = self.env.now + self.env.settings.queue_timeout;
        let until = *child.upstream_until.get_or_insert(latest);
        self.env.timers.arm(until, Timer::Child(child.key));
        Flow::Hold(Hold::Upstream)
    }

    pub(in crate::core) fn upstream_wait_over(&mut self, child: &mut Child) {
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
    pub(in crate::core) fn front_begins_multi(&self, child: &Child) -> bool {
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
    pub(in crate::core) fn control_lost(&mut self) {
        self.control.down_since.get_or_insert(self.env.now);
        self.control.probing_since = None;
        self.forget_work();
        self.control.loading = None;
        self.control.confirmed = false;
        self.control.table_due = false;
        self.control.leaving = false;
    }

    /// Whether the control connection carries questions right now.
    pub(in crate::core) fn control_is_ready(&self) -> bool {
        !self.control.leaving
            && self
                .connections
                .lanes
                .get(self.control.lane)
                .is_some_and(|lane| lane.state == LaneState::Ready)
    }

    /// The answer to the oldest question; `None` when the connection was lost before it came.
    pub(in crate::core) fn question_answered(&mut self, frame: Option<&[u8]>) {
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
    pub(in crate::core) fn leave_if_answered(&mut self) {
        let idle = self.connections.lanes.get(self.control.lane).is_some_and(Lane::is_idle);
        if self.control.leaving && idle {
            self.replace_control();
        }
    }
}

impl Broker {
    /// Whoever waits for a living upstream looks again.
    pub(in crate::core) fn wake_upstream_waiters(&mut self) {
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
pub(in crate::core) fn refusal_text(frame: &[u8]) -> Option<String> {
    let error = frame.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(error).trim_end().to_owned())
}

/// What the settings say about commands.
pub(in crate::core) fn policy_of(settings: &Settings) -> Policy {
    Policy::new(&settings.commands_allow, &settings.commands_deny, &settings.commands_lease)
}
