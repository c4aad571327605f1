//! Where every setting is from: the layers that lie above each other, and what the console has set above them all. Owns the
//! order of the layers; reads no file, no flag and no environment itself.

use std::fmt;

use zeroize::Zeroizing;

use super::client::ClientSettings;
use super::endpoint::UpstreamPlace;
use super::load::load_keys;
use super::table::{self, FIELDS, KeyKind, Row, Settings, find};
use super::value::show;
use crate::base::error::{Error, Result};

/// Where a setting is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SettingSource {
    /// Nobody has set it.
    #[default]
    Default,
    /// The configuration file.
    File,
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// `BROKER SET`, until `BROKER UNSET` or a restart.
    Console,
    /// The program that the broker is embedded in.
    Program,
}

impl SettingSource {
    /// Its word in `BROKER SHOW CONFIG`.
    pub fn name(self) -> &'static str {
        match self {
            SettingSource::Default => "default",
            SettingSource::File => "file",
            SettingSource::Flag => "flag",
            SettingSource::Environment => "environment",
            SettingSource::Console => "console",
            SettingSource::Program => "program",
        }
    }
}

/// What the console has set: keys with their texts as they were given, in the order in which they were first set. A text may
/// be a password; `Debug` shows the keys alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Overrides(Vec<(&'static str, Zeroizing<String>)>);

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

impl Overrides {
    /// The keys and their texts: what `set` takes in a successor.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(key, text)| (*key, text.as_str()))
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(key, _)| *key)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a key, or sets it anew. An error names a key that is unknown or takes no such value.
    pub fn set(&mut self, key: &str, text: &str) -> Result<()> {
        let field = find(FIELDS, key)?;
        field.set(&mut Settings::default(), text)?;
        let key = field.row.key;
        self.0.retain(|(other, _)| *other != key);
        self.0.push((key, Zeroizing::new(text.to_owned())));
        Ok(())
    }

    /// Takes a key back. An error says that it was not set.
    pub fn unset(&mut self, key: &str) -> Result<()> {
        let row = &find(FIELDS, key)?.row;
        let before = self.0.len();
        self.0.retain(|(other, _)| *other != row.key);
        match self.0.len() < before {
            true => Ok(()),
            false => Err(Error::config(format!("{key} is not set by the console"))),
        }
    }
}

/// Settings that know where each of them is from, below what the console has set, and that.
#[derive(Debug, Clone, Default)]
pub struct Sourced {
    below: Settings,
    /// Of each row, in their order; empty ones are defaults.
    sources: Vec<SettingSource>,
    overrides: Overrides,
}

/// Of a program that has made them by itself: whatever differs from its default is the program's.
impl From<Settings> for Sourced {
    fn from(settings: Settings) -> Sourced {
        let defaults = Settings::default();
        let is_set = |field: &table::Field<Settings>| !(field.same)(&settings, &defaults);
        let source = |set| if set { SettingSource::Program } else { SettingSource::Default };
        let sources = FIELDS.iter().map(|field| source(is_set(field))).collect();
        Sourced { below: settings, sources, overrides: Overrides::default() }
    }
}

impl Sourced {
    /// The lowest layer.
    pub fn defaults() -> Sourced {
        Sourced::from(Settings::default())
    }

    /// Lays a configuration file above: its text, and its name for errors. Returns what it says for the clients of the host.
    pub fn load_file(&mut self, text: &str, origin: &str) -> Result<ClientSettings> {
        let mut clients = ClientSettings::default();
        for key in load_keys(&mut self.below, &mut clients, text, origin)? {
            self.mark(&key, SettingSource::File);
        }
        Ok(clients)
    }

    /// Lays one value above.
    pub fn set(&mut self, key: &str, text: &str, source: SettingSource) -> Result<()> {
        self.below.set(key, text)?;
        self.mark(key, source);
        Ok(())
    }

    /// The same of `key=value`.
    pub fn set_pair(&mut self, pair: &str, source: SettingSource) -> Result<()> {
        self.below.set_pair(pair)?;
        self.mark(pair.split('=').next().unwrap_or_default().trim(), source);
        Ok(())
    }

