//! Private keys of the emulated vendor.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA384,
    RsaKeyPair,
};
use zeroize::Zeroizing;

use super::x509;
use crate::Error;

/// What kind of key, and with it which signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ECDSA with SHA-256 over P-256: Intel's PKI and quotes.
    P256,
    /// ECDSA with SHA-384 over P-384: AMD's reports.
    P384,
    /// RSASSA-PSS with SHA-384, 4096 bits: AMD's PKI.
    Rsa4096,
}

/// A private key. The secret is kept by aws-lc, which clears it on drop.
pub(super) enum Key {
    Ec(Kind, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.kind())
    }
}

impl Key {
    pub(super) fn generate(kind: Kind) -> Result<Self, Error> {
        match kind {
            Kind::P256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(|k| Self::Ec(kind, k)),
            Kind::P384 => EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map(|k| Self::Ec(kind, k)),
            Kind::Rsa4096 => RsaKeyPair::generate(KeySize::Rsa4096).map(Self::Rsa),
        }
        .map_err(|_| Error::Crypto("generate a key"))
    }

    /// Reads PKCS#8.
    pub(super) fn from_pkcs8(kind: Kind, der: &[u8]) -> Result<Self, Error> {
        match kind {
            Kind::P256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map(|k| Self::Ec(kind, k))
            }
            Kind::P384 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der).map(|k| Self::Ec(kind, k))
            }
            Kind::Rsa4096 => RsaKeyPair::from_pkcs8(der).map(Self::Rsa),
        }
        .map_err(|_| Error::Crypto("read a PKCS#8 key"))
    }

    /// PKCS#8, cleared on drop.
    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        match self {
            Self::Ec(_, key) => key.to_pkcs8v1().map(|d| Zeroizing::new(d.as_ref().to_vec())),
            Self::Rsa(key) => {
                AsDer::<Pkcs8V1Der<'_>>::as_der(key).map(|d| Zeroizing::new(d.as_ref().to_vec()))
            }
        }
        .map_err(|_| Error::Crypto("write a PKCS#8 key"))
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Ec(kind, _) => *kind,
            Self::Rsa(_) => Kind::Rsa4096,
        }
    }

    /// SubjectPublicKeyInfo.
    pub(super) fn spki(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Ec(_, key) => {
                AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).map(|d| d.as_ref().to_vec())
            }
            Self::Rsa(key) => {
                AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).map(|d| d.as_ref().to_vec())
            }
        }
        .map_err(|_| Error::Crypto("write a public key"))
    }

    /// The coordinates x ‖ y of an elliptic public key (empty for RSA).
    pub(super) fn point(&self) -> &[u8] {
        match self {
            // SEC 1 uncompressed point: 04 ‖ x ‖ y
            Self::Ec(_, key) => key.public_key().as_ref().get(1..).unwrap_or_default(),
            Self::Rsa(_) => &[],
        }
    }

    /// The signature as devices write it: r ‖ s of fixed length (or RSA's octets).
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let rng = SystemRandom::new();
        match self {
            Self::Ec(_, key) => key.sign(&rng, message).map(|s| s.as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA384, &rng, message, &mut out).map(|()| out)
            }
        }
        .map_err(|_| Error::Crypto("sign"))
    }

    /// The signature as certificates carry it: an ECDSA signature as a SEQUENCE.
    pub(super) fn sign_der(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.sign(message)?;
        Ok(match self {
            Self::Ec(..) => x509::ecdsa_signature(&signature),
            Self::Rsa(_) => signature,
        })
    }
}
