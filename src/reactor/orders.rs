//! What the console has asked of the loop itself, and of the program around it. A loop that is embedded answers for its
//! program: whoever embeds it decides when it reads a configuration again.

use super::Loop;
use crate::base::error::Error;
use crate::core::{ChildKey, Order, OrderOutcome};

/// Longer than any process lives, and small enough to be added to a time, ms.
const FOR_EVER: u64 = 1 << 48;

/// As an `OrderOutcome`; none if the answer comes later, or has been given.
type Obeyed = Result<Option<Vec<String>>, String>;

/// An order that is the program's, and who waits for its answer.
#[derive(Debug)]
pub struct Ordered {
    /// `Reload` or `Upgrade`.
    pub order: Order,
    asker: ChildKey,
}

impl Loop {
    /// From now on `next_order` is asked after every turn. Until then those orders are refused.
    pub fn take_orders(&mut self) {
        self.orders_for_program = true;
    }

    /// The next order for the program; it is answered with `answer_order`.
    pub fn next_order(&mut self) -> Option<Ordered> {
        self.ordered.pop_front()
    }

    /// What became of it. Lines are for people, none means OK; an error says that nothing has changed.
    pub fn answer_order(&mut self, ordered: &Ordered, outcome: OrderOutcome) {
        self.core.answer_order(ordered.asker, outcome);
    }

    /// Carries out what has been asked for in the turn that has ended.
    pub(super) fn obey_orders(&mut self) {
        while let Some((asker, order)) = self.core.take_order() {
            let outcome = match order {
                Order::Reload | Order::Upgrade if self.orders_for_program => {
                    self.ordered.push_back(Ordered { order, asker });
                    continue;
                }
                Order::Upstream { url } => match self.plan_move(asker, &url) {
                    Ok(()) => continue,
                    Err(why) => Err(why),
                },
                Order::Reload | Order::Upgrade => {
                    Err("this is for the program that the broker is embedded in".to_owned())
                }
                Order::TakeOver { format, version } => match self.begin_giving(asker, format, &version) {
                    Ok(()) => continue,
                    Err(why) => Err(why),
                },
                Order::Set { key, value } => self.set_one(&key, &value),
                Order::Unset { key } => self.unset_one(&key),
                Order::Drain => self.end_gracefully(asker, |lp| lp.drain_within(Some(FOR_EVER))),
                Order::Shutdown { waits: true } => self.end_gracefully(asker, Loop::drain),
                Order::Shutdown { waits: false } => self.end_at_once(asker),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(lines)) => self.core.answer_order(asker, Ok(lines)),
                Err(why) => self.core.answer_order(asker, Err(why)),
            }
        }
        if self.core.tell_of_drain() {
            self.settle();
        }
    }

    /// Lays a value above all layers, where it stays until it is taken back, other settings come that do not have it, or the
    /// loop ends. All or nothing, as a reload.
    fn set_one(&mut self, key: &str, value: &str) -> Obeyed {
        let sourced = self.sourced().with_override(key, value).map_err(in_words)?;
        if key == "upstream" {
            let settings = sourced.settings().map_err(in_words)?;
            if self.settings().sends_passwords_elsewhere(&settings).map_err(in_words)? {
                return Err("upstream: a stored password would be sent to another server; BROKER UPSTREAM moves there, \
                    with the password in its URL if it has one"
                    .to_owned());
            }
        }
        self.reload(sourced).map(|_| Some(Vec::new())).map_err(in_words)
    }

    fn unset_one(&mut self, key: &str) -> Obeyed {
        let sourced = self.sourced().without_override(key).map_err(in_words)?;
        self.reload(sourced).map(|_| Some(Vec::new())).map_err(in_words)
    }

    /// Who has asked hears of it when all others have been let go, and is let go last.
    fn end_gracefully(&mut self, asker: ChildKey, end: impl FnOnce(&mut Loop)) -> Obeyed {
        self.core.wait_for_drain(asker);
        end(self);
        Ok(None)
    }

    fn end_at_once(&mut self, asker: ChildKey) -> Obeyed {
        self.core.answer_order(asker, Ok(Vec::new()));
        self.settle();
        self.close();
        Ok(None)
    }
}

fn in_words(error: Error) -> String {
    error.to_string()
}
