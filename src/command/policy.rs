//! What the settings say about commands: allowed though refused by default, refused though allowed, given a lane to
//! themselves. Stands above facts and flags, except for what may never be. Never used per request.

use super::classify::Route;
use super::facts::{Effect, Facts, TimeoutAt};
use super::flags::{Flag, Flags};
use std::collections::HashSet;

/// A route as far as the name alone decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The arguments do not matter.
    Fixed(Route),
    /// Blocks for as long as its timeout says.
    Waits(TimeoutAt),
}

/// The three lists of the settings. A container stands for its subcommands too; a refusal wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    allow: HashSet<Box<str>>,
    deny: HashSet<Box<str>>,
    lease: HashSet<Box<str>>,
}

impl Policy {
    /// Names are full and in lower case: `config|set`.
    pub fn new(allow: &[String], deny: &[String], lease: &[String]) -> Policy {
        let set = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase().into()).collect();
        Policy { allow: set(allow), deny: set(deny), lease: set(lease) }
    }

    /// Whether the settings refuse the command. What is refused by default is another matter.
    pub(super) fn denies(&self, name: &str) -> bool {
        names(&self.deny, name)
    }

    /// Where a command goes by its full lower-case name and its flags.
    pub(super) fn base(&self, name: &str, flags: Flags) -> Base {
        if self.denies(name) {
            return Base::Fixed(Route::Refused);
        }
        let facts = Facts::of_name(name);
        if let Some(timeout) = facts.waits {
            return Base::Waits(timeout);
        }
        let route = match facts.route.unwrap_or_else(|| flags.route()) {
            Route::Refused if names(&self.allow, name) && !is_never_allowed(name) => allowed(facts, flags),
            route => route,
        };
        Base::Fixed(match route {
            // Whatever the flags of this upstream say.
            Route::Shared if facts.effect() != Effect::None => Route::Refused,
            Route::Shared | Route::Count(_) if names(&self.lease, name) => Route::Dedicated,
            route => route,
        })
    }
}

/// Whether a command, or the container it is in, is in the list.
fn names(list: &HashSet<Box<str>>, name: &str) -> bool {
    let container = name.split_once('|').map(|(container, _)| container);
    list.contains(name) || container.is_some_and(|container| list.contains(container))
}

/// Where a command goes that is refused by default and allowed by the settings.
fn allowed(facts: &Facts, flags: Flags) -> Route {
    match facts.route_allowed {
        Some(route) => route,
        None if facts.effect() != Effect::None || flags.has(Flag::Blocking) => Route::Dedicated,
        None => Route::Shared,
    }
}

/// Whether a command is refused whatever the settings say: replication takes its connection over, a debugged script
/// forks the server, a Sentinel is another kind of server, and of a subcommand of CLIENT that is not known here nobody
/// can tell what it does to the connection.
pub fn is_never_allowed(name: &str) -> bool {
    matches!(Facts::of_name(name).effect(), Effect::TakesOver | Effect::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Local, Pin};

    fn policy(allow: &[&str], deny: &[&str], lease: &[&str]) -> Policy {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Policy::new(&owned(allow), &owned(deny), &owned(lease))
    }

    fn route(policy: &Policy, name: &str, flags: &[&str]) -> Route {
        match policy.base(name, Flags::from_names(flags.iter())) {
            Base::Fixed(route) => route,
            base => panic!("{name}: {base:?}"),
        }
    }

    #[test]
    fn facts_stand_above_the_flags_in_both_directions() {
        let policy = Policy::default();
        for name in ["client|new", "client|pause", "script|debug", "swapdb", "sentinel|help"] {
            assert_eq!(route(&policy, name, &[]), Route::Refused, "{name}");
        }
        for name in ["slowlog|get", "latency|reset", "pubsub|numpat", "config|get", "commandlog|len"] {
            assert_eq!(route(&policy, name, &["admin", "pubsub"]), Route::Shared, "{name}");
        }
        assert_eq!(route(&policy, "client", &[]), Route::Shared);
        assert_eq!(route(&policy, "select", &["fast"]), Route::Local(Local::Select));
    }

    #[test]
    fn lists_stand_above_facts_and_flags_and_a_refusal_above_all() {
        let policy = policy(
            &["config", "swapdb", "monitor", "shutdown", "client|pause", "debug", "get", "save", "bnew"],
            &["config|rewrite", "get", "acl", "select"],
            &["ft.search", "ping", "acl|whoami", "swapdb"],
        );
        for (name, flags, wanted) in [
            ("config|set", &["admin"][..], Route::Shared),
            ("config|rewrite", &["admin"], Route::Refused),
            ("save", &["admin", "no_multi"], Route::Shared),
            ("swapdb", &["write"], Route::Dedicated),
            ("monitor", &["admin"], Route::Pin(Pin::Monitor)),
            ("shutdown", &["admin", "no_multi"], Route::Control),
            ("client|pause", &["admin"], Route::Control),
            ("client|unpause", &["admin"], Route::Refused),
            ("debug", &["admin"], Route::Dedicated),
            ("bnew", &["blocking"], Route::Dedicated),
            ("get", &["readonly"], Route::Refused),
            ("acl|whoami", &[], Route::Refused),
            ("select", &[], Route::Refused),
            ("ft.search", &["module"], Route::Dedicated),
            ("set", &["write"], Route::Shared),
        ] {
            assert_eq!(route(&policy, name, flags), wanted, "{name}");
        }
        assert!(matches!(route(&policy, "ping", &[]), Route::Local(_)), "no lane is kept busy by it");
    }

    #[test]
    fn what_must_never_be_allowed_is_not() {
        let all = ["sync", "psync", "replconf", "script", "sentinel", "client"];
        let policy = policy(&all, &[], &[]);
        for name in ["sync", "psync", "replconf", "script|debug", "sentinel|masters", "client|new-thing"] {
            assert!(is_never_allowed(name), "{name}");
            assert_eq!(route(&policy, name, &["admin"]), Route::Refused, "{name}");
        }
        for name in ["client|pause", "client|list", "config|set", "monitor", "script|kill"] {
            assert!(!is_never_allowed(name), "{name}");
        }
    }

    /// Whatever is allowed: what would hurt others on a shared lane never goes on one.
    #[test]
    fn what_touches_its_connection_is_never_shared() {
        let names = "quit reset hello auth select client|reply client|tracking client|caching client|no-evict \
             client|no-touch client|setname client|setinfo client|capa client|import-source client|kill monitor \
             sync psync replconf subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe multi exec \
             discard watch unwatch script|debug wait waitaof readonly readwrite asking shutdown debug debug|sleep \
             sentinel|reset";
        let names: Vec<&str> = names.split(' ').collect();
        let policy = policy(&names, &[], &[]);
        for name in names {
            assert_ne!(Facts::of_name(name).effect(), Effect::None, "{name}");
            for flags in [&[][..], &["admin"], &["write", "fast"], &["pubsub"], &["module"]] {
                assert_ne!(route(&policy, name, flags), Route::Shared, "{name} {flags:?}");
            }
        }
        for name in ["get", "config|set", "client|help", "script|load", "script", "client", "acl|whoami"] {
            assert_eq!(Facts::of_name(name).effect(), Effect::None, "{name}");
        }
    }
}
