//! Evidence as it arrives, and the one way from it to [`Claims`].

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use minicbor::data::Type;
use rustls_pki_types::UnixTime;

use crate::amd::{self, Attestation, REPORT_SIZE};
use crate::anchors::Anchors;
use crate::cache::Cache;
use crate::claims::{Claims, Tee};
use crate::collateral::Collateral;
use crate::finding::Finding;
use crate::intel::{self, Quote};
use crate::observe::Observer;
use crate::reason::Reason;

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

    use crate::claims::Tee;

    /// The media type of evidence of this kind of TEE.
    #[must_use]
    pub const fn of(tee: Tee) -> &'static str {
        match tee {
            Tee::Tdx => TSM_TDX,
            Tee::Sgx => SGX_QUOTE,
            Tee::SevSnp => TSM_SNP,
        }
    }

    /// The kind of TEE whose evidence has this media type.
    #[must_use]
    pub fn tee(media_type: &str) -> Option<Tee> {
        [Tee::Tdx, Tee::Sgx, Tee::SevSnp].into_iter().find(|tee| of(*tee) == media_type)
    }
}

/// No evidence of one CPU is near this size, in bytes.
const MAX_EVIDENCE: usize = 64 << 10;
/// The same as text, with line ends.
const MAX_TEXT: usize = 160 << 10;

impl<'a> Evidence<'a> {
    /// Recognises evidence by its content: a quote, a report (alone or followed
    /// by a GHCB certificate table), a tsm-report CBOR map; as the bytes, or as
    /// hexadecimal or base64 text. For files of unknown origin.
    ///
    /// # Errors
    /// When the bytes are no evidence that is understood, or are malformed.
    pub fn sniff(bytes: &'a [u8]) -> Result<Evidence<'static>, Finding> {
        if let Some(evidence) = recognise(bytes) {
            return evidence;
        }
        if let Some(decoded) = decode_text(bytes)
            && let Some(evidence) = recognise(&decoded)
        {
            return evidence;
        }
        Err(Finding::new(
            Reason::UnsupportedFormat,
            "evidence",
            "an SGX or TDX quote, an SEV-SNP report or a tsm-report, as bytes, hexadecimal or base64",
            format!("{} bytes of something else", bytes.len()),
        ))
    }

    /// Parses the value of a CMW record of this media type.
    ///
    /// # Errors
    /// When the type is not understood or the bytes are malformed.
    pub fn parse(media_type: &str, bytes: &'a [u8]) -> Result<Self, Finding> {
        check_size(bytes)?;
        match media_type {
            media_type::TSM_TDX => Self::from_tsm(TsmReport::decode(bytes)?, TDX_PROVIDER),
            media_type::TSM_SNP => Self::from_tsm(TsmReport::decode(bytes)?, SNP_PROVIDER),
            media_type::SGX_QUOTE => Self::quote(Cow::from(bytes), Tee::Sgx),
            other => Err(Finding::new(
                Reason::UnsupportedFormat,
                "media type",
                format!(
                    "'{}', '{}' or '{}'",
                    media_type::TSM_TDX,
                    media_type::TSM_SNP,
                    media_type::SGX_QUOTE
                ),
                // Foreign text: not all of it, and nothing that a terminal obeys.
                format!("'{}'", other.chars().take(80).collect::<String>().escape_debug()),
            )),
        }
    }

    fn from_tsm(report: TsmReport<'a>, provider: &str) -> Result<Self, Finding> {
        if report.provider != provider {
            return Err(Finding::new(
                Reason::Malformed,
                "provider",
                provider,
                format!("'{}'", report.provider.chars().take(80).collect::<String>().escape_debug()),
            ));
        }
        if provider == TDX_PROVIDER {
            return Self::quote(report.outblob, Tee::Tdx);
        }
        let attestation = match report.auxblob {
            Some(Cow::Borrowed(table)) => Attestation::parse(&report.outblob, Some(table))?,
            Some(Cow::Owned(table)) => Attestation::parse(&report.outblob, Some(&table))?.into_owned(),
            None => Attestation::parse(&report.outblob, None)?,
        };
        Ok(Self::Amd(attestation))
    }

    fn quote(bytes: Cow<'a, [u8]>, tee: Tee) -> Result<Self, Finding> {
        let quote = match bytes {
            Cow::Borrowed(bytes) => Quote::parse(bytes)?,
            Cow::Owned(bytes) => Quote::parse_owned(bytes)?,
        };
        if quote.tee() != tee {
            return Err(Finding::new(
                Reason::Malformed,
                "quote",
                format!("a quote of {tee}"),
                format!("a quote of {}", quote.tee()),
            ));
        }
        Ok(Self::Intel(quote))
    }

    /// The 64 bytes that the attester chose. Not verified.
    #[must_use]
    pub fn report_data(&self) -> &[u8; 64] {
        match self {
            Self::Intel(quote) => quote.report_data(),
            Self::Amd(attestation) => &attestation.report().report_data,
        }
    }

    /// The kind of TEE that the evidence is of. Not verified.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self {
            Self::Intel(quote) => quote.tee(),
            Self::Amd(_) => Tee::SevSnp,
        }
    }

    fn into_owned(self) -> Evidence<'static> {
        match self {
            Self::Intel(quote) => Evidence::Intel(quote.into_owned()),
            Self::Amd(attestation) => Evidence::Amd(attestation.into_owned()),
        }
    }
}

