//! The list of differences that are meant. Owns `waivers.toml` and how often each entry was needed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::play::Difference;
use crate::support::redis::release;

const FILE: &str = include_str!("waivers.toml");
/// A list that grows beyond this is no list of exceptions.
pub(crate) const MAX: usize = 40;

struct Waiver {
    command: String,
    direct: String,
    broker: String,
    needed: AtomicU64,
}

/// Those for the server at hand.
pub(crate) struct Waivers(Vec<Waiver>);

impl Waivers {
    pub(crate) fn load() -> Waivers {
        let file = toml::de::DeTable::parse(FILE).expect("waivers.toml").into_inner();
        let list = file.get("waiver").and_then(|list| list.get_ref().as_array());
        let all: Vec<_> = list.into_iter().flatten().collect();
        assert!(all.len() < MAX, "{} waivers", all.len());
        let waivers = all.into_iter().filter_map(|entry| {
            let find = |key: &str| entry.get_ref().get(key).and_then(|value| value.get_ref().as_str());
            let text = |key: &str| {
                find(key).unwrap_or_else(|| panic!("a waiver without {key}: {entry:?}")).to_owned()
            };
            assert!(text("reason").len() > 20, "a waiver says why: {entry:?}");
            let waiver = Waiver {
                command: text("command"),
                direct: text("direct"),
                broker: text("broker"),
                needed: AtomicU64::new(0),
            };
            find("server").is_none_or(|server| is_like(release(), server)).then_some(waiver)
        });
        Waivers(waivers.collect())
    }

    /// Whether an entry stands for it. The texts are what the replies begin with.
    pub(crate) fn cover(&self, difference: &Difference) -> bool {
        let found = self.0.iter().find(|waiver| {
            difference.kind == "reply"
                && waiver.command == difference.command
                && difference.direct.starts_with(&waiver.direct)
                && difference.broker.starts_with(&waiver.broker)
        });
        found.inspect(|waiver| _ = waiver.needed.fetch_add(1, Ordering::Relaxed)).is_some()
    }

    /// How many entries there are, those that were needed with how often they were, and those that were not.
    pub(crate) fn needed(&self) -> (usize, Vec<String>, Vec<String>) {
        let count = |waiver: &Waiver| waiver.needed.load(Ordering::Relaxed);
        let (idle, needed): (Vec<&Waiver>, _) = self.0.iter().partition(|waiver| count(waiver) == 0);
        let needed =
            needed.iter().map(|waiver| format!("{} ({}) {}", waiver.command, waiver.broker, count(waiver)));
        let idle = idle.iter().map(|waiver| format!("{} ({})", waiver.command, waiver.broker));
        (self.0.len(), needed.collect(), idle.collect())
    }
}

/// Whether a release is one of those that a pattern names, which may end in `*`.
fn is_like(release: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(head) => release.starts_with(head),
        None => release == pattern,
    }
}
