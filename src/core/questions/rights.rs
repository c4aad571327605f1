//! What the upstream has said about users and the commands that are refused to their scripts here. Owns the answers, each
//! for as long as it may be believed, and who waits for one.

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

/// What is known of a scope: a refused command that its scripts could call, if there is one.
#[derive(Debug)]
enum Rights {
    /// The upstream is being asked; these children wait for its last answer.
    Asked {
        number: u64,
        waiting: Vec<ChildKey>,
        callable: Option<CommandId>,
    },
    Told {
        at: Millis,
        callable: Option<CommandId>,
    },
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

/// What the upstream has said about refused commands.
#[derive(Debug, Default)]
pub(crate) struct ScriptRights {
    by_scope: HashMap<Scope, Rights>,
    number: u64,
}

impl ScriptRights {
    /// What is known of the scope; the child waits where that is being asked.
    pub(super) fn look_up(&mut self, scope: Scope, child: ChildKey, now: Millis) -> KnownRights {
        match self.by_scope.get_mut(&scope) {
            Some(Rights::Told { at, callable }) if *at + limits::RIGHTS_FRESH > now => {
                KnownRights::Callable(*callable)
            }
            Some(Rights::Asked { waiting, .. }) => {
                waiting.push(child);
                KnownRights::Asked
            }
            _ => KnownRights::Unknown,
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
        let is_fresh =
            |rights: &Rights| !matches!(rights, Rights::Told { at, .. } if *at + limits::RIGHTS_FRESH <= now);
        self.by_scope.retain(|_, rights| is_fresh(rights));
        self.number += 1;
        let (number, count) = (self.number, denied.len());
        self.by_scope.insert(scope, Rights::Asked { number, waiting: vec![child], callable: None });
        let asked =
            |(index, id): (usize, &CommandId)| MayCall { scope, number, id: *id, last: index + 1 == count };
        denied.iter().enumerate().map(asked).collect()
    }

    /// The upstream has answered; returns who waits for nothing more.
    pub(super) fn told(&mut self, asked: &MayCall, may_call: bool, now: Millis) -> Vec<ChildKey> {
        // The question may have been given up since.
        let Some(rights) = self.by_scope.get_mut(&asked.scope) else { return Vec::new() };
        let Rights::Asked { number, waiting, callable } = rights else { return Vec::new() };
        if *number != asked.number {
            return Vec::new();
        }
        if may_call {
            callable.get_or_insert(asked.id);
        }
        if !asked.last {
            return Vec::new();
        }
        let waiting = std::mem::take(waiting);
        *rights = Rights::Told { at: now, callable: *callable };
        waiting
    }

    /// The question will not be answered; returns who waits for it.
    pub(super) fn give_up(&mut self, asked: &MayCall) -> Vec<ChildKey> {
        match self.by_scope.get(&asked.scope) {
            Some(Rights::Asked { number, .. }) if *number == asked.number => {}
            _ => return Vec::new(),
        }
        self.by_scope.remove(&asked.scope).and_then(Rights::into_waiting).unwrap_or_default()
    }

    /// Other commands are refused, or they have other numbers; returns who waits.
    pub(super) fn forget(&mut self) -> Vec<ChildKey> {
        std::mem::take(&mut self.by_scope).into_values().filter_map(Rights::into_waiting).flatten().collect()
    }
}

impl Rights {
    fn into_waiting(self) -> Option<Vec<ChildKey>> {
        match self {
            Rights::Asked { waiting, .. } => Some(waiting),
            Rights::Told { .. } => None,
        }
    }
}
