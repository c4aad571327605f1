//! What has been true of the server, and until when: the measure of what children are told about it. A thing told is
//! true if it was so at some moment between the request and its reply.

use super::ledger::Nonce;
use super::redis::ServerDb;
use crate::base::clock::Millis;
use std::collections::HashMap;

const REASONS: usize = Reason::Hurried as usize + 1;
/// The broker may take the server for busy for so long after the script has ended: it asks again in its time.
const BUSY_HEARD: Millis = 500;

/// Something that is so for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The broker's user lacks a right.
    Denied,
    Loading,
    Replica,
    Master,
    /// A replica without its master, which serves nothing.
    MasterDown,
    /// A script has run for so long that others are told.
    Busy,
    /// PING would be answered PONG.
    Pingable,
    /// Blocked clients were sent away.
    Unblocked,
    /// A script was killed.
    Killed,
    /// There is no room for another connection, by the broker's own bounds.
    Crowded,
    /// The broker has no control connection.
    Down,
    /// Turns are cut short: what a child is told may have been decided long before.
    Hurried,
}

/// One blocking command that can be told from all others.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Stay {
    /// It stands, or stood, blocked at the server.
    pub(super) stood: bool,
    /// The server has given up on it, its time being over.
    pub(super) timed_out: bool,
    /// When nothing was found for it by the same command where it does not wait.
    pub(super) looked: Option<Millis>,
}

/// The server has sent a connection away.
#[derive(Debug)]
struct Heard {
    moment: u64,
    text: String,
    /// Its db and protocol; none of the control connection.
    of: Option<(u32, u8)>,
}

#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) now: Millis,
    /// Grows with every change: between two requests there is always one.
    moment: u64,
    /// The last moment at which each was so: none if never, `u64::MAX` while it is.
    held: [Option<u64>; REASONS],
    /// When it was last so, in milliseconds, once it is no more; of `Busy`, as far as the broker can know.
    until: [Millis; REASONS],
    stays: HashMap<Nonce, Stay>,
    /// Lists that have elements; by server, db and key, since when. Any other is empty.
    filled: HashMap<(ServerDb, Vec<u8>), Millis>,
    /// How many servers there are.
    pub(super) servers: usize,
    /// Why connections could not be had, in the server's words.
    heard: Vec<Heard>,
    /// When children last listened: what was heard since may have been heard after they were told.
    listened: u64,
    /// When a connection was last had, or lost for a reason that has no words.
    other: u64,
    /// The broker has asked in time whether the server is still busy, and has no answer.
    unheard: bool,
    /// The broker waits for an answer that tells whether the server is busy.
    asks: bool,
    /// It has read BUSY since it asked.
    said_busy: bool,
    /// It has had another answer since the server last became busy, or was so no more.
    said_otherwise: bool,
    /// Where the connection for the subscriptions of all belongs, if they have one.
    pub(super) subscriber: Option<(u32, u8)>,
}

impl Truth {
    pub(super) fn moment(&self) -> u64 {
        self.moment
    }

    /// So it is from now on, or no longer.
    pub(super) fn set(&mut self, reason: Reason, holds: bool) {
        let held = &mut self.held[reason as usize];
        if holds == (*held == Some(u64::MAX)) {
            return;
        }
        self.said_otherwise &= reason != Reason::Busy;
        if holds {
            *held = Some(u64::MAX);
        } else {
            *held = Some(self.moment);
            self.until[reason as usize] = self.now;
        }
        self.moment += 1;
    }

    /// Something that is so for no time at all.
    pub(super) fn happened(&mut self, reason: Reason) {
        self.set(reason, true);
        self.set(reason, false);
    }

    /// Whether it has been so at any moment since.
    pub(super) fn held_since(&self, reason: Reason, moment: u64) -> bool {
        self.held[reason as usize].is_some_and(|held| held >= moment)
    }

    /// Whether the broker may take the server for busy at that time: it is, was so a little before, or the broker has
    /// asked in time and has no answer, which the wires may keep from it for any time.
    pub(super) fn is_heard_busy(&self, at: Millis) -> bool {
        match self.held[Reason::Busy as usize] {
            None => false,
            Some(u64::MAX) => true,
            Some(_) => self.until[Reason::Busy as usize] + BUSY_HEARD >= at,
        }
    }