fn check_size(bytes: &[u8]) -> Result<(), Finding> {
    if bytes.len() <= MAX_EVIDENCE {
        return Ok(());
    }
    Err(Finding::new(
        Reason::Oversized,
        "evidence",
        format!("at most {MAX_EVIDENCE} bytes"),
        format!("{} bytes", bytes.len()),
    ))
}

/// Parses bytes whose beginning looks like a known format; `None` for others.
fn recognise(bytes: &[u8]) -> Option<Result<Evidence<'static>, Finding>> {
    const INTEL_QE_VENDOR: [u8; 16] =
        [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
    let field = |at: usize| bytes.split_at_checked(at).and_then(|(_, rest)| rest.first_chunk::<4>());
    let is_quote = bytes.split_at_checked(12).is_some_and(|(_, rest)| rest.starts_with(&INTEL_QE_VENDOR));
    // A small version number, and the only signature algorithm.
    let is_report = matches!(field(0), Some([_, 0, 0, 0])) && field(0x34) == Some(&[1, 0, 0, 0]);
    let is_map = matches!(bytes.first(), Some(0xa1..=0xbb));
    if !(is_quote || is_report || is_map) {
        return None;
    }
    let parse = || {
        check_size(bytes)?;
        if is_quote {
            return Quote::parse(bytes).map(Evidence::Intel);
        }
        if is_report {
            let (report, table) = bytes.split_at_checked(REPORT_SIZE).unwrap_or((bytes, &[]));
            return Attestation::parse(report, Some(table)).map(Evidence::Amd);
        }
        let report = TsmReport::decode(bytes)?;
        let provider = if report.provider == TDX_PROVIDER { TDX_PROVIDER } else { SNP_PROVIDER };
        Evidence::from_tsm(report, provider)
    };
    Some(parse().map(Evidence::into_owned))
}

