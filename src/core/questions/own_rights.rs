//! What the upstream's user lets the broker do on its own account. It is asked for once on each control connection, and what is
//! missing the broker goes without: told in the log, and in BROKER SHOW UPSTREAM. Owns what is known of it; asks nothing
//! itself. The right to MULTI, which children need, is `questions::control`'s.

/// What the broker does for itself, beside what children ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnRight {
    /// COMMAND: which commands there are.
    Command,
    /// COMMAND INFO: by which names.
    CommandInfo,
    /// PING: does the upstream work, or run a script?
    Ping,
    /// ECHO: canaries; the same as PING without that.
    Echo,
    /// DBSIZE: the same as PING where there is neither.
    Dbsize,
    /// CLIENT UNBLOCK: the end of a blocking command.
    Unblock,
    /// CONFIG GET: how long an argument may be.
    ConfigGet,
}

const COUNT: usize = OwnRight::ConfigGet as usize + 1;

impl OwnRight {
    /// Those that are asked about with nothing else in mind, in this order: canaries are ECHO until it is known not to be
    /// allowed.
    pub(super) const ASKED: [OwnRight; 4] =
        [OwnRight::Echo, OwnRight::Ping, OwnRight::Dbsize, OwnRight::Unblock];

    const ALL: [OwnRight; COUNT] = [
        OwnRight::Command,
        OwnRight::CommandInfo,
        OwnRight::Ping,
        OwnRight::Echo,
        OwnRight::Dbsize,
        OwnRight::Unblock,
        OwnRight::ConfigGet,
    ];

    /// As in a rule of an ACL.
    fn name(self) -> &'static str {
        match self {
            OwnRight::Command => "command",
            OwnRight::CommandInfo => "command|info",
            OwnRight::Ping => "ping",
            OwnRight::Echo => "echo",
            OwnRight::Dbsize => "dbsize",
            OwnRight::Unblock => "client|unblock",
            OwnRight::ConfigGet => "config|get",
        }
    }
}

/// What is known of the rights of one user.
#[derive(Debug, Default)]
pub(crate) struct OwnRights {
    missing: [bool; COUNT],
    /// What was last told in the log.
    told: String,
}

impl OwnRights {
    /// Another connection: everything is asked again.
    pub(super) fn ask_anew(&mut self) {
        self.missing = [false; COUNT];
    }

    pub(super) fn set(&mut self, right: OwnRight, is_missing: bool) {
        self.missing[right as usize] = is_missing;
    }

    pub(crate) fn lacks(&self, right: OwnRight) -> bool {
        self.missing[right as usize]
    }

    /// Neither ECHO nor PING: no reply can be proven.
    pub(crate) fn lacks_canaries(&self) -> bool {
        self.lacks(OwnRight::Echo) && self.lacks(OwnRight::Ping)
    }

    /// By which of two commands of the same form canaries are asked for.
    pub(super) fn canary(&self) -> &'static [u8; 4] {
        if self.lacks(OwnRight::Echo) { b"PING" } else { b"ECHO" }
    }

    /// What to ask whether the upstream works: a command that does nothing, and is refused while a script runs. None, where the
    /// user has the right to no such.
    pub(super) fn to_probe(&self) -> Option<OwnRight> {
        let usable = [OwnRight::Ping, OwnRight::Echo, OwnRight::Dbsize];
        usable.into_iter().find(|right| !self.lacks(*right))
    }

    /// The names of what is missing, with a comma between.
    pub(crate) fn missing(&self) -> String {
        let missing = OwnRight::ALL.into_iter().filter(|right| self.lacks(*right));
        missing.map(OwnRight::name).collect::<Vec<_>>().join(",")
    }

    /// The same, if it is another than was last told.
    pub(super) fn news(&mut self) -> Option<&str> {
        let missing = self.missing();
        if missing == self.told {
            return None;
        }
        self.told = missing;
        Some(&self.told)
    }
}
