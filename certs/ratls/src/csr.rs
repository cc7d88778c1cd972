//! The attested certificate request: PKCS#10 with `id-aa-attestation`
//! (draft-ietf-lamps-csr-attestation), see 3-attestation section 6.4.

use countersign_evidence::{Finding, Reason};
use rcgen::{Attribute, CertificateParams, DistinguishedName};
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::prelude::FromDer;
use yasna::models::ObjectIdentifier;

use crate::binding::{CHALLENGE_SIZES, KeyContext, key_report_data, sha256};
use crate::der;
use crate::extension::{self, ID_PE_CMW, ID_PE_CMW_DER, MAX_ACCEPTED, MAX_EVENT_LOG, Subject};
use crate::key::PrivateKey;
use crate::native::{self, Native};
use crate::peer::Conveyed;
use crate::signature::{self, PublicKey};

/// `id-aa-attestation`, 1.2.840.113549.1.9.16.2.59.
const ID_AA_ATTESTATION: &[u64] = &[1, 2, 840, 113_549, 1, 9, 16, 2, 59];
const ID_AA_ATTESTATION_DER: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x02, 0x3b];

/// The largest request: the evidence, and room for the rest.
const MAX_REQUEST: usize = MAX_ACCEPTED + 2048;

const FIELD: &str = "attestation attribute";

/// A request as the CA sees it: proof of possession and key binding are
/// checked, evidence and challenge are not.
#[derive(Clone, Debug)]
pub struct AttestedRequest {
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The challenge that the evidence binds: the CA compares it with the one it gave.
    pub challenge: Vec<u8>,
    /// The CMW collection, as it goes into the certificate.
    pub cmw: Vec<u8>,
    /// The evidence.
    pub evidence: Conveyed,
}

/// The report data that evidence for `key` and `challenge` must carry, and the
/// key context to pack it with: first step of a request.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The 64 bytes to quote.
    pub report_data: [u8; 64],
    context: Vec<u8>,
    event_log: Option<(&'static str, Vec<u8>)>,
}

impl Pending {
    /// Starts a request for `key` with the CA's challenge (16 to 64 bytes).
    ///
    /// # Errors
    /// When the challenge has a wrong size.
    pub fn new(key: &PrivateKey, challenge: &[u8]) -> Result<Self, Finding> {
        if !CHALLENGE_SIZES.contains(&challenge.len()) {
            let presented = format!("{} bytes", challenge.len());
            return Err(Finding::new(Reason::Malformed, "challenge", "16 to 64 bytes", presented));
        }
        let context = KeyContext { spki_sha256: sha256(&key.spki()), challenge: challenge.into(), id: None };
        let context = context.encode();
        Ok(Self { report_data: *key_report_data(&context, &[]).as_bytes(), context, event_log: None })
    }

    /// Sends this event log (media type and bytes) along, which was taken after
    /// the quote. One that is too long for a certificate is left out: whoever
    /// wants to see it refuses then.
    #[must_use]
    pub fn with_event_log(mut self, log: Option<(&'static str, Vec<u8>)>) -> Self {
        self.event_log = log.filter(|(_, log)| log.len() <= MAX_EVENT_LOG);
        self
    }

    /// The bytes of the key context, for whoever hashes them himself before he quotes.
    #[must_use]
    pub fn context(&self) -> &[u8] {
        &self.context
    }

    /// The request, with evidence over [`Pending::report_data`]; DER.
    ///
    /// # Errors
    /// When it would exceed a cap.
    pub fn finish(self, key: &PrivateKey, media_type: &str, evidence: &[u8]) -> Result<Vec<u8>, Finding> {
        let event_log = self.event_log.as_ref().map(|(kind, log)| (*kind, log.as_slice()));
        let cmw = native::encode(&self.context, media_type, evidence, event_log);
        let cmw = extension::wrap(&cmw)?;
        let attribute = Attribute { oid: ID_AA_ATTESTATION, values: bundle(&cmw) };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request_with_attributes(key, vec![attribute]).map_err(|error| {
            Finding::new(Reason::Internal, "certificate request", "a signed request", error.to_string())
        })?;
        Ok(request.der().to_vec())
    }
}

/// `SET { AttestationBundle { attestations { AttestationStatement { id-pe-cmw, CMW } } } }`
fn bundle(cmw: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_set_of(|set| {
            set.next().write_sequence(|bundle| {
                bundle.next().write_sequence_of(|attestations| {
                    attestations.next().write_sequence(|statement| {
                        statement.next().write_oid(&ObjectIdentifier::from_slice(ID_PE_CMW));
                        statement.next().write_der(cmw);
                    });
                });
            });
        });
    })
}

