//! New settings in a running loop. All steps that can fail come first; a failure leaves the loop unchanged.

use super::accept::{Door, PolledListener};
use super::pace::StepKind;
use super::secrets::{Secrets, is_guarded, warn_of_insecurity};
use super::{Loop, doors, read_settings};
use crate::base::error::{Error, Result};
use crate::base::limits;
use crate::config::accounts::Account;
use crate::config::sources::Sourced;
use crate::config::{ListenUrl, Settings, Upstream};
use crate::transport::listener::SocketOwner;

const ATTEMPT: &str = "cannot take new settings";

/// New settings with their external part: passwords, users, certificates.
#[derive(Debug)]
pub struct Prepared {
    pub(super) sourced: Sourced,
    pub(super) settings: Settings,
    pub(super) upstream: Upstream,
    pub(super) accounts: Vec<Account>,
    pub(super) secrets: Secrets,
}

/// Why settings that are right by themselves cannot be served with in this process.
pub type SettingsVeto = fn(&Settings) -> Result<()>;

impl Prepared {
    /// Reads every file that the settings name. Blocks meanwhile, and needs no loop.
    pub fn new(sourced: impl Into<Sourced>) -> Result<Prepared> {
        let sourced = sourced.into();
        let settings = sourced.settings()?;
        let (upstream, accounts) = read_settings(&settings)?;
        let secrets = Secrets::read(&settings)?;
        Ok(Prepared { sourced, settings, upstream, accounts, secrets })
    }
}

impl Loop {
    /// Prepares new settings and applies them.
    pub fn reload(&mut self, sourced: impl Into<Sourced>) -> Result<Vec<String>> {
        self.expect_serving(ATTEMPT)?;
        self.apply(Prepared::new(sourced)?)
    }

    /// Has new settings refused that this refuses, whoever they come from.
    pub fn refuse_what(&mut self, veto: SettingsVeto) {
        self.veto = Some(veto);
    }

    /// The layers that the settings in force are made of, what the console has set among them.
    pub fn sourced(&self) -> &Sourced {
        &self.sourced
    }

    /// Refuses what only a loop does that is neither closed nor draining, and has its listeners.
    pub(super) fn expect_serving(&self, attempt: &str) -> Result<()> {
        let why = match () {
            () if self.closed => "the loop is closed",
            () if !self.is_serving() => "the loop drains",
            () if self.listeners_left => "its listeners have been left to another process",
            () => return Ok(()),
        };
        Err(Error::system(why).within(attempt))
    }

    /// Applies new settings, all keys except `log_level`, `log_areas` and `log_format`, which are the program's. On
    /// failure nothing has changed. Binds listeners, whose names it looks up. Returns what has changed, one line for each
    /// key, `key: old -> new`, without secrets; none if nothing has.
    ///
    /// What the console had set and is not in the new layers is gone. Listeners in both settings are not changed, except the mode, user and group of a Unix socket, and TLS: new handshakes
    /// show the certificates that were read. Children stay
    /// connected, whatever their listener, and keep their db. If the upstream changes, requests already written are
    /// answered by the previous upstream and all others go to the new one; transactions in progress finish where they
    /// began, and subscribers are closed.
    pub fn apply(&mut self, prepared: Prepared) -> Result<Vec<String>> {
        let Prepared { sourced, settings, upstream, accounts, mut secrets } = prepared;
        self.expect_serving(ATTEMPT)?;
        if self.planned.is_some() {
            return Err(Error::system("a move to another upstream is under way").within(ATTEMPT));
        }
        self.core.settings().same_fixed(&settings)?;
        self.veto.map_or(Ok(()), |veto| veto(&settings))?;
        self.replace_listeners(&settings, &mut secrets)?;
        self.listeners_changed = true;
        let mut changes = self.core.settings().differences(&settings);
        changes.extend(self.prints.changes_to(&secrets.prints));
        self.tell_of_dropped(&sourced);
        (self.prints, self.sourced) = (secrets.prints, sourced);
        self.redirect(secrets.upstream);
        settings.warn_of_files();
        warn_of_insecurity(&settings);
        self.pace.begin_turn();
        self.tell_time();
        changes.extend(self.core.take_accounts(accounts));
        self.core.reload(settings, upstream);
        self.core.set_sources(self.sourced.sources());
        tell_of(&changes);
        self.forget_history();
        self.pace.step(StepKind::Reload);
        self.pace.end_turn();
        self.wake();
        Ok(changes)
    }

