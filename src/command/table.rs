//! The commands of one upstream as it told them itself: names, arities, flags, and the other names they
//! were found under. Never decides a route on its own and never asks the server.

use super::builtin::{BuiltinRow, NEW_SUBCOMMAND, Release, UNLISTED, UNSAID};
use super::classify::{Route, Runs};
use super::facts::{Facts, TimeoutAt};
use super::flags::{Flag, Flags};
use super::names::Names;
use super::policy::{Base, Policy};
use super::texts::{self, Wording};
use crate::resp::value::text;
use redis::Value;
use std::collections::HashMap;
use std::ops::Range;

/// Names a command of one table.
pub type CommandId = u16;

/// What is no command of a child: the broker's own questions. No table gives it away.
pub const NO_COMMAND: CommandId = CommandId::MAX;

/// Which numbers the commands of a former table have in the one that follows it: a server lists them in another order each time
/// that it starts.
#[derive(Debug, Default)]
pub(crate) struct Renumbering(Vec<CommandId>);

impl Renumbering {
    /// `NO_COMMAND` for what the new one does not have.
    pub(crate) fn of(&self, former: CommandId) -> CommandId {
        self.0.get(usize::from(former)).copied().unwrap_or(NO_COMMAND)
    }
}

/// Longest command name looked up, in bytes. Names are short, but `rename-command` is often given a
/// SHA-1 or SHA-256 in hex. Also the length at which Redis cuts a name in its error texts.
pub(super) const NAME_MAX: usize = 128;
/// Names learned after the table was loaded. Far above what renaming and modules bring, and a bound on
/// what a server gone wrong can make us remember.
const LEARNED_MAX: usize = 1024;
/// A command that has come with Redis 7.2, by which its release is told.
const SINCE_7_2: &str = "waitaof";
/// Fields of one entry of COMMAND since Redis 7.0, the last being the subcommands.
const ENTRY_FIELDS: usize = 10;
/// Of one before.
const ENTRY_FIELDS_BEFORE_7: usize = 6;

/// One command or subcommand.
#[derive(Debug)]
pub(super) struct Entry {
    /// Full name in lower case, `client|id`.
    pub(super) name: Box<str>,
    /// The same as the server writes it, where that is in other letters: a module names its commands as it likes.
    told: Option<Box<str>>,
    /// Exact count if positive, the least count if negative; the name itself counts.
    arity: i64,
    write: bool,
    /// See `reads_keys`.
    reads_keys: bool,
    pub(super) flags: Flags,
    pub(super) base: Base,
    runs: Runs,
    /// Present in containers.
    pub(super) subcommands: Option<Names>,
}

impl Entry {
    pub(super) fn accepts(&self, argc: usize) -> bool {
        let argc = argc as i64;
        if self.arity >= 0 { argc == self.arity } else { argc >= -self.arity }
    }
}

/// The commands of one upstream.
#[derive(Debug)]
pub struct Table {
    /// Commands and subcommands; the index is the id.
    entries: Vec<Entry>,
    /// Names a child may type as first argument.
    names: Names,
    learned: usize,
    policy: Policy,
    /// The upstream is older than Redis 7.0: it lists no subcommands, and words some errors in another way.
    is_before_7: bool,
    /// What such a server does not tell is in it.
    has_unsaid: bool,
    /// The upstream reads all options of HELLO before any applies, as Redis does since 7.2, and Valkey.
    reads_hello_whole: bool,
    /// What `commands_deny` names and a script can call all the same.
    denied_to_scripts: Vec<CommandId>,
}

impl Table {
    /// Builds the table from the reply to `COMMAND`, with what the settings say about commands.
    pub fn from_command_reply(reply: &Value, policy: Policy) -> Result<Table, String> {
        let mut table = Table::empty(policy);
        items(reply).ok_or(NO_ARRAY)?.iter().try_for_each(|item| table.take(item))?;
        table.end()?;
        Ok(table)
    }

