//! A script that does not end. Redis runs nothing else meanwhile, and after a while (`busy-reply-threshold`) answers
//! BUSY to all but a few commands; on the lane that carries the script it answers nothing. So the control connection is
//! asked, and what it says is told to whoever asks from then on. Owns what is known of that; the script is ended by
//! SCRIPT KILL, which goes on the control connection too.

use crate::base::clock::Millis;
use crate::command::CommandId;
use crate::core::connection::handshake::Greeting;
use crate::core::keys::AccountId;
use crate::core::keys::ChildKey;
use crate::core::keys::UserId;
use crate::resp::value;
use redis::Value;
use std::collections::HashMap;

/// What the upstream says while it is busy.
#[derive(Debug)]
pub(in crate::core) struct Busy {
    /// Without its `-`.
    pub(in crate::core) text: Vec<u8>,
    pub(in crate::core) since: Millis,
}

/// What is known of the upstream's work.
#[derive(Debug, Default)]
pub(in crate::core) struct Work {
    pub(in crate::core) busy: Option<Busy>,
    /// When it was last asked whether it is busy.
    pub(in crate::core) asked_at: Millis,
    /// When it last answered anything but BUSY, on whatever connection.
    pub(in crate::core) done_at: Millis,
}

/// The state of one such question. Questions are numbered as they are asked on the control connection, of whatever kind.
#[derive(Debug, Default)]
pub(in crate::core) struct Fresh {
    /// Number of the question under way.
    pub(in crate::core) under_way: Option<u64>,
    /// Number of the last one answered.
    pub(in crate::core) answered: u64,
    pub(in crate::core) waiting: Vec<ChildKey>,
}

impl Fresh {
    /// The answer has come some other way, after `asked` questions in all.
    pub(in crate::core) fn came(&mut self, asked: u64) {
        self.answered = asked + 1;
    }
}

/// The last answer.
#[derive(Debug, Default)]
pub(in crate::core) struct Greetings {
    pub(in crate::core) latest: Option<Greeting>,
    pub(in crate::core) fresh: Fresh,
}

impl Greetings {
    /// Whether the upstream has ever said who it is.
    pub(in crate::core) fn is_known(&self) -> bool {
        self.latest.is_some()
    }
}

/// Whose scripts: the same commands are refused to all of them, and the same user upstream runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::core) struct Scope {
    pub(in crate::core) user: UserId,
    pub(in crate::core) account: Option<AccountId>,
    pub(in crate::core) reads: bool,
}

/// What is known of a scope: a refused command that its scripts could call, if there is one.
#[derive(Debug)]
pub(in crate::core) enum Rights {
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

/// What the upstream has said about refused commands.
#[derive(Debug, Default)]
pub(in crate::core) struct ScriptRights {
    pub(in crate::core) by_scope: HashMap<Scope, Rights>,
    pub(in crate::core) number: u64,
}

/// One question about one command: whether the user of the scope has it.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct MayCall {
    pub(in crate::core) scope: Scope,
    pub(in crate::core) number: u64,
    pub(in crate::core) id: CommandId,
    pub(in crate::core) last: bool,
}

/// What Redis reads an argument into has room for its CRLF too.
pub(in crate::core) const CRLF: u64 = 2;

/// What was last heard.
#[derive(Debug)]
pub(in crate::core) struct UpstreamLimits {
    /// `proto-max-bulk-len` and `client-query-buffer-limit`, in bytes; `u64::MAX` where nothing is known.
    pub(in crate::core) bulk: u64,
    pub(in crate::core) query: u64,
    /// The lesser, as a bound on one argument.
    pub(in crate::core) argument: u64,
    pub(in crate::core) fresh: Fresh,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        let most = u64::MAX;
        UpstreamLimits { bulk: most, query: most, argument: most, fresh: Fresh::default() }
    }
}

impl UpstreamLimits {
    /// What `CONFIG GET` has answered; nothing is known after an error.
    pub(in crate::core) fn take(&mut self, frame: &[u8]) {
        let pairs = value::parse(frame).and_then(value::pairs).unwrap_or_default();
        let number = |wanted: &str| {
            let of = |(name, number): &(Value, Value)| {
                let named = value::text(name).is_some_and(|name| name == wanted);
                named.then(|| value::text(number)?.parse::<u64>().ok()).flatten()
            };
            pairs.iter().find_map(of).filter(|number| *number > 0).unwrap_or(u64::MAX)
        };
        (self.bulk, self.query) = (number("proto-max-bulk-len"), number("client-query-buffer-limit"));
        self.argument = self.bulk.min(self.query.saturating_sub(CRLF));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(in crate::core) fn the_lesser_of_the_two_bounds_an_argument() {
        let mut known = UpstreamLimits::default();
        known.take(b"%2\r\n$18\r\nproto-max-bulk-len\r\n$3\r\n100\r\n$25\r\nclient-query-buffer-limit\r\n$3\r\n101\r\n");
        assert_eq!((known.bulk, known.query, known.argument), (100, 101, 99));
        known.take(b"%1\r\n$18\r\nproto-max-bulk-len\r\n$3\r\n100\r\n");
        assert_eq!(known.argument, 100);
        for nothing in
            [&b"-NOPERM this user\r\n"[..], b"%0\r\n", b"%1\r\n$18\r\nproto-max-bulk-len\r\n$1\r\nx\r\n"]
        {
            known.take(nothing);
            assert!(known.argument > u64::from(u32::MAX), "{nothing:?}");
        }
    }
}
