//! The embedded certificate authority of a trust domain.

use countersign_evidence::{Finding, UnixTime};
use rustls_pki_types::CertificateDer;

use crate::key::PrivateKey;
use crate::spiffe::{SpiffeId, TrustDomain};

/// A CA certificate with its key.
#[derive(Debug)]
pub struct Authority {
    /// The certificate: an SVID of the trust domain itself, without a path.
    pub certificate: CertificateDer<'static>,
    key: PrivateKey,
}

/// What goes into a leaf.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// DER SubjectPublicKeyInfo of the workload's key.
    pub spki: &'a [u8],
    /// The ID, from policy, never from the request.
    pub id: &'a SpiffeId,
    /// Seconds from now.
    pub lifetime: u64,
    /// The CMW collection of the request; `None` for operators.
    pub cmw: Option<&'a [u8]>,
}

impl Authority {
    /// A new root for `trust_domain`, valid for `lifetime` seconds.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn create(trust_domain: &TrustDomain, lifetime: u64, now: UnixTime) -> Result<Self, Finding> {
        let _ = (trust_domain, lifetime, now);
        todo!()
    }
    /// From what [`Authority::key`] and [`Authority::certificate`] gave.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn from_parts(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, Finding> {
        Ok(Self { certificate, key })
    }
    /// The private key, to be stored.
    #[must_use]
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }
    /// Issues an X.509-SVID; never valid longer than the CA. Back-dated by 10 s for clock skew.
    ///
    /// # Errors
    /// When signing fails or a cap is exceeded.
    pub fn issue(&self, leaf: &Leaf<'_>, now: UnixTime) -> Result<Vec<CertificateDer<'static>>, Finding> {
        let _ = (leaf, now);
        todo!()
    }
}
