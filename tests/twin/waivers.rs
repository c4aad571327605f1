//! The list of differences that are meant. Owns `waivers.toml` and how often each entry was needed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::play::Difference;

const FILE: &str = include_str!("waivers.toml");
/// A list that grows beyond this is no list of exceptions.
pub(crate) const MAX: usize = 40;

struct Waiver {
    command: String,
    direct: String,
    broker: String,
    needed: AtomicU64,
}

pub(crate) struct Waivers(Vec<Waiver>);

impl Waivers {
    pub(crate) fn load() -> Waivers {
        let file = toml::de::DeTable::parse(FILE).expect("waivers.toml").into_inner();
        let list = file.get("waiver").and_then(|list| list.get_ref().as_array());
        let waivers = list.into_iter().flatten().map(|entry| {
            let text = |key: &str| {
                let value = entry.get_ref().get(key).and_then(|value| value.get_ref().as_str());
                value.unwrap_or_else(|| panic!("a waiver without {key}: {entry:?}")).to_owned()
            };
            assert!(text("reason").len() > 20, "a waiver says why: {entry:?}");
            Waiver {
                command: text("command"),
                direct: text("direct"),
                broker: text("broker"),
                needed: AtomicU64::new(0),
            }
        });
        let waivers: Vec<Waiver> = waivers.collect();
        assert!(waivers.len() < MAX, "{} waivers", waivers.len());
        Waivers(waivers)
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

    /// How many entries there are, how many were needed, and which were not.
    pub(crate) fn needed(&self) -> (usize, usize, Vec<String>) {
        let idle = self.0.iter().filter(|waiver| waiver.needed.load(Ordering::Relaxed) == 0);
        let idle: Vec<String> =
            idle.map(|waiver| format!("{} ({})", waiver.command, waiver.broker)).collect();
        (self.0.len(), self.0.len() - idle.len(), idle)
    }
}