/// Decodes hexadecimal or base64 text; `None` when it is neither.
fn decode_text(bytes: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    if bytes.len() > MAX_TEXT {
        return None;
    }
    let mut text: Vec<u8> = bytes.iter().copied().filter(|c| !c.is_ascii_whitespace()).collect();
    if let Ok(decoded) = hex::decode(text.strip_prefix(b"0x").unwrap_or(&text)) {
        return Some(decoded);
    }
    for c in &mut text {
        match c {
            b'-' => *c = b'+',
            b'_' => *c = b'/',
            _ => {}
        }
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(&text).ok()
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

const TDX_PROVIDER: &str = "tdx_guest";
const SNP_PROVIDER: &str = "sev_guest";
/// Entries of a tsm-report map: five are defined.
const MAX_TSM_ENTRIES: u64 = 16;

impl<'a> TsmReport<'a> {
    /// Deterministic CBOR (RFC 8949 section 4.2.1).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a vector cannot fail.
        let _: Result<(), minicbor::encode::Error<Infallible>> = self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), minicbor::encode::Error<Infallible>> {
        let mut encoder = minicbor::Encoder::new(out);
        // In the order of their encodings, that is shorter keys first.
        encoder.map(2 + u64::from(self.auxblob.is_some()))?;
        if let Some(auxblob) = &self.auxblob {
            encoder.str("auxblob")?.bytes(auxblob)?;
        }
        encoder.str("outblob")?.bytes(&self.outblob)?;
        encoder.str("provider")?.str(&self.provider)?;
        Ok(())
    }

    /// Reads the map; unknown text keys are ignored, as the CDDL allows.
    /// Indefinite lengths, repeated keys, nested values and bytes behind the
    /// map are refused.
    ///
    /// # Errors
    /// When the bytes are not such a map.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Finding> {
        check_size(bytes)?;
        let mut decoder = minicbor::Decoder::new(bytes);
        let entries = decoder.map().map_err(|e| not_tsm(&e))?.ok_or_else(|| {
            Finding::new(Reason::NonCanonical, "tsm-report", "definite lengths", "an indefinite length")
        })?;
        if entries > MAX_TSM_ENTRIES {
            return Err(Finding::new(
                Reason::Oversized,
                "tsm-report",
                format!("at most {MAX_TSM_ENTRIES} entries"),
                entries.to_string(),
            ));
        }
        let mut seen = Vec::new();
        let (mut provider, mut outblob, mut auxblob) = (None, None, None);
        for _ in 0..entries {
            let key = decoder.str().map_err(|e| not_tsm(&e))?;
            if seen.contains(&key) {
                return Err(malformed_tsm("each key once", format!("'{}' twice", key.escape_debug())));
            }
            seen.push(key);
            match key {
                "provider" => provider = Some(decoder.str().map_err(|e| not_tsm(&e))?),
                "outblob" => outblob = Some(decoder.bytes().map_err(|e| not_tsm(&e))?),
                "auxblob" => auxblob = Some(decoder.bytes().map_err(|e| not_tsm(&e))?),
                _ => match decoder.datatype().map_err(|e| not_tsm(&e))? {
                    Type::Bytes => drop(decoder.bytes().map_err(|e| not_tsm(&e))?),
                    Type::String => drop(decoder.str().map_err(|e| not_tsm(&e))?),
                    other => {
                        return Err(malformed_tsm(
                            "byte and text strings",
                            format!("a value of type {other}"),
                        ));
                    }
                },
            }
        }
        if decoder.position() != bytes.len() {
            return Err(malformed_tsm("one CBOR map", "bytes behind it".to_owned()));
        }
        let missing = |key: &str| malformed_tsm(key, "no such key".to_owned());
        Ok(Self {
            provider: provider.ok_or_else(|| missing("provider"))?.into(),
            outblob: outblob.ok_or_else(|| missing("outblob"))?.into(),
            auxblob: auxblob.map(Cow::from),
        })
    }
}

fn not_tsm(e: &minicbor::decode::Error) -> Finding {
    if e.is_end_of_input() {
        return Finding::new(Reason::Truncated, "tsm-report", "a complete CBOR map", "a cut one");
    }
    malformed_tsm("a CBOR map of strings", e.to_string())
}

fn malformed_tsm(expected: &str, presented: String) -> Finding {
    Finding::new(Reason::Malformed, "tsm-report", expected, presented)
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
    match evidence {
        Evidence::Intel(quote) => intel::verify(quote, collateral, anchors, now, (cache, None), observer),
        Evidence::Amd(report) => amd::verify(report, collateral, anchors, now, (cache, None), observer),
    }
    .map(Arc::new)
}

