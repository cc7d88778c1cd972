//! Emulated machines, their evidence and collateral, and the floors.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_2048_8192_SHA384, RSA_PSS_SHA384,
    UnparsedPublicKey,
};
use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec, Vendor};
use countersign_attester::{Attester, Produced};
use countersign_evidence::cache::Cache;
use countersign_evidence::collateral::Marks;
use countersign_evidence::{Anchors, Claims, Collateral, Evidence, UnixTime, verify};

/// The moment at which everything happens: 2026-11-21.
pub const NOW: u64 = 1_795_219_200;

/// The time as evidence takes it.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

/// A vendor with one machine of each kind.
pub struct Fixture {
    /// The vendor.
    pub vendor: Vendor,
    /// The vendor's roots.
    pub anchors: Anchors,
    /// The vendor's collateral.
    pub collateral: Collateral,
    /// TDX quote v4.
    pub tdx: Produced,
    /// SGX quote v3.
    pub sgx: Produced,
    /// SEV-SNP report v3 with its certificates.
    pub snp: Produced,
    /// The same from another machine.
    pub other_snp: Produced,
}

impl Fixture {
    /// Generates all of it.
    ///
    /// # Errors
    /// When the emulation fails.
    pub fn new() -> Result<Self> {
        let vendor = Vendor::generate(now(), Duration::from_secs(86_400 * 30))?;
        let anchors = Anchors::new(Vec::new(), vec![vendor.intel_root(), vendor.amd_root()?]);
        let appraised =
            Collateral::appraise(&vendor.collateral(now())?, &anchors, &mut Marks::default(), now());
        anyhow::ensure!(appraised.refused.is_empty(), "collateral refused: {:?}", appraised.refused);
        let quote = |attester: Arc<dyn Attester>| attester.evidence(&[7; 64]);
        let tdx = quote(vendor.tdx(TdxSpec::default())?)?;
        let sgx = quote(vendor.sgx(SgxSpec::default())?)?;
        let snp = quote(vendor.snp(SnpSpec::default())?)?;
        let other_snp = quote(vendor.snp(SnpSpec { chip_id: [0x77; 64], ..SnpSpec::default() })?)?;
        Ok(Self { vendor, anchors, collateral: appraised.collateral, tdx, sgx, snp, other_snp })
    }

    /// Parses and verifies evidence, as a handshake does.
    ///
    /// # Panics
    /// When it does not verify.
    #[must_use]
    pub fn verify(&self, evidence: &Produced, cache: Option<&Cache>) -> Arc<Claims> {
        let parsed = Evidence::parse(evidence.media_type, &evidence.value).expect("evidence parses");
        verify(&parsed, &self.collateral, &self.anchors, now(), cache, &mut ()).expect("evidence verifies")
    }
}

/// A signature verification that is nothing else: the floor.
pub struct Floor {
    key: Vec<u8>,
    algorithm: &'static dyn signature::VerificationAlgorithm,
    signature: Vec<u8>,
}

/// As many bytes as a TDX quote signs.
const MESSAGE: [u8; 632] = [0x5a; 632];

impl Floor {
    /// ECDSA P-256 with SHA-256.
    ///
    /// # Panics
    /// When key generation fails.
    #[must_use]
    pub fn p256() -> Self {
        Self::ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_FIXED)
    }

    /// ECDSA P-384 with SHA-384.
    ///
    /// # Panics
    /// When key generation fails.
    #[must_use]
    pub fn p384() -> Self {
        Self::ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED)
    }

    fn ecdsa(
        sign: &'static signature::EcdsaSigningAlgorithm,
        algorithm: &'static signature::EcdsaVerificationAlgorithm,
    ) -> Self {
        let pair = EcdsaKeyPair::generate(sign).expect("key generation");
        let signature = pair.sign(&SystemRandom::new(), &MESSAGE).expect("signing").as_ref().to_vec();
        Self { key: pair.public_key().as_ref().to_vec(), algorithm, signature }
    }

    /// RSA-4096 PSS with SHA-384.
    ///
    /// # Panics
    /// When key generation fails.
    #[must_use]
    pub fn rsa4096() -> Self {
        let pair =
            aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa4096).expect("key generation");
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &MESSAGE, &mut signature).expect("signing");
        Self { key: pair.public_key().as_ref().to_vec(), algorithm: &RSA_PSS_2048_8192_SHA384, signature }
    }

    /// One verification.
    ///
    /// # Panics
    /// When it fails.
    pub fn verify(&self) {
        UnparsedPublicKey::new(self.algorithm, &self.key)
            .verify(&MESSAGE, &self.signature)
            .expect("verifies");
    }
}
