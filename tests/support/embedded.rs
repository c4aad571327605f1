//! A loop in the test's own process and thread, and local children of it.

use std::collections::HashMap;
use std::time::Instant;

use broker::config::Settings;
use broker::reactor::{LocalEvent, LocalKey, Loop, RunMode};

use super::broker::with_patience;
use super::{PATIENCE, Redis};

/// The defaults, `redis` and `pairs`.
pub(crate) fn settings(redis: &Redis, pairs: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    settings.set("upstream", &redis.url()).expect("a URL");
    for (key, value) in with_patience(pairs) {
        settings.set(key, value).expect("a setting");
    }
    settings
}

/// Runs turns until `done`, as a program without another loop would.
pub(crate) fn run_until(lp: &mut Loop, what: &str, mut done: impl FnMut(&mut Loop) -> bool) {
    let start = Instant::now();
    while !done(lp) {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        lp.run(RunMode::Once).expect("a turn");
    }
}

/// What a program keeps of its local children.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) output: HashMap<LocalKey, Vec<u8>>,
    pub(crate) writable: Vec<LocalKey>,
    pub(crate) closed: Vec<LocalKey>,
}

impl Desk {
    pub(crate) fn take(&mut self, lp: &mut Loop) {
        let mut events = Vec::new();
        lp.local_events(&mut events);
        for event in events {
            match event {
                LocalEvent::Readable(local) => lp.local_read(local, |bytes| {
                    self.output.entry(local).or_default().extend_from_slice(bytes);
                    bytes.len()
                }),
                LocalEvent::Writable(local) => self.writable.push(local),
                LocalEvent::Closed(local) => self.closed.push(local),
            }
        }
    }

    pub(crate) fn text(&self, local: LocalKey) -> String {
        self.output.get(&local).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// Waits for exactly this output.
    pub(crate) fn expect(&mut self, lp: &mut Loop, local: LocalKey, wanted: &str) {
        run_until(lp, wanted, |lp| {
            self.take(lp);
            self.text(local).len() >= wanted.len()
        });
        assert_eq!(self.text(local), wanted);
        self.output.remove(&local);
    }
}

pub(crate) fn send(lp: &mut Loop, local: LocalKey, text: &str) {
    assert_eq!(lp.local_write(local, text.as_bytes()), text.len());
}
