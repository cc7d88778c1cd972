//! What a peer presents in its certificate, and who judges it.

use std::fmt;
use std::sync::Arc;

use countersign_evidence::{Claims, Denial, Dependencies, Finding, Fingerprint, Reason, UnixTime, Verdict};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::binding::{sha256, sha256_parts};
use crate::extension::Subject;
use crate::spiffe::SpiffeId;
use crate::{certificate, extension, svid};

/// Evidence as a peer conveyed it, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conveyed {
    /// How it was conveyed.
    pub form: Form,
    /// The media type of the CMW record (the matching one for foreign forms).
    pub media_type: String,
    /// The value of the record: `countersign_evidence::Evidence::parse` takes both.
    pub value: Vec<u8>,
    /// Media type and bytes of the event log, if one came along: nothing but a
    /// replay onto the registers of the evidence makes it true.
    pub event_log: Option<(String, Vec<u8>)>,
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
        let leaf = check_sizes(chain)?;
        let certificate = certificate::parse("leaf", leaf)?;
        let spki = certificate.public_key().raw;
        let spki_sha256 = sha256(spki);
        let self_signed = certificate::is_self_signed(&certificate);
        // A self-signed certificate is no SVID, and a SPIFFE ID in it means
        // nothing (3-attestation, section 6.3).
        let id = if self_signed { None } else { Some(check_svid(&certificate, chain)?) };
        let subject = Subject { spki, spki_sha256: &spki_sha256, id: id.as_ref() };
        let evidence = extension::evidence(&certificate, subject)?;
        let (not_before, not_after) = certificate::validity(&certificate);
        Ok(Self {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            digest: Self::digest_of(chain),
            id,
            spki_sha256,
            not_before,
            not_after,
            self_signed,
            evidence,
        })
    }

    /// SHA-256 of a whole chain, as in [`Presented::digest`].
    #[must_use]
    pub fn digest_of(chain: &[CertificateDer<'_>]) -> [u8; 32] {
        // With lengths, so that no two chains are the same bytes.
        let lengths: Vec<_> = chain.iter().map(|c| (c.len() as u64).to_be_bytes()).collect();
        let parts = lengths.iter().zip(chain).flat_map(|(length, der)| [&length[..], der.as_ref()]);
        sha256_parts(parts)
    }
}

/// The most certificates of a chain.
pub const MAX_CHAIN: usize = 5;

/// The most bytes of a chain: below the limit of TLS, 64 KiB a message.
pub const MAX_CHAIN_BYTES: usize = 56 * 1024;

pub(crate) fn check_sizes<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<&'a CertificateDer<'b>, Finding> {
    let Some(leaf) = chain.first() else {
        return Err(Finding::new(Reason::CertificateRequired, "certificate chain", "a leaf", "nothing"));
    };
    let oversized =
        |expected, presented| Finding::new(Reason::Oversized, "certificate chain", expected, presented);
    if chain.len() > MAX_CHAIN {
        return Err(oversized(format!("at most {MAX_CHAIN} certificates"), chain.len().to_string()));
    }
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        return Err(oversized(format!("at most {MAX_CHAIN_BYTES} bytes"), bytes.to_string()));
    }
    Ok(leaf)
}

fn check_svid(leaf: &X509Certificate<'_>, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Finding> {
    let id = svid::check_leaf(leaf)?;
    for signing in chain.iter().skip(1) {
        svid::check_signing(&certificate::parse("signing certificate", signing)?)?;
    }
    Ok(id)
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
    /// What policies that are only recorded would have refused.
    pub audited: Vec<Denial>,
    /// The last second at which the path to the trust bundle is valid.
    pub path_until: u64,
    /// The last second at which this holds: SVID, path, evidence and policies.
    pub valid_until: u64,
    /// The generation of the configuration under which it was decided.
    pub generation: u64,
    /// What it rests on.
    pub dependencies: Dependencies,
}

impl Admission {
    /// A peer that is admitted for its SPIFFE ID alone.
    #[must_use]
    pub fn without_evidence(presented: Presented, valid_until: u64, generation: u64) -> Self {
        Self {
            presented,
            claims: None,
            verdicts: Vec::new(),
            audited: Vec::new(),
            path_until: valid_until,
            valid_until,
            generation,
            dependencies: Dependencies::unknown(),
        }
    }
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

    /// Decides again about a peer that was admitted: as [`judge`](Judge::judge)
    /// would about its chain. A judge that knows what `last` rests on need not
    /// verify again what has not changed.
    ///
    /// # Errors
    /// As [`judge`](Judge::judge).
    fn judge_again(&self, last: &Admission, role: Role, now: UnixTime) -> Result<Arc<Admission>, Denial> {
        self.judge(&last.presented.chain, role, now)
    }
}

/// The fingerprint by which logs name a leaf.
#[must_use]
pub fn fingerprint(leaf: &CertificateDer<'_>) -> Fingerprint {
    Fingerprint::of(leaf)
}
