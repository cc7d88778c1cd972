//! Private keys: made in memory, never shown, zeroized.

/// A private key (ECDSA P-256 or P-384).
pub struct PrivateKey(());

/// The kinds of key that SVIDs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[default]
    EcP256,
    /// ECDSA on P-384.
    EcP384,
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
    pub fn generate(kind: KeyType) -> Result<Self, countersign_evidence::Finding> {
        let _ = kind;
        todo!()
    }
    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        todo!()
    }
    /// PKCS#8 PEM, for the files of an operator's context or the embedded CA.
    #[must_use]
    pub fn to_pem(&self) -> zeroize::Zeroizing<String> {
        todo!()
    }
    /// Reads PKCS#8 PEM.
    ///
    /// # Errors
    /// When it is not one key of a kind that is supported.
    pub fn from_pem(pem: &str) -> Result<Self, countersign_evidence::Finding> {
        let _ = pem;
        todo!()
    }
}
