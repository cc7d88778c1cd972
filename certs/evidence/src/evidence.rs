//! Evidence as it arrives, and the one way from it to [`Claims`].

use std::borrow::Cow;
use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::amd::Attestation;
use crate::anchors::Anchors;
use crate::cache::Cache;
use crate::claims::Claims;
use crate::collateral::Collateral;
use crate::finding::Finding;
use crate::intel::Quote;
use crate::observe::Observer;

/// Evidence, parsed but not verified: nothing in it may be believed.
#[derive(Clone, Debug)]
pub enum Evidence<'a> {
    /// An SGX (v3) or TDX (v4, v5) quote.
    Intel(Quote<'a>),
    /// An SEV-SNP report, with the certificates that came along.
    Amd(Attestation<'a>),
}

/// The media types of evidence records that are understood (RFC 9999 CMW).
pub mod media_type {
    /// configfs-tsm blobs of a TDX guest: CBOR map with the quote as `outblob`.
    pub const TSM_TDX: &str = "application/vnd.veraison.tsm-report+cbor; provider=tdx_guest";
    /// configfs-tsm blobs of an SEV-SNP guest: report as `outblob`, certificate table as `auxblob`.
    pub const TSM_SNP: &str = "application/vnd.veraison.tsm-report+cbor; provider=sev_guest";
    /// A bare SGX quote (Gramine's `/dev/attestation/quote`).
    pub const SGX_QUOTE: &str = "application/vnd.countersign.sgx-quote";
}

impl<'a> Evidence<'a> {
    /// Recognises evidence by its content: a quote, a report (alone or followed
    /// by a GHCB certificate table), a tsm-report CBOR map; as the bytes, or as
    /// hexadecimal or base64 text. For files of unknown origin.
    ///
    /// # Errors
    /// When the bytes are no evidence that is understood, or are malformed.
    pub fn sniff(bytes: &'a [u8]) -> Result<Evidence<'static>, Finding> {
        let _ = bytes;
        todo!()
    }

    /// Parses the value of a CMW record of this media type.
    ///
    /// # Errors
    /// When the type is not understood or the bytes are malformed.
    pub fn parse(media_type: &str, bytes: &'a [u8]) -> Result<Self, Finding> {
        let _ = (media_type, bytes);
        todo!()
    }

    /// The 64 bytes that the attester chose. Not verified.
    #[must_use]
    pub fn report_data(&self) -> &[u8; 64] {
        todo!()
    }
}

/// The configfs-tsm attributes as a CBOR map, the value of a `TSM_*` record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TsmReport<'a> {
    /// `tdx_guest` or `sev_guest`.
    pub provider: Cow<'a, str>,
    /// The quote or report.
    pub outblob: Cow<'a, [u8]>,
    /// The certificate table of an SEV-SNP report.
    pub auxblob: Option<Cow<'a, [u8]>>,
}

impl<'a> TsmReport<'a> {
    /// Deterministic CBOR (RFC 8949 section 4.2.1).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads the map; unknown text keys are ignored, as the CDDL allows.
    ///
    /// # Errors
    /// When the bytes are not such a map.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Finding> {
        let _ = bytes;
        todo!()
    }
}

/// Verifies signatures, chain, and collateral at `now`, and returns what can be
/// believed. With a `cache`, certificate chains and TCB evaluations that were
/// verified before under the same `collateral` are not verified again.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify<O: Observer>(
    evidence: &Evidence<'_>,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
    cache: Option<&Cache>,
    observer: &mut O,
) -> Result<Arc<Claims>, Finding> {
    let _ = (evidence, collateral, anchors, now, cache, observer);
    todo!()
}
