//! What is known of one name: its addresses, which of them works, how old that is, and whether it is in doubt. Asks nobody.

use super::exchange::any_like;
use super::inquiry::LookUpOutcome;
use crate::base::clock::Millis;
use crate::base::limits::{ANSWER_KEPT_MAX, RESOLVE_INTERVAL};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};

#[derive(Debug, Default)]
pub(super) struct KnownName {
    /// The last good answer; `present` is the address that is tried first.
    known: Vec<SocketAddr>,
    present: usize,
    /// A connection has failed or was lost since the name was last asked for.
    doubted: bool,
    asked: Option<Millis>,
    /// Until when the answer holds by itself.
    holds: Millis,
    /// The address that is connected to.
    used: Option<SocketAddr>,
    /// An answer has come without it, and with others of its family: of a family that has no answer nothing is known.
    moved: bool,
    /// Why the last look-up has failed; empty if it has not.
    refusal: String,
}

impl KnownName {
    /// Whether the name is to be looked up now; the caller does so.
    pub(super) fn begin_if_due(&mut self, now: Millis) -> bool {
        let wanted = self.known.is_empty() || self.doubted || self.holds <= now;
        if !wanted || self.asked.is_some_and(|asked| now < asked + RESOLVE_INTERVAL) {
            return false;
        }
        (self.asked, self.doubted) = (Some(now), false);
        true
    }

    /// When a name in doubt is looked up without being asked for.
    pub(super) fn due(&self) -> Option<Millis> {
        self.asked.filter(|_| self.doubted).map(|asked| asked + RESOLVE_INTERVAL)
    }

    /// All of them, in the order in which they are to be tried.
    pub(super) fn addresses(&self) -> Option<VecDeque<SocketAddr>> {
        let (before, from) = self.known.split_at_checked(self.present)?;
        (!self.known.is_empty()).then(|| from.iter().chain(before).copied().collect())
    }

    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.known.get(self.present).copied()
    }

    pub(super) fn note_used(&mut self, address: SocketAddr) {
        self.used = Some(address);
    }

    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    pub(super) fn refusal(&self) -> &str {
        &self.refusal
    }

    pub(super) fn blame(&mut self, address: SocketAddr) {
        self.doubted = true;
        if self.first() == Some(address) {
            self.present = (self.present + 1) % self.known.len();
        }
    }

    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Takes an answer. After none the former one stays.
    pub(super) fn learn(&mut self, host: &str, port: u16, outcome: LookUpOutcome, now: Millis) {
        let (addresses, seconds) = match outcome {
            Ok(found) => found,
            Err(refusal) => {
                let news = refusal != self.refusal;
                if !self.known.is_empty() {
                    let level = if news { log::Level::Warn } else { log::Level::Debug };
                    log::log!(
                        level,
                        "cannot look up {host}: {refusal}; going on with the addresses known before"
                    );
                }
                self.refusal = refusal;
                return;
            }
        };
        let found: Vec<_> =
            by_route(addresses, has_route).into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let is_new = |address: &SocketAddr| !self.known.contains(address);
        if !self.known.is_empty() && (found.len() != self.known.len() || found.iter().any(is_new)) {
            log::info!("{host} has other addresses now: {}", shown(&found));
        }
        // The address that works is kept, wherever the new answer lists it.
        let used = self.first();
        let is_left = |used: SocketAddr| {
            !found.contains(&used) && found.iter().any(|one| one.is_ipv4() == used.is_ipv4())
        };
        if self.used.is_some_and(is_left) {
            (self.used, self.moved) = (None, true);
        }
        self.present = found.iter().position(|one| Some(*one) == used).unwrap_or(0);
        self.known = found;
        self.refusal.clear();
        self.holds = now + (u64::from(seconds) * 1000).min(ANSWER_KEPT_MAX);
    }
}

fn shown(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// In the order in which RFC 6724 would try them, as far as that is usual: IPv6 first, IPv6 of a site after IPv4, and what
/// no route leads to last. Otherwise the order of the answer stays.
pub(super) fn by_route(mut addresses: Vec<IpAddr>, has_route: fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let routed = [false, true].map(|v6| {
        let first = addresses.iter().find(|ip| ip.is_ipv6() == v6);
        first.is_some_and(|ip| has_route(*ip))
    });
    addresses.sort_by_key(|ip| match ip {
        _ if !routed[usize::from(ip.is_ipv6())] => 3,
        IpAddr::V6(ip) if ip.is_unique_local() => 2,
        IpAddr::V6(_) => 0,
        IpAddr::V4(_) => 1,
    });
    addresses
}

/// Sends nothing: connecting a socket for datagrams only looks for a route.
fn has_route(ip: IpAddr) -> bool {
    let any_port = 9;
    UdpSocket::bind(any_like(ip)).and_then(|socket| socket.connect((ip, any_port))).is_ok()
}
