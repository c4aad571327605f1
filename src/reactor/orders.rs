//! What the console has asked of the loop itself, and of the program around it. A loop that is embedded answers for its
//! program: whoever embeds it decides when it reads a configuration again.

use super::Loop;
use super::reload::Prepared;
use crate::core::{ChildKey, Order, OrderOutcome};

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
                Order::Reload | Order::Upgrade | Order::Upstream { .. } => {
                    Err("this is for the program that the broker is embedded in".to_owned())
                }
                Order::TakeOver { format, version } => match self.begin_giving(asker, format, &version) {
                    Ok(()) => continue,
                    Err(why) => Err(why),
                },
                Order::Set { key, value } => self.set_one(&key, &value),
                Order::Drain => self.end_gracefully(asker, Some(u64::MAX)),
                Order::Shutdown { waits: true } => self.end_gracefully(asker, None),
                Order::Shutdown { waits: false } => self.end_at_once(asker),
            };
            self.core.answer_order(asker, outcome);
        }
    }

    fn set_one(&mut self, key: &str, value: &str) -> OrderOutcome {
        let mut settings = self.core.settings().clone();
        let set = settings.set(key, value).and_then(|()| self.apply(Prepared::new(settings)?));
        set.map(|()| Vec::new()).map_err(|error| error.to_string())
    }

    /// Who has asked hears of it before it is let go like all others.
    fn end_gracefully(&mut self, asker: ChildKey, timeout_ms: Option<u64>) -> OrderOutcome {
        self.core.answer_order(asker, Ok(Vec::new()));
        self.drain_within(timeout_ms);
        Ok(Vec::new())
    }

    fn end_at_once(&mut self, asker: ChildKey) -> OrderOutcome {
        self.core.answer_order(asker, Ok(Vec::new()));
        self.settle();
        self.close();
        Ok(Vec::new())
    }
}
