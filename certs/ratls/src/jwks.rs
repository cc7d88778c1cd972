//! The documents of trust bundles: JWK Sets as SPIFFE profiles them, or PEM.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_evidence::{Finding, Reason};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::public_key::PublicKey;

use crate::bundle::Bundle;
use crate::spiffe::TrustDomain;
use crate::{certificate, signature};

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";
const SNAPSHOT: &str = "countersign-snapshot";

/// The largest document, and the most keys in it.
const MAX_DOCUMENT: usize = 1024 * 1024;
const MAX_KEYS: usize = 256;

#[derive(Default, Serialize, Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<Jwk<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Jwk<'a> {
    #[serde(rename = "use", borrow, default, skip_serializing_if = "Option::is_none")]
    usage: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kty: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    crv: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

/// Reads a JWK Set, or PEM when the document does not start as JSON does.
pub(crate) fn read(trust_domain: TrustDomain, document: &[u8]) -> Result<Bundle, Finding> {
    if document.len() > MAX_DOCUMENT {
        let (expected, presented) =
            (format!("at most {MAX_DOCUMENT} bytes"), format!("{} bytes", document.len()));
        return Err(Finding::new(Reason::Oversized, "trust bundle", expected, presented));
    }
    let empty = Bundle {
        trust_domain,
        x509_authorities: Vec::new(),
        snapshot_keys: Vec::new(),
        sequence: 0,
        refresh_hint: None,
    };
    match document.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => read_json(empty, document),
        _ => read_pem(empty, document),
    }
}

fn read_json(mut bundle: Bundle, document: &[u8]) -> Result<Bundle, Finding> {
    let parsed: Document<'_> = serde_json::from_slice(document)
        .map_err(|error| malformed("trust bundle", "a JWK Set", error.to_string()))?;
    if parsed.keys.len() > MAX_KEYS {
        let (expected, presented) = (format!("at most {MAX_KEYS}"), parsed.keys.len().to_string());
        return Err(Finding::new(Reason::Oversized, "trust bundle keys", expected, presented));
    }
    bundle.sequence = parsed.spiffe_sequence.unwrap_or(0);
    bundle.refresh_hint = parsed.spiffe_refresh_hint;
    for (index, key) in parsed.keys.iter().enumerate() {
        let field = format!("keys[{index}]");
        match key.usage.as_deref() {
            Some(X509_SVID) => bundle.x509_authorities.push(authority(&field, key)?),
            Some(SNAPSHOT) => bundle.snapshot_keys.push(snapshot_key(&field, key)?),
            // Not used here; but without a key ID it is no JWT authority, and
            // a document that has one was not made for what it says.
            Some(JWT_SVID) | None => drop(kid(&field, key)?),
            Some(_) => {}
        }
    }
    Ok(bundle)
}

