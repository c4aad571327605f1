//! What users may do that is refused to their scripts here: the upstream's answers while they are fresh, and who waits.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::command::CommandId;
use crate::core::keys::{AccountId, ChildKey, UserId};
use std::collections::HashMap;

/// Whose scripts: the same commands are refused to all of them, and the same user upstream runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) user: UserId,
    pub(crate) account: Option<AccountId>,
    pub(crate) reads: bool,
}

/// One question about one command: whether the user of the scope has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MayCall {
    pub(super) scope: Scope,
    number: u64,
    pub(super) id: CommandId,
    last: bool,
}

/// What is known of a scope.
#[derive(Debug)]
struct Rights {
    /// The number of the question.
    number: u64,
    /// Children that wait for the upstream's last answer.
    waiting: Vec<ChildKey>,
    /// A refused command that its scripts could call, if there is one.
    callable: Option<CommandId>,
    /// When the last answer came.
    told_at: Option<Millis>,
}

impl Rights {
    fn is_fresh(&self, now: Millis) -> bool {
        self.told_at.is_none_or(|at| at + limits::RIGHTS_FRESH > now)
    }
}

/// What may be done with a script.
pub(super) enum KnownRights {
    /// The scripts of the scope could call this refused command, or none.
    Callable(Option<CommandId>),
    /// The child waits for the answer with others.
    Asked,
    /// Nobody has asked lately.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct ScriptRights {
    by_scope: HashMap<Scope, Rights>,
    number: u64,
}

impl ScriptRights {
    /// What is known of the scope; the child waits where that is being asked.
    pub(super) fn look_up(&mut self, scope: Scope, child: ChildKey, now: Millis) -> KnownRights {
        match self.by_scope.get_mut(&scope).filter(|rights| rights.is_fresh(now)) {
            Some(rights) if rights.told_at.is_some() => KnownRights::Callable(rights.callable),
            Some(rights) => {
                rights.waiting.push(child);
                KnownRights::Asked
            }
            None => KnownRights::Unknown,
        }
    }

    /// The questions to ask for a child: about all commands at once, since one by one they could outlast what is known
    /// about the first.
    pub(super) fn ask(
        &mut self,
        scope: Scope,
        child: ChildKey,
        denied: &[CommandId],
        now: Millis,
    ) -> Vec<MayCall> {
        self.by_scope.retain(|_, rights| rights.is_fresh(now));
        self.number += 1;
        let (number, count) = (self.number, denied.len());
        let rights = Rights { number, waiting: vec![child], callable: None, told_at: None };
        self.by_scope.insert(scope, rights);
        let asked =
            |(index, id): (usize, &CommandId)| MayCall { scope, number, id: *id, last: index + 1 == count };
        denied.iter().enumerate().map(asked).collect()
    }

    /// The upstream has answered; returns who waits for nothing more.
    pub(super) fn told(&mut self, asked: &MayCall, may_call: bool, now: Millis) -> Vec<ChildKey> {
        let Some(rights) = self.asked(asked) else { return Vec::new() };
        if may_call {
            rights.callable.get_or_insert(asked.id);
        }
        rights.told_at = asked.last.then_some(now);
        if asked.last { std::mem::take(&mut rights.waiting) } else { Vec::new() }
    }

    /// The question will not be answered; returns who waits for it.
    pub(super) fn give_up(&mut self, asked: &MayCall) -> Vec<ChildKey> {
        let waiting = self.asked(asked).map(|rights| std::mem::take(&mut rights.waiting));
        if waiting.is_some() {
            self.by_scope.remove(&asked.scope);
        }
        waiting.unwrap_or_default()
    }

    /// Other commands are refused, or they have other numbers; returns who waits.
    pub(super) fn forget(&mut self) -> Vec<ChildKey> {
        std::mem::take(&mut self.by_scope).into_values().flat_map(|rights| rights.waiting).collect()
    }

    /// What this question is about, unless it has been given up since.
    fn asked(&mut self, asked: &MayCall) -> Option<&mut Rights> {
        let rights = self.by_scope.get_mut(&asked.scope);
        rights.filter(|rights| rights.number == asked.number && rights.told_at.is_none())
    }
}
