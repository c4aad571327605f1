//! What HELLO tells of the upstream (its version, its role): asked anew on the control connection after the HELLO has
//! arrived, one question for all who wait, since a server may become a replica at any time. Owns the last answer and
//! the order of questions; what a child changes by its HELLO is in `local`.

use super::broker::Broker;
use super::child::{Answer, Child, Hold};
use super::control::Question;
use super::dispatch::Flow;
use super::handshake::{Greeting, parse_greeting};
use crate::base::key::Key;
use crate::resp::{encode, value};

/// The last answer, and who waits for the next.
#[derive(Debug, Default)]
pub(super) struct Greetings {
    latest: Option<Greeting>,
    /// Number of the last question, and of the last one answered.
    asked: u64,
    answered: u64,
    under_way: bool,
    waiting: Vec<Key<Child>>,
}

impl Greetings {
    /// Whether the upstream has ever said who it is.
    pub(super) fn is_known(&self) -> bool {
        self.latest.is_some()
    }

    /// A connection was greeted: as good an answer as any to whoever waits.
    pub(super) fn take(&mut self, greeting: Greeting) {
        self.asked += 1;
        self.answered = self.asked;
        self.latest = Some(greeting);
    }
}

impl Broker {
    /// Whether what is known was asked after the HELLO at the front had arrived; if not, the child waits.
    pub(super) fn await_greeting(&mut self, key: Key<Child>) -> Result<(), Flow> {
        let greetings = &mut self.control.greetings;
        let Some(child) = self.children.get_mut(key) else { return Err(Flow::Gone) };
        let arrived = *child.greeting_after.get_or_insert(greetings.asked);
        if greetings.answered > arrived {
            return Ok(());
        }
        if !self.control_is_ready() {
            return Err(self.wait_for_upstream(key));
        }
        let greetings = &mut self.control.greetings;
        greetings.waiting.push(key);
        if !greetings.under_way {
            greetings.under_way = true;
            greetings.asked += 1;
            self.ask(Question::Greeting);
        }
        Err(Flow::Hold(Hold::Answer))
    }

    /// The upstream has said who it is; or the connection was lost before.
    pub(super) fn greeting_answered(&mut self, frame: Option<&[u8]>) {
        let greetings = &mut self.control.greetings;
        greetings.under_way = false;
        let refusal = frame.filter(|frame| frame.first() == Some(&b'-'));
        if let Some(greeting) = frame.and_then(parse_greeting) {
            greetings.answered = greetings.asked;
            greetings.latest = Some(greeting);
        }
        let senseless = frame.is_some() && refusal.is_none() && greetings.answered < greetings.asked;
        for child in std::mem::take(&mut greetings.waiting) {
            self.give_answer(child, refusal.map(|frame| Answer::Frame(frame.to_vec())));
        }
        if senseless {
            // Asked again at once, it would say the same.
            self.lane_lost(self.control.lane, "HELLO was not answered with a map");
        }
    }

    /// The upstream's own greeting, with this child's protocol and id in it.
    pub(super) fn greeting(&self, key: Key<Child>) -> Vec<u8> {
        let mut out = Vec::new();
        let (Some(greeting), Some(child)) = (&self.control.greetings.latest, self.children.get(key)) else {
            return out;
        };
        let proto = child.session.proto;
        encode::map_header(&mut out, greeting.pairs.len(), proto);
        for (name, value) in &greeting.pairs {
            encode::bulk(&mut out, name.as_bytes());
            match name.as_str() {
                "proto" => encode::int(&mut out, i64::from(proto)),
                "id" => encode::int(&mut out, child.session.id as i64),
                _ => value::write(&mut out, value, proto),
            }
        }
        out
    }
}
