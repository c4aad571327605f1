//! The control connection at work: what is asked on it when, and what each answer changes. Children wait here for an
//! upstream that answers. Children's requests go on the connection only for SCRIPT KILL and FUNCTION KILL.

use crate::command::texts::Wording;
use crate::command::{Policy, Renumbering, Route, Transaction as TransactionCommand, Verdict, texts};
use crate::config::Settings;
use crate::config::value::Integrity;
use crate::core::child::Child;
use crate::core::child::hold::{Answer, Hold};
use crate::core::connection::handshake::Greeting;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::RoleData;
use crate::core::connection::slot::{Slot, SlotKind};
use crate::core::keys::{ChildKey, PoolId, PoolKey, UserId};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::questions::commands::Loaded;
use crate::core::questions::control::{Needed, Question, Said};
use crate::core::questions::own_rights::OwnRight;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;
use crate::core::transaction::state::end_of_multi;
use crate::resp::{FrameLimits, Request, Scan, Scanner, reply};

impl Shared {
    /// The child that asked looks at its request afresh, with this answer.
    pub(crate) fn give_answer(&mut self, child: ChildKey, answer: Option<Answer>) {
        self.env.notify(Notice::Child(child, ChildNotice::Answer(answer)));
    }

    /// As `give_answer`, where the child goes on unless the upstream has refused.
    pub(super) fn give_refusal(&mut self, child: ChildKey, said: Said<'_>) {
        self.give_answer(child, said.refusal().map(|frame| Answer::Frame(frame.to_vec())));
    }

    /// Dials the control lane, and the probe where the upstream judges children, for as long as the broker lives.
    pub(crate) fn open_control(&mut self) {
        let pool = self.control_pool();
        let lane = self.connections.add(Lane::new(pool, RoleData::Control, self.env.now));
        self.control.open(lane);
        self.connections.want(&mut self.env, lane);
        if self.users.are_upstreams() {
            self.open_probe();
        }
    }

    /// Where the control connection belongs: to no child, but to the upstream's own user.
    pub(crate) fn control_pool(&mut self) -> PoolId {
        let db = self.env.upstream.db;
        self.connections.pool_of(PoolKey {
            user: UserId::UPSTREAM,
            db,
            proto: 3,
            no_touch: false,
            replica: 0,
        })
    }

    /// A new incarnation of the upstream may be behind the connection: everything known about it is asked again.
    pub(crate) fn control_ready(&mut self, greeting: Greeting) {
        self.control.connected(greeting, self.env.upstream.db);
        if self.control.may_try_multi() {
            self.try_multi();
        }
        self.ask_fresh(Needed::Limits);
        for right in OwnRight::ASKED {
            self.ask(Question::MayUse(right));
        }
        self.ask(Question::Commands);
    }

    /// Asks about a right again that has been refused where it was used.
    pub(crate) fn doubt_right(&mut self, right: OwnRight) {
        if self.control_is_ready() {
            self.ask(Question::MayUse(right));
        }
    }

    fn may_use_answered(&mut self, right: OwnRight, said: Said<'_>) {
        if let Said::Reply(frame) | Said::Refused(frame) = said {
            self.control.own_rights_mut().set(right, texts::is_lack(frame));
            self.connections.set_canary(self.control.own_rights().canary());
            self.refuse_without_canaries();
        }
    }

    /// What the settings promise of replies cannot be had: the upstream is not used.
    pub(crate) fn refuse_without_canaries(&mut self) {
        let integrity = self.env.settings.integrity;
        if integrity != Integrity::Off && self.control.own_rights().lacks_canaries() {
            // No request is judged, so none is sent.
            self.commands.forget();
            self.control_barred("its user lacks ECHO and PING, one of which integrity needs");
        }
    }

    pub(crate) fn try_multi(&mut self) {
        self.ask(Question::TryMulti);
        self.ask(Question::LeaveMulti);
    }

    pub(crate) fn ask(&mut self, question: Question) {
        let request = question.request(&self.commands);
        self.control.sent(question);
        let lane = self.control.lane();
        self.connections.send(&mut self.env, lane, &request, Slot::own(SlotKind::Question));
    }

    /// The request at hand can only be answered by a living upstream.
    pub(crate) fn wait_for_upstream(&mut self, child: &mut Child) -> Flow {
        let latest = self.env.now + self.env.settings.queue_timeout;
        let until = child.front_mut().wait_until(self.env.now, latest);
        self.env.timers.arm(until, Timer::Child(child.key()));
        Flow::Hold(Hold::Upstream)
    }

    pub(crate) fn upstream_wait_over(&mut self, child: &mut Child) {
        if child.session().transaction.is_open()
            && self.of_front(child, |request| end_of_multi(request).is_some())
        {
            // Its child takes the MULTI for ended after any error.
            self.leave_multi(child);
        }
        let down = self.down_for(child);
        self.fail_front(child, down);
    }

