//! Signatures of certificates over themselves and of requests. Everything else
//! is verified by rustls-webpki or the TLS provider.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::x509::SubjectPublicKeyInfo;

// Contents of the object identifiers of RFC 3279, RFC 5480 and RFC 5758.
const EC_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const EC_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];

/// The kinds of public key that are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey {
    P256,
    P384,
    Rsa,
}

impl PublicKey {
    pub(crate) fn of(spki: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        match (spki.algorithm.algorithm.as_bytes(), curve.as_ref().map(|oid| oid.as_bytes())) {
            (EC_PUBLIC_KEY, Some(EC_P256)) => Some(Self::P256),
            (EC_PUBLIC_KEY, Some(EC_P384)) => Some(Self::P384),
            (RSA, _) => Some(Self::Rsa),
            _ => None,
        }
    }
}

/// Whether `signature` over `message` was made by this key. An algorithm that
/// is not known verifies nothing. Parameters of the signature algorithm are not
/// looked at: Gramine encodes a NULL there that RFC 5758 forbids.
pub(crate) fn verifies(
    spki: &SubjectPublicKeyInfo<'_>,
    signature_algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let Some(key) = PublicKey::of(spki) else { return false };
    let algorithm: &'static dyn VerificationAlgorithm = match (key, signature_algorithm) {
        (PublicKey::P256, ECDSA_SHA256) => &ECDSA_P256_SHA256_ASN1,
        (PublicKey::P256, ECDSA_SHA384) => &ECDSA_P256_SHA384_ASN1,
        (PublicKey::P384, ECDSA_SHA256) => &ECDSA_P384_SHA256_ASN1,
        (PublicKey::P384, ECDSA_SHA384) => &ECDSA_P384_SHA384_ASN1,
        (PublicKey::Rsa, RSA_SHA256) => &RSA_PKCS1_2048_8192_SHA256,
        (PublicKey::Rsa, RSA_SHA384) => &RSA_PKCS1_2048_8192_SHA384,
        (PublicKey::Rsa, RSA_SHA512) => &RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, spki.subject_public_key.data.as_ref())
        .verify(message, signature)
        .is_ok()
}

/// Whether `signature` over `message` was made by this key with the one hash
/// that belongs to its curve, as in TLS 1.3: SHA-256 for P-256, SHA-384 for P-384.
pub(crate) fn verifies_by_curve(spki: &SubjectPublicKeyInfo<'_>, message: &[u8], signature: &[u8]) -> bool {
    match PublicKey::of(spki) {
        Some(PublicKey::P256) => verifies(spki, ECDSA_SHA256, message, signature),
        Some(PublicKey::P384) => verifies(spki, ECDSA_SHA384, message, signature),
        _ => false,
    }
}
