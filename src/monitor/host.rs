//! By which names the broker may be called. A page that a browser has loaded from elsewhere can have its own name lead to
//! this address, and read what is there; but the browser then says that name (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};

/// The hosts that a request may name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hosts<'a> {
    /// Whatever it is: no browser connects to a unix socket.
    Any,
    /// Addresses, which are no names, `localhost` and these, in lower case.
    Named(&'a [String]),
}

impl Hosts<'_> {
    /// Whether `host`, with a port or without, is one of them.
    pub(super) fn allow(self, host: &str) -> bool {
        let Hosts::Named(names) = self else { return true };
        let Some(name) = without_port(host) else { return false };
        let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        if let Some(inner) = name.strip_prefix('[') {
            return inner.strip_suffix(']').is_some_and(is_v6);
        }
        let is_v4 = name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4());
        is_v4
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// What stands before the port. `None`: what stands there is no port.
fn without_port(host: &str) -> Option<&str> {
    let end = host.find(']').map_or(0, |end| end + 1);
    match host[end..].split_once(':') {
        None => Some(host),
        Some((rest, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(&host[..end + rest.len()])
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_known_names_are_allowed_with_any_port() {
        let names = ["web-1.example".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9190",
            "[::1]",
            "[::1]:9190",
            "10.1.2.3:1",
            "localhost",
            "LocalHost:80",
            "localhost:",
            "web-1.example",
            "WEB-1.EXAMPLE:9190",
        ] {
            assert!(Hosts::Named(&names).allow(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:9190",
            "localhost.evil.example",
            "web-1.example.evil",
            "::1",
            "[::1",
            "[evil.example]",
            "[::1]x",
            "127.0.0.1:80:80",
            "127.0.0.1:x",
            "127.0.0.1@evil",
            "1.2.3",
            "[127.0.0.1]",
            "]:",
        ] {
            assert!(!Hosts::Named(&names).allow(host), "{host}");
            assert!(Hosts::Any.allow(host), "{host}");
        }
    }
}
