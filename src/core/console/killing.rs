//! `BROKER KILL`: closes one child, or every child of a process, as far as the asker's turn allows. Whoever may use the verbs
//! of the console may close anybody's.

use crate::base::limits;
use crate::command::texts;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::front::Killing;
use crate::core::keys::ChildKey;
use crate::core::request::flow::Flow;

impl Broker {
    pub(super) fn kill_child(&mut self, key: ChildKey, id: u64) -> Flow {
        let named = i64::try_from(id).ok().and_then(|id| self.children.by_id(id));
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        let (is_own, label) = (named == Some(key), child.label());
        let Some(named) = named else { return self.shared.reject(child, texts::NO_SUCH_CLIENT) };
        let flow = self.shared.answer_ok(child);
        if is_own {
            self.shared.finish_at_request(child);
        } else if let Some(other) = self.children.get_mut(named).filter(|other| !other.is_closed()) {
            CloseReason::Killed { by: &label }.log(other);
            self.shared.close(other);
        }
        flow
    }

    /// Answers with how many there were; its own child, which ends last, among them.
    pub(super) fn kill_process(&mut self, key: ChildKey, pid: i32) -> Flow {
        let Some(killer) = self.children.known_mut(key) else { return Flow::Gone };
        let (mut credit, label) = (killer.credit(), killer.label());
        let mut killing = killer.front_mut().killing_mut().take().unwrap_or_default();
        let done = self.kill_some_of(pid, key, &label, &mut killing, &mut credit);
        let Some(killer) = self.children.known_mut(key) else { return Flow::Gone };
        killer.spend((killer.credit() - credit).max(0) as usize);
        if !done {
            *killer.front_mut().killing_mut() = Some(killing);
            return Flow::More;
        }
        self.shared.answer(killer, format!(":{}\r\n", killing.killed).as_bytes());
        if killing.own {
            self.shared.finish_at_request(killer);
        }
        Flow::Done
    }

    /// Looks at children until all have been looked at, which it returns, or `credit` is used up.
    fn kill_some_of(
        &mut self,
        pid: i32,
        own: ChildKey,
        label: &str,
        killing: &mut Killing,
        credit: &mut i64,
    ) -> bool {
        while let Some((next, other)) = self.children.from(killing.next) {
            if *credit <= 0 {
                return false;
            }
            killing.next = next;
            *credit -= limits::LOOK_COST as i64;
            if !self.children.get(other).is_some_and(|child| self.is_of_process(child, pid)) {
                continue;
            }
            killing.killed += 1;
            killing.own |= other == own;
            *credit -= limits::REQUEST_COST_MIN;
            if let Some(child) = self.children.get_mut(other).filter(|_| other != own) {
                CloseReason::Killed { by: label }.log(child);
                self.shared.close(child);
            }
        }
        true
    }

    /// Whether the child is counted for the process, as in `BROKER SHOW PROCESSES`.
    fn is_of_process(&self, child: &Child, pid: i32) -> bool {
        let process = self.shared.processes.get(child.origin().process());
        !child.is_closed() && process.is_some_and(|process| process.who().pid == pid)
    }
}
