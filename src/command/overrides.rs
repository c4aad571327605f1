//! The rule that makes a route out of a command's flags, and the static rules that stand above it in
//! both directions: commands whose flags hide a connection state, and commands whose flags look worse
//! than they are. Used when a table is loaded, never per request.

use super::classify::{Family, Local, Pin, Route, Runs, Subscribe, Transaction};

/// A route as far as the name alone decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The arguments do not matter.
    Fixed(Route),
    /// Blocks; the timeout in seconds is the first argument.
    TimeoutFirst,
    /// Blocks; the timeout in seconds is the last argument.
    TimeoutLast,
    /// Blocks if the option BLOCK is among the arguments.
    Stream,
}

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
}

/// Whether a command counts as a write. COMMAND of Redis 7.0 hides the flag `may_replicate`, so the
/// commands that carry it are listed.
pub(super) fn is_write(name: &str, flags: Flags) -> bool {
    flags.write
        || flags.may_replicate
        || matches!(name, "eval" | "evalsha" | "fcall" | "pfcount" | "publish" | "spublish" | "exec")
}

/// What a command has run that its request does not name. Loading a script or a library runs nothing: Redis refuses
/// every call while a library loads.
pub(super) fn runs(name: &str) -> Runs {
    match name {
        "eval" | "evalsha" | "fcall" => Runs::Anything,
        "eval_ro" | "evalsha_ro" | "fcall_ro" => Runs::Reads,
        _ => Runs::Nothing,
    }
}

/// The route of a command by its full lower-case name and its flags.
pub(super) fn base(name: &str, flags: Flags) -> Base {
    if let Some(base) = whole_name(name) {
        return base;
    }
    let container = name.split_once('|').map_or(name, |(container, _)| container);
    let has_subcommand = container.len() < name.len();
    match container {
        // Whatever a newer server adds here changes or shows the connection it runs on.
        "client" if has_subcommand => Base::Fixed(Route::Refused),
        "sentinel" => Base::Fixed(Route::Refused),
        // Flagged admin or pubsub, yet they only read or reset statistics.
        "commandlog" | "latency" | "pubsub" | "slowlog" if has_subcommand => Base::Fixed(Route::Shared),
        _ => Base::Fixed(by_flags(flags)),
    }
}

fn by_flags(flags: Flags) -> Route {
    if flags.special || flags.no_multi {
        Route::Refused
    } else if !flags.blocking {
        Route::Shared
    } else if flags.module {
        Route::Dedicated
    } else {
        // A blocking command of the core we do not know: where its timeout is, and what of the
        // connection it depends on (as WAIT does), cannot be told.
        Route::Refused
    }
}

fn whole_name(name: &str) -> Option<Base> {
    let route = match name {
        "blpop" | "brpop" | "brpoplpush" | "blmove" | "bzpopmin" | "bzpopmax" => {
            return Some(Base::TimeoutLast);
        }
        "blmpop" | "bzmpop" => return Some(Base::TimeoutFirst),
        "xread" | "xreadgroup" => return Some(Base::Stream),
        // Blocks the whole server and its own connection for as long as the other server takes.
        "migrate" => Route::Dedicated,
        "client|tracking" => Route::Pin(Pin::Tracking),
        "client|import-source" => Route::Pin(Pin::ImportSource),
        "script|kill" | "function|kill" => Route::Control,
        "wait" | "waitaof" => Route::Replicas,
        "publish" | "spublish" | "client|help" | "acl|dryrun" | "config|get" | "module|list"
        | "hotkeys|get" => Route::Shared,
        // Per connection (protocol state, debugger) or across databases; none shows in flags.
        "monitor" | "swapdb" | "sflush" | "restore-asking" | "script|debug" => Route::Refused,
        _ => return local(name).or_else(|| transaction(name)).or_else(|| subscribe(name)).map(Base::Fixed),
    };
    Some(Base::Fixed(route))
}

