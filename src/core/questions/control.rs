//! The control connection: the broker's own questions to the upstream and what their answers change. Holds
//! the upstream's command table, its greeting and what is known to be a valid db. Children's requests come
//! here only for SCRIPT KILL and FUNCTION KILL.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::command::Policy;
use crate::command::Table;
use crate::core::connection::handshake::Greeting;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::questions::known::Fresh;
use crate::core::questions::known::Greetings;
use crate::core::questions::known::MayCall;
use crate::core::questions::known::ScriptRights;
use crate::core::questions::known::UpstreamLimits;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::fmt::Write;

/// Commands that the broker sends in its own name and that a server may have under another one. COMMAND lists a renamed
/// command under its old name alone, so the other one is learnt when a child first uses it, and kept: the next
/// connection needs it.
pub(in crate::core) const SENT: [&str; 4] = ["SELECT", "CLIENT", "MULTI", "DISCARD"];

/// Something asked on the control connection. Answers come in the order of the questions.
#[derive(Debug, Clone)]
pub(in crate::core) enum Question {
    /// COMMAND: every command the upstream knows.
    Commands,
    /// COMMAND INFO of every name COMMAND listed: which of them are renamed away.
    ConfirmNames,
    /// COMMAND INFO for a name that is not in the table.
    Lookup { child: ChildKey, name: Vec<u8> },
    /// SELECT n, to learn whether the db exists.
    TryDb { child: ChildKey, db: u32 },
    /// SELECT of the control connection's own db, after `TryDb`.
    BackToDb,
    /// CLIENT UNBLOCK of a lease that is taken back.
    Unblock { lane: LaneKey, id: i64 },
    /// CLIENT UNBLOCK of one child by another.
    UnblockFor { unblock: Unblock, id: i64 },
    /// MULTI, to learn whether our user may: in a block, a MULTI that is refused would let what follows it
    /// run one by one.
    TryMulti,
    /// DISCARD, after `TryMulti`.
    LeaveMulti,
    /// HELLO: who is it now?
    Greeting,
    /// CONFIG GET: how long may an argument be?
    Limits,
    /// ACL DRYRUN: could a script of a child call what is refused to it?
    MayCall(MayCall),
    /// PING: does the upstream live?
    Probe,
}

/// What the control connection is and knows.
#[derive(Debug)]
pub(in crate::core) struct Control {
    pub(in crate::core) lane: LaneKey,
    pub(in crate::core) questions: VecDeque<Question>,
    /// Questions ever asked.
    pub(in crate::core) asked: u64,
    pub(in crate::core) table: Option<Table>,
    /// Loaded but not yet confirmed.
    pub(in crate::core) loading: Option<Table>,
    /// The table has come on the present connection.
    pub(in crate::core) confirmed: bool,
    /// The upstream was too busy to give it: it is asked for again.
    pub(in crate::core) table_due: bool,
    pub(in crate::core) greetings: Greetings,
    pub(in crate::core) limits: UpstreamLimits,
    pub(in crate::core) valid_dbs: HashSet<u32>,
    /// What users may call by scripts, as far as it was asked.
    pub(in crate::core) scripts: ScriptRights,
    /// The upstream's answer to MULTI, if it refuses that to our user.
    pub(in crate::core) multi_refusal: Option<Vec<u8>>,
    /// The upstream has been replaced: nothing new is asked on this connection, and it is closed when the
    /// last answer has come.
    pub(in crate::core) leaving: bool,
    /// Between `TryMulti` and `LeaveMulti`.
    pub(in crate::core) in_multi: bool,
    /// Our user may MULTI but not DISCARD.
    pub(in crate::core) never_try_multi: bool,
    /// Our user may not CLIENT UNBLOCK: no lease is taken back.
    pub(in crate::core) unblock_refused: bool,
    /// What the upstream calls the commands that the broker sends in its own name, where that is known to be another
    /// name: `rename-command` may have moved them.
    pub(in crate::core) renamed: HashMap<&'static str, Vec<u8>>,
    pub(in crate::core) probing_since: Option<Millis>,
    /// When anything was last heard from the upstream, on any lane.
    pub(in crate::core) heard_at: Millis,
    /// Since when there is no working control connection.
    pub(in crate::core) down_since: Option<Millis>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            lane: Key::NONE,
            questions: VecDeque::new(),
            asked: 0,
            table: None,
            loading: None,
            confirmed: false,
            table_due: false,
            greetings: Greetings::default(),
            limits: UpstreamLimits::default(),
            valid_dbs: HashSet::new(),
            scripts: ScriptRights::default(),
            multi_refusal: None,
            leaving: false,
            in_multi: false,
            never_try_multi: false,
            unblock_refused: false,
            renamed: HashMap::new(),
            probing_since: None,
            heard_at: 0,
            down_since: Some(0),
        }
    }
}

impl Control {
    pub(in crate::core) fn db_is_valid(&self, db: u32) -> bool {
        self.valid_dbs.contains(&db)
    }

    /// Nothing that was learnt holds for another upstream.
    pub(in crate::core) fn forget_upstream(&mut self) {
        self.table = None;
        self.loading = None;
        self.valid_dbs.clear();
        self.multi_refusal = None;
        self.never_try_multi = false;
        self.renamed.clear();
    }

    /// By which name to send one of `SENT`.
    pub(in crate::core) fn name_of(&self, command: &'static str) -> &[u8] {
        self.renamed.get(command).map_or(command.as_bytes(), Vec::as_slice)
    }

    /// The table has changed.
    pub(in crate::core) fn learn_names(&mut self) {
        for command in SENT {
            match self.table.as_ref().and_then(|table| table.typed(&command.to_ascii_lowercase())) {
                Some(name) if name.eq_ignore_ascii_case(command.as_bytes()) => {
                    drop(self.renamed.remove(command))
                }
                Some(name) => drop(self.renamed.insert(command, name.to_vec())),
                None => {}
            }
        }
    }

    /// Commands are allowed and refused as other settings say, from the next request on.
    pub(in crate::core) fn set_policy(&mut self, policy: &Policy) {
        for table in [&mut self.table, &mut self.loading].into_iter().flatten() {
            table.set_policy(policy.clone());
        }
    }
}

impl Control {
    /// The control connection was greeted: as good an answer as any to whoever waits.
    pub(in crate::core) fn greeted(&mut self, greeting: Greeting) {
        self.greetings.latest = Some(greeting);
        self.greetings.fresh.came(self.asked);
    }

    pub(in crate::core) fn fresh_greeting(&mut self) -> &mut Fresh {
        &mut self.greetings.fresh
    }
}

/// A CLIENT UNBLOCK on its way for a child.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Unblock {
    pub(in crate::core) asker: ChildKey,
    pub(in crate::core) target: ChildKey,
    pub(in crate::core) lane: LaneKey,
    /// The target is told so, instead of that its time is over.
    pub(in crate::core) error: bool,
    /// It has been answered once with "not blocked".
    pub(in crate::core) again: bool,
}

impl Control {
    pub(in crate::core) fn fresh_limits(&mut self) -> &mut Fresh {
        &mut self.limits.fresh
    }
}
