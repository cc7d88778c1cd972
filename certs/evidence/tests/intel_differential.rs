//! Intel quotes as dcap-qvl judges them and as we do.
//!
//! Known deltas, each asserted below where a sample shows it:
//! - dcap-qvl refuses debug TDs and enclaves and bound service TDs while it
//!   verifies; with us that is the policy's decision. It is told to allow them.
//! - It refuses TDs without SEPT_VE_DISABLE; with us that is the policy's decision.
//! - It does not read TCB info of version 2 (SGX).
//! - It does not look at certificates in the quote that are not on the path to
//!   the root; we refuse quotes with strangers among them.
//! - It does not compare the PCEID; no sample shows this.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

mod intel_samples;
mod oracle;

use aws_lc_rs::digest;
use countersign_evidence::intel::Quote;
use countersign_evidence::{Claims, Reason};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};
use intel_samples::{Sample, appraise, ours, platform, samples};
use oracle::package;

/// dcap-qvl on our provider of cryptography.
struct AwsLc;

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn rustls_pki_types::SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }
    fn sha256(data: &[u8]) -> [u8; 32] {
        digest::digest(&digest::SHA256, data).as_ref().try_into().unwrap()
    }
    fn sha384(data: &[u8]) -> [u8; 48] {
        digest::digest(&digest::SHA384, data).as_ref().try_into().unwrap()
    }
}

impl Config for AwsLc {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = AwsLc;
}

fn theirs(
    root: &[u8],
    quote: &[u8],
    collateral: &QuoteCollateralV3,
    now: u64,
) -> Result<VerifiedReport, String> {
    QuoteVerifier::<AwsLc>::new_with_config(root.to_vec())
        .allow_debug(true)
        .allow_service_td(true)
        .verify(quote, collateral, now)
        .map_err(|e| format!("{e:#}"))
}

fn agree(name: &str, ours: &Claims, theirs: &VerifiedReport) {
    let p = platform(ours);
    let mut advisories = theirs.advisory_ids.clone();
    advisories.sort();
    advisories.dedup();
    assert_eq!(p.tcb_status.name(), theirs.status, "{name}");
    assert_eq!(p.advisory_ids, advisories, "{name}");
    assert_eq!(p.qe_tcb_status.name(), theirs.qe_status.status.to_string(), "{name}");
    assert_eq!(p.ppid.as_slice(), theirs.ppid, "{name}");
}

#[test]
fn both_give_the_same_result_for_its_own_samples() {
    let dir = package("dcap-qvl");
    let root = std::fs::read(dir.join("src/TrustedRootCA.der")).unwrap();
    for Sample { name, quote, file, now } in samples(&dir) {
        let collateral = appraise(name, &file, now);
        let qvl: QuoteCollateralV3 = serde_json::from_slice(&file).unwrap();
        let theirs_now = theirs(&root, &quote, &qvl, now);
        let claims = match ours(&quote, &collateral, now) {
            Ok(claims) => claims,
            // No level of its collateral fits this platform.
            Err(finding) if name == "tdx_quote_outdated" => {
                assert_eq!(finding.reason, Reason::TcbNotSupported);
                assert!(theirs_now.is_err());
                continue;
            }
            Err(finding) => panic!("{name}: {finding}"),
        };
        agree(name, &claims, &theirs_now.unwrap());
        // They agree up to the ends of the window that we state. In its last
        // second dcap-qvl holds a CRL to be expired, which Intel's QVL does not.
        for inside in [claims.window.from, claims.window.until - 1] {
            assert!(ours(&quote, &collateral, inside).is_ok(), "{name} at {inside}");
            assert!(theirs(&root, &quote, &qvl, inside).is_ok(), "{name} at {inside}");
        }
        assert!(ours(&quote, &collateral, claims.window.until).is_ok(), "{name}");
        for outside in [claims.window.from - 1, claims.window.until + 1] {
            assert!(ours(&quote, &collateral, outside).is_err(), "{name} at {outside}");
        }
        // It does not look at the thisUpdate of CRLs.
        assert!(theirs(&root, &quote, &qvl, claims.window.until + 1).is_err(), "{name}");
    }
}

#[test]
fn both_refuse_the_same_changes() {
    let dir = package("dcap-qvl");
    let root = std::fs::read(dir.join("src/TrustedRootCA.der")).unwrap();
    for Sample { name, quote, file, now } in samples(&dir) {
        let collateral = appraise(name, &file, now);
        let qvl: QuoteCollateralV3 = serde_json::from_slice(&file).unwrap();
        for i in (0..quote.len()).step_by(53) {
            let mut changed = quote.clone();
            changed[i] ^= 1 << (i % 8);
            let theirs = theirs(&root, &changed, &qvl, now).map(|report| report.status);
            match ours(&changed, &collateral, now) {
                Ok(claims) => {
                    assert_eq!(Ok(platform(&claims).tcb_status.name()), theirs.as_deref(), "{name} {i}");
                }
                // It leaves alone what is in the chain and not on the path.
                Err(finding) if [Reason::BadChain, Reason::Malformed].contains(&finding.reason) => {}
                Err(finding) => assert!(theirs.is_err(), "{name} byte {i}: {finding}, {theirs:?}"),
            }
        }
        let trailing = Quote::parse(&quote).unwrap().trailing_bytes();
        for end in (0..quote.len() - trailing).step_by(331) {
            assert!(ours(&quote[..end], &collateral, now).is_err(), "{name} cut at {end}");
        }
    }
}
