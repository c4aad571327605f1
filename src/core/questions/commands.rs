//! What the upstream says of its commands: the table that requests are classified by, and the names that it has given to
//! commands the broker sends itself. Owns the table, and the one that is being loaded. Asks nothing itself.

use crate::base::clock::Millis;
use crate::command::texts::Wording;
use crate::command::{CommandId, Policy, Renumbering, Table};
use crate::core::connection::handshake::CommandNames;
use crate::core::latency::{Timed, family_of};
use crate::resp::{reply, value};
use std::collections::HashMap;
use std::ops::Range;

/// Commands that the broker sends in its own name. COMMAND lists a renamed one under its old name alone, so the other
/// is learnt when a child first uses it, and kept: the next connection needs it.
const SENT: [&str; 4] = ["SELECT", "CLIENT", "MULTI", "DISCARD"];

/// A table in the making: an answer about hundreds of commands is taken one by one, in between other work.
#[derive(Debug)]
struct Loading {
    table: Table,
    release: Option<&'static str>,
    /// The answer, and what of it has not been taken.
    frame: Vec<u8>,
    items: std::vec::IntoIter<Range<usize>>,
    /// The commands it confirms, where it is that of COMMAND INFO.
    confirms: Option<std::vec::IntoIter<(CommandId, Box<str>)>>,
}

/// What has been taken with one command more.
#[derive(Debug)]
pub(super) enum Loaded {
    Part,
    /// All of COMMAND.
    Commands,
    /// All of COMMAND INFO: the table holds from now on.
    Table(Renumbering),
}

#[derive(Debug, Default)]
pub(crate) struct Commands {
    table: Option<Table>,
    /// The release whose commands the table has, where the upstream does not tell its own.
    release: Option<&'static str>,
    /// Loaded in part, or not yet confirmed.
    loading: Option<Loading>,
    /// The table has come on the present control connection.
    confirmed: bool,
    /// The upstream was too busy to give it: it is asked for again.
    due: bool,
    /// When it was last put off on the present control connection.
    put_off_at: Option<Millis>,
    /// What the upstream calls the commands of `SENT`, where `rename-command` is known to have moved them.
    renamed: HashMap<&'static str, Vec<u8>>,
    /// Requests of children by the number of their command in the table.
    calls: Vec<u64>,
    /// The family of each command in the table.
    families: Vec<Timed>,
    /// Calls by name, of those that the present table does not have.
    calls_before: HashMap<Box<str>, u64>,
}

impl Commands {
    #[inline]
    pub(crate) fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    pub(crate) fn name(&self, id: CommandId) -> &str {
        self.table.as_ref().map_or("", |table| table.name(id))
    }

    /// The same as the upstream writes it in its errors.
    pub(crate) fn name_as_told(&self, id: CommandId) -> &str {
        self.table.as_ref().map_or("", |table| table.name_as_told(id))
    }

    /// Whether the upstream reads all options of HELLO before any applies.
    pub(crate) fn reads_hello_whole(&self) -> bool {
        self.table.as_ref().is_some_and(Table::reads_hello_whole)
    }

    /// A request of a child was run.
    #[inline]
    pub(crate) fn note_call(&mut self, id: CommandId) {
        if let Some(calls) = self.calls.get_mut(usize::from(id)) {
            *calls += 1;
        }
    }

    /// Which family a command of the table belongs to.
    #[inline]
    pub(crate) fn family(&self, id: CommandId) -> Timed {
        self.families.get(usize::from(id)).copied().unwrap_or(Timed::Other)
    }

    pub(crate) fn calls(&self, id: CommandId) -> u64 {
        self.calls.get(usize::from(id)).copied().unwrap_or_default()
    }

    /// Those that were called.
    pub(crate) fn called(&self) -> impl Iterator<Item = CommandId> {
        (0..).zip(&self.calls).filter(|(_, calls)| **calls > 0).map(|(id, _)| id)
    }

    /// The table's numbers are about to mean nothing: calls are kept by name.
    fn keep_calls(&mut self) {
        let Some(table) = &self.table else { return };
        for (id, calls) in (0..).zip(std::mem::take(&mut self.calls)).filter(|(_, calls)| *calls > 0) {
            *self.calls_before.entry(table.name(id).into()).or_default() += calls;
        }
    }

    /// The table has other numbers, or more of them.
    fn number_calls(&mut self) {
        let Some(table) = &self.table else { return };
        self.calls.resize(table.ids().len(), 0);
        self.families = table.ids().map(|id| family_of(table, id)).collect();
        if self.calls_before.is_empty() {
            return;
        }
        for id in table.ids() {
            self.calls[usize::from(id)] += self.calls_before.remove(table.name(id)).unwrap_or_default();
        }
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// By which name to send one of `SENT`.
    pub(crate) fn name_of(&self, command: &'static str) -> &[u8] {
        self.renamed.get(command).map_or(command.as_bytes(), Vec::as_slice)
    }

    pub(crate) fn names(&self) -> CommandNames<'_> {
        CommandNames {
            client: self.name_of("CLIENT"),
            select: self.name_of("SELECT"),
            multi: self.name_of("MULTI"),
        }
    }