    /// What an operator has set is not taken away unseen.
    fn tell_of_dropped(&self, new: &Sourced) {
        let is_kept = |key: &&str| new.overrides().keys().any(|kept| kept == *key);
        let dropped = self.sourced.overrides().keys().filter(|key| !is_kept(key));
        dropped.for_each(|key| log::info!("{key} is not what the console has set any more"));
    }

    /// One listener for each URL, in their order: one that was there, with other options if they have changed, or a new
    /// one. On failure all is as before.
    fn replace_listeners(&mut self, settings: &Settings, secrets: &mut Secrets) -> Result<()> {
        let registry = self.poll.registry();
        let mut former: Vec<Option<PolledListener>> = self.listeners.drain(..).map(Some).collect();
        // With the index and the URL of those that were there.
        let mut placed: Vec<(PolledListener, Option<(usize, ListenUrl)>)> = Vec::new();
        let outcome = doors(settings).try_for_each(|(door, url)| {
            let guarded = is_guarded(settings, url);
            let fits = |listener: &PolledListener| listener.door == door && listener.stands_at(url);
            let index = former.iter().position(|listener| listener.as_ref().is_some_and(fits));
            let Some((index, mut listener)) = index.and_then(|index| Some((index, former[index].take()?)))
            else {
                self.next_listener += 1;
                let (number, tls) = (self.next_listener, secrets.take(url));
                placed.push((PolledListener::open((door, url), None, guarded, tls, registry, number)?, None));
                return Ok(());
            };
            let asked = listener.asked.clone();
            let applied = if asked == *url { Ok(()) } else { listener.apply(url, guarded) };
            placed.push((listener, Some((index, asked))));
            applied
        });
        if let Err(error) = outcome {
            for (mut listener, origin) in placed {
                let Some((index, asked)) = origin else {
                    listener.close(registry);
                    continue;
                };
                if listener.asked != asked
                    && let Err(error) = listener.apply(&asked, true)
                {
                    log::error!("cannot undo a change: {error}");
                }
                former[index] = Some(listener);
            }
            self.listeners = former.into_iter().flatten().collect();
            return Err(error);
        }
        for (mut listener, origin) in placed {
            listener.keep();
            if origin.is_some() {
                let tls = secrets.take(&listener.asked);
                listener.secure(tls);
            } else {
                listener.warn_if_unguarded(self.core.settings().auth);
            }
            self.listeners.push(listener);
        }
        for mut listener in former.into_iter().flatten() {
            if listener.owner() == SocketOwner::Another {
                log::warn!(
                    "{}: closed, but its owner goes on listening, and nobody accepts: stop its socket unit",
                    listener.url()
                );
            }
            if listener.door == Door::Http {
                listener.close(registry);
                continue;
            }
            listener.retire();
            self.listeners.push(listener);
        }
        Ok(())
    }
}

/// All changes in few lines: of many lines from one place the log would leave some out.
fn tell_of(changes: &[String]) {
    let mut line = String::new();
    for change in changes {
        if !line.is_empty() && line.len() + change.len() > limits::LOG_LINE_MAX / 2 {
            log::info!("changed: {line}");
            line.clear();
        }
        if !line.is_empty() {
            line += "; ";
        }
        line += change;
    }
    if !line.is_empty() {
        log::info!("changed: {line}");
    }
}

pub(super) fn required_upstream(settings: &Settings) -> Result<Upstream> {
    let none = || Error::config("upstream = \"\": allowed is a redis://, redis+sentinel:// or unix:// URL");
    settings.upstream_resolved()?.ok_or_else(none)
}
