//! Certificates and keys in PEM files. Errors name the setting and the file, and quote nothing of a key.

use crate::base::error::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Largest file, bytes: all CAs of a system take a fifth of it.
const FILE_MAX: u64 = 1024 * 1024;
/// Mode bits by which users other than the owner and its group can read a file.
const OTHERS: u32 = 0o004;

/// A file, and the setting that names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) setting: &'a str,
    pub(super) path: &'a Path,
}

impl Named<'_> {
    /// What is wrong with it, as a whole line.
    pub(super) fn refuse(&self, why: impl std::fmt::Display) -> Error {
        Error::config(format!("{} = {:?}: {why}", self.setting, self.path))
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.path);
        let read = file.and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
        read.map_err(|error| self.refuse(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > FILE_MAX {
            return Err(self.refuse(format!("is longer than {FILE_MAX} bytes")));
        }
        Ok(bytes)
    }

    /// Its certificates, one at least.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let bytes = self.read()?;
        let list: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let list = list.map_err(|error| self.refuse(format!("is no PEM file: {error}")))?;
        if list.is_empty() {
            return Err(self.refuse("has no certificate; allowed is a PEM file with one at least"));
        }
        Ok(list)
    }

    /// Its key: the first one. Warns if every user of this host can read it.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let bytes = zeroize::Zeroizing::new(self.read()?);
        let key = PrivateKeyDer::from_pem_slice(&bytes);
        let key = key.map_err(|_| self.refuse("has no private key; allowed is a PEM file, not encrypted"))?;
        let mode = self.path.metadata().map_or(0, |metadata| metadata.mode() & 0o7777);
        if mode & OTHERS != 0 {
            log::warn!(
                "{} = {:?}: every user of this host can read this key, its mode is {mode:04o}; make it 0600",
                self.setting,
                self.path
            );
        }
        Ok(key)
    }
}
