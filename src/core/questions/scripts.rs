//! Scripts and `commands_deny`: what a child is refused it must not do by EVAL or FCALL either, since a script calls
//! whatever the upstream lets its user call. Never looks into a script.

use crate::command::{CommandId, Route, Runs, texts};
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::questions::control::{Question, Said};
use crate::core::questions::rights::{KnownRights, MayCall, Scope};
use crate::core::request::flow::{Decided, Flow};
use crate::core::shared::Shared;
use memchr::memmem;

/// How ACL DRYRUN says that a user lacks a command. It says something else of a key or a channel.
const LACKS: &[u8] = b"has no permissions to run the";

impl Shared {
    /// Whether a request goes on that may run a script. `None`: it does.
    #[inline(always)]
    pub(crate) fn admit_script(&mut self, child: &mut Child, decided: &Decided<'_>) -> Option<Flow> {
        if self.is_script(decided.id) { self.judge_script(child, decided) } else { None }
    }

    fn judge_script(&mut self, child: &mut Child, decided: &Decided<'_>) -> Option<Flow> {
        let (scope, denied) = self.judged_script(child, decided.id)?;
        if decided.route == Route::Refused {
            return None;
        }
        let ready = self.control_is_ready();
        match self.script_rights.look_up(scope, child.key(), self.env.now) {
            KnownRights::Callable(callable) => {
                let callable = callable?;
                let text =
                    texts::script_refused(self.commands.name(decided.id), self.commands.name(callable));
                Some(self.turn_away(child, decided, &text))
            }
            KnownRights::Asked => Some(Flow::Hold(Hold::Question)),
            KnownRights::Unknown if !ready => Some(self.wait_for_upstream(child)),
            KnownRights::Unknown => {
                let user = self.users.name(scope.user, &self.env.upstream).to_vec();
                for asked in self.script_rights.ask(scope, child.key(), &denied, self.env.now) {
                    self.ask(Question::MayCall { asked, user: user.clone() });
                }
                Some(Flow::Hold(Hold::Question))
            }
        }
    }

    /// The refused commands that a child's script could call by the table, if it runs one that is not trusted.
    pub(crate) fn judged_script(&self, child: &Child, id: CommandId) -> Option<(Scope, Vec<CommandId>)> {
        let table = self.commands.table()?;
        let runs = table.runs(id);
        if runs == Runs::Nothing || self.env.settings.scripts_trusted {
            return None;
        }
        let own = child.account().map_or(Some(&[][..]), |account| self.users.denied_to_scripts(account))?;
        let reads = runs == Runs::Reads;
        let callable = |id: &CommandId| !reads || table.is_callable_read_only(*id);
        let denied: Vec<CommandId> =
            table.denied_to_scripts().iter().chain(own).copied().filter(callable).collect();
        let scope = Scope { user: child.user(), account: child.account(), reads };
        (!denied.is_empty()).then_some((scope, denied))
    }

    /// The upstream has answered, or its connection was lost. Only `LACKS` means that a script cannot call the
    /// command: a user without the right to ACL DRYRUN is answered something else.
    pub(super) fn may_call_answered(&mut self, asked: &MayCall, said: Said<'_>) {
        let waiting = match said {
            // BUSY says nothing of rights, and is the answer to each child that asks.
            Said::Nothing | Said::Busy(_) => self.script_rights.give_up(asked),
            Said::Refused(_) => self.script_rights.told(asked, true, self.env.now),
            Said::Reply(frame) => {
                let lacks = frame.first() == Some(&b'$') && memmem::find(frame, LACKS).is_some();
                self.script_rights.told(asked, !lacks, self.env.now)
            }
        };
        let told = if let Said::Busy(_) = said { said } else { Said::Nothing };
        for child in waiting {
            self.give_refusal(child, told);
        }
    }

    /// Other commands are refused, or their numbers have changed.
    pub(crate) fn forget_script_rights(&mut self) {
        for child in self.script_rights.forget() {
            self.give_answer(child, None);
        }
    }
}