/// As [`verify`], when evidence was verified before and proved `last`: if it is
/// this very evidence, the signature over it is not verified again, since nothing
/// but its bytes and the key decides about that. Everything that hangs on time and
/// collateral is looked at anew.
///
/// # Errors
/// As [`verify`].
pub fn verify_again(
    evidence: &Evidence<'_>,
    last: &Claims,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
    cache: Option<&Cache>,
) -> Result<Arc<Claims>, Finding> {
    let known = (cache, Some(last));
    match evidence {
        Evidence::Intel(quote) => intel::verify(quote, collateral, anchors, now, known, &mut ()),
        Evidence::Amd(report) => amd::verify(report, collateral, anchors, now, known, &mut ()),
    }
    .map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amd::report::tests::blank;

    fn tsm(provider: &str, report: &[u8], table: Option<&[u8]>) -> Vec<u8> {
        TsmReport { provider: provider.into(), outblob: report.into(), auxblob: table.map(Cow::from) }
            .encode()
    }

    #[test]
    fn a_tsm_report_is_deterministic_cbor_and_reads_back() {
        let bytes = tsm("sev_guest", b"r", Some(b"t"));
        let expected = b"\xa3\x67auxblob\x41t\x67outblob\x41r\x68provider\x69sev_guest";
        assert_eq!(bytes, expected);
        let decoded = TsmReport::decode(&bytes).unwrap();
        assert_eq!((&*decoded.provider, &*decoded.outblob), ("sev_guest", &b"r"[..]));
        assert_eq!(decoded.auxblob.as_deref(), Some(&b"t"[..]));
        assert_eq!(decoded.encode(), bytes);
    }

    #[test]
    fn a_tsm_report_may_have_more_text_keys_but_nothing_nested() {
        let more = b"\xa3\x67outblob\x41r\x68provider\x69sev_guest\x6cmanifestblob\x41m";
        assert!(TsmReport::decode(more).is_ok());
        let nested = b"\xa3\x67outblob\x41r\x68provider\x69sev_guest\x61x\x81\x81\x81\x01";
        assert_eq!(TsmReport::decode(nested).unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn every_damaged_tsm_report_has_its_reason() {
        let good = tsm("sev_guest", b"r", None);
        for (bytes, reason) in [
            (&good[..good.len() - 1], Reason::Truncated),
            (&[&good[..], &[0]].concat(), Reason::Malformed),
            (b"\xbf\x67outblob\x41r\xff", Reason::NonCanonical),
            (b"\xa2\x67outblob\x41r\x67outblob\x41r", Reason::Malformed),
            (b"\xa1\x67outblob\x41r", Reason::Malformed),
            (b"\xa2\x67outblob\x5f\x41r\xff\x68provider\x69sev_guest", Reason::Malformed),
            (b"\xb8\x18", Reason::Oversized),
            (&[0; MAX_EVIDENCE + 1], Reason::Oversized),
        ] {
            assert_eq!(TsmReport::decode(bytes).unwrap_err().reason, reason, "{:?}", bytes.get(..20));
        }
    }

    #[test]
    fn a_report_is_recognised_in_every_clothing() {
        let mut report = blank();
        report[0x50] = 7;
        let table = amd::encode_table(&[(amd::CertificateKind::Vcek, b"vcek")]);
        let with_table = [&report[..], &table].concat();
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, report);
        let hex = format!("0x{}\n", hex::encode(report));
        let map = tsm("sev_guest", &report, Some(&table));
        for bytes in [&report[..], &with_table, hex.as_bytes(), base64.as_bytes(), &map] {
            let evidence = Evidence::sniff(bytes).unwrap();
            assert_eq!(evidence.report_data()[0], 7);
            assert_eq!(evidence.tee(), Tee::SevSnp);
        }
        let Evidence::Amd(report) = Evidence::sniff(&with_table).unwrap() else { panic!() };
        assert_eq!(report.certificate(amd::CertificateKind::Vcek), Some(&b"vcek"[..]));
        let cut = Evidence::sniff(&with_table[..1183]).unwrap_err();
        assert_eq!(cut.reason, Reason::Truncated);
        for other in [&b""[..], b"hello", &[0xff; 2000], &[0; 5000]] {
            assert_eq!(Evidence::sniff(other).unwrap_err().reason, Reason::UnsupportedFormat);
        }
    }

    #[test]
    fn a_media_type_must_fit_its_value() {
        let map = tsm("sev_guest", &blank(), None);
        assert!(Evidence::parse(media_type::TSM_SNP, &map).is_ok());
        assert_eq!(Evidence::parse(media_type::TSM_TDX, &map).unwrap_err().reason, Reason::Malformed);
        let unknown = Evidence::parse("application/eat+cwt", &map).unwrap_err();
        assert_eq!(unknown.reason, Reason::UnsupportedFormat);
        let large = vec![0; MAX_EVIDENCE + 1];
        assert_eq!(Evidence::parse(media_type::SGX_QUOTE, &large).unwrap_err().reason, Reason::Oversized);
    }
}
