//! Flags of a command, as COMMAND tells them, and the route that follows from them where no fact about the name stands
//! above. Used when a table is loaded, never per request.

use super::classify::Route;

/// The flags of a command that decide anything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    write: bool,
    may_replicate: bool,
    blocking: bool,
    module: bool,
    allow_busy: bool,
    no_multi: bool,
    noscript: bool,
    /// Any of the flags that ask for a decision of its own.
    special: bool,
}

impl Flags {
    /// Collects the flags of one entry of COMMAND.
    pub(super) fn from_names<'a>(names: impl Iterator<Item = &'a str>) -> Flags {
        let mut flags = Flags::default();
        for name in names {
            match name {
                "write" => flags.write = true,
                "may_replicate" => flags.may_replicate = true,
                "blocking" => flags.blocking = true,
                "module" => flags.module = true,
                "allow_busy" => flags.allow_busy = true,
                "no_multi" => flags.no_multi = true,
                "noscript" => flags.noscript = true,
                "admin" | "pubsub" | "protected" | "only_sentinel" => flags.special = true,
                _ => {}
            }
        }
        flags
    }

    pub(super) fn may_block(self) -> bool {
        self.blocking
    }

    pub(super) fn allow_busy(self) -> bool {
        self.allow_busy
    }

    pub(super) fn no_multi(self) -> bool {
        self.no_multi
    }

    pub(super) fn no_script(self) -> bool {
        self.noscript
    }

    /// The flag alone, which is what a read-only script is refused for.
    pub(super) fn writes(self) -> bool {
        self.write
    }

    /// Whether the command changes data, or replicates as if it did.
    pub(super) fn replicates(self) -> bool {
        self.write || self.may_replicate
    }

    /// Where the command goes.
    pub(super) fn route(self) -> Route {
        if self.special || self.no_multi {
            Route::Refused
        } else if !self.blocking {
            Route::Shared
        } else if self.module {
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
            assert_eq!(Flags::from_names(flags.iter().copied()).route(), wanted, "{flags:?}");
        }
    }
}
