//! The library's error type for start-up and configuration. Errors a child sees are RESP texts and
//! live in `resp::encode`; this module never formats a reply.

use std::fmt;

/// What went wrong, coarse enough to choose an exit code by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A key, value, URL or flag is not acceptable; nothing was started. Exit code 2.
    Config,
    /// The system refused: bind, permission, missing program. Exit code 1.
    System,
}

/// A failure with one line of text fit for a user. Never contains a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// Shorthand used across the crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An unusable configuration; `message` names the key, the value and what is allowed.
    pub fn config(message: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Config, message: message.into() }
    }

    /// A refusal by the system; `message` says what was attempted and what to do about it.
    pub fn system(message: impl Into<String>) -> Self {
        Error { kind: ErrorKind::System, message: message.into() }
    }

    /// The coarse kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
