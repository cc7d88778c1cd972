//! Evidence in certificates: `id-pe-cmw` (RFC 9999) with our collection, and on
//! request CCC Interoperable RA-TLS. What a policy does with a foreign form it
//! decides from [`Form`]; here only the binding is checked.

use std::borrow::Cow;

use countersign_evidence::evidence::{TsmReport, media_type};
use countersign_evidence::{Evidence, Finding, Reason};
use x509_parser::certificate::X509Certificate;

use crate::binding::ReportData;
use crate::cbor::{self, Item, Order};
use crate::der;
use crate::native::Native;
use crate::peer::{Conveyed, Form};
use crate::spiffe::SpiffeId;

/// The largest CMW that we put into a certificate.
pub const MAX_EMITTED: usize = 32 * 1024;

/// The largest event log that we put into a certificate. A longer one is left
/// out, and shown in the rounds of sessions only.
pub const MAX_EVENT_LOG: usize = 16 * 1024;

/// The largest extension value that is accepted.
pub const MAX_ACCEPTED: usize = 48 * 1024;

/// `id-pe-cmw`, 1.3.6.1.5.5.7.1.35.
pub const ID_PE_CMW: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];

/// The contents of the same as DER.
pub(crate) const ID_PE_CMW_DER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x23];

/// 2.23.133.5.4.9: TCG DICE conceptual message wrapper, CCC evidence.
const DICE_CMW_DER: &[u8] = &[0x67, 0x81, 0x05, 0x05, 0x04, 0x09];

/// The first bytes of CBOR tag 60000.
const CCC_TAG: [u8; 3] = [0xd9, 0xea, 0x60];

/// The extension, not critical: a verifier that does not know it must not fail,
/// and policy, not criticality, enforces its presence.
///
/// # Errors
/// When the collection is over [`MAX_EMITTED`].
pub(crate) fn emit(cmw: &[u8]) -> Result<rcgen::CustomExtension, Finding> {
    Ok(rcgen::CustomExtension::from_oid_content(ID_PE_CMW, wrap(cmw)?))
}

/// The `cbor` arm of `CMW ::= CHOICE { json UTF8String, cbor OCTET STRING }`.
pub(crate) fn wrap(cmw: &[u8]) -> Result<Vec<u8>, Finding> {
    if cmw.len() > MAX_EMITTED {
        return Err(oversized(MAX_EMITTED, cmw.len()));
    }
    Ok(yasna::construct_der(|writer| writer.write_bytes(cmw)))
}

/// The CBOR inside the CHOICE.
pub(crate) fn unwrap(value: &[u8]) -> Result<&[u8], Finding> {
    if value.len() > MAX_ACCEPTED {
        return Err(oversized(MAX_ACCEPTED, value.len()));
    }
    match der::only("cmw", value)? {
        (der::OCTET_STRING, cbor) => Ok(cbor),
        (der::UTF8_STRING, _) => Err(unsupported("cmw", "the CBOR form", "the JSON form")),
        (tag, _) => {
            let presented = format!("tag {tag:#04x}");
            Err(Finding::new(Reason::Malformed, "cmw", "UTF8String or OCTET STRING", presented))
        }
    }
}

/// The key that evidence must bind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) spki: &'a [u8],
    pub(crate) spki_sha256: &'a [u8; 32],
    pub(crate) id: Option<&'a SpiffeId>,
}

/// The evidence of a certificate, if it has any, bound to its key.
///
/// Of the extensions that carry evidence there may be one: no policy names
/// which of several counts, so that several are refused (3-attestation, section 1.4).
pub(crate) fn evidence(
    certificate: &X509Certificate<'_>,
    subject: Subject<'_>,
) -> Result<Option<Conveyed>, Finding> {
    // Duplicates are refused when the certificate is parsed.
    let extensions = certificate.extensions().iter().map(|e| (e.oid.as_bytes(), e.value));
    let of = |wanted: &[u8]| extensions.clone().find(|(oid, _)| *oid == wanted);
    let found = match (of(ID_PE_CMW_DER), of(DICE_CMW_DER)) {
        (Some(_), Some(_)) => {
            let (expected, presented) = ("one extension", "1.3.6.1.5.5.7.1.35 and 2.23.133.5.4.9");
            return Err(Finding::new(Reason::EvidenceDuplicate, "evidence", expected, presented));
        }
        (native, foreign) => native.or(foreign),
    };
    match found.and_then(|(oid, value)| Record::read(oid, value)) {
        None => Ok(None),
        Some(record) => record?.bound_to(subject).map(Some),
    }
}