    /// COMMAND was answered: taken with `load_next`. Which of the names are renamed away is asked then.
    pub(crate) fn load(&mut self, frame: &[u8], policy: Policy) {
        let items: Vec<_> = reply::elements(frame).collect();
        let (table, items) = (Table::empty(policy), items.into_iter());
        self.loading = Some(Loading { table, release: None, frame: frame.to_vec(), items, confirms: None });
    }

    /// COMMAND was refused: the commands of the nearest release are taken for the upstream's.
    pub(super) fn assume(&mut self, server: &str, version: &str, policy: Policy) -> Result<(), String> {
        let (table, release) = Table::builtin(server, version, policy)?;
        let items = Vec::new().into_iter();
        self.loading =
            Some(Loading { table, release: Some(release), frame: Vec::new(), items, confirms: None });
        Ok(())
    }

    /// COMMAND INFO was refused: each command goes by its own name, as far as is known.
    pub(super) fn confirm_none(&mut self) {
        if let Some(loading) = &mut self.loading {
            (loading.frame, loading.items) = (Vec::new(), Vec::new().into_iter());
            loading.confirms = Some(Vec::new().into_iter());
        }
    }

    /// The release whose commands are assumed.
    pub(crate) fn release(&self) -> Option<&'static str> {
        self.release
    }

    /// How the upstream words its errors.
    pub(crate) fn wording(&self) -> Wording {
        self.table.as_ref().map_or(Wording::Since7, Table::wording)
    }

    pub(super) fn loading_names(&self) -> impl Iterator<Item = &str> {
        self.loading.iter().flat_map(|loading| loading.table.names())
    }

    pub(super) fn stop_loading(&mut self) {
        self.loading = None;
    }

    /// COMMAND INFO of all names was answered: taken in the same way.
    pub(crate) fn confirm(&mut self, frame: &[u8]) -> Result<(), String> {
        let Some(loading) = &mut self.loading else { return Ok(()) };
        let items: Vec<_> = reply::elements(frame).collect();
        loading.confirms = Some(loading.table.known(items.len())?.into_iter());
        (loading.frame, loading.items) = (frame.to_vec(), items.into_iter());
        Ok(())
    }

    /// Takes the next command of the answer. None, if no answer is being taken.
    pub(super) fn load_next(&mut self) -> Option<Result<Loaded, String>> {
        let loading = self.loading.as_mut()?;
        let next = loading.items.next();
        let Some(range) = next else {
            if let Err(why) = loading.table.end() {
                return Some(Err(why));
            }
            if loading.confirms.is_none() {
                return Some(Ok(Loaded::Commands));
            }
            self.keep_calls();
            let loaded = self.loading.take();
            self.release = loaded.as_ref().and_then(|loading| loading.release);
            let former = std::mem::replace(&mut self.table, loaded.map(|loading| loading.table));
            let renumbering =
                self.table.as_ref().zip(former).map(|(table, former)| table.renumbering(&former));
            self.number_calls();
            self.confirmed = true;
            self.learn_names();
            return Some(Ok(Loaded::Table(renumbering.unwrap_or_default())));
        };
        let Some(item) = value::parse(&loading.frame[range]) else {
            return Some(Err("COMMAND: not a reply".into()));
        };
        let taken = match loading.confirms.as_mut().map(Iterator::next) {
            None => loading.table.take(&item),
            Some(Some((id, name))) => loading.table.confirm_name(id, &name, &item),
            Some(None) => Ok(()),
        };
        Some(taken.map(|()| Loaded::Part))
    }

    /// COMMAND INFO of one name was answered. Whether the table has it now.
    pub(crate) fn learn(&mut self, name: &[u8], frame: &[u8]) -> bool {
        let (Some(reply), Some(table)) = (value::parse(frame), &mut self.table) else { return false };
        let known = table.learn(name, &reply);
        if known {
            self.learn_names();
        }
        self.number_calls();
        known
    }

    fn learn_names(&mut self) {
        for command in SENT {
            match self.table.as_ref().and_then(|table| table.typed(&command.to_ascii_lowercase())) {
                Some(name) if name.eq_ignore_ascii_case(command.as_bytes()) => {
                    drop(self.renamed.remove(command))
                }
                Some(name) => drop(self.renamed.insert(command, name)),
                None => {}
            }
        }
    }

    /// The upstream was too busy to answer. A table from before still holds.
    pub(super) fn put_off(&mut self, now: Millis) {
        (self.due, self.put_off_at) = (true, Some(now));
    }

    pub(crate) fn put_off_at(&self) -> Option<Millis> {
        self.put_off_at
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    pub(crate) fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.due)
    }

    /// The control connection is lost. The table is asked for again on the next one, and holds until it has come.
    pub(super) fn connection_lost(&mut self) {
        (self.loading, self.confirmed, self.due, self.put_off_at) = (None, false, false, None);
    }

    pub(crate) fn forget(&mut self) {
        self.keep_calls();
        (self.table, self.loading, self.release) = (None, None, None);
        self.renamed.clear();
    }

    /// Commands are allowed and refused as other settings say, from the next request on.
    pub(crate) fn set_policy(&mut self, policy: &Policy) {
        let loading = self.loading.as_mut().map(|loading| &mut loading.table);
        for table in self.table.as_mut().into_iter().chain(loading) {
            table.set_policy(policy.clone());
        }
    }
}
