//! Whether the broker lends again what it has lent.

use super::{Broker, PATIENCE, Raw, comes_true};

/// Takes as many leases of each kind as there may be, all at once; `most` says how many by the key's name.
pub(crate) fn every_lease_is_free(broker: &Broker, most: impl Fn(&str) -> usize) {
    let take = |key: &str, request: &str, reply: &str| {
        let mut told = Vec::new();
        let free = comes_true(PATIENCE, || {
            let mut children: Vec<Raw> = (0..most(key)).map(|_| broker.connect()).collect();
            children.iter_mut().for_each(|child| child.send(request));
            told = children.iter_mut().map(Raw::read_text).collect();
            told.iter().all(|told| told.starts_with(reply))
        });
        assert!(free, "{key}: not all are lent again: {told:?}");
    };
    take("leases_transaction_max", "WATCH k", "+OK");
    take("leases_session_max", "SUBSCRIBE c", "*3");
    take("leases_blocking_max", "BLPOP nothing 0.05", "*-1");
}
