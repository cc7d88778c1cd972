//! Private keys: made in memory, never shown, zeroized.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_evidence::{Finding, Reason};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

/// A private key (ECDSA P-256 or P-384).
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    kind: KeyType,
    spki: Vec<u8>,
}

/// The kinds of key that SVIDs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[default]
    EcP256,
    /// ECDSA on P-384.
    EcP384,
}

impl KeyType {
    const fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::EcP256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::EcP384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        }
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub fn generate(kind: KeyType) -> Result<Self, Finding> {
        let pair = EcdsaKeyPair::generate(kind.algorithm())
            .map_err(|_| internal("private key", "a new key pair", "the generator failed"))?;
        Self::of(pair, kind)
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.spki.clone()
    }

    /// What kind of key it is.
    #[must_use]
    pub const fn kind(&self) -> KeyType {
        self.kind
    }

    /// PKCS#8 PEM, for the files of an operator's context or the embedded CA.
    /// Empty when the key cannot be encoded, which does not happen for keys
    /// that this module makes or reads.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let Ok(der) = self.pair.to_pkcs8v1() else { return Zeroizing::default() };
        let base64 = Zeroizing::new(STANDARD.encode(der.as_ref()));
        // One allocation of the final size: growing would leave copies behind.
        let mut pem = Zeroizing::new(String::with_capacity(base64.len() + base64.len() / 64 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = base64.as_str();
        while let Some((line, tail)) = rest.split_at_checked(64) {
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        if !rest.is_empty() {
            pem.push_str(rest);
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// Reads PKCS#8 PEM.
    ///
    /// # Errors
    /// When it is not one key of a kind that is supported.
    pub fn from_pem(pem: &str) -> Result<Self, Finding> {
        // No message here may show what was read.
        let expected = "exactly one PEM block PRIVATE KEY (PKCS#8, ECDSA P-256 or P-384)";
        let refused = |presented: &str| Finding::new(Reason::Malformed, "private key", expected, presented);
        let mut keys = PrivatePkcs8KeyDer::pem_slice_iter(pem.as_bytes());
        let (first, second) = (keys.next(), keys.next());
        let mut key = match (first, second) {
            (Some(Ok(key)), None) => key,
            (None, _) => return Err(refused("none")),
            (Some(Err(_)), _) => return Err(refused("damaged PEM")),
            (Some(Ok(_)), Some(_)) => return Err(refused("more than one")),
        };
        let found = [KeyType::EcP256, KeyType::EcP384].into_iter().find_map(|kind| {
            EcdsaKeyPair::from_pkcs8(kind.algorithm(), key.secret_pkcs8_der()).ok().map(|pair| (pair, kind))
        });
        key.zeroize();
        let (pair, kind) = found.ok_or_else(|| refused("a key of another kind, or damaged"))?;
        Self::of(pair, kind)
    }

    /// The key as rustls uses it: for signing only.
    ///
    /// # Errors
    /// When the provider does not take the key.
    pub(crate) fn for_tls(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, Finding> {
        let refused = || internal("private key", "a key that the TLS provider takes", "another");
        let document = self.pair.to_pkcs8v1().map_err(|_| refused())?;
        let mut der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(document.as_ref().to_vec()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|_| refused());
        der.zeroize();
        key
    }

    fn of(pair: EcdsaKeyPair, kind: KeyType) -> Result<Self, Finding> {
        let spki: PublicKeyX509Der<'_> = pair
            .public_key()
            .as_der()
            .map_err(|_| internal("public key", "a DER SubjectPublicKeyInfo", "an encoding error"))?;
        let spki = spki.as_ref().to_vec();
        Ok(Self { pair, kind, spki })
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.kind {
            KeyType::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| rcgen::Error::RemoteKeyError)?.as_ref().to_vec())
    }
}

fn internal(field: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::Internal, field, expected, presented)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_form() {
        for kind in [KeyType::EcP256, KeyType::EcP384] {
            let key = PrivateKey::generate(kind).unwrap();
            let pem = key.to_pem();
            assert!(pem.lines().all(|line| line.len() <= 64));
            let again = PrivateKey::from_pem(&pem).unwrap();
            assert_eq!((again.spki(), again.kind()), (key.spki(), kind));
        }
    }

    #[test]
    fn the_spki_of_a_p256_key_starts_as_rfc_5480_says() {
        let spki = PrivateKey::generate(KeyType::EcP256).unwrap().spki();
        let start = hex::decode("3059301306072a8648ce3d020106082a8648ce3d03010703420004").unwrap();
        assert_eq!((spki.len(), &spki[..start.len()]), (91, &start[..]));
    }

    #[test]
    fn anything_but_one_ec_key_is_refused_without_being_shown() {
        let one = PrivateKey::generate(KeyType::EcP256).unwrap().to_pem();
        let two = format!("{}{}", *one, *one);
        let damaged = one.replace("PRIVATE KEY-----\nM", "PRIVATE KEY-----\nX");
        for text in ["", "no key", two.as_str(), damaged.as_str()] {
            let finding = PrivateKey::from_pem(text).unwrap_err();
            assert_eq!(finding.reason, Reason::Malformed);
            assert!(!finding.to_string().contains("BEGIN"));
        }
        assert_eq!(format!("{:?}", PrivateKey::generate(KeyType::EcP256).unwrap()), "PrivateKey");
    }
}
