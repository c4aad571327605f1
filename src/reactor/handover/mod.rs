//! Handing everything over to a broker that follows this one: listeners first, then children as they come to rest, and the
//! connections to the upstream that they have had. Owns the two sides of it (`giver`, `taker`), each a state machine that does
//! a bounded piece of work in each turn. What a child's state is the core knows; what a message looks like, `transport`.
//!
//! In this order: the giver says hello, with copies of its listeners. It gives up places for connections and says how many;
//! the taker dials with these alone. Once the upstream has greeted the taker it is ready; from the giver's commit on it
//! accepts, and the giver does not. Then batches of children: the giver reads nothing more of them, sends their images and
//! sockets, and the taker looks at them; it serves them once the giver has committed, and the giver closes its copies, which
//! shuts nothing down. If the channel ends before a commit, what was to be given belongs to whoever lives.

mod giver;
mod hubs;
mod store;
mod taker;

use super::pace::StepKind;
use super::{Loop, Owner, link_of};
use crate::base::clock::Millis;
use crate::base::error::Error;
use crate::core::{ChildImage, LaneKey};
use crate::transport::stream::{Peer, Stream};
use giver::Giver;
use store::{Returning, Storing};
pub use store::{StoredBatch, StoredChildren};
pub use taker::Takeover;
use taker::Taker;

/// How often the channel is looked at without an event: sockets have edges, and other processes end without one.
const LOOK: Millis = 5;
/// Messages that are taken in one turn.
const MESSAGES_TURN: usize = 16;

/// Names of messages.
mod name {
    pub(super) const HELLO: &str = "HELLO";
    pub(super) const PLACES: &str = "PLACES";
    pub(super) const READY: &str = "READY";
    pub(super) const LISTENERS: &str = "LISTENERS";
    pub(super) const HUB: &str = "HUB";
    pub(super) const BATCH: &str = "BATCH";
    pub(super) const TAKEN: &str = "TAKEN";
    pub(super) const COMMIT: &str = "COMMIT";
    pub(super) const ENDING: &str = "ENDING";
    pub(super) const DONE: &str = "DONE";
    pub(super) const ABORT: &str = "ABORT";
}

/// How far a hand-over to another process is, for the program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HandoverState {
    /// There is none.
    #[default]
    None,
    /// The other process prepares itself.
    Preparing,
    /// The other process accepts; children follow, and this one ends when none is left.
    Giving,
    /// It has come to nothing, for this reason; this process serves as before.
    Failed(String),
}

/// What of a loop is about handing over.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The program lets it happen.
    is_allowed: bool,
    giver: Option<Box<Giver>>,
    taker: Option<Box<Taker>>,
    /// Another process accepts what comes to the listeners.
    keeps_out: bool,
    /// Descriptors that the program has a store for, which outlives this process; 0: none.
    store_room: usize,
    /// This process ends, and children go into the store.
    storing: Option<Box<Storing>>,
    /// Children that a store has had.
    returning: Option<Box<Returning>>,
    state: HandoverState,
    /// Why taking over has failed.
    failure: Option<String>,
    /// The process kills itself at the step of this number.
    #[cfg(feature = "sabotage")]
    dies_at: i32,
    #[cfg(feature = "sabotage")]
    steps: u32,
}

impl Handover {
    /// Whether somebody else accepts.
    pub(super) fn keeps_out(&self) -> bool {
        self.keeps_out
    }

    /// The end of the loop is the end of this, which is seen to first.
    pub(super) fn is_ending(&self) -> bool {
        self.giver.as_ref().is_some_and(|giver| giver.is_ending())
    }

    pub(super) fn timeout(&self) -> Option<Millis> {
        let is_under_way = self.giver.is_some() || self.taker.is_some();
        (is_under_way || self.storing.is_some() || self.returning.is_some()).then_some(LOOK)
    }

    /// A point at which a test lets the process die, or stop.
    fn step(&mut self) {
        #[cfg(feature = "sabotage")]
        {
            use rustix::process::{Signal, getpid, kill_process};
            self.steps += 1;
            if self.steps == self.dies_at.unsigned_abs() {
                let signal = if self.dies_at > 0 { Signal::KILL } else { Signal::STOP };
                let _ = kill_process(getpid(), signal);
            }
        }
    }
}

impl Loop {
    /// From now on another process of the same user may take over, by BROKER TAKEOVER on `admin_listen`.
    pub fn allow_handover(&mut self) {
        self.handover.is_allowed = true;
    }

    /// How far it is.
    pub fn handover_state(&self) -> &HandoverState {
        &self.handover.state
    }

    /// Another attempt begins.
    pub fn forget_failed_handover(&mut self) {
        if matches!(self.handover.state, HandoverState::Failed(_)) {
            self.handover.state = HandoverState::None;
        }
    }

    /// Why a loop that was to take over has closed, if that is why.
    pub fn takeover_failure(&self) -> Option<Error> {
        self.handover.failure.as_ref().map(|why| Error::system(why.as_str()).within("cannot take over"))
    }

    /// Whether it accepts what comes to its listeners: not before it has taken over, nor once it has been followed.
    pub fn is_accepting(&self) -> bool {
        !self.closed && !self.handover.keeps_out()
    }

    /// Whether it still takes over from another process.
    pub fn is_taking_over(&self) -> bool {
        self.handover.taker.is_some()
    }

    /// Kills the process at the step of this number, to test that nothing is lost.
    #[cfg(feature = "sabotage")]
    pub fn sabotage_handover(&mut self, step: i32) {
        self.handover.dies_at = step;
    }

    /// The process ends. What the other one has of the listeners stays as it is; and if this is the one that has followed, the
    /// other one ends with it.
    pub(super) fn end_handover(&mut self) {
        if self.handover.giver.is_some() && self.handover.keeps_out {
            self.leave_listeners();
        }
        if let Some(taker) = &mut self.handover.taker {
            taker.say_ending();
        }
    }

    /// As much as a turn has room for.
    pub(super) fn hand_over(&mut self) {
        self.bring_back();
        if self.handover.giver.is_none() && self.handover.taker.is_none() {
            return;
        }
        self.pace.before(StepKind::Handover);
        if let Some(giver) = self.handover.giver.take() {
            self.handover.giver = self.go_on_giving(giver);
        }
        if let Some(taker) = self.handover.taker.take() {
            self.handover.taker = self.go_on_taking(taker);
        }
        self.pace.step(StepKind::Handover);
    }

    /// A child goes on here, from its image; one that listens, with the subscriptions that this connection carries.
    fn take_in(&mut self, image: ChildImage, stream: Stream, hub: Option<LaneKey>) {
        let who = if let Peer::Unix(who) = stream.peer() { Some(who) } else { None };
        let is_admin = image.is_admin;
        let child = match hub {
            Some(lane) => self.core.take_listener(image, who, usize::MAX, lane),
            None => self.core.take_child(image, who, usize::MAX),
        };
        self.note_wanted(who.map(|who| (&stream, who.pid)));
        match self.add_link(stream, Owner::Child(child)) {
            Ok(key) => {
                self.core.set_child_link(child, link_of(key));
                if let Some(link) = self.links.get_mut(key) {
                    link.conn.learn_writers(false);
                    if is_admin {
                        link.conn.always_ask();
                    }
                }
            }
            Err((stream, error)) => {
                log::error!("a child that was handed over is lost: cannot watch it: {error}");
                let _ = stream.shutdown();
                self.core.child_gone(child);
            }
        }
    }
}