    /// A table that takes the reply to COMMAND item by item, up to its `end`: all at once takes milliseconds.
    pub(crate) fn empty(policy: Policy) -> Table {
        Table {
            entries: Vec::new(),
            names: Names::default(),
            learned: 0,
            policy,
            is_before_7: false,
            has_unsaid: false,
            reads_hello_whole: false,
            denied_to_scripts: Vec::new(),
        }
    }

    /// The commands of the nearest release to a server that does not tell its own, and which release that is.
    pub fn builtin(server: &str, version: &str, policy: Policy) -> Result<(Table, &'static str), String> {
        let release = Release::nearest(server, version).ok_or("no table is built in")?;
        let mut table = Table::empty(policy);
        table.is_before_7 = release.lacks_subcommands();
        release.rows().try_for_each(|row| table.take_row(&row))?;
        table.end()?;
        Ok((table, release.name))
    }

    fn take_row(&mut self, row: &BuiltinRow) -> Result<(), String> {
        let Some((container, own)) = row.name.split_once('|') else {
            let id = self.push(row.name, row.arity, row.flags)?;
            self.remember(row.name.as_bytes(), id);
            return Ok(());
        };
        let Some(container) = self.names.get(container.as_bytes()) else { return Ok(()) };
        let id = self.push(row.name, row.arity, row.flags)?;
        let subcommands = self.entries[usize::from(container)].subcommands.get_or_insert_default();
        subcommands.insert(own.as_bytes(), id);
        Ok(())
    }

    pub(crate) fn take(&mut self, item: &Value) -> Result<(), String> {
        let raw = RawEntry::read(item)?;
        self.is_before_7 |= raw.is_before_7;
        let id = self.add(&raw)?;
        self.remember(raw.name.as_bytes(), id);
        Ok(())
    }

    pub(crate) fn end(&mut self) -> Result<(), String> {
        if self.entries.is_empty() {
            return Err("the reply to COMMAND is empty".to_owned());
        }
        // Names are confirmed by a second reply, behind which this is called again.
        if self.is_before_7 && !std::mem::replace(&mut self.has_unsaid, true) {
            self.add_unsaid()?;
        }
        self.reads_hello_whole = self.canonical(SINCE_7_2).is_some();
        self.list_denied();
        Ok(())
    }

    /// What COMMAND began to tell with Redis 7.0, as it is there: subcommands, and some flags.
    fn add_unsaid(&mut self) -> Result<(), String> {
        let release = Release::with_subcommands().ok_or("no table is built in")?;
        for row in release.rows() {
            // Names are not confirmed yet: nothing is renamed, as far as is known.
            match self.names.get(row.name.as_bytes()).filter(|_| !row.name.contains('|')) {
                Some(id) => {
                    let entry = &mut self.entries[usize::from(id)];
                    entry.flags = entry.flags.with_those_of(row.flags, &UNSAID);
                    entry.base = self.policy.base(row.name, entry.flags);
                }
                None if row.name == NEW_SUBCOMMAND => {}
                None if row.name.contains('|') || row.name == UNLISTED => {
                    self.take_row(&row.before_7())?;
                }
                // It has come since.
                None => {}
            }
        }
        Ok(())
    }

    /// Where the commands of a table that this one follows are in it.
    pub(crate) fn renumbering(&self, former: &Table) -> Renumbering {
        let own: HashMap<&str, CommandId> = self.ids().map(|id| (self.name(id), id)).collect();
        let found = |id| own.get(former.name(id)).copied().unwrap_or(NO_COMMAND);
        Renumbering(former.ids().map(found).collect())
    }

    /// How the upstream words the errors that the broker answers in its place.
    pub fn wording(&self) -> Wording {
        if self.is_before_7 { Wording::Before7 } else { Wording::Since7 }
    }

    /// Whether the upstream reads all options of HELLO before any applies.
    pub fn reads_hello_whole(&self) -> bool {
        self.reads_hello_whole
    }

    /// Takes what other settings say about commands.
    pub fn set_policy(&mut self, policy: Policy) {
        for entry in &mut self.entries {
            entry.base = policy.base(&entry.name, entry.flags);
        }
        self.policy = policy;
        self.list_denied();
    }

