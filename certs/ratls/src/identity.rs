//! What we present: a chain and its key.

use std::sync::Arc;

use countersign_evidence::{Finding, Reason, UnixTime};
use rustls_pki_types::CertificateDer;

use crate::binding::sha256;
use crate::key::PrivateKey;
use crate::spiffe::SpiffeId;
use crate::{certificate, svid};

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
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, Finding> {
        let Some(leaf) = chain.first() else {
            return Err(Finding::new(Reason::Malformed, "identity", "a certificate chain", "no certificate"));
        };
        let leaf = certificate::parse("identity", leaf)?;
        let spki = leaf.public_key().raw;
        if spki != key.spki() {
            let presented = "a certificate for another key";
            return Err(Finding::new(
                Reason::Malformed,
                "identity",
                "a certificate for the given key",
                presented,
            ));
        }
        let id = match certificate::is_self_signed(&leaf) {
            true => None,
            false => Some(svid::check_leaf(&leaf)?),
        };
        let spki_sha256 = sha256(spki);
        let (not_before, not_after) = certificate::validity(&leaf);
        let key = key.for_tls()?;
        Ok(Self { chain, key, id, not_before, not_after, spki_sha256 })
    }

    /// The chain as PEM, leaf first. It holds no secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.chain.iter().map(certificate::to_pem).collect()
    }

    /// A certificate without a SPIFFE ID, signed by its own key: all that a
    /// workload has before it is issued an SVID. Valid for ten minutes around `now`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bootstrap(key: &PrivateKey, now: UnixTime) -> Result<Self, Finding> {
        let certificate = crate::ca::self_signed(key, now)?;
        Self::new(vec![certificate], key)
    }
}
