//! What HELLO tells of the upstream (its version, its role): asked on the control connection after the HELLO has arrived,
//! since a server may become a replica at any time. Owns the last answer; what a child changes by its HELLO is in
//! `local`.

use crate::core::child::Child;
use crate::core::connection::handshake::parse_greeting;
use crate::core::questions::control::Control;
use crate::core::questions::control::Question;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::encode;
use crate::resp::value;

impl Shared {
    /// Whether what is known was asked after the HELLO at the front had arrived; if not, the child waits.
    pub(in crate::core) fn await_greeting(&mut self, child: &mut Child) -> Result<(), Flow> {
        self.await_fresh(child, Control::fresh_greeting, Question::Greeting)
    }

    /// The upstream's own greeting, with this child's protocol and id in it.
    pub(in crate::core) fn greeting(&self, child: &Child) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(greeting) = &self.control.greetings.latest else {
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

    /// The upstream has said who it is; or the connection was lost before.
    pub(in crate::core) fn greeting_answered(&mut self, frame: Option<&[u8]>) {
        let refusal = frame.filter(|frame| frame.first() == Some(&b'-'));
        let greeting = frame.and_then(parse_greeting);
        let senseless = frame.is_some() && refusal.is_none() && greeting.is_none();
        let is_answer = greeting.is_some();
        if is_answer {
            self.control.greetings.latest = greeting;
        }
        self.fresh_answered(Control::fresh_greeting, is_answer, refusal);
        if senseless {
            // Asked again at once, it would say the same.
            self.lane_lost(self.control.lane, "HELLO was not answered with a map");
        }
    }
}
