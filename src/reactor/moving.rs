//! A planned move to another upstream (`BROKER UPSTREAM`): the settings that go with it, and how connections are secured on the
//! way there and back. When to go and whether to stay is the core's (`core::steering`).

use super::Loop;
use super::reload::Prepared;
use super::secrets::warn_of_insecurity;
use crate::base::error::Result;
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
    settings: Settings,
    /// How connections there are secured; those to the present upstream, once it is tried.
    tls: Option<ClientTls>,
}

impl Loop {
    /// Reads what goes with the move, and begins it. Its asker hears of the end.
    pub(super) fn plan_move(&mut self, asker: ChildKey, url: &str) -> std::result::Result<(), String> {
        let prepared = settings_at(self.core.settings(), url).and_then(Prepared::new);
        let Prepared { settings, upstream, secrets } = prepared.map_err(|error| error.to_string())?;
        self.core.begin_move(upstream)?;
        self.planned = Some(MoveWithSettings { asker, settings, tls: secrets.upstream });
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
                self.core.end_move(planned.settings);
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

/// The settings that there would be with this upstream. What is stored of passwords is for the hosts it was stored for: another
/// one gets what stands in the URL.
fn settings_at(present: &Settings, url: &str) -> Result<Settings> {
    let mut settings = present.clone();
    settings.set("upstream", url)?;
    let hosts = |settings: &Settings| settings.upstream.as_ref().map(|upstream| hosts_of(&upstream.place));
    let (known, named) = (hosts(present).unwrap_or_default(), hosts(&settings).unwrap_or_default());
    if named.iter().any(|host| !known.contains(host)) {
        CREDENTIALS.iter().try_for_each(|key| settings.unset(key))?;
    }
    Ok(settings)
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
        let resolved = |url: &str| settings_at(&settings, url).unwrap().upstream_resolved().unwrap().unwrap();
        let password = |url: &str| resolved(url).password.map(|password| password.expose().to_owned());
        assert_eq!(password("redis://ONE:2/3").as_deref(), Some("stored"), "the same host");
        assert_eq!(password("redis://two:1"), None);
        assert_eq!(resolved("redis://two:1").username, None);
        assert_eq!(password("unix:///one"), None);
        assert_eq!(password("redis://app:given@two:1").as_deref(), Some("given"));
        assert_eq!(password("redis+sentinel://one:1,two:1/name"), None);
        assert!(settings_at(&settings, "http://one").is_err());
    }
}
