//! What is asked of a broker at random: requests, the situations they come in, the settings and the faults they meet, how a
//! sequence is written and made smaller. One list of each for the simulation (`src/core/sim`), the twin (`tests/twin`) and the soak
//! (`tests/soak`): a new request is one line of `requests`, a new situation one arm of `situations`, a new setting one
//! row of `settings`. Knows no reply and nothing of the crate: who asks says what its words stand for (`World`), and
//! judges.

// Each of the three uses its own part of this module.
#![allow(dead_code, unused_imports)]

mod faults;
mod requests;
mod sequence;
mod settings;
mod shrink;
mod situations;
mod template;

pub(crate) use faults::Fault;
pub(crate) use requests::{Answer, Request, Speaker, every_line, plain};
pub(crate) use sequence::{Command, Form, ID, Sequence, Step};
pub(crate) use settings::{Settings, settings, value_of};
pub(crate) use shrink::shrink;
pub(crate) use situations::{CHANNELS, Family, Situation, about_the_connection, pop, push, situation};
pub(crate) use template::{Template, fill, read};

/// Who asks: what stands for the words of a request, and by which chance.
pub(crate) trait World {
    fn rng(&mut self) -> &mut fastrand::Rng;

    /// Which of the three it is.
    fn speaker(&self) -> Speaker;

    /// What stands for `$what`. A `nonce` is one that nothing else has.
    fn word(&mut self, what: &'static str) -> Vec<u8>;

    /// A request on data comes next. Who draws what it may hold here, before it is known which it is, plays the same
    /// from a seed whatever lines are added to the list for others.
    fn begin(&mut self) {}

    /// Whether a request that says the same without is marked with a nonce.
    fn marks(&mut self) -> bool {
        false
    }

    /// Whether it knows what a connection that has said QUIT is.
    fn may_quit(&self) -> bool {
        false
    }
}
