//! New settings in a running loop. All steps that can fail come first; a failure leaves the loop unchanged. The core
//! applies the settings to children and lanes.

use super::accept::PolledListener;
use super::{Loop, locate};
use crate::base::error::{Error, Result};
use crate::config::{ListenUrl, Settings, Upstream};
use crate::transport::resolver::{Destination, Lookup};
use mio::Registry;

const ATTEMPT: &str = "cannot take new settings";

/// Where a listener of the new settings comes from.
#[derive(Debug)]
enum ListenerSource {
    /// An existing listener, by index; its options may have changed.
    Kept(usize),
    /// Bound just now.
    New(Box<PolledListener>),
}

/// New settings with their external parts: the upstream's address and its password.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    upstream: Upstream,
    target: Destination,
}

impl Prepared {
    /// Reads `upstream_password_file` and looks up the upstream's name, if the loop does that ([`Loop::lookup`]).
    /// Blocks meanwhile, and needs no loop.
    pub fn new(settings: Settings, lookup: Lookup) -> Result<Prepared> {
        settings.validate()?;
        let upstream = required_upstream(&settings)?;
        let target = locate(&upstream, lookup)?;
        Ok(Prepared { settings, upstream, target })
    }
}

impl Loop {
    /// Prepares new settings and applies them.
    pub fn reload(&mut self, settings: Settings) -> Result<()> {
        self.expect_serving(ATTEMPT)?;
        self.apply(Prepared::new(settings, self.lookup())?)
    }

    /// Refuses what only a loop that is neither closed nor draining does.
    pub(super) fn expect_serving(&self, attempt: &str) -> Result<()> {
        if self.is_serving() {
            return Ok(());
        }
        let why = if self.closed { "the loop is closed" } else { "the loop drains" };
        Err(Error::system(why).within(attempt))
    }

    /// Applies new settings, all keys except `log_level` and `log_format`, which are the program's. On
    /// failure nothing has changed. Binds listeners, whose names it looks up.
    ///
    /// Listeners in both settings are not changed, except the mode, user and group of a Unix socket. Children stay
    /// connected, whatever their listener, and keep their db. If the upstream changes, requests already written are
    /// answered by the previous upstream and all others go to the new one; transactions in progress finish where they
    /// began, and subscribers are closed.
    pub fn apply(&mut self, prepared: Prepared) -> Result<()> {
        let Prepared { settings, upstream, target } = prepared;
        self.expect_serving(ATTEMPT)?;
        self.core.settings().same_fixed(&settings)?;
        let places = self.find_places(&settings.listen)?;
        self.open_listeners(places);
        self.redirect(&upstream, target);
        settings.warn_of_files();
        self.tell_time();
        self.core.reload(settings, upstream);
        self.wake();
        Ok(())
    }

    /// A source for each URL. New ones are bound, changed options of existing ones are applied.
    fn find_places(&mut self, urls: &[ListenUrl]) -> Result<Vec<ListenerSource>> {
        let mut places: Vec<ListenerSource> = Vec::new();
        let mut changed: Vec<(usize, ListenUrl)> = Vec::new();
        let outcome = urls.iter().try_for_each(|url| {
            let taken = |index: usize| {
                places.iter().any(|place| matches!(place, ListenerSource::Kept(i) if *i == index))
            };
            let mut listeners = self.listeners.iter().enumerate().filter(|(index, _)| !taken(*index));
            let found =
                listeners.find(|(_, listener)| listener.asked == *url || listener.asked.same_place(url));
            let Some((index, _)) = found else {
                self.next_listener += 1;
                let listener = PolledListener::open(url, self.poll.registry(), self.next_listener)?;
                places.push(ListenerSource::New(Box::new(listener)));
                return Ok(());
            };
            places.push(ListenerSource::Kept(index));
            let former = self.listeners[index].asked.clone();
            if former != *url {
                self.listeners[index].apply(url)?;
                changed.push((index, former));
            }
            Ok(())
        });
        if let Err(error) = outcome {
            close_new(places, self.poll.registry());
            for (index, former) in changed {
                if let Err(error) = self.listeners[index].apply(&former) {
                    log::error!("cannot undo a change: {error}");
                }
            }
            return Err(error);
        }
        Ok(places)
    }

    /// Puts the listeners in the order of their URLs and closes those without a URL.
    fn open_listeners(&mut self, places: Vec<ListenerSource>) {
        let mut former: Vec<Option<PolledListener>> = self.listeners.drain(..).map(Some).collect();
        let auth = self.core.settings().auth;
        let listeners = places.into_iter().filter_map(|place| match place {
            ListenerSource::Kept(index) => former[index].take(),
            ListenerSource::New(listener) => {
                listener.warn_if_unguarded(auth);
                Some(*listener)
            }
        });
        self.listeners = listeners.collect();
        for listener in former.into_iter().flatten() {
            listener.close(self.poll.registry());
        }
    }
}

fn close_new(places: Vec<ListenerSource>, registry: &Registry) {
    for place in places {
        if let ListenerSource::New(listener) = place {
            listener.close(registry);
        }
    }
}

/// The upstream that settings name, with its credentials.
pub(super) fn required_upstream(settings: &Settings) -> Result<Upstream> {
    let none = || Error::config("upstream = \"\": allowed is a redis:// or unix:// URL");
    settings.upstream_resolved()?.ok_or_else(none)
}