    pub(crate) fn front_begins_multi(&self, child: &Child) -> bool {
        let multi = Route::Transaction(TransactionCommand::Multi);
        let is_multi = |request: &Request<'_>| match self.commands.table() {
            Some(table) => {
                matches!(table.classify(request), Verdict::Known(known) if known.route == multi && known.arity_ok)
            }
            None => request.argc() == 1 && request.arg(0).eq_ignore_ascii_case(b"multi"),
        };
        // Redis opens none for a RESP2 subscriber.
        let may_open = child.session().proto == 3 || !child.is_subscribed();
        may_open && !child.session().transaction.is_open() && self.of_front(child, is_multi)
    }

    /// Asks something of the request at the front, which is on hold. False if there is none.
    fn of_front(&self, child: &Child, ask: impl FnOnce(&Request<'_>) -> bool) -> bool {
        let frame_limits = FrameLimits { request_max: usize::MAX, authenticated: true };
        let (mut scanner, mut input) = (Scanner::default(), child.inbox().as_slice());
        while let Scan::Empty { len } = scanner.scan(input, &frame_limits) {
            input = &input[len..];
            scanner.reset();
        }
        matches!(scanner.scan(input, &frame_limits), Scan::Frame { .. }) && ask(&scanner.request(input))
    }

    pub(crate) fn control_lost(&mut self) {
        let now = self.env.now;
        self.control.lost(now, self.work.silent_since().unwrap_or(now));
        self.work.lost();
        self.commands.connection_lost();
    }

    pub(crate) fn control_is_ready(&self) -> bool {
        !self.control.is_leaving() && self.connections.known(self.control.lane()).is_some_and(Lane::is_ready)
    }

    /// The answer to the oldest question; `None` when the connection was lost before it came.
    pub(crate) fn question_answered(&mut self, frame: Option<&[u8]>) {
        let Some((question, said)) = self.control.answered(frame) else { return };
        match question {
            Question::Commands => self.commands_answered(said),
            Question::ConfirmNames => self.names_confirmed(said),
            Question::Lookup { child, name } => match said {
                Said::Reply(frame) if !self.commands.learn(&name, frame) => {
                    self.give_answer(child, Some(Answer::UnknownCommand));
                }
                _ => self.give_refusal(child, said),
            },
            Question::TryDb { child, db } => {
                if let Said::Reply(_) = said {
                    self.control.db_exists(db);
                    self.ask(Question::BackToDb { db: self.env.upstream.db });
                }
                self.give_refusal(child, said);
            }
            Question::BackToDb { .. } => {
                if let Some(frame) = said.frame().filter(|frame| *frame != b"+OK\r\n") {
                    self.control_refused(&answered_with("SELECT", frame));
                }
            }
            Question::Unblock { lane, .. } => {
                if let Some(text) = said.refusal().and_then(reply::error_text) {
                    log::warn!("no lease can be taken back, CLIENT UNBLOCK was refused: {text}");
                    self.control.own_rights_mut().set(OwnRight::Unblock, true);
                }
                self.unblock_answered(lane, said.frame());
            }
            Question::UnblockFor { unblock, .. } => self.unblock_for_answered(unblock, said.frame()),
            Question::TryMulti => {
                for child in self.control.tried_multi(said.frame(), self.env.now) {
                    self.give_answer(child, None);
                }
            }
            Question::LeaveMulti => {
                if self.control.is_stuck_in_multi(said.frame()) {
                    let frame = said.frame().unwrap_or_default();
                    self.control_refused(&answered_with("DISCARD", frame));
                }
            }
            Question::Fresh(Needed::Greeting) => self.greeting_answered(said),
            Question::Fresh(Needed::Limits) => self.upstream_limits_answered(said),
            Question::Probe(right) => self.probe_answered_with(right, said),
            Question::MayUse(right) => self.may_use_answered(right, said),
            Question::MayCall { asked, .. } => self.may_call_answered(&asked, said),
        }
    }

    fn commands_answered(&mut self, said: Said<'_>) {
        match said {
            Said::Nothing => {}
            Said::Busy(_) => self.table_is_put_off(said),
            Said::Refused(frame) if texts::is_lack(frame) => self.assume_commands(),
            Said::Refused(frame) => self.control_refused(&answered_with("COMMAND", frame)),
            Said::Reply(frame) => {
                self.commands.load(frame, policy_of(&self.env.settings));
                self.env.sweeps.begin(Sweep::CommandTable);
            }
        }
    }

    /// The user has no right to COMMAND: a table is built in for each of some releases.
    fn assume_commands(&mut self) {
        self.control.own_rights_mut().set(OwnRight::Command, true);
        let text = |field: &str| self.control.greeting().and_then(|greeting| greeting.text(field));
        let (server, version) = (text("server").unwrap_or_default(), text("version").unwrap_or_default());
        match self.commands.assume(&server, &version, policy_of(&self.env.settings)) {
            Ok(()) => self.env.sweeps.begin(Sweep::CommandTable),
            Err(why) => self.control_refused(&why),
        }
    }

    fn names_confirmed(&mut self, said: Said<'_>) {
        let confirmed = match said {
            Said::Nothing => return self.commands.stop_loading(),
            Said::Busy(_) => {
                self.commands.stop_loading();
                return self.table_is_put_off(said);
            }
            Said::Refused(frame) if texts::is_lack(frame) => {
                self.control.own_rights_mut().set(OwnRight::CommandInfo, true);
                self.commands.confirm_none();
                Ok(())
            }
            Said::Refused(frame) => Err(answered_with("COMMAND INFO", frame)),
            Said::Reply(frame) => self.commands.confirm(frame),
        };
        match confirmed {
            Ok(()) => self.env.sweeps.begin(Sweep::CommandTable),
            Err(why) => self.control_refused(&why),
        }
    }

    /// Takes one more command of an answer about all of them. False if that is all for now.
    pub(crate) fn load_next_command(&mut self) -> bool {
        match self.commands.load_next() {
            None => false,
            Some(Ok(Loaded::Part)) => true,
            Some(Ok(Loaded::Commands)) => {
                self.ask(Question::ConfirmNames);
                false
            }
            Some(Ok(Loaded::Table(renumbering))) => {
                self.table_changed(renumbering);
                false
            }
            Some(Err(why)) => {
                self.control_refused(&why);
                false
            }
        }
    }

    fn table_changed(&mut self, renumbering: Renumbering) {
        log::info!("upstream {} is up", self.env.upstream);
        self.tell_missing_rights();
        let is_before_7 = self.commands.wording() == Wording::Before7;
        self.control.limits_mut().set_before_7(is_before_7);
        self.forget_refusal_of_control();
        self.env.notify(Notice::TableChanged(renumbering));
        if let Some(table) = self.commands.table() {
            self.users.table_changed(table);
        }
        self.forget_script_rights();
        self.env.sweeps.begin(Sweep::UpstreamAnswers);
    }

    /// Once for each change: a user is given its rights once.
    fn tell_missing_rights(&mut self) {
        let (upstream, release) = (&self.env.upstream, self.commands.release());
        let Some(missing) = self.control.own_rights_mut().news() else { return };
        let assumed = release
            .map_or_else(String::new, |release| format!("; its commands are taken for those of {release}"));
        if missing.is_empty() {
            log::info!("upstream {upstream}: the user has all rights that the broker needs");
        } else {
            log::warn!(
                "upstream {upstream}: the user has no right to {missing}; docs/operations.md says what is lost{assumed}"
            );
        }
    }

    /// A script is busy. The connection is kept, since SCRIPT KILL goes on it; a table from before still holds.
    fn table_is_put_off(&mut self, said: Said<'_>) {
        self.commands.put_off(self.env.now);
        if let Some(frame) = said.refusal() {
            let pool = self.control_pool();
            self.note_refusal(pool, &answered_with("COMMAND", frame));
        }
        self.probe_answered(said);
        if self.commands.table().is_some() {
            self.env.sweeps.begin(Sweep::UpstreamAnswers);
        }
    }

    /// The control connection has no table, or another db than its own. The next one is dialled less and less often.
    fn control_refused(&mut self, why: &str) {
        let pool = self.control_pool();
        self.note_refusal(pool, why);
        self.lane_lost(self.control.lane(), why);
    }

    /// The same for a reason that does not pass by itself.
    fn control_barred(&mut self, why: &str) {
        let (lane, pool) = (self.control.lane(), self.control_pool());
        self.note_refusal(pool, why);
        self.bar_others(lane, pool, 0);
        self.lane_lost(lane, why);
    }

    /// An answer has come on a control connection that stays only for those under way.
    pub(crate) fn leave_if_answered(&mut self) {
        let idle = self.connections.find(self.control.lane()).is_some_and(Lane::is_idle);
        if self.control.is_leaving() && idle {
            self.replace_control();
        }
    }

    pub(crate) fn wake_upstream_waiter(&mut self, child: &mut Child) -> bool {
        let waits = child.hold() == Hold::Upstream;
        if waits {
            self.lift(child);
        }
        waits
    }
}

/// What a log or a child is told when a question has not had the answer it needs.
fn answered_with(command: &str, frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame);
    format!("{command} was answered with: {}", text.trim_start_matches('-').trim_end())
}

pub(crate) fn policy_of(settings: &Settings) -> Policy {
    Policy::new(&settings.commands_allow, &settings.commands_deny, &settings.commands_lease)
}
