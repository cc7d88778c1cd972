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

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use countersign_evidence::claims::{Body, IntelPlatform};
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::intel::Quote;
use countersign_evidence::{Anchors, Claims, Collateral, Evidence, Finding, Reason, UnixTime, verify};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};

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

/// The sources of dcap-qvl, with samples inside.
fn package() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |args: &[&str]| {
        let output =
            Command::new(&cargo).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // For this platform only: the sources of the others may not be at hand.
    let version = run(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = run(&["metadata", "--format-version", "1", "--offline", "--filter-platform", host]);
    let metadata: serde_json::Value = serde_json::from_str(&output).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|p| p["name"] == "dcap-qvl").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
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

fn ours(quote: &[u8], collateral: &Collateral, now: u64) -> Result<Arc<Claims>, Finding> {
    let quote = Quote::parse(quote)?;
    verify(&Evidence::Intel(quote), collateral, &Anchors::built_in(), at(now), None, &mut ())
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn platform(claims: &Claims) -> &IntelPlatform {
    match &claims.body {
        Body::Tdx(c) => &c.platform,
        Body::Sgx(c) => &c.platform,
        Body::SevSnp(_) => panic!("an SEV-SNP report"),
    }
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

struct Sample {
    name: &'static str,
    quote: Vec<u8>,
    file: Vec<u8>,
    now: u64,
}

/// The samples with their collateral, an hour after the last piece was issued.
fn samples(dir: &Path) -> Vec<Sample> {
    ["sgx_quote", "tdx_quote", "tdx_quote_outdated", "tdx_quote_td15ex"]
        .into_iter()
        .map(|name| {
            let file = std::fs::read(dir.join(format!("sample/{name}_collateral.json"))).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&file).unwrap();
            let issued = ["tcb_info", "qe_identity"].map(|key| {
                let body: serde_json::Value = serde_json::from_str(json[key].as_str().unwrap()).unwrap();
                let date = body["issueDate"].as_str().unwrap();
                let format = time::format_description::well_known::Rfc3339;
                time::OffsetDateTime::parse(date, &format).unwrap().unix_timestamp().unsigned_abs()
            });
            let now = issued.into_iter().max().unwrap() + 24 * 3600;
            Sample { name, quote: std::fs::read(dir.join(format!("sample/{name}"))).unwrap(), file, now }
        })
        .collect()
}

fn appraise(name: &str, file: &[u8], now: u64) -> Collateral {
    let items = [Item { name: name.to_owned(), bytes: file.to_vec() }];
    let appraised = Collateral::appraise(&items, &Anchors::built_in(), &mut Marks::default(), at(now));
    assert_eq!(appraised.refused, [], "{name}");
    appraised.collateral
}

#[test]
fn both_give_the_same_result_for_its_own_samples() {
    let dir = package();
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
    let dir = package();
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
                    assert_eq!(Ok(platform(&claims).tcb_status.name()), theirs.as_deref(), "{name} {i}")
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
