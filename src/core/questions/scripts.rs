//! Scripts and `commands_deny`: what a child is refused it must not do by EVAL or FCALL either, since a script calls
//! whatever the upstream lets its user call. Owns what the upstream has said about the rights of users to refused
//! commands; never looks into a script.

use crate::base::limits;
use crate::command::CommandId;
use crate::command::Route;
use crate::command::Runs;
use crate::command::Table;
use crate::command::texts;
use crate::core::child::Child;
use crate::core::child::hold::Answer;
use crate::core::child::hold::Hold;
use crate::core::keys::ChildKey;
use crate::core::questions::control::Question;
use crate::core::questions::known::MayCall;
use crate::core::questions::known::Rights;
use crate::core::questions::known::Scope;
use crate::core::request::flow::Decided;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::Request;

/// How ACL DRYRUN says that a user lacks a command. It says something else of a key or a channel.
pub(in crate::core) const LACKS: &str = "has no permissions to run the";

impl Shared {
    /// Whether a request that runs a script goes on. `None`: it does.
    pub(in crate::core) fn admit_script(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        decided: &Decided,
    ) -> Option<Flow> {
        let (scope, denied) = self.judged_script(child, decided.id)?;
        if decided.route == Route::Refused {
            return None;
        }
        let ready = self.control_is_ready();
        match self.control.scripts.by_scope.get_mut(&scope) {
            Some(Rights::Told { at, callable }) if *at + limits::RIGHTS_FRESH > self.env.now => {
                let callable = (*callable)?;
                let table = self.control.table.as_ref()?;
                let text = texts::script_refused(table.name(decided.id), table.name(callable));
                Some(self.turn_away(child, request, decided.route, &text))
            }
            Some(Rights::Asked { waiting, .. }) => {
                waiting.push(child.key);
                Some(Flow::Hold(Hold::Answer))
            }
            _ if !ready => Some(self.wait_for_upstream(child)),
            _ => {
                self.ask_rights(child, scope, &denied);
                Some(Flow::Hold(Hold::Answer))
            }
        }
    }

    /// The refused commands that a child's script could call by the flags of the table, if the command runs scripts
    /// and they are not trusted.
    pub(in crate::core) fn judged_script(
        &self,
        child: &Child,
        id: CommandId,
    ) -> Option<(Scope, Vec<CommandId>)> {
        let table = self.control.table.as_ref()?;
        let runs = table.runs(id);
        if runs == Runs::Nothing || self.env.settings.scripts_trusted {
            return None;
        }
        let own = child.account.map_or(&[][..], |account| self.users.denied_to_scripts(account));
        if child.account.is_some_and(|account| self.users.trusts_scripts(account)) {
            return None;
        }
        let reads = runs == Runs::Reads;
        let callable = |id: &CommandId| !reads || table.is_callable_read_only(*id);
        let denied: Vec<CommandId> =
            table.denied_to_scripts().iter().chain(own).copied().filter(callable).collect();
        let scope = Scope { user: child.user, account: child.account, reads };
        (!denied.is_empty()).then_some((scope, denied))
    }

    /// Asks about all at once: one by one they could outlast what is known about the first.
    fn ask_rights(&mut self, child: &mut Child, scope: Scope, denied: &[CommandId]) {
        let now = self.env.now;
        self.control.scripts.by_scope.retain(
            |_, rights| !matches!(rights, Rights::Told { at, .. } if *at + limits::RIGHTS_FRESH <= now),
        );
        self.control.scripts.number += 1;
        let number = self.control.scripts.number;
        self.control
            .scripts
            .by_scope
            .insert(scope, Rights::Asked { number, waiting: vec![child.key], callable: None });
        for (index, id) in denied.iter().enumerate() {
            let last = index + 1 == denied.len();
            self.ask(Question::MayCall(MayCall { scope, number, id: *id, last }));
        }
    }

    /// ACL DRYRUN of the question's command, as the user of its scope.
    pub(in crate::core) fn dry_run(&self, asked: &MayCall) -> redis::Cmd {
        let mut command = redis::cmd("ACL");
        command.arg("DRYRUN").arg(self.users.name(asked.scope.user, &self.env.upstream));
        let words = self.control.table.as_ref().map(|table: &Table| table.least_request(asked.id));
        for word in words.unwrap_or_default() {
            command.arg(word);
        }
        command
    }

    /// The upstream has answered, or its connection was lost. Only the one answer means that a script cannot call the
    /// command: a user that may not ask is told nothing.
    pub(in crate::core) fn may_call_answered(&mut self, asked: &MayCall, frame: Option<&[u8]>) {
        let now = self.env.now;
        let Some(rights) = self.control.scripts.by_scope.get_mut(&asked.scope) else { return };
        let Rights::Asked { number, waiting, callable } = rights else { return };
        if *number != asked.number {
            return;
        }
        let Some(frame) = frame else {
            let waiting = std::mem::take(waiting);
            self.control.scripts.by_scope.remove(&asked.scope);
            return self.scripts_answered(waiting);
        };
        if frame.starts_with(b"-BUSY") {
            // It says nothing of rights, and is the answer to whoever asks.
            let waiting = std::mem::take(waiting);
            self.control.scripts.by_scope.remove(&asked.scope);
            for child in waiting {
                self.give_answer(child, Some(Answer::Frame(frame.to_vec())));
            }
            return;
        }
        let text = String::from_utf8_lossy(frame);
        if !text.starts_with('$') || !text.contains(LACKS) {
            callable.get_or_insert(asked.id);
        }
        if asked.last {
            let waiting = std::mem::take(waiting);
            *rights = Rights::Told { at: now, callable: *callable };
            self.scripts_answered(waiting);
        }
    }

    fn scripts_answered(&mut self, waiting: Vec<ChildKey>) {
        for child in waiting {
            self.give_answer(child, None);
        }
    }

    /// Other commands are refused, or their numbers have changed.
    pub(in crate::core) fn forget_script_rights(&mut self) {
        let known = std::mem::take(&mut self.control.scripts.by_scope);
        for rights in known.into_values() {
            if let Rights::Asked { waiting, .. } = rights {
                self.scripts_answered(waiting);
            }
        }
    }
}