fn local(name: &str) -> Option<Route> {
    Some(Route::Local(match name {
        "ping" => Local::Ping,
        "echo" => Local::Echo,
        "quit" => Local::Quit,
        "select" => Local::Select,
        "hello" => Local::Hello,
        "reset" => Local::Reset,
        "auth" => Local::Auth,
        "client|id" => Local::ClientId,
        "client|setname" => Local::ClientSetname,
        "client|getname" => Local::ClientGetname,
        "client|setinfo" => Local::ClientSetinfo,
        "client|info" => Local::ClientInfo,
        "client|no-evict" => Local::ClientNoEvict,
        "client|reply" => Local::ClientReply,
        "client|list" => Local::ClientList,
        "client|kill" => Local::ClientKill,
        "client|unblock" => Local::ClientUnblock,
        "client|getredir" => Local::ClientGetredir,
        "client|trackinginfo" => Local::ClientTrackinginfo,
        "client|caching" => Local::ClientCaching,
        "client|no-touch" => Local::ClientNoTouch,
        "client|capa" => Local::ClientCapa,
        "asking" => Local::Asking,
        "readonly" => Local::Readonly,
        "readwrite" => Local::Readwrite,
        _ => return None,
    }))
}

fn transaction(name: &str) -> Option<Route> {
    Some(Route::Transaction(match name {
        "multi" => Transaction::Multi,
        "exec" => Transaction::Exec,
        "discard" => Transaction::Discard,
        "watch" => Transaction::Watch,
        "unwatch" => Transaction::Unwatch,
        _ => return None,
    }))
}

fn subscribe(name: &str) -> Option<Route> {
    let (family, leave) = match name {
        "subscribe" => (Family::Channel, false),
        "unsubscribe" => (Family::Channel, true),
        "psubscribe" => (Family::Pattern, false),
        "punsubscribe" => (Family::Pattern, true),
        "ssubscribe" => (Family::Shard, false),
        "sunsubscribe" => (Family::Shard, true),
        _ => return None,
    };
    Some(Route::Subscribe(Subscribe { family, leave }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, flags: &[&str]) -> Base {
        base(name, Flags::from_names(flags.iter().copied()))
    }

    #[test]
    fn flags_decide_where_no_rule_stands() {
        assert_eq!(route("json.set", &["write", "module"]), Base::Fixed(Route::Shared));
        assert_eq!(route("ts.wait", &["readonly", "module", "blocking"]), Base::Fixed(Route::Dedicated));
        assert_eq!(route("bnew", &["write", "blocking"]), Base::Fixed(Route::Refused));
        assert_eq!(route("x.y", &["module", "blocking", "admin"]), Base::Fixed(Route::Refused));
        assert_eq!(route("savenow", &["no_multi"]), Base::Fixed(Route::Refused));
        assert_eq!(route("zsubscribe", &["pubsub"]), Base::Fixed(Route::Refused));
    }

    #[test]
    fn rules_stand_above_the_flags_in_both_directions() {
        for name in ["client|new", "client|pause", "script|debug", "swapdb", "sentinel|help"] {
            assert_eq!(route(name, &[]), Base::Fixed(Route::Refused), "{name}");
        }
        for name in ["slowlog|get", "latency|reset", "pubsub|numpat", "config|get", "commandlog|len"] {
            assert_eq!(route(name, &["admin", "pubsub"]), Base::Fixed(Route::Shared), "{name}");
        }
        assert_eq!(route("client", &[]), Base::Fixed(Route::Shared));
        assert_eq!(route("select", &["fast"]), Base::Fixed(Route::Local(Local::Select)));
    }

    #[test]
    fn hidden_writes_are_writes() {
        assert!(is_write("evalsha", Flags::default()));
        assert!(!is_write("eval_ro", Flags::default()));
        assert!(is_write("any", Flags::from_names(["may_replicate"].into_iter())));
    }
}
