//! Connections to the upstream: every lane and pool, how many there may be, and which are to be written. Owns the keys of
//! lanes; never what a request means, nor who is told what when a connection fails. A state of a lane, the line it stands
//! in and the counts change in one function, `Connections::change_state`.

pub(crate) mod admission;
pub(crate) mod bar;
pub(crate) mod canary;
pub(crate) mod capacity;
pub(crate) mod events;
pub(crate) mod failure;
mod forsaken;
pub(crate) mod handshake;
pub(crate) mod integrity;
pub(crate) mod lane;
pub(crate) mod lanes;
pub(crate) mod life;
mod moved;
pub(crate) mod pools;
pub(crate) mod role;
pub(crate) mod shortage;
pub(crate) mod slot;
pub(crate) mod standing;
pub(crate) mod timing;

use crate::base::clock::Millis;
use crate::base::key::Arena;
use crate::base::limits;
use crate::command::{CommandId, NO_COMMAND, Renumbering};
use crate::core::connection::bar::{Bar, LastRefusal};
use crate::core::connection::capacity::Capacity;
use crate::core::connection::lane::Lane;
use crate::core::connection::standing::StandingLanes;
use crate::core::keys::{ChildKey, LaneKey, LaneName, PoolId, PoolKey};
use crate::resp::{ReplyScanner, SharedScanner};
use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
pub(crate) struct Connections {
    lanes: Arena<Lane, LaneName>,
    /// The broker's own: control, and the probe where there is one.
    own: Vec<LaneKey>,
    pools: Vec<Pool>,
    pool_ids: HashMap<PoolKey, PoolId>,
    capacity: Capacity,
    bar: Bar,
    dirty: Vec<LaneKey>,
    /// Lanes with replies that have been read and not taken.
    unread: VecDeque<LaneKey>,
    standing: StandingLanes,
    /// Bytes that a lane may have to write before children wait.
    window: usize,
    /// Children with `Hold::WriteLane`.
    lane_waiters: Vec<ChildKey>,
    /// ECHO, or PING where the upstream's user may not ECHO.
    canary: &'static [u8; 4],
    /// Finds the replies of all lanes, but for those of which half a reply has come.
    scanner: SharedScanner<ReplyScanner>,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            lanes: Arena::default(),
            own: Vec::new(),
            pools: Vec::new(),
            pool_ids: HashMap::new(),
            capacity: Capacity::default(),
            bar: Bar::default(),
            dirty: Vec::new(),
            unread: VecDeque::new(),
            standing: StandingLanes::default(),
            window: limits::LANE_WINDOW,
            lane_waiters: Vec::new(),
            canary: b"ECHO",
            scanner: None,
        }
    }
}

/// The lanes of one (user, db, protocol), connected or not.
#[derive(Debug)]
pub(crate) struct Pool {
    key: PoolKey,
    /// Shared lanes, made on demand up to `lanes`; they stay, their connections come and go.
    shared: Vec<LaneKey>,
    /// One more, for what is large; made when there is such.
    bulk: Option<LaneKey>,
    /// For transactions, made on demand up to `limits::BLOCK_LANES_MAX`.
    blocks: Vec<LaneKey>,
    /// Leased lanes that are not lent: connected, clean, the most recently used last.
    idle: Vec<LaneKey>,
    /// A child has needed a lease here: `leases_warm` are kept ready.
    warm: bool,
    /// Why the last attempt to connect failed; none once a connection stands.
    refusal: Option<LastRefusal>,
    /// Commands with long or late replies of late, by which children are judged of which no reply is known.
    heavy: [Heavy; limits::HEAVY_KNOWN],
}

#[derive(Debug, Clone, Copy)]
struct Heavy {
    command: CommandId,
    until: Millis,
    /// False if another command may be the cause: once more, and it is certain.
    is_certain: bool,
}

impl Heavy {
    const NONE: Heavy = Heavy { command: NO_COMMAND, until: 0, is_certain: false };
}

impl Pool {
    fn new(key: PoolKey) -> Self {
        Pool {
            key,
            shared: Vec::new(),
            bulk: None,
            blocks: Vec::new(),
            idle: Vec::new(),
            warm: false,
            refusal: None,
            heavy: [Heavy::NONE; limits::HEAVY_KNOWN],
        }
    }

    fn note_heavy(&mut self, command: CommandId, is_certain: bool, now: Millis) {
        let known = self.heavy.iter().position(|heavy| heavy.command == command);
        let oldest = || (0..self.heavy.len()).min_by_key(|at| self.heavy[*at].until).unwrap_or(0);
        let heavy = &mut self.heavy[known.unwrap_or_else(oldest)];
        let again = heavy.command == command && heavy.until > now;
        *heavy = Heavy { command, until: now + limits::HEAVY_MEMORY, is_certain: is_certain || again };
    }

    fn is_heavy(&self, command: CommandId, now: Millis) -> bool {
        let counts = |heavy: &Heavy| heavy.command == command && heavy.is_certain && heavy.until > now;
        self.heavy.iter().any(counts)
    }

    fn renumber_commands(&mut self, renumbering: &Renumbering) {
        for heavy in &mut self.heavy {
            match renumbering.of(heavy.command) {
                NO_COMMAND => *heavy = Heavy::NONE,
                command => heavy.command = command,
            }
        }
    }

    pub(crate) fn key(&self) -> &PoolKey {
        &self.key
    }

    /// Whether it serves nobody any more.
    pub(crate) fn is_free(&self) -> bool {
        self.key == PoolKey::FREE
    }

    /// Why the last attempt to connect failed.
    pub(crate) fn refusal_text(&self) -> Option<&str> {
        self.refusal.as_ref().map(|refusal| refusal.text.as_str())
    }

    /// The same of an attempt since then.
    pub(crate) fn refusal_since(&self, then: Millis) -> Option<&str> {
        self.refusal.as_ref().filter(|refusal| refusal.at > then).map(|refusal| refusal.text.as_str())
    }

    fn forget(&mut self, lane: LaneKey) {
        self.shared.retain(|shared| *shared != lane);
        self.blocks.retain(|blocks| *blocks != lane);
        self.idle.retain(|idle| *idle != lane);
        self.bulk = self.bulk.filter(|bulk| *bulk != lane);
    }

    #[cfg(test)]
    pub(crate) fn idle(&self) -> &[LaneKey] {
        &self.idle
    }
}
