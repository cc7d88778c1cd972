//! The attested certificate request: PKCS#10 with `id-aa-attestation`
//! (draft-ietf-lamps-csr-attestation), see 3-attestation section 6.4.

use countersign_evidence::Finding;

use crate::key::PrivateKey;
use crate::peer::Conveyed;

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
}

impl Pending {
    /// Starts a request for `key` with the CA's challenge (16 to 64 bytes).
    ///
    /// # Errors
    /// When the challenge has a wrong size.
    pub fn new(key: &PrivateKey, challenge: &[u8]) -> Result<Self, Finding> {
        let _ = (key, challenge, String::new());
        todo!()
    }

    /// The request, with evidence over [`Pending::report_data`]; DER.
    ///
    /// # Errors
    /// When it would exceed a cap.
    pub fn finish(self, key: &PrivateKey, media_type: &str, evidence: &[u8]) -> Result<Vec<u8>, Finding> {
        let _ = (key, media_type, evidence, self.context);
        todo!()
    }
}

impl AttestedRequest {
    /// Parses DER, checks the signature and the key binding.
    ///
    /// # Errors
    /// When either does not hold, or a cap is exceeded.
    pub fn parse(der: &[u8]) -> Result<Self, Finding> {
        let _ = der;
        todo!()
    }
}
