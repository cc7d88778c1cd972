//! Everything in a certificate that looks like evidence, for people who inspect
//! one: also the forms that no handshake accepts. Nothing here admits anybody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_evidence::{Evidence, Finding};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::binding::{ReportData, sha256};
use crate::extension::{self, Subject, quote_record};
use crate::{certificate, der, svid};

/// Evidence as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// The name of the form, for people.
    pub form: &'static str,
    /// The object identifier of the extension, dotted.
    pub extension: String,
    /// The media type of the evidence.
    pub media_type: String,
    /// The evidence: `countersign_evidence::Evidence::parse` takes both.
    pub value: Vec<u8>,
    /// How its report data binds the certificate's key, or that it does not.
    pub binding: Result<&'static str, Finding>,
}

/// Gramine and the SGX SDK of old: 1.2.840.113741.1337.6, and the same with tag
/// and length inside the contents, as Gramine writes it.
const RAW_QUOTE: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x8a, 0x39, 0x06],
    &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x8a, 0x39, 0x06],
];

/// Open Enclave: 1.2.840.113556.10.1.1.
const OPEN_ENCLAVE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x14, 0x0a, 0x01, 0x01];

/// All evidence of a leaf in any form that is recognised, in the order of its
/// extensions. An extension that cannot be read as its form is left out, except
/// the accepted forms, whose fault is reported by [`crate::Presented::parse`].
///
/// # Errors
/// When this is no certificate.
pub fn find(leaf: &CertificateDer<'_>) -> Result<Vec<Embedded>, Finding> {
    let certificate = certificate::parse("leaf", leaf)?;
    let recognised = certificate.extensions().iter().filter_map(|e| {
        let oid = e.oid.as_bytes();
        let (form, media_type, value, binding) = match oid {
            _ if RAW_QUOTE.contains(&oid) => foreign("SGX quote (Gramine, SGX SDK)", e.value, &certificate),
            OPEN_ENCLAVE => foreign("Open Enclave report", open_enclave(e.value)?, &certificate),
            _ => accepted(oid, e.value, &certificate),
        }?;
        Some(Embedded { form, extension: e.oid.to_id_string(), media_type, value, binding })
    });
    Ok(recognised.collect())
}

type Found = (&'static str, String, Vec<u8>, Result<&'static str, Finding>);

/// The forms of [`extension`].
fn accepted(oid: &[u8], value: &[u8], certificate: &X509Certificate<'_>) -> Option<Found> {
    let spki = certificate.public_key().raw;
    let id = svid::check_leaf(certificate).ok();
    let subject = Subject { spki, spki_sha256: &sha256(spki), id: id.as_ref() };
    let read = extension::Record::read(oid, value)?.ok()?;
    let (form, method) = match read.form {
        crate::peer::Form::Native => ("CMW ratls-mesh/1", "key context, profile ratls-mesh/1"),
        crate::peer::Form::Ccc => {
            ("CCC Interoperable RA-TLS", "SHA-256 of a claims buffer with the SPKI's hash")
        }
    };
    let binding = read.check(subject).map(|()| method);
    Some((form, read.media_type.into_owned(), read.value.into_owned(), binding))
}

/// The quote of Open Enclave's two wrappings: a DER OCTET STRING, or a header of
/// version, type and size (4, 4 and 8 bytes).
fn open_enclave(value: &[u8]) -> Option<&[u8]> {
    match value {
        [1, 0, 0, 0, ..] => value.get(16..),
        _ => der::only_of("Open Enclave report", der::OCTET_STRING, value).ok(),
    }
}

/// A bare quote whose report data is a SHA-256 of the key in some encoding.
fn foreign(form: &'static str, quote: &[u8], certificate: &X509Certificate<'_>) -> Option<Found> {
    let (media_type, value) = quote_record(quote).ok()?;
    let binding = Evidence::parse(media_type, &value).and_then(|e| key_hash(e.report_data(), certificate));
    Some((form, media_type.to_owned(), value.into_owned(), binding))
}

fn key_hash(report_data: &[u8; 64], certificate: &X509Certificate<'_>) -> Result<&'static str, Finding> {
    let spki = certificate.public_key();
    let of_spki = ReportData::sha256_then_zeros(spki.raw);
    let others = [
        (
            ReportData::sha256_then_zeros(spki.subject_public_key.data.as_ref()),
            "SHA-256 of the public key's bits",
        ),
        (
            ReportData::sha256_then_zeros(&pem(spki.raw)),
            "SHA-256 of the SubjectPublicKeyInfo as PEM with a NUL",
        ),
    ];
    let other = others.iter().find(|(expected, _)| expected.check(report_data).is_ok());
    match other {
        Some((_, method)) => Ok(method),
        None => of_spki.check(report_data).map(|()| "SHA-256 of the SubjectPublicKeyInfo"),
    }
}

fn pem(spki: &[u8]) -> Vec<u8> {
    let base64 = STANDARD.encode(spki);
    let mut out = b"-----BEGIN PUBLIC KEY-----\n".to_vec();
    for line in base64.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END PUBLIC KEY-----\n\0");
    out
}
