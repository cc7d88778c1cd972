//! Trust bundles (SPIFFE Trust Domain and Bundle specification): JWK Sets.

use countersign_evidence::{Finding, UnixTime};
use rustls_pki_types::CertificateDer;

use crate::peer::Presented;
use crate::spiffe::TrustDomain;

/// The roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The trust domain. Not in the document itself: bundles are never merged.
    pub trust_domain: TrustDomain,
    /// Certificates of `use: x509-svid`.
    pub x509_authorities: Vec<CertificateDer<'static>>,
    /// Keys that sign policy snapshots: `use: countersign-snapshot`, P-256,
    /// uncompressed points with their `kid`. Other software ignores them.
    pub snapshot_keys: Vec<(String, Vec<u8>)>,
    /// `spiffe_sequence`.
    pub sequence: u64,
    /// `spiffe_refresh_hint`, seconds.
    pub refresh_hint: Option<u64>,
}

impl Bundle {
    /// The JWK Set document.
    #[must_use]
    pub fn to_json(&self) -> String {
        todo!()
    }
    /// Reads a JWK Set document (or PEM certificates).
    ///
    /// # Errors
    /// When it is malformed; unknown `use` values are ignored, as the specification says.
    pub fn parse(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, Finding> {
        let _ = (trust_domain, document);
        todo!()
    }
    /// Validates the path of an SVID to this bundle at `now` and returns the
    /// last second at which all of it is valid.
    ///
    /// # Errors
    /// `svid-untrusted`, `svid-expired`, or another trust domain.
    pub fn validate(&self, peer: &Presented, now: UnixTime) -> Result<u64, Finding> {
        let _ = (peer, now);
        todo!()
    }
}