    pub(crate) fn list_denied(&mut self) {
        let is_denied = |id: &CommandId| self.policy.denies(self.name(*id)) && self.is_callable(*id);
        self.denied_to_scripts = self.ids().filter(is_denied).collect();
    }

    /// Canonical names of the commands without their subcommands, in the order `confirm` expects.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.commands().map(|(_, entry)| &*entry.name)
    }

    /// Takes the reply to `COMMAND INFO` of all `names`. `COMMAND` lists a renamed command under its old
    /// name only, so this is how a name that has gone, or that now means another command
    /// (`rename-command SELECT get`), is noticed.
    pub fn confirm(&mut self, info: &Value) -> Result<(), String> {
        let infos = items(info).unwrap_or_default();
        let known = self.known(infos.len())?;
        for ((id, name), info) in known.iter().zip(infos) {
            self.confirm_name(*id, name, info)?;
        }
        self.list_denied();
        Ok(())
    }

    /// What `confirm` is told of, where that is as many; for those who confirm name by name, and call `list_denied` then.
    pub(crate) fn known(&self, told: usize) -> Result<Vec<(CommandId, Box<str>)>, String> {
        let known: Vec<_> = self.commands().map(|(id, entry)| (id, entry.name.clone())).collect();
        if told != known.len() {
            return Err(format!("COMMAND INFO of {} names told of {told}", known.len()));
        }
        Ok(known)
    }

    pub(crate) fn confirm_name(&mut self, id: CommandId, name: &str, info: &Value) -> Result<(), String> {
        if matches!(info, Value::Nil) {
            if !(self.is_before_7 && name == UNLISTED) {
                self.names.remove(name.as_bytes());
            }
            return Ok(());
        }
        let raw = RawEntry::read(info)?;
        let id = if raw.name == *name { id } else { self.id_of(&raw)? };
        self.remember(name.as_bytes(), id);
        Ok(())
    }

    /// Takes the reply to `COMMAND INFO typed` for a name that was not found: a renamed command, or one of a module
    /// loaded since. False if the server does not know the name either, or it must not be learned.
    pub fn learn(&mut self, typed: &[u8], info: &Value) -> bool {
        // COMMAND INFO takes `client|id` for a subcommand, which cannot be typed so. And as Redis hashes
        // whole names but compares up to a NUL, `get\0x` is GET by chance of the hash seed.
        if typed.len() > NAME_MAX || typed.contains(&b'|') || typed.contains(&0) || texts::hangs_up(typed) {
            return false;
        }
        if self.find(typed).is_some() {
            return true;
        }
        let Some([entry]) = items(info) else { return false };
        let Ok(raw) = RawEntry::read(entry) else { return false };
        if self.learned >= LEARNED_MAX || raw.name.contains('|') {
            return false;
        }
        let Ok(id) = self.id_of(&raw) else { return false };
        self.learned += 1;
        self.remember(typed, id);
        self.list_denied();
        true
    }

    /// Full name of a command in lower case, `client|id`; empty for an id of another table.
    pub fn name(&self, id: CommandId) -> &str {
        self.entry(id).map_or("", |entry| &entry.name)
    }

    /// The same as the server writes it in its errors.
    pub fn name_as_told(&self, id: CommandId) -> &str {
        self.entry(id).map_or("", |entry| entry.told.as_deref().unwrap_or(&entry.name))
    }

    /// How its requests are carried out, in a word; none for an id of another table.
    pub fn way_name(&self, id: CommandId) -> Option<&'static str> {
        Some(match self.entry(id)?.base {
            Base::Waits(_) => "lease",
            Base::Fixed(route) => route.way_name(),
        })
    }

    /// A name under which a child may type a command: its own, unless that is renamed. None if no other is known.
    pub fn typed(&self, name: &str) -> Option<Vec<u8>> {
        let id = self.canonical(name)?;
        let is_own = self.names.get(name.as_bytes()) == Some(id);
        if is_own { Some(name.as_bytes().to_vec()) } else { self.names.name_of(id) }
    }

    /// Whether a command goes on shared lanes as far as its name tells.
    pub fn is_shared(&self, typed: &[u8]) -> bool {
        let base = self.find(typed).map(|(_, entry)| entry.base);
        matches!(base, Some(Base::Fixed(Route::Shared | Route::Count(_)) | Base::Waits(TimeoutAt::Block)))
    }

    /// Whether a command may change data.
    pub fn is_write(&self, id: CommandId) -> bool {
        self.entry(id).is_some_and(|entry| entry.write)
    }

    /// Whether a replica gives the same answer to it, but for what has not reached it yet. Not what goes on with a cursor of
    /// one server, nor what names a script that another one may not have; TOUCH is meant for the one that evicts. Nothing,
    /// where the table is not the upstream's own.
    pub fn is_replica_read(&self, id: CommandId) -> bool {
        self.entry(id).is_some_and(|entry| {
            let is_bound = entry.name.ends_with("scan") || &*entry.name == "touch";
            let may_wait = entry.flags.has(Flag::Blocking);
            entry.reads_keys && !entry.write && !may_wait && !is_bound && !entry.flags.has(Flag::NoScript)
        })
    }

    /// Whether Redis runs a command while a script is busy.
    pub fn is_allowed_while_busy(&self, id: CommandId) -> bool {
        self.entry(id).is_some_and(|entry| entry.flags.has(Flag::AllowBusy))
    }

    /// What a script run by the command may call.
    pub fn runs(&self, id: CommandId) -> Runs {
        self.entry(id).map_or(Runs::Nothing, |entry| entry.runs)
    }

    /// Whether the command publishes messages, by itself or in a script.
    pub fn may_publish(&self, id: CommandId) -> bool {
        let publishes =
            |entry: &Entry| matches!(entry.base, Base::Fixed(Route::Count(count)) if count.publishes);
        self.entry(id).is_some_and(|entry| publishes(entry) || entry.runs == Runs::Anything)
    }

    /// Whether a script can do something by the command. A container alone does nothing, and no HELP does.
    pub fn is_callable(&self, id: CommandId) -> bool {
        let acts = |entry: &Entry| entry.subcommands.is_none() && !entry.name.ends_with("|help");
        self.entry(id).is_some_and(|entry| acts(entry) && !entry.flags.has(Flag::NoScript))
    }

    /// Whether a read-only script can call the command: the flag alone says so.
    pub fn is_callable_read_only(&self, id: CommandId) -> bool {
        self.is_callable(id) && !self.entry(id).is_some_and(|entry| entry.flags.has(Flag::Write))
    }

    /// What the settings refuse and a script can call all the same.
    pub fn denied_to_scripts(&self) -> &[CommandId] {
        &self.denied_to_scripts
    }

    /// The least a request of the command consists of, its arguments made up.
    pub fn least_request(&self, id: CommandId) -> Vec<&str> {
        let Some(entry) = self.entry(id) else { return Vec::new() };
        let mut words: Vec<&str> = entry.name.split('|').collect();
        words.resize(words.len().max(entry.arity.unsigned_abs().min(64) as usize), "1");
        words
    }

    /// Whether a command of this id may wait for an element.
    pub fn blocks(&self, id: CommandId) -> bool {
        self.entry(id).is_some_and(|entry| matches!(entry.base, Base::Waits(_)))
    }

    /// All ids, those of subcommands included.
    pub fn ids(&self) -> Range<CommandId> {
        0..self.entries.len() as CommandId
    }

    pub(super) fn is_before_7(&self) -> bool {
        self.is_before_7
    }

    pub(super) fn find(&self, typed: &[u8]) -> Option<(CommandId, &Entry)> {
        self.find_in(&self.names, typed)
    }

    pub(super) fn find_in(&self, names: &Names, typed: &[u8]) -> Option<(CommandId, &Entry)> {
        let id = names.get(typed)?;
        Some((id, self.entry(id)?))
    }

    fn entry(&self, id: CommandId) -> Option<&Entry> {
        self.entries.get(usize::from(id))
    }

    fn commands(&self) -> impl Iterator<Item = (CommandId, &Entry)> {
        (0..).zip(&self.entries).filter(|(_, entry)| !entry.name.contains('|'))
    }

    /// A command by the name the server itself has for it, whether or not it can be typed.
    fn canonical(&self, name: &str) -> Option<CommandId> {
        self.commands().find(|(_, entry)| *entry.name == *name).map(|(id, _)| id)
    }

    fn id_of(&mut self, raw: &RawEntry<'_>) -> Result<CommandId, String> {
        self.canonical(&raw.name).map_or_else(|| self.add(raw), Ok)
    }

    fn remember(&mut self, typed: &[u8], id: CommandId) {
        // The server hangs up on these before it looks at its table.
        if !texts::hangs_up(typed) {
            self.names.insert(typed, id);
        }
    }

    fn add(&mut self, raw: &RawEntry<'_>) -> Result<CommandId, String> {
        let id = self.push_listed(raw)?;
        if raw.subcommands.is_empty() {
            return Ok(id);
        }
        let mut subcommands = Names::default();
        for item in raw.subcommands {
            let mut sub = RawEntry::read(item)?;
            let own = sub.name.rsplit('|').next().unwrap_or_default().to_owned();
            sub.name = format!("{}|{own}", raw.name);
            let sub_id = self.push_listed(&sub)?;
            subcommands.insert(own.as_bytes(), sub_id);
        }
        self.entries[usize::from(id)].subcommands = Some(subcommands);
        Ok(id)
    }

    /// An entry of COMMAND, with what only the server can say of it.
    fn push_listed(&mut self, raw: &RawEntry<'_>) -> Result<CommandId, String> {
        let id = self.push(&raw.name, raw.arity, raw.flags)?;
        let entry = &mut self.entries[usize::from(id)];
        entry.reads_keys = raw.reads_keys;
        entry.told = (raw.told != *entry.name).then(|| raw.told.as_str().into());
        Ok(id)
    }

    fn push(&mut self, name: &str, arity: i64, flags: Flags) -> Result<CommandId, String> {
        let id = CommandId::try_from(self.entries.len()).ok().filter(|id| *id != NO_COMMAND);
        let id = id.ok_or("too many commands")?;
        let facts = Facts::of_name(name);
        self.entries.push(Entry {
            name: name.into(),
            told: None,
            arity,
            write: facts.writes || flags.has(Flag::Write) || flags.has(Flag::MayReplicate),
            flags,
            base: self.policy.base(name, flags),
            runs: facts.runs,
            reads_keys: false,
            subcommands: None,
        });
        Ok(id)
    }
}

