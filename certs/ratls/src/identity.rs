//! What we present: a chain and its key.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::spiffe::SpiffeId;

/// Our own certificate chain with its private key. Immutable; a rotation makes a new one.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key, for signing only.
    pub key: Arc<dyn rustls::sign::SigningKey>,
    /// `None` for a bootstrap identity.
    pub id: Option<SpiffeId>,
    /// Validity of the leaf, seconds since the epoch.
    pub not_before: u64,
    /// Validity of the leaf, seconds since the epoch.
    pub not_after: u64,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
}

impl Identity {
    /// From a chain and the key that its leaf is for.
    ///
    /// # Errors
    /// When the chain cannot be parsed or the key does not fit the leaf.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &crate::key::PrivateKey,
    ) -> Result<Self, countersign_evidence::Finding> {
        let _ = (chain, key);
        todo!()
    }
}