/// A collection of our profile, bound to `subject`.
pub(crate) fn native(cbor: &[u8], subject: Subject<'_>) -> Result<Conveyed, Finding> {
    Record::native(cbor)?.bound_to(subject)
}

/// Evidence of an extension, with what it says about the key.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) form: Form,
    pub(crate) media_type: Cow<'a, str>,
    pub(crate) value: Cow<'a, [u8]>,
    claim: Claim<'a>,
}

#[derive(Debug)]
enum Claim<'a> {
    Native(Box<Native<'a>>),
    /// The claims buffer of CCC.
    Ccc(&'a [u8]),
}

impl<'a> Record<'a> {
    /// Reads the extension, if it is one of the two that carry evidence.
    pub(crate) fn read(oid: &[u8], value: &'a [u8]) -> Option<Result<Self, Finding>> {
        match oid {
            ID_PE_CMW_DER => Some(unwrap(value).and_then(|cbor| match cbor.starts_with(&CCC_TAG) {
                true => Self::ccc(cbor),
                false => Self::native(cbor),
            })),
            DICE_CMW_DER => Some(match value {
                _ if value.len() > MAX_ACCEPTED => Err(oversized(MAX_ACCEPTED, value.len())),
                _ if value.starts_with(&CCC_TAG) => Self::ccc(value),
                _ => {
                    let start = hex::encode(value.get(..4).unwrap_or(value));
                    Err(unsupported("extension 2.23.133.5.4.9", "CBOR tag 60000 (CCC)", &start))
                }
            }),
            _ => None,
        }
    }

    fn native(cbor: &'a [u8]) -> Result<Self, Finding> {
        let native = Native::decode(cbor)?;
        let (media_type, value) = (native.media_type.into(), native.evidence.into());
        Ok(Self { form: Form::Native, media_type, value, claim: Claim::Native(Box::new(native)) })
    }

    /// `60000([quote, claims-buffer])` of CCC Interoperable RA-TLS.
    fn ccc(cbor: &'a [u8]) -> Result<Self, Finding> {
        const FIELD: &str = "ccc evidence";
        let mut reader = cbor::check(FIELD, cbor, Order::Any)?;
        let mut next = || reader.next().map_err(|fault| fault.finding(FIELD));
        let items = [next()?, next()?, next()?, next()?];
        let [Item::Tag(60000), Item::Array(2), Item::Bytes(quote), Item::Bytes(claims)] = items else {
            return Err(Finding::new(Reason::Malformed, FIELD, "60000([bstr, bstr])", "another structure"));
        };
        let (media_type, value) = quote_record(quote)?;
        Ok(Self { form: Form::Ccc, media_type: media_type.into(), value, claim: Claim::Ccc(claims) })
    }

    /// Whether the report data binds the key of `subject`.
    pub(crate) fn check(&self, subject: Subject<'_>) -> Result<(), Finding> {
        let expected = match &self.claim {
            Claim::Native(native) => {
                native.context.check(subject.spki_sha256, subject.id)?;
                native.report_data()
            }
            Claim::Ccc(claims) => {
                check_claims(claims, subject)?;
                ReportData::sha256_then_zeros(claims)
            }
        };
        expected.check(Evidence::parse(&self.media_type, &self.value)?.report_data())
    }

    fn bound_to(self, subject: Subject<'_>) -> Result<Conveyed, Finding> {
        self.check(subject)?;
        let event_log = match &self.claim {
            Claim::Native(native) => native.event_log.map(|(kind, value)| (kind.to_owned(), value.to_vec())),
            Claim::Ccc(_) => None,
        };
        let (media_type, value) = (self.media_type.into_owned(), self.value.into_owned());
        Ok(Conveyed { form: self.form, media_type, value, event_log })
    }
}

/// The claims buffer: a map with `"pubkey-hash": bstr .cbor [alg, hash]`.
/// Others add claims of their own, which are hashed but mean nothing here.
fn check_claims(claims: &[u8], subject: Subject<'_>) -> Result<(), Finding> {
    const FIELD: &str = "ccc claims-buffer";
    const HASH: &str = "ccc pubkey-hash";
    let mut reader = cbor::check(FIELD, claims, Order::Any)?;
    let fault = |fault: cbor::Fault| fault.finding(FIELD);
    let Item::Map(count) = reader.next().map_err(fault)? else {
        return Err(Finding::new(Reason::Malformed, FIELD, "a map", "another type"));
    };
    let mut hash = None;
    for _ in 0..count {
        match reader.next().map_err(fault)? {
            Item::Text("pubkey-hash") => hash = Some(reader.next().map_err(fault)?),
            Item::Text(_) => drop(reader.raw().map_err(fault)?),
            _ => return Err(Finding::new(Reason::Malformed, FIELD, "text keys", "another key")),
        }
    }
    let Some(Item::Bytes(hash)) = hash else {
        return Err(Finding::new(Reason::BindingMismatch, HASH, "a byte string", "none"));
    };
    let mut reader = cbor::check(HASH, hash, Order::Any)?;
    let mut next = || reader.next().map_err(|fault| fault.finding(HASH));
    let items = [next()?, next()?, next()?];
    let [Item::Array(2), Item::Uint(algorithm), Item::Bytes(presented)] = items else {
        return Err(Finding::new(Reason::Malformed, HASH, "[algorithm, bstr]", "another structure"));
    };
    let expected = hash_of(algorithm, subject)?;
    match aws_lc_rs::constant_time::verify_slices_are_equal(&expected, presented) {
        Ok(()) => Ok(()),
        Err(_) => {
            let (expected, presented) = (hex::encode(expected), hex::encode(presented));
            Err(Finding::new(Reason::BindingMismatch, HASH, expected, presented))
        }
    }
}

/// The named information hash algorithms that CCC lists.
fn hash_of(algorithm: u64, subject: Subject<'_>) -> Result<Vec<u8>, Finding> {
    use aws_lc_rs::digest::{SHA384, SHA512, digest};
    match algorithm {
        1 => Ok(subject.spki_sha256.to_vec()),
        7 => Ok(digest(&SHA384, subject.spki).as_ref().to_vec()),
        8 => Ok(digest(&SHA512, subject.spki).as_ref().to_vec()),
        other => Err(unsupported("ccc hash-alg", "1, 7 or 8", &other.to_string())),
    }
}

/// A bare quote as the record that [`Evidence::parse`] takes: by the version
/// and the TEE type of its header.
pub(crate) fn quote_record(quote: &[u8]) -> Result<(&'static str, Cow<'_, [u8]>), Finding> {
    const TDX: [u8; 4] = [0x81, 0, 0, 0];
    let tee = quote.get(4..8);
    match quote {
        [3, 0, ..] => Ok((media_type::SGX_QUOTE, quote.into())),
        [4 | 5, 0, ..] if tee == Some(&TDX) => {
            let report =
                TsmReport { provider: "tdx_guest".into(), outblob: Cow::Borrowed(quote), auxblob: None };
            Ok((media_type::TSM_TDX, report.encode().into()))
        }
        _ => {
            let start = hex::encode(quote.get(..8).unwrap_or(quote));
            Err(unsupported("ccc quote", "an SGX quote v3 or a TDX quote v4 or v5", &start))
        }
    }
}

fn oversized(most: usize, presented: usize) -> Finding {
    let (expected, presented) = (format!("at most {most} bytes"), format!("{presented} bytes"));
    Finding::new(Reason::Oversized, "evidence extension", expected, presented)
}

fn unsupported(field: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::UnsupportedFormat, field, expected, presented)
}