    /// Whether the broker waits to be told if the server is busy: until it has the answer it knows nothing newer.
    pub(super) fn asks_if_busy(&mut self, asks: bool) {
        let until = &mut self.until[Reason::Busy as usize];
        if asks != self.asks {
            let said_busy = std::mem::take(&mut self.said_busy);
            self.said_otherwise |= !asks && !said_busy;
            self.asks = asks;
        }
        self.unheard = asks && (self.unheard || !self.said_otherwise && *until + BUSY_HEARD >= self.now);
        if self.unheard {
            *until = self.now;
        }
    }

    /// The broker has read that the server is busy.
    pub(super) fn says_busy(&mut self) {
        (self.said_busy, self.said_otherwise) = (true, false);
    }

    // ---- blocking commands ----------------------------------------------------------------------------

    /// Writes down what has become of a blocking command, if there is a nonce among its keys.
    pub(super) fn note_stay(&mut self, keys: &[Vec<u8>], note: impl FnOnce(&mut Stay)) {
        if let Some(nonce) = keys.iter().find_map(|key| Nonce::of(key)) {
            note(self.stays.entry(nonce).or_default());
        }
    }

    pub(super) fn list_is_empty(&mut self, place: ServerDb, key: &[u8], empty: bool) {
        let list = (place, key.to_vec());
        if empty {
            self.filled.remove(&list);
        } else {
            self.filled.entry(list).or_insert(self.now);
        }
    }

    /// Why a null may not be the answer to a blocking command whose time was over at `due`, if it may not.
    pub(super) fn against_null(
        &self,
        nonce: Option<Nonce>,
        db: u32,
        key: &[u8],
        due: Millis,
    ) -> Option<&'static str> {
        let stay = nonce.map(|nonce| self.stays.get(&nonce).copied().unwrap_or_default());
        // Of several servers it is not known here which one has answered.
        let on = |server: usize| self.filled.get(&((server, db), key.to_vec()));
        let filled = (0..self.servers.max(1)).all(|server| on(server).is_some_and(|since| *since < due));
        match stay {
            Some(stay) if stay.timed_out => None,
            _ if self.now < due => Some("before its time was over"),
            Some(stay) if stay.looked.is_some_and(|at| at >= due) => None,
            Some(stay) if !stay.stood => Some("though it never stood blocked at the server"),
            _ => filled.then_some("though its list has elements"),
        }
    }

    // ---- connections ----------------------------------------------------------------------------------

    /// The broker has read why a connection of its own cannot be: of this db and protocol, or the control connection.
    pub(super) fn heard(&mut self, text: String, of: Option<(u32, u8)>) {
        self.heard.push(Heard { moment: self.moment, text, of });
        self.moment += 1;
    }

    /// All children have heard what has been said to them.
    pub(super) fn listened(&mut self) {
        self.listened = self.moment;
    }

    /// A connection was had, or failed without a word.
    pub(super) fn went_otherwise(&mut self) {
        self.other = self.moment;
        self.moment += 1;
    }

    /// What the server has said since `moment`, and nothing else has happened, if `text` gives no reason why there is
    /// no connection. Each pool has its own; one that was given before will do.
    pub(super) fn hidden_reason(&self, text: &str, moment: u64, of: (u32, u8)) -> Option<&str> {
        let since = |of: Option<(u32, u8)>| {
            let recent = self.heard.iter().rev().take_while(|heard| heard.moment >= moment);
            recent.skip_while(|heard| heard.moment >= self.listened).find(|heard| heard.of == of)
        };
        let control = since(None);
        let last = since(Some(of)).filter(|_| control.is_some() || !self.held_since(Reason::Down, moment));
        let last = last.filter(|_| self.other < moment)?;
        let without_words = ["no answer within", "refused", "closed by the upstream"];
        let told = self.heard.iter().any(|heard| text.contains(heard.text.as_str()))
            || without_words.iter().any(|reason| text.contains(reason))
            // The broker's own words for what a greeting tells.
            || (text.contains("the server is a replica") && self.held[Reason::Replica as usize].is_some());
        (!told).then_some(&*last.text)
    }
}