    /// Lays what a program has decided by itself above, where nobody else has.
    pub fn fill(&mut self, change: impl FnOnce(&mut Settings) -> Result<()>) -> Result<()> {
        change(&mut self.below)
    }

    /// Takes a key back to its default.
    pub fn clear(&mut self, key: &str) -> Result<()> {
        self.below.unset(key)?;
        self.mark(key, SettingSource::Default);
        Ok(())
    }

    /// The layers below the console.
    pub fn below(&self) -> &Settings {
        &self.below
    }

    /// The same layers under what the console has set elsewhere: before a reload, or in a predecessor.
    pub fn under(mut self, overrides: Overrides) -> Sourced {
        self.overrides = overrides;
        self
    }

    /// What the console has set.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The same with one more value of the console. Its error names a key that cannot change, too.
    pub fn with_override(&self, key: &str, text: &str) -> Result<Sourced> {
        let row = &find(FIELDS, key)?.row;
        if !row.reloadable {
            return Err(Error::config(format!("{key} cannot change while the broker runs")));
        }
        let mut changed = self.clone();
        changed.overrides.set(key, text)?;
        Ok(changed)
    }

    /// The same without a value of the console.
    pub fn without_override(&self, key: &str) -> Result<Sourced> {
        let mut changed = self.clone();
        changed.overrides.unset(key)?;
        Ok(changed)
    }

    /// All layers together, not yet validated.
    pub fn settings(&self) -> Result<Settings> {
        let mut settings = self.below.clone();
        self.overrides.pairs().try_for_each(|(key, text)| settings.set(key, text))?;
        Ok(settings)
    }

    /// Where the value of a key in force is from.
    pub fn source_of(&self, key: &str) -> SettingSource {
        if self.overrides.keys().any(|own| own == key) {
            return SettingSource::Console;
        }
        let at = FIELDS.iter().position(|field| field.row.key == key);
        at.and_then(|at| self.sources.get(at)).copied().unwrap_or_default()
    }

    /// Of each row, in their order.
    pub fn sources(&self) -> Vec<SettingSource> {
        FIELDS.iter().map(|field| self.source_of(field.row.key)).collect()
    }

    fn mark(&mut self, key: &str, source: SettingSource) {
        let at = FIELDS.iter().position(|field| field.row.key == key);
        if let Some(own) = at.and_then(|at| self.sources.get_mut(at)) {
            *own = source;
        }
    }
}

impl Settings {
    /// What is different in `new`, one line for each key, `key: old -> new`; passwords are `***`. Says
    /// nothing of what stands in the files that they name.
    pub fn differences(&self, new: &Settings) -> Vec<String> {
        self.changed_rows(new).map(|row| difference(row, self, new)).collect()
    }

    /// Whether stored passwords would go to a server that they were not given for, if `self` were followed by `new`, whose
    /// URL alone was given. Reads the files of passwords, blocking.
    pub fn sends_passwords_elsewhere(&self, new: &Settings) -> Result<bool> {
        let (Some(former), Some(given)) = (&self.upstream, &new.upstream) else { return Ok(false) };
        if is_same_home(&former.place, &given.place) && (given.tls || !former.tls) {
            return Ok(false);
        }
        let Some(resolved) = new.upstream_resolved()? else { return Ok(false) };
        let is_stored = resolved.password.is_some() && resolved.password != given.password;
        Ok(is_stored || resolved.watched().is_some_and(|watched| watched.password.is_some()))
    }
}

fn is_same_home(one: &UpstreamPlace, other: &UpstreamPlace) -> bool {
    match (one, other) {
        (UpstreamPlace::Watched(one), UpstreamPlace::Watched(other)) => {
            (&one.seeds, &one.name) == (&other.seeds, &other.name)
        }
        _ => one == other,
    }
}

fn difference(row: &Row, old: &Settings, new: &Settings) -> String {
    let [from, to] = [old, new].map(|settings| settings.get_text(row.key).unwrap_or_default());
    let key = row.key;
    if from == to && row.kind != KeyKind::Password {
        // What differs is a part that is not shown.
        return format!("{key}: {} -> the same with other credentials", worded(&from));
    }
    format!("{key}: {} -> {}", worded(&from), worded(&to))
}

