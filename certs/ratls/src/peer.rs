//! What a peer presents in its certificate, and who judges it.

use std::fmt;
use std::sync::Arc;

use countersign_evidence::{Claims, Denial, Finding, Fingerprint, UnixTime, Verdict};
use rustls_pki_types::CertificateDer;

use crate::spiffe::SpiffeId;

/// Evidence as a peer conveyed it, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conveyed {
    /// How it was conveyed.
    pub form: Form,
    /// The media type of the CMW record (the matching one for foreign forms).
    pub media_type: String,
    /// The value of the record: `countersign_evidence::Evidence::parse` takes both.
    pub value: Vec<u8>,
}

/// The form in which a certificate carries evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// `id-pe-cmw` with the profile `ratls-mesh/1`.
    Native,
    /// CCC Interoperable RA-TLS, 2.23.133.5.4.9 with CBOR tag 60000.
    Ccc,
}

/// A peer's certificate chain: caps, X.509-SVID profile and key binding are
/// checked; path and evidence are not.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The one URI SAN; `None` for a certificate without a SPIFFE ID (bootstrap, foreign).
    pub id: Option<SpiffeId>,
    /// SHA-256 of the whole chain: the key of verdict caches.
    pub digest: [u8; 32],
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// Validity of the leaf, seconds since the epoch.
    pub not_before: u64,
    /// Validity of the leaf, seconds since the epoch.
    pub not_after: u64,
    /// Whether issuer and subject key are the same (bootstrap, foreign RA-TLS).
    pub self_signed: bool,
    /// The evidence, if there is any; its report data binds the leaf's key.
    pub evidence: Option<Conveyed>,
}

impl Presented {
    /// Parses a chain, leaf first.
    ///
    /// # Errors
    /// When a cap, the SVID profile or the key binding does not hold.
    pub fn parse(chain: &[CertificateDer<'_>]) -> Result<Self, Finding> {
        let _ = chain;
        todo!()
    }

    /// SHA-256 of a whole chain, as in [`Presented::digest`].
    #[must_use]
    pub fn digest_of(chain: &[CertificateDer<'_>]) -> [u8; 32] {
        let _ = chain;
        todo!()
    }
}

/// Which side the peer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
}

/// A peer that was admitted: who it is, what it proved, until when.
#[derive(Debug)]
pub struct Admission {
    /// What was presented.
    pub presented: Presented,
    /// What the evidence proves; `None` for a peer that was admitted without (operators).
    pub claims: Option<Arc<Claims>>,
    /// The verdict of every policy that speaks of this peer.
    pub verdicts: Vec<Verdict>,
    /// The last second at which this holds: SVID, path, evidence and policies.
    pub valid_until: u64,
    /// The generation of the configuration under which it was decided.
    pub generation: u64,
}

/// Somebody who decides about peers. Called inside the handshake: synchronous,
/// no I/O, bounded time.
pub trait Judge: Send + Sync + fmt::Debug {
    /// Decides about a peer's chain (leaf first). Includes path validation.
    ///
    /// # Errors
    /// The denial; its reason becomes the TLS alert.
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial>;
}

/// The fingerprint by which logs name a leaf.
#[must_use]
pub fn fingerprint(leaf: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint::of(leaf)
}