impl AttestedRequest {
    /// Parses DER, checks the signature and the key binding.
    ///
    /// # Errors
    /// When either does not hold, or a cap is exceeded.
    pub fn parse(der: &[u8]) -> Result<Self, Finding> {
        if der.len() > MAX_REQUEST {
            let (expected, presented) =
                (format!("at most {MAX_REQUEST} bytes"), format!("{} bytes", der.len()));
            return Err(Finding::new(Reason::Oversized, "certificate request", expected, presented));
        }
        let malformed = |presented: String| {
            Finding::new(Reason::Malformed, "certificate request", "a DER PKCS#10 request", presented)
        };
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after it", rest.len())));
        }
        check_possession(&request)?;
        let info = &request.certification_request_info;
        let spki = info.subject_pki.raw;
        let cmw = extension::unwrap(statement(info)?)?;
        let challenge = Native::decode(cmw)?.context.challenge.into_owned();
        let evidence = extension::native(cmw, Subject { spki, spki_sha256: &sha256(spki), id: None })?;
        Ok(Self { spki: spki.to_vec(), challenge, cmw: cmw.to_vec(), evidence })
    }
}

/// The requester holds the key, and it is of a kind that SVIDs use.
fn check_possession(request: &X509CertificationRequest<'_>) -> Result<(), Finding> {
    let info = &request.certification_request_info;
    if !matches!(PublicKey::of(&info.subject_pki), Some(PublicKey::P256 | PublicKey::P384)) {
        let presented = info.subject_pki.algorithm.algorithm.to_string();
        return Err(Finding::new(
            Reason::Malformed,
            "certificate request key",
            "ECDSA P-256 or P-384",
            presented,
        ));
    }
    let algorithm = request.signature_algorithm.algorithm.as_bytes();
    let signature = request.signature_value.data.as_ref();
    match signature::verifies(&info.subject_pki, algorithm, info.raw, signature) {
        true => Ok(()),
        false => {
            let (expected, presented) = ("made by the key of the request", "another signature");
            Err(Finding::new(Reason::BadSignature, "certificate request signature", expected, presented))
        }
    }
}

/// The one statement of the one attestation attribute: the CHOICE of a CMW.
fn statement<'a>(info: &X509CertificationRequestInfo<'a>) -> Result<&'a [u8], Finding> {
    let mut attributes = attributes(info.raw)?;
    let mut found = None;
    while !attributes.is_empty() {
        let (attribute, rest) = der::next_of(FIELD, der::SEQUENCE, attributes)?;
        let (kind, values) = der::next_of(FIELD, der::OID, attribute)?;
        if kind == ID_AA_ATTESTATION_DER && found.replace(values).is_some() {
            return Err(Finding::new(Reason::EvidenceDuplicate, FIELD, "exactly one", "more"));
        }
        attributes = rest;
    }
    let Some(values) = found else {
        return Err(Finding::new(Reason::EvidenceMissing, FIELD, "exactly one", "none"));
    };
    // The draft allows endorsement certificates after the statements; we take
    // none, because they come with the evidence or from collateral.
    let bundle = der::only_of(FIELD, der::SEQUENCE, der::only_of(FIELD, der::SET, values)?)?;
    let statements = der::only_of(FIELD, der::SEQUENCE, bundle)?;
    let statement = der::only_of(FIELD, der::SEQUENCE, statements)?;
    let (kind, cmw) = der::next_of(FIELD, der::OID, statement)?;
    if kind != ID_PE_CMW_DER {
        let presented = hex::encode(kind);
        return Err(Finding::new(Reason::UnsupportedFormat, "attestation statement", "id-pe-cmw", presented));
    }
    Ok(cmw)
}

/// The attributes of a `CertificationRequestInfo` (RFC 2986 section 4.1).
/// x509-parser keeps no values of attributes that it does not know.
fn attributes(info: &[u8]) -> Result<&[u8], Finding> {
    let info = der::only_of(FIELD, der::SEQUENCE, info)?;
    let (_version, rest) = der::next_of(FIELD, der::INTEGER, info)?;
    let (_subject, rest) = der::next_of(FIELD, der::SEQUENCE, rest)?;
    let (_spki, rest) = der::next_of(FIELD, der::SEQUENCE, rest)?;
    der::only_of(FIELD, der::CONTEXT_0, rest)
}
