//! What of a client's certificate may name a user. Whoever makes one has checked the certificate.

/// A certificate that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// SHA-256 of its public key with the key's algorithm (SubjectPublicKeyInfo, DER).
    pub spki_sha256: [u8; 32],
    /// Its subject alternative names of the kind URI.
    pub uris: Vec<String>,
}
