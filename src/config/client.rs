//! The keys of the client side of the library: what a `Client` requests on each connection, and its bounds. One
//! row here is one field of `ClientSettings`, as in `table`. Opens no connection.

use super::endpoint::Secret;
use super::table::{DAY, FIXED, Field, GIB, KIB, KeyKind, Row, default_of, find, settings, unit};
use super::value::Value;
use crate::base::error::Result;
use std::path::PathBuf;

settings! {
    /// Every setting of a client, typed and each within its bounds. Times are milliseconds.
    ClientSettings
    /// Database to SELECT on every connection; empty: the endpoint's initial one.
    client_db: Option<u32> = "", Count(0, 1_000_000), FIXED;
    /// ACL user, if not in the endpoint's URL.
    client_username: Option<String> = "", Text(0, 4096), FIXED;
    /// Password, if not in the endpoint's URL.
    client_password: Option<Secret> = "", Password(0, 64 * KIB), FIXED;
    /// Certificates in PEM of the CAs whose servers are trusted behind rediss:// and tls://, or of the server itself; the system's CAs, if not set.
    client_tls_ca_file: Option<PathBuf> = "", Text(0, 4096), FIXED;
    /// The client's own certificate, in PEM, with those that lead to its CA behind it.
    client_tls_cert_file: Option<PathBuf> = "", Text(0, 4096), FIXED;
    /// The key of client_tls_cert_file, in PEM, not encrypted.
    client_tls_key_file: Option<PathBuf> = "", Text(0, 4096), FIXED;
    /// The name that the server's certificate must have, and by which it is called (SNI), if not the host of the endpoint.
    client_tls_server_name: Option<String> = "", Text(0, 255), FIXED;
    /// true: the server's certificate is not checked at all.
    client_tls_insecure: bool = "false", Choice(0, 0), FIXED;
    /// Name shown in CLIENT LIST, set with CLIENT SETNAME.
    client_name: Option<String> = "", Text(0, 4096), FIXED;
    /// Protocol of the replies: 2 or 3. Subscriptions always use 3.
    client_protocol: usize = "3", Count(2, 3), FIXED;
    /// How long a connection may take to become ready.
    client_connect_timeout: u64 = "1000", Milliseconds(1, DAY), FIXED;
    /// Longest delay between two attempts to connect; delays start at 10 and are jittered.
    client_reconnect_backoff_max: u64 = "500", Milliseconds(10, DAY), FIXED;
    /// How long a request waits for a connection, then BROKER_ECONN; 0: not at all.
    client_queue_timeout: u64 = "1000", Milliseconds(0, DAY), FIXED;
    /// Requests without an outcome; above it BROKER_EAGAIN.
    client_requests_max: usize = "65536", Count(1, 100_000_000), FIXED;
    /// Bytes of requests not sent yet; above it BROKER_EAGAIN. A larger request is accepted if no other waits.
    client_bytes_max: usize = "64MiB", Bytes(64 * KIB, 64 * GIB), FIXED;
    /// Connections in addition to the first: sessions, blocking commands, subscriptions; above it BROKER_EAGAIN.
    client_connections_max: usize = "64", Count(0, 1_000_000), FIXED;
}

/// Every key, in the order in which it is documented.
pub fn client_rows() -> &'static [Row] {
    ROWS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_takes_its_own_text_again() {
        let mut settings = ClientSettings::default();
        for row in client_rows() {
            assert!(row.key.starts_with("client_"), "told from the broker's by its name");
            assert_eq!(settings.get_text(row.key).as_deref(), Some(row.default), "{}", row.key);
            settings.set(row.key, row.default).unwrap();
        }
        assert_eq!(settings, ClientSettings::default());
        settings.set("client_db", "5").unwrap();
        settings.set("client_password", "hunter2").unwrap();
        assert_eq!(settings.client_db, Some(5));
        assert_eq!(settings.get_text("client_password").as_deref(), Some("***"));
        settings.unset("client_db").unwrap();
        assert_eq!(settings.client_db, None);
        assert!(settings.set("client_protocol", "4").unwrap_err().to_string().contains("2 to 3"));
        assert!(settings.set("lanes", "4").is_err());
    }
}
