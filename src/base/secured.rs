//! What two ends of a TLS connection have agreed on, for logs and tables. Grants nothing.

use std::fmt;

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secured {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// The name of the cipher suite, as IANA has it.
    pub cipher: &'static str,
    /// By a session of before: no certificate was shown anew.
    pub resumed: bool,
}

impl fmt::Display for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.cipher)
    }
}
