//! Names and passwords, as they are sent to the upstream. A password is overwritten when it is dropped and never printed.

use std::fmt;
use zeroize::Zeroizing;

/// A password as a child gave it. Overwritten when dropped; `Debug` says `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Password(Zeroizing<Vec<u8>>);

impl Password {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Password(Zeroizing::new(bytes.to_vec()))
    }

    /// Something with a password in it.
    pub(crate) fn within(bytes: Zeroizing<Vec<u8>>) -> Self {
        Password(bytes)
    }

    /// The password itself, to be sent to the upstream or compared.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a connection tells the upstream about itself.
#[derive(Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// The user's name; the default user when `None`.
    pub(crate) name: Option<&'a [u8]>,
    /// Nothing is said when there is none.
    pub(crate) password: Option<&'a [u8]>,
}
