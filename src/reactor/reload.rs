//! New settings in a running loop. Everything that can fail comes first; a failure leaves the loop as it
//! was. What the settings mean for children and lanes is the core's.

use super::accept::Door;
use super::{Loop, locate};
use crate::base::error::{Error, Result};
use crate::config::{ListenUrl, Settings, Upstream};
use crate::transport::resolver::{Lookup, Target};
use mio::Registry;

/// Where a listener of the new settings comes from.
#[derive(Debug)]
enum Place {
    /// A door there is, by its index; its options may have changed.
    Kept(usize),
    /// Bound just now.
    New(Box<Door>),
}

/// New settings with what they need from outside: the upstream's address and its password.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    upstream: Upstream,
    target: Target,
}

impl Prepared {
    /// Reads `upstream_password_file` and looks up the upstream's name, if that is the loop's way ([`Loop::lookup`]).
    /// Blocks for as long as that takes, and needs no loop.
    pub fn new(settings: Settings, lookup: Lookup) -> Result<Prepared> {
        settings.validate()?;
        let upstream = required_upstream(&settings)?;
        let target = locate(&upstream, lookup)?;
        Ok(Prepared { settings, upstream, target })
    }
}

impl Loop {
    /// Prepares new settings, and takes them.
    pub fn reload(&mut self, settings: Settings) -> Result<()> {
        self.expect_serving()?;
        self.apply(Prepared::new(settings, self.lookup())?)
    }

    /// When the loop looks names up.
    pub fn lookup(&self) -> Lookup {
        self.dialler.resolver().lookup()
    }

    fn expect_serving(&self) -> Result<()> {
        if self.is_serving() {
            return Ok(());
        }
        let why = if self.closed { "is closed" } else { "drains" };
        Err(Error::system(format!("cannot take new settings: the loop {why}")))
    }

    /// Takes new settings, all keys of them but `log_level` and `log_format`, which are the program's. On
    /// failure nothing has changed. Binds listeners, whose names it looks up.
    ///
    /// Listeners that both settings name are not touched, but for the mode, user and group of a Unix
    /// socket. Children stay, whichever listener they came through, and keep their db. Of another upstream:
    /// what has been written to the former one is answered by it, everything else goes to the new one;
    /// transactions under way finish where they began, subscribers are closed.
    pub fn apply(&mut self, prepared: Prepared) -> Result<()> {
        let Prepared { settings, upstream, target } = prepared;
        self.expect_serving()?;
        self.core.settings().same_fixed(&settings)?;
        let places = self.find_places(&settings.listen)?;
        self.open_doors(places, &settings.listen);
        let resolver = self.dialler.resolver();
        if !resolver.keeps_itself_fresh() || self.core.upstream().address != upstream.address {
            self.dialler.replace_resolver(resolver.another(target));
        }
        settings.warn_of_files();
        self.tell_time();
        self.core.reload(settings, upstream);
        self.disturb();
        Ok(())
    }

    /// A place for each URL. Those that are new are bound, changed options of others are applied.
    fn find_places(&mut self, urls: &[ListenUrl]) -> Result<Vec<Place>> {
        let mut places: Vec<Place> = Vec::new();
        let mut changed: Vec<(usize, ListenUrl)> = Vec::new();
        let outcome = urls.iter().try_for_each(|url| {
            let taken =
                |index: usize| places.iter().any(|place| matches!(place, Place::Kept(i) if *i == index));
            let mut doors = self.doors.iter().enumerate().filter(|(index, _)| !taken(*index));
            let found = doors.find(|(_, door)| door.asked == *url || door.asked.same_place(url));
            let Some((index, _)) = found else {
                self.next_door += 1;
                let door = Door::open(url, self.poll.registry(), self.next_door)?;
                places.push(Place::New(Box::new(door)));
                return Ok(());
            };
            places.push(Place::Kept(index));
            let former = self.doors[index].asked.clone();
            if former != *url {
                self.doors[index].apply(url)?;
                changed.push((index, former));
            }
            Ok(())
        });
        if let Err(error) = outcome {
            close_new(places, self.poll.registry());
            for (index, former) in changed {
                if let Err(error) = self.doors[index].apply(&former) {
                    log::error!("cannot undo a change: {error}");
                }
            }
            return Err(error);
        }
        Ok(places)
    }

    /// Puts the listeners in the order of their URLs and closes those that none of them names.
    fn open_doors(&mut self, places: Vec<Place>, urls: &[ListenUrl]) {
        let mut former: Vec<Option<Door>> = self.doors.drain(..).map(Some).collect();
        let auth = self.core.settings().auth;
        let doors = places.into_iter().filter_map(|place| match place {
            Place::Kept(index) => former[index].take(),
            Place::New(door) => {
                door.warn_if_unguarded(auth);
                Some(*door)
            }
        });
        self.doors = doors.collect();
        for (door, url) in self.doors.iter_mut().zip(urls) {
            door.asked = url.clone();
        }
        for door in former.into_iter().flatten() {
            door.close(self.poll.registry());
        }
    }
}

fn close_new(places: Vec<Place>, registry: &Registry) {
    for place in places {
        if let Place::New(door) = place {
            door.close(registry);
        }
    }
}

/// The upstream that settings name, with its credentials.
pub(super) fn required_upstream(settings: &Settings) -> Result<Upstream> {
    let none = || Error::config("upstream = \"\": allowed is a redis:// or unix:// URL");
    settings.upstream_resolved()?.ok_or_else(none)
}
