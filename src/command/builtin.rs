//! The commands of some releases, for an upstream that does not tell its own: a user without the right to COMMAND, and what a
//! release older than 7.0 leaves out of the answer. Owns the rows, which were made from the servers themselves; never
//! decides where a command goes.

use super::flags::{Flag, Flags};

/// Lines `= key server version`, one a release, the oldest of each server first; then `keys name arity flags`, one a
/// command, with the keys of the releases that have it so. A container stands before its subcommands.
static TEXT: &str = include_str!("builtin.txt");

/// The release whose subcommands stand for those of an older one, which does not list its own.
const FIRST_WITH_SUBCOMMANDS: &str = "redis 7.0";

/// One command or subcommand of a release.
#[derive(Debug)]
pub(super) struct BuiltinRow {
    pub(super) name: &'static str,
    pub(super) arity: i64,
    pub(super) flags: Flags,
}

impl BuiltinRow {
    /// The same as it was before 7.0: CLIENT CACHING did not look at what stood behind its argument, SCRIPT EXISTS may be
    /// asked of no script.
    pub(super) fn before_7(self) -> BuiltinRow {
        let arity = match self.name {
            "client|caching" => -3,
            "script|exists" => -2,
            _ => self.arity,
        };
        BuiltinRow { arity, ..self }
    }
}

/// One of the releases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    key: char,
    /// Its server and version, in words.
    pub(super) name: &'static str,
}

impl Release {
    /// The nearest to a server of this name and version that is not newer; the oldest, if all are, or if nothing is known of
    /// the server: what it lacks is refused, and what it has is the same everywhere.
    pub(super) fn nearest(server: &str, version: &str) -> Option<Release> {
        let wanted = numbers(version);
        let of_server = |release: &Release| release.name.split(' ').next() == Some(server);
        let is_known = releases().any(|release| of_server(&release));
        let mut nearest = None;
        for release in releases().filter(|release| !is_known || of_server(release)) {
            let is_older = is_known && numbers(release.version()) <= wanted;
            if nearest.is_none() || is_older {
                nearest = Some(release);
            }
        }
        nearest
    }

    /// The first that lists subcommands.
    pub(super) fn with_subcommands() -> Option<Release> {
        releases().find(|release| release.name.starts_with(FIRST_WITH_SUBCOMMANDS))
    }

    fn version(&self) -> &'static str {
        self.name.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether COMMAND does not list subcommands there.
    pub(super) fn lacks_subcommands(&self) -> bool {
        !self.rows().any(|row| row.name.contains('|'))
    }

    pub(super) fn rows(self) -> impl Iterator<Item = BuiltinRow> {
        TEXT.lines().filter_map(move |line| {
            let mut words = line.split(' ');
            words.next().filter(|keys| keys.contains(self.key))?;
            let (name, arity, flags) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
            Some(BuiltinRow { name, arity, flags: Flags::from_names(flags.split(',')) })
        })
    }
}

fn releases() -> impl Iterator<Item = Release> {
    TEXT.lines().filter_map(|line| {
        let (key, name) = line.strip_prefix("= ")?.split_once(' ')?;
        Some(Release { key: key.chars().next()?, name })
    })
}

/// `7.0.15` as numbers that can be compared; zero where there is none.
fn numbers(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// What COMMAND does not say of a command before 7.0, though it was so.
pub(super) const UNSAID: [Flag; 2] = [Flag::Blocking, Flag::AllowBusy];

/// Which command it does not list then.
pub(super) const UNLISTED: &str = "quit";

/// Which subcommand has come with 7.0 to a container whose subcommands are answered or judged here.
pub(super) const NEW_SUBCOMMAND: &str = "client|no-evict";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_release_that_is_not_newer_is_taken() {
        for (server, version, expected) in [
            ("redis", "6.0.16", "redis 6.2.14"),
            ("redis", "6.2.5", "redis 6.2.14"),
            ("redis", "7.0.15", "redis 7.0.15"),
            ("redis", "7.4.2", "redis 7.0.15"),
            ("redis", "8.0.0", "redis 7.0.15"),
            ("redis", "8.2.3", "redis 8.2.3"),
            ("redis", "255.255.255", "redis 8.2.3"),
            ("valkey", "8.0.1", "valkey 8.1.8"),
            ("valkey", "9.0.0", "valkey 8.1.8"),
            ("valkey", "10.0.0", "valkey 9.1.2"),
            ("other", "df-1.2", "redis 6.2.14"),
        ] {
            let found = Release::nearest(server, version).map(|release| release.name);
            assert_eq!(found, Some(expected), "{server} {version}");
        }
    }

    #[test]
    fn each_release_has_its_rows() {
        for release in releases() {
            let rows: Vec<BuiltinRow> = release.rows().collect();
            assert!(rows.len() > 200, "{} has {}", release.name, rows.len());
            let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
            for (at, name) in names.iter().enumerate() {
                assert!(!names[..at].contains(name), "{name} stands twice in {}", release.name);
                let container = name.split_once('|').map(|(container, _)| container);
                assert!(container.is_none_or(|container| names[..at].contains(&container)), "{name}");
            }
            assert_eq!(release.lacks_subcommands(), release.name.starts_with("redis 6"));
        }
        assert!(TEXT.lines().all(|line| line.starts_with(['#', '=']) || line.split(' ').count() == 4));
    }
}
