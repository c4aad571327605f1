//! Flags of a command, as COMMAND tells them, and the route that follows from them where no fact about the name stands
//! above. Used when a table is loaded, never per request.

use super::classify::Route;

/// A flag that decides anything.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flag {
    Write,
    MayReplicate,
    Blocking,
    Module,
    AllowBusy,
    NoMulti,
    NoScript,
    /// Any of those that ask for a decision of its own.
    Special,
}

/// The flags of a command, one bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags(u8);

impl Flags {
    /// Collects the flags of one entry of COMMAND.
    pub(super) fn from_names(names: impl Iterator<Item = impl AsRef<str>>) -> Flags {
        let known = names.filter_map(|name| match name.as_ref() {
            "write" => Some(Flag::Write),
            "may_replicate" => Some(Flag::MayReplicate),
            "blocking" => Some(Flag::Blocking),
            "module" => Some(Flag::Module),
            "allow_busy" => Some(Flag::AllowBusy),
            "no_multi" => Some(Flag::NoMulti),
            "noscript" => Some(Flag::NoScript),
            "admin" | "pubsub" | "protected" | "only_sentinel" => Some(Flag::Special),
            _ => None,
        });
        Flags(known.fold(0, |flags, flag| flags | 1 << flag as u8))
    }

    /// These flags, and of `others` those that `meant` names.
    pub(super) fn with_those_of(self, others: Flags, meant: &[Flag]) -> Flags {
        meant.iter().fold(self, |flags, flag| Flags(flags.0 | others.0 & 1 << *flag as u8))
    }

    pub(super) fn has(self, flag: Flag) -> bool {
        self.0 & 1 << flag as u8 != 0
    }

    /// Where the command goes.
    pub(super) fn route(self) -> Route {
        if self.has(Flag::Special) || self.has(Flag::NoMulti) {
            Route::Refused
        } else if !self.has(Flag::Blocking) {
            Route::Shared
        } else if self.has(Flag::Module) {
            Route::Dedicated
        } else {
            // A blocking command of the core we do not know: where its timeout is, and what of the
            // connection it depends on (as WAIT does), cannot be told.
            Route::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_decide_where_nothing_else_is_known() {
        for (flags, wanted) in [
            (&["write", "module"][..], Route::Shared),
            (&["readonly", "module", "blocking"], Route::Dedicated),
            (&["write", "blocking"], Route::Refused),
            (&["module", "blocking", "admin"], Route::Refused),
            (&["no_multi"], Route::Refused),
            (&["pubsub"], Route::Refused),
        ] {
            assert_eq!(Flags::from_names(flags.iter()).route(), wanted, "{flags:?}");
        }
    }
}