/// The fields of an entry of COMMAND that matter here.
struct RawEntry<'v> {
    /// In lower case.
    name: String,
    told: String,
    arity: i64,
    flags: Flags,
    /// It has the flag `readonly`, and keys.
    reads_keys: bool,
    subcommands: &'v [Value],
    is_before_7: bool,
}

impl<'v> RawEntry<'v> {
    fn read(value: &'v Value) -> Result<RawEntry<'v>, String> {
        let fields = items(value).ok_or("an entry of COMMAND is not an array")?;
        if fields.len() < ENTRY_FIELDS_BEFORE_7 {
            return Err("an entry of COMMAND is too short".to_owned());
        }
        // What is no UTF-8 is read with this in its place.
        let told = text(&fields[0]).filter(|name| !name.contains(char::REPLACEMENT_CHARACTER));
        let told = told.ok_or("an entry of COMMAND has no name")?;
        let name = told.to_ascii_lowercase();
        let Value::Int(arity) = fields[1] else {
            return Err(format!("COMMAND gives no arity for {name}"));
        };
        let flags = items(&fields[2]).ok_or_else(|| format!("COMMAND gives no flags for {name}"))?;
        let has = |flag: &str| flags.iter().filter_map(text).any(|one| one == flag);
        let has_keys = has("movablekeys") || !matches!(fields[3], Value::Int(0));
        let reads_keys = has("readonly") && has_keys;
        let flags = Flags::from_names(flags.iter().filter_map(text));
        let subcommands = fields.get(ENTRY_FIELDS - 1).and_then(items).unwrap_or_default();
        let is_before_7 = fields.len() < ENTRY_FIELDS;
        Ok(RawEntry { name, told, arity, flags, reads_keys, subcommands, is_before_7 })
    }
}

/// RESP3 sends the flags as a set.
const NO_ARRAY: &str = "the reply to COMMAND is not an array";

fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) | Value::Set(items) => Some(items),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Local, Route, Verdict, with_request};

    /// Redis shows a name in its errors as the module has written it.
    #[test]
    fn names_are_told_as_the_server_writes_them() {
        let commands = vec![
            entry("get", 2, &[], vec![]),
            entry("VADD", -1, &["module"], vec![entry("VADD|Sub", -1, &[], vec![])]),
        ];
        let mut table = Table::from_command_reply(&Value::Array(commands), Policy::default()).unwrap();
        assert!(table.learn(b"graph.query", &Value::Array(vec![entry("graph.QUERY", -1, &[], vec![])])));
        let told: Vec<(&str, &str)> =
            table.ids().map(|id| (table.name(id), table.name_as_told(id))).collect();
        let expected =
            [("get", "get"), ("vadd", "VADD"), ("vadd|sub", "VADD|Sub"), ("graph.query", "graph.QUERY")];
        assert_eq!(told, expected);
        assert_eq!(table.name_as_told(99), "");
    }

    #[test]
    fn commands_are_found_again_in_another_order() {
        let table = |names: &[&str]| {
            let commands = names.iter().map(|name| entry(name, 2, &[], vec![])).collect();
            Table::from_command_reply(&Value::Array(commands), Policy::default()).unwrap()
        };
        let (former, next) = (table(&["get", "gone", "set"]), table(&["set", "new", "get"]));
        let renumbering = next.renumbering(&former);
        let found: Vec<CommandId> = [0, 1, 2, 3, NO_COMMAND].map(|id| renumbering.of(id)).to_vec();
        assert_eq!(found, [2, NO_COMMAND, 0, NO_COMMAND, NO_COMMAND]);
    }

    fn entry(name: &str, arity: i64, flags: &[&str], subcommands: Vec<Value>) -> Value {
        let mut fields = vec![
            Value::BulkString(name.as_bytes().to_vec()),
            Value::Int(arity),
            Value::Set(flags.iter().map(|&flag| Value::SimpleString(flag.to_owned())).collect()),
        ];
        fields.resize(9, Value::Int(0));
        fields.push(Value::Array(subcommands));
        Value::Array(fields)
    }

    #[test]
    fn what_an_old_server_does_not_tell_is_added_once() {
        let built = Table::builtin("redis", "6.2.14", Policy::default());
        let (mut table, _) = built.expect("one is built in");
        let before = table.entries.len();
        table.end().expect("its names are confirmed");
        assert_eq!((table.is_before_7, table.entries.len()), (true, before));
    }

    fn table() -> Table {
        let subcommands = vec![entry("client|id", 2, &[], vec![]), entry("client|reply", 3, &[], vec![])];
        Table::from_command_reply(
            &Value::Array(vec![
                entry("get", 2, &["readonly"], vec![]),
                entry("select", 2, &["fast"], vec![]),
                entry("blpop", -3, &["write", "blocking"], vec![]),
                entry("client", -2, &[], subcommands),
            ]),
            Policy::default(),
        )
        .unwrap()
    }

    fn route(table: &Table, args: &[&[u8]]) -> Option<(String, Route)> {
        with_request(args, |request| match table.classify(request) {
            Verdict::Known(known) => Some((known.name.to_owned(), known.route)),
            _ => None,
        })
    }

    #[test]
    fn names_fold_case_and_subcommands_are_found() {
        let table = table();
        assert_eq!(route(&table, &[b"GeT", b"a"]), Some(("get".to_owned(), Route::Shared)));
        let id = Some(("client|id".to_owned(), Route::Local(Local::ClientId)));
        assert_eq!(route(&table, &[b"CLIENT", b"Id"]), id);
        for name in [&b"\xff\xfe"[..], b"", &[b'a'; 300], b"get\0", b"client|id"] {
            with_request(&[name], |r| assert!(matches!(table.classify(r), Verdict::Unknown), "{name:?}"));
        }
        with_request(&[b"client", &[b'x'; 500]], |r| {
            assert!(matches!(table.classify(r), Verdict::UnknownSubcommand));
        });
        for name in [&b"POST"[..], b"hOst:", b"post\0x"] {
            with_request(&[name], |r| assert!(matches!(table.classify(r), Verdict::Hangup)));
        }
        with_request(&[], |r| assert!(matches!(table.classify(r), Verdict::Unknown)));
    }

    #[test]
    fn wrong_arity_is_told_and_never_blocks() {
        let table = table();
        for (args, ok) in [(&[&b"get"[..]][..], false), (&[b"get", b"a"], true), (&[b"blpop"], false)] {
            with_request(args, |request| match table.classify(request) {
                Verdict::Known(known) => assert_eq!((known.arity_ok, known.route), (ok, Route::Shared)),
                other => panic!("{other:?}"),
            });
        }
    }

    #[test]
    fn aliases_and_module_commands_are_learned() {
        let mut table = table();
        let info = |entry| Value::Array(vec![entry]);
        let select = || info(entry("select", 2, &["fast"], vec![]));
        assert!(!table.learn(b"nothing", &info(Value::Nil)));
        assert!(!table.learn(b"select\0x", &select()));
        assert!(!table.learn(b"client|id", &info(entry("client|id", 2, &[], vec![]))));
        assert!(!table.learn(b"post", &select()));
        assert!(!table.learn(b"sel", &Value::Nil));
        let Value::Array(mut fields) = entry("", 1, &[], vec![]) else { unreachable!() };
        fields[0] = Value::BulkString(b"m.\xff".to_vec());
        assert!(!table.learn(b"m.x", &info(Value::Array(fields))), "a name that is no text");
        let before = table.ids();
        assert!(table.learn(b"SeL2", &select()));
        assert_eq!(table.ids(), before, "an alias is no new command");
        let expected = Some(("select".to_owned(), Route::Local(Local::Select)));
        assert_eq!(route(&table, &[b"sel2", b"1"]), expected);
        assert!(table.learn(b"m.wait", &info(entry("m.wait", 1, &["module", "blocking"], vec![]))));
        assert_eq!(route(&table, &[b"M.WAIT"]), Some(("m.wait".to_owned(), Route::Dedicated)));
        for n in 0..LEARNED_MAX {
            table.learn(format!("n{n}").as_bytes(), &select());
        }
        assert!(!table.learn(b"one.more", &select()));
    }

    #[test]
    fn confirm_drops_and_exchanges_names() {
        let mut table = table();
        assert_eq!(table.names().collect::<Vec<_>>(), ["get", "select", "blpop", "client"]);
        let get_is_select = entry("select", 2, &["fast"], vec![]);
        let blpop = entry("blpop", -3, &["write", "blocking"], vec![]);
        let info = Value::Array(vec![get_is_select, Value::Nil, blpop, entry("client", -2, &[], vec![])]);
        table.confirm(&info).unwrap();
        assert_eq!(route(&table, &[b"get", b"1"]), Some(("select".to_owned(), Route::Local(Local::Select))));
        assert_eq!(route(&table, &[b"select", b"1"]), None);
        assert!(table.learn(b"select", &Value::Array(vec![entry("get", 2, &["readonly"], vec![])])));
        assert_eq!(route(&table, &[b"select", b"1"]), Some(("get".to_owned(), Route::Shared)));
        assert!(table.confirm(&Value::Array(vec![])).is_err());
    }

    #[test]
    fn replies_of_another_shape_are_errors() {
        for reply in [Value::Nil, Value::Array(vec![]), Value::Array(vec![Value::Int(1)])] {
            assert!(Table::from_command_reply(&reply, Policy::default()).is_err());
        }
        let old = Value::Array(vec![Value::Array(vec![Value::SimpleString("get".into()), Value::Int(2)])]);
        assert!(Table::from_command_reply(&old, Policy::default()).unwrap_err().contains("too short"));
    }
}
