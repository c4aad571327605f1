//! Whether the broker lends again what it has lent.

use super::{Broker, Raw, wait_until};

/// Takes as many leases of each kind as there may be, all at once; `most` says how many by the key's name.
pub(crate) fn every_lease_is_free(broker: &Broker, most: impl Fn(&str) -> usize) {
    let take = |key: &str, request: &str, reply: &str| {
        wait_until(key, || {
            let mut children: Vec<Raw> = (0..most(key)).map(|_| broker.connect()).collect();
            children.iter_mut().for_each(|child| child.send(request));
            children.iter_mut().all(|child| child.read_text().starts_with(reply))
        });
    };
    take("leases_transaction_max", "WATCH k", "+OK");
    take("leases_session_max", "SUBSCRIBE c", "*3");
    take("leases_blocking_max", "BLPOP nothing 0.05", "*-1");
}
