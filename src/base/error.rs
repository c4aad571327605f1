//! The library's error type for start-up and configuration. Errors for children are RESP texts of
//! `resp::encode`; this module never formats a reply.

use std::fmt;
use std::io;

/// The kind of an error, coarse enough to choose an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A key, value, URL or flag is invalid; nothing was started. Exit code 2.
    Config,
    /// The system refused: bind, permission, missing program. Exit code 1.
    System,
    /// A bound of the settings is reached. Exit code 1.
    Limit,
}

/// A failure with one line of text for users. Never contains a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    os: Option<i32>,
}

/// Shorthand used across the crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An invalid configuration; `message` names the key, the value and what is allowed.
    pub fn config(message: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Config, message: message.into(), os: None }
    }

    /// A refusal by the system; `message` says what was attempted and what to do about it.
    pub fn system(message: impl Into<String>) -> Self {
        Error { kind: ErrorKind::System, message: message.into(), os: None }
    }

    /// The same for an error of the operating system, whose number it keeps: "`attempt`: `error`".
    pub fn refused(attempt: impl fmt::Display, error: &io::Error) -> Self {
        let message = format!("{attempt}: {error}");
        Error { kind: ErrorKind::System, message, os: error.raw_os_error() }
    }

    /// A bound of the settings; `message` names it.
    pub fn limit(message: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Limit, message: message.into(), os: None }
    }

    /// For `map_err`: `refused` with what was attempted.
    pub fn attempting<E: Into<io::Error>>(attempt: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Error::refused(attempt, &error.into())
    }

    /// The same error with `context` and a colon before its text.
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The same error with an `errno` that was found separately.
    pub fn numbered(mut self, os: i32) -> Self {
        self.os = Some(os);
        self
    }

    /// The `errno` of the operating system, if there is one.
    pub fn os(&self) -> Option<i32> {
        self.os
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