/// One word or more on one line.
fn worded(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if !text.is_empty() && text.len() <= 120 && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        show(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered() -> Sourced {
        let mut sourced = Sourced::defaults();
        sourced.load_file("lanes = 2\nqueue_timeout = '2s'\nclient_db = 3\n", "b.toml").unwrap();
        sourced.set_pair(" queue_timeout = 3s", SettingSource::Flag).unwrap();
        sourced.set("upstream_password", "hunter2", SettingSource::Environment).unwrap();
        sourced
    }

    #[test]
    fn the_layer_on_top_has_the_say_and_its_name() {
        let below = layered();
        let set = below.with_override("lanes", "5").unwrap().with_override("lanes", "4").unwrap();
        let settings = set.settings().unwrap();
        assert_eq!((settings.lanes, settings.queue_timeout), (4, 3000));
        let names =
            ["lanes", "queue_timeout", "upstream_password", "ping"].map(|key| set.source_of(key).name());
        assert_eq!(names, ["console", "flag", "environment", "default"]);
        let back = set.without_override("lanes").unwrap();
        assert_eq!((back.settings().unwrap().lanes, back.source_of("lanes")), (2, SettingSource::File));
        let error = back.without_override("lanes").unwrap_err().to_string();
        assert_eq!(error, "lanes is not set by the console");
        let again = Sourced::defaults().under(set.overrides().clone());
        assert_eq!(again.settings().unwrap().lanes, 4, "kept above other layers");
        assert_eq!(set.sources().len(), super::super::rows().len());
    }

    #[test]
    fn what_a_program_sets_is_the_programs() {
        let mut settings = Settings::default();
        settings.set("lanes", "3").unwrap();
        let sourced = Sourced::from(settings);
        assert_eq!(sourced.source_of("lanes"), SettingSource::Program);
        assert_eq!(sourced.source_of("ping"), SettingSource::Default);
    }

    #[test]
    fn the_console_sets_no_key_that_cannot_change_and_no_value_that_is_none() {
        let below = layered();
        for (key, text, error) in [
            ("auth", "users", "auth cannot change while the broker runs"),
            ("lane", "1", "unknown key \"lane\"; did you mean \"lanes\"?"),
            ("lanes", "0", "lanes = \"0\": out of range"),
            ("upstream_password", "hunter2\0", "upstream_password = ***: contains a NUL"),
        ] {
            let found = below.with_override(key, text).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn differences_name_each_key_once_and_no_password() {
        let old = layered().settings().unwrap();
        let mut new = old.clone();
        for (key, text) in [("lanes", "3"), ("upstream_password", "hunter3"), ("upstream", "redis://u:pw@h")]
        {
            new.set(key, text).unwrap();
        }
        new.set("log_areas", "child=debug").unwrap();
        let lines = old.differences(&new);
        let expected = [
            "upstream: \"\" -> redis://h:6379/0",
            "upstream_password: *** -> ***",
            "lanes: 2 -> 3",
            "log_areas: \"\" -> child=debug",
        ];
        assert_eq!(lines, expected);
        let mut other = new.clone();
        other.set("upstream", "redis://u:other@h").unwrap();
        assert_eq!(
            new.differences(&other),
            ["upstream: redis://h:6379/0 -> the same with other credentials"]
        );
        let debug = format!("{:?}", layered().with_override("upstream_password", "hunter9").unwrap());
        assert!(!debug.contains("hunter"), "{debug}");
    }

    #[test]
    fn a_stored_password_is_known_to_go_to_another_host() {
        let mut old = Settings::default();
        old.set("upstream", "redis://h").unwrap();
        old.set("upstream_password", "pw").unwrap();
        let with = |url: &str, more: &[(&str, &str)]| {
            let mut new = old.clone();
            new.set("upstream", url).unwrap();
            more.iter().for_each(|(key, text)| new.set(key, text).unwrap());
            old.sends_passwords_elsewhere(&new).unwrap()
        };
        assert!(!with("redis://h/3", &[]), "the same server");
        assert!(with("redis://other", &[]) && with("redis://:own@other", &[]));
        assert!(!with("redis://:own@other", &[("upstream_password", "")]));
    }
}