fn authority(field: &str, key: &Jwk<'_>) -> Result<CertificateDer<'static>, Finding> {
    let certificates = key.x5c.as_deref().unwrap_or_default();
    let [certificate] = certificates else {
        let presented = certificates.len().to_string();
        return Err(malformed(&format!("{field}.x5c"), "exactly one certificate", presented));
    };
    let field = format!("{field}.x5c[0]");
    let der = STANDARD
        .decode(certificate)
        .map_err(|error| malformed(&field, "base64 of a certificate", error.to_string()))?;
    certificate::parse(&field, &der)?;
    Ok(der.into())
}

fn snapshot_key(field: &str, key: &Jwk<'_>) -> Result<(String, Vec<u8>), Finding> {
    let kid = kid(field, key)?.to_owned();
    if (key.kty.as_ref(), key.crv.as_deref()) != ("EC", Some("P-256")) {
        let presented = format!("{} {}", key.kty, key.crv.as_deref().unwrap_or_default());
        return Err(malformed(field, "an EC key on P-256", presented));
    }
    let coordinate = |name: &str, value: &Option<String>| {
        let bytes = value.as_ref().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let presented = || "another value".to_owned();
        bytes
            .filter(|bytes| bytes.len() == 32)
            .ok_or_else(|| malformed(&format!("{field}.{name}"), "base64url of 32 bytes", presented()))
    };
    Ok((kid, [vec![4], coordinate("x", &key.x)?, coordinate("y", &key.y)?].concat()))
}

fn kid<'a>(field: &str, key: &'a Jwk<'_>) -> Result<&'a str, Finding> {
    let kid = key.kid.as_deref().filter(|kid| !kid.is_empty());
    kid.ok_or_else(|| malformed(&format!("{field}.kid"), "a key ID", "none"))
}

fn read_pem(mut bundle: Bundle, document: &[u8]) -> Result<Bundle, Finding> {
    for (index, certificate) in CertificateDer::pem_slice_iter(document).enumerate() {
        let field = format!("certificate {}", index + 1);
        let certificate =
            certificate.map_err(|error| malformed(&field, "a PEM certificate", error.to_string()))?;
        certificate::parse(&field, &certificate)?;
        bundle.x509_authorities.push(certificate);
    }
    let blank = document.iter().all(u8::is_ascii_whitespace);
    if bundle.x509_authorities.is_empty() && !blank {
        return Err(malformed("trust bundle", "a JWK Set or PEM certificates", "neither"));
    }
    Ok(bundle)
}

/// Writes the JWK Set. Authorities whose key is neither EC nor RSA are left out;
/// there are none that could sign an SVID.
pub(crate) fn write(bundle: &Bundle) -> String {
    let authorities = bundle.x509_authorities.iter().filter_map(authority_jwk);
    let snapshot_keys = bundle.snapshot_keys.iter().filter_map(|(kid, point)| {
        let key = ec_jwk(SNAPSHOT, "P-256", point)?;
        Some(Jwk { kid: Some(Cow::Owned(kid.clone())), ..key })
    });
    let document = Document {
        keys: authorities.chain(snapshot_keys).collect(),
        spiffe_sequence: Some(bundle.sequence),
        spiffe_refresh_hint: bundle.refresh_hint,
    };
    // Serialising text and numbers into memory does not fail.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

fn authority_jwk(certificate: &CertificateDer<'static>) -> Option<Jwk<'static>> {
    let parsed = certificate::parse("authority", certificate).ok()?;
    let spki = parsed.public_key();
    let key = match (signature::PublicKey::of(spki)?, spki.parsed().ok()?) {
        (signature::PublicKey::P256, PublicKey::EC(point)) => ec_jwk(X509_SVID, "P-256", point.data()),
        (signature::PublicKey::P384, PublicKey::EC(point)) => ec_jwk(X509_SVID, "P-384", point.data()),
        (signature::PublicKey::Rsa, PublicKey::RSA(key)) => {
            let number = |bytes: &[u8]| {
                let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
                Some(URL_SAFE_NO_PAD.encode(bytes.get(start..).unwrap_or_default()))
            };
            let (n, e) = (number(key.modulus), number(key.exponent));
            Some(Jwk { usage: Some(X509_SVID.into()), kty: "RSA".into(), n, e, ..Jwk::default() })
        }
        _ => None,
    }?;
    Some(Jwk { x5c: Some(vec![STANDARD.encode(certificate)]), ..key })
}

/// The JWK of an uncompressed point.
fn ec_jwk(usage: &'static str, curve: &'static str, point: &[u8]) -> Option<Jwk<'static>> {
    let [4, coordinates @ ..] = point else { return None };
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    Some(Jwk {
        usage: Some(usage.into()),
        kty: "EC".into(),
        crv: Some(curve.into()),
        x: Some(URL_SAFE_NO_PAD.encode(x)),
        y: Some(URL_SAFE_NO_PAD.encode(y)),
        ..Jwk::default()
    })
}

fn malformed(field: &str, expected: &str, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::Malformed, field, expected, presented)
}
