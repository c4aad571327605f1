//! New settings in a running loop. All steps that can fail come first; a failure leaves the loop unchanged.

use super::accept::PolledListener;
use super::pace::StepKind;
use super::secrets::{Secrets, is_guarded, warn_of_insecurity};
use super::{Loop, doors};
use crate::base::error::{Error, Result};
use crate::config::{ListenUrl, Settings, Upstream};
use crate::transport::listener::SocketOwner;

const ATTEMPT: &str = "cannot take new settings";

/// New settings with their external part: the upstream's password.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    upstream: Upstream,
    secrets: Secrets,
}

impl Prepared {
    /// Reads `upstream_password_file` and the files of TLS. Blocks meanwhile, and needs no loop.
    pub fn new(settings: Settings) -> Result<Prepared> {
        settings.validate()?;
        let upstream = required_upstream(&settings)?;
        let secrets = Secrets::read(&settings)?;
        Ok(Prepared { settings, upstream, secrets })
    }
}

impl Loop {
    /// Prepares new settings and applies them.
    pub fn reload(&mut self, settings: Settings) -> Result<()> {
        self.expect_serving(ATTEMPT)?;
        self.apply(Prepared::new(settings)?)
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
    /// failure nothing has changed. Binds listeners, whose names it looks up.
    ///
    /// Listeners in both settings are not changed, except the mode, user and group of a Unix socket, and TLS: new handshakes
    /// show the certificates that were read. Children stay
    /// connected, whatever their listener, and keep their db. If the upstream changes, requests already written are
    /// answered by the previous upstream and all others go to the new one; transactions in progress finish where they
    /// began, and subscribers are closed.
    pub fn apply(&mut self, prepared: Prepared) -> Result<()> {
        let Prepared { settings, upstream, mut secrets } = prepared;
        self.expect_serving(ATTEMPT)?;
        self.core.settings().same_fixed(&settings)?;
        self.replace_listeners(&settings, &mut secrets)?;
        self.redirect(secrets.upstream);
        settings.warn_of_files();
        warn_of_insecurity(&settings);
        self.pace.begin_turn();
        self.tell_time();
        self.core.reload(settings, upstream);
        self.forget_history();
        self.pace.step(StepKind::Reload);
        self.pace.end_turn();
        self.wake();
        Ok(())
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
            let fits = |listener: &PolledListener| {
                listener.door == door && (listener.asked == *url || listener.asked.same_place(url))
            };
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
            if origin.is_some() {
                let tls = secrets.take(&listener.asked);
                listener.secure(tls);
            } else {
                listener.warn_if_unguarded(self.core.settings().auth);
            }
            self.listeners.push(listener);
        }
        for listener in former.into_iter().flatten() {
            if listener.owner() == SocketOwner::Another {
                log::warn!(
                    "{}: closed, but its owner goes on listening, and nobody accepts: stop its socket unit",
                    listener.url()
                );
            }
            listener.close(registry);
        }
        Ok(())
    }
}

pub(super) fn required_upstream(settings: &Settings) -> Result<Upstream> {
    let none = || Error::config("upstream = \"\": allowed is a redis://, redis+sentinel:// or unix:// URL");
    settings.upstream_resolved()?.ok_or_else(none)
}
