//! A planned move to another upstream (`BROKER UPSTREAM`): the settings that go with it, and how connections are secured on the
//! way there and back. When to go and whether to stay is the core's (`core::steering`).

use super::Loop;
use super::reload::Prepared;
use super::secrets::{FilePrints, Secrets, warn_of_insecurity};
use crate::base::error::Result;
use crate::config::sources::Sourced;
use crate::config::{Address, Settings, UpstreamPlace};
use crate::core::ChildKey;
use crate::transport::tls::ClientTls;

/// Settings that are about who the broker is at the upstream, or at its sentinels.
const CREDENTIALS: [&str; 6] = [
    "upstream_username",
    "upstream_password",
    "upstream_password_file",
    "sentinel_username",
    "sentinel_password",
    "sentinel_password_file",
];

/// A move that is under way.
#[derive(Debug)]
pub(super) struct MoveWithSettings {
    asker: ChildKey,
    sourced: Sourced,
    settings: Settings,
    prints: FilePrints,
    /// How connections there are secured; those to the present upstream, once it is tried.
    tls: Option<ClientTls>,
}

impl Loop {
    /// Reads what goes with the move, and begins it. Its asker hears of the end.
    pub(super) fn plan_move(&mut self, asker: ChildKey, url: &str) -> std::result::Result<(), String> {
        self.expect_serving("cannot move").map_err(|error| error.to_string())?;
        let prepared = sourced_at(self.sourced(), url).and_then(Prepared::new);
        let Prepared { sourced, settings, upstream, accounts, secrets } =
            prepared.map_err(|error| error.to_string())?;
        let sends_others = accounts.iter().any(|account| account.upstream.is_some());
        if sends_others && is_other_host(self.settings(), &settings) {
            return Err(
                "auth_file has passwords for the present host; write those of the other one, and RELOAD"
                    .to_owned(),
            );
        }
        self.core.begin_move(upstream)?;
        let Secrets { upstream: tls, prints, .. } = secrets;
        self.planned = Some(MoveWithSettings { asker, sourced, settings, prints, tls });
        Ok(())
    }

    pub(super) fn try_upstream(&mut self) {
        self.exchange_tls();
        self.core.try_upstream();
    }

    fn exchange_tls(&mut self) {
        let Some(planned) = &mut self.planned else { return };
        let there = planned.tls.take();
        planned.tls = self.dialler.tls().cloned();
        self.redirect(there);
    }

    pub(super) fn upstream_tried(&mut self) {
        let outcome = match self.core.move_verdict() {
            Ok(()) => {
                let Some(planned) = self.planned.take() else { return };
                planned.settings.warn_of_files();
                warn_of_insecurity(&planned.settings);
                (self.prints, self.sourced) = (planned.prints, planned.sourced);
                self.core.end_move(planned.settings);
                self.core.set_sources(self.sourced.sources());
                self.forget_history();
                Ok((planned.asker, Vec::new()))
            }
            Err(why) => {
                if self.core.is_trying_move() {
                    self.exchange_tls();
                }
                self.core.leave_move(&why);
                let Some(planned) = self.planned.take() else { return };
                Err((planned.asker, format!("not moved: {why}")))
            }
        };
        match outcome {
            Ok((asker, lines)) => self.core.answer_order(asker, Ok(lines)),
            Err((asker, why)) => self.core.answer_order(asker, Err(why)),
        }
    }
}

/// The layers of settings that there would be with this upstream, as if the console had set it. What is stored of passwords is
/// for the hosts it was stored for: another one gets what stands in the URL.
fn sourced_at(present: &Sourced, url: &str) -> Result<Sourced> {
    let mut sourced = present.with_override("upstream", url)?;
    let (before, after) = (present.settings()?, sourced.settings()?);
    let tls = |settings: &Settings| settings.upstream.as_ref().is_some_and(|upstream| upstream.tls);
    // Nor do they go in the clear where they did not before.
    if is_other_host(&before, &after) || tls(&before) && !tls(&after) {
        for key in CREDENTIALS {
            sourced = sourced.with_override(key, "")?;
        }
    }
    Ok(sourced)
}

/// Whether the second settings lead to a host that the first do not name.
fn is_other_host(known: &Settings, named: &Settings) -> bool {
    let hosts = |settings: &Settings| settings.upstream.as_ref().map(|upstream| hosts_of(&upstream.place));
    let known = hosts(known).unwrap_or_default();
    hosts(named).unwrap_or_default().iter().any(|host| !known.contains(host))
}

fn hosts_of(place: &UpstreamPlace) -> Vec<String> {
    let host = |address: &Address| match address {
        Address::Tcp { host, .. } => host.to_ascii_lowercase(),
        Address::Unix(path) => path.display().to_string(),
    };
    match place {
        UpstreamPlace::Server(address) => vec![host(address)],
        UpstreamPlace::Watched(watched) => watched.seeds.iter().map(host).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_passwords_go_to_no_other_host() {
        let mut settings = Settings::default();
        settings.set("upstream", "redis://one:1").unwrap();
        settings.set("upstream_username", "app").unwrap();
        settings.set("upstream_password", "stored").unwrap();
        let sourced = Sourced::from(settings);
        let at = |url: &str| sourced_at(&sourced, url).and_then(|sourced| sourced.settings());
        let resolved = |url: &str| at(url).unwrap().upstream_resolved().unwrap().unwrap();
        let password = |url: &str| resolved(url).password.map(|password| password.expose().to_owned());
        assert_eq!(password("redis://ONE:2/3").as_deref(), Some("stored"), "the same host");
        assert_eq!(password("redis://two:1"), None);
        assert_eq!(resolved("redis://two:1").username, None);
        assert_eq!(password("unix:///one"), None);
        assert_eq!(password("redis://app:given@two:1").as_deref(), Some("given"));
        assert_eq!(password("redis+sentinel://one:1,two:1/name"), None);
        assert!(at("http://one").is_err());
    }

    #[test]
    #[cfg(feature = "tls")]
    fn what_went_by_tls_is_not_sent_in_the_clear() {
        let mut settings = Settings::default();
        settings.set("upstream", "rediss://one:1").unwrap();
        settings.set("upstream_password", "stored").unwrap();
        let plain = sourced_at(&Sourced::from(settings), "redis://one:1").unwrap();
        assert_eq!(plain.settings().unwrap().upstream_password, None);
    }
}
