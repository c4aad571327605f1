//! What Redis would remember of a connection: name, db, protocol, tracking, the open MULTI. Plain data; the commands that
//! change it are in `request::local` and `transaction`.

use crate::core::transaction::state::TransactionState;

/// Whom its invalidations go to: 0 itself, -1 there are none.
pub(crate) fn redirect(session: &Session) -> i64 {
    session.tracking.map_or(-1, |id| id as i64)
}

/// CLIENT REPLY: whether the child wants replies at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReplyMode {
    #[default]
    On,
    Off,
    /// The request at hand is CLIENT REPLY SKIP, and the next one gets no reply either.
    SkipNext,
    /// The request at hand gets no reply.
    Skip,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Session {
    /// CLIENT ID. Never reused; starts at a random base per broker, and stays below 2^46.
    pub(crate) id: u64,
    pub(crate) name: Vec<u8>,
    /// SELECT. Starts as the db of the broker's upstream URL, and RESET goes back there.
    pub(crate) db: u32,
    pub(crate) home_db: u32,
    pub(crate) proto: u8,
    pub(crate) lib_name: Vec<u8>,
    pub(crate) lib_version: Vec<u8>,
    /// CLIENT NO-EVICT; survives RESET. Kept for CLIENT INFO only: eviction is Redis' own affair.
    pub(crate) no_evict: bool,
    /// CLIENT NO-TOUCH: its requests go on connections that are told so.
    pub(crate) no_touch: bool,
    /// CLIENT TRACKING, and the CLIENT ID its invalidations are redirected to; 0 for itself.
    pub(crate) tracking: Option<u64>,
    pub(crate) import_source: bool,
    pub(crate) monitoring: bool,
    /// It has been refused SCRIPT DEBUG, and means its scripts to be debugged.
    pub(crate) debugs: bool,
    pub(crate) replies: ReplyMode,
    /// Its program knows the broker's own errors (BROKER ERRORS): it is told of losses, and never closed for them.
    pub(crate) takes_errors: bool,
    /// The open MULTI, and what was watched.
    pub(crate) transaction: TransactionState,
}

impl Session {
    pub(crate) fn new(id: u64, home_db: u32) -> Self {
        Session { id, db: home_db, home_db, proto: 2, ..Session::default() }
    }

    #[inline]
    pub(crate) fn footprint(&self) -> usize {
        self.name.capacity()
            + self.lib_name.capacity()
            + self.lib_version.capacity()
            + self.transaction.footprint()
    }

    /// Whether it has changed its connection upstream, and so must have one to itself.
    pub(crate) fn is_pinned(&self) -> bool {
        self.tracking.is_some() || self.import_source || self.monitoring
    }

    pub(crate) fn is_muted(&self) -> bool {
        matches!(self.replies, ReplyMode::Off | ReplyMode::Skip)
    }

    /// The request at hand is done; an empty one counts, as it does for Redis.
    pub(crate) fn request_done(&mut self) {
        self.replies = match self.replies {
            ReplyMode::SkipNext => ReplyMode::Skip,
            ReplyMode::Skip => ReplyMode::On,
            lasting => lasting,
        };
    }

    /// RESET: all but the id, the library's name and version, and NO-EVICT (Redis 7.0.15 keeps it). A reply
    /// that is to be skipped stays so.
    pub(crate) fn reset(&mut self) {
        let fresh = Session::new(self.id, self.home_db);
        let mut kept = std::mem::replace(self, fresh);
        kept.transaction.end();
        (self.transaction, self.no_evict) = (kept.transaction, kept.no_evict);
        (self.lib_name, self.lib_version) = (kept.lib_name, kept.lib_version);
        self.takes_errors = kept.takes_errors;
        if kept.replies != ReplyMode::Off {
            self.replies = kept.replies;
        }
    }
}
