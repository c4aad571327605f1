//! The limit of open files: raised to its hard value, and compared with what the configuration needs. Opens no file.

use broker::base::error::{Error, Result};
use broker::base::limits::{ADMIN_CHILDREN, HANDSHAKES_MAX, HTTP_CONNECTIONS, PARTINGS_MAX, PROCESS_HANDLES};
use broker::config::Settings;
use broker::config::value::AdminListen;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors other than those of children, upstream connections and listeners: the poll, signals, standard streams, the
/// sockets of look-ups; handles of processes that are to be looked up.
const FILES_BESIDES: u64 = 64 + PROCESS_HANDLES as u64;
/// Descriptors of one listener: the socket, its directory, its file and its lock.
const FILES_OF_LISTENER: u64 = 4;

/// Raises the soft limit of open files to the hard one. Returns the resulting limit; `None` is unlimited.
pub(crate) fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused only in a sandbox that forbids it; then the old limit applies.
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Refuses a configuration that could need more open files than `limit`.
pub(crate) fn check_fits(limit: Option<u64>, settings: &Settings) -> Result<()> {
    let Settings { children_max, upstream_connections_max, .. } = *settings;
    let is_admin = matches!(settings.admin_listen, AdminListen::At(_));
    let listeners = settings.listen.len() + settings.metrics_listen.len() + usize::from(is_admin);
    let http = if settings.metrics_listen.is_empty() { 0 } else { HTTP_CONNECTIONS as u64 };
    let admin = if is_admin { ADMIN_CHILDREN as u64 } else { 0 };
    let by_tls = settings.listen.iter().any(|url| url.tls().is_some());
    let guests = if by_tls { (HANDSHAKES_MAX + PARTINGS_MAX) as u64 } else { 0 };
    let besides = FILES_BESIDES + FILES_OF_LISTENER * listeners as u64 + http + admin + guests;
    let needed =
        (children_max as u64).saturating_add(upstream_connections_max as u64).saturating_add(besides);
    match limit {
        Some(limit) if needed > limit => Err(Error::config(format!(
            "children_max {children_max} + upstream_connections_max {upstream_connections_max} + {besides} \
             needs {needed} open files, but the hard limit is {limit}: lower children_max, or raise the limit \
             (ulimit -Hn {needed}, or LimitNOFILE={needed} in the systemd unit)"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::config::ListenUrl;

    #[test]
    fn a_configuration_that_cannot_fit_is_refused_with_the_numbers() {
        let mut settings = Settings { children_max: usize::MAX, ..Settings::default() };
        settings.listen.push(ListenUrl::unix("/a"));
        assert!(check_fits(None, &settings).is_ok());
        settings.children_max = 10_000;
        settings.listen.push(ListenUrl::unix("/b"));
        assert!(check_fits(Some(10_520), &settings).is_ok());
        settings.metrics_listen = std::mem::take(&mut settings.listen);
        assert!(check_fits(Some(10_520), &settings).is_err(), "HTTP connections have descriptors too");
        settings.metrics_listen.clear();
        let refusal = check_fits(Some(4096), &settings).unwrap_err().to_string();
        assert!(refusal.contains("10512") && refusal.contains("4096"), "{refusal}");
        #[cfg(feature = "tls")]
        {
            settings.set("listen", "tls://127.0.0.1:0?cert=/c&key=/k").unwrap();
            assert!(check_fits(Some(10_520), &settings).is_err(), "so have those in a handshake");
            assert!(check_fits(Some(10_520 + 1280), &settings).is_ok());
        }
    }
}
