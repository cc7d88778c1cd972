//! Real SEV-SNP reports, each with the result that independent tools gave.
//!
//! The corpus is found through `COUNTERSIGN_CORPUS`, or beside the repository;
//! without one there is nothing to run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_evidence::amd::tcb::{Product, TcbVersion};
use countersign_evidence::amd::{Attestation, CertificateKind, Examination, Report, encode_table, examine};
use countersign_evidence::cache::Cache;
use countersign_evidence::{Anchors, Collateral, Evidence, Finding, Reason, UnixTime, verify};

use sev::certs::snp::{Certificate, Chain, Verifiable as _, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use toml::Value;

fn corpus() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("COUNTERSIGN_CORPUS") {
        let dir = PathBuf::from(dir);
        assert!(dir.join("manifest.toml").is_file(), "COUNTERSIGN_CORPUS has no manifest.toml");
        return Some(dir);
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|a| a.join("shared/evidence"));
    let found = beside.into_iter().find(|dir| dir.join("manifest.toml").is_file());
    if found.is_none() {
        eprintln!("no evidence corpus: nothing to check");
    }
    found
}

struct Sample {
    dir: PathBuf,
    entry: Value,
}

fn samples(kinds: &[&str]) -> Vec<Sample> {
    let Some(dir) = corpus() else { return Vec::new() };
    let manifest: Value =
        toml::from_str(&std::fs::read_to_string(dir.join("manifest.toml")).unwrap()).unwrap();
    let all = manifest["sample"].as_array().unwrap();
    all.iter()
        .filter(|s| kinds.contains(&s["kind"].as_str().unwrap()))
        .map(|s| Sample { dir: dir.clone(), entry: s.clone() })
        .collect()
}

const REPORTS: [&str; 4] = ["snp-report-v2", "snp-report-v3", "snp-report-v5", "negative-snp-report"];

struct Case<'a> {
    sample: &'a Sample,
    name: String,
    at: UnixTime,
    certificates: Vec<(CertificateKind, Vec<u8>)>,
    expect: &'a Value,
}

impl Sample {
    fn id(&self) -> &str {
        self.entry["id"].as_str().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.dir.join(self.entry["path"].as_str().unwrap())).unwrap()
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let cases = self.entry.get("case").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        cases
            .iter()
            .filter_map(|case| {
                let at = text(case.get("verify_at")?);
                let files = case.get("collateral")?.as_array()?;
                let files = files.iter().map(|f| std::fs::read(self.dir.join(f.as_str().unwrap())).unwrap());
                Some(Case {
                    sample: self,
                    name: format!("{} / {}", self.id(), case["name"].as_str().unwrap()),
                    at: seconds(&at),
                    certificates: files.map(|der| (kind(&der), der)).collect(),
                    expect: case.get("expect")?,
                })
            })
            .collect()
    }
}

impl Case<'_> {
    fn attestation(&self) -> Result<Attestation<'_>, Finding> {
        let certificates = self.certificates.iter().map(|(kind, der)| (*kind, Cow::from(der))).collect();
        Ok(Attestation::new(Report::parse(&self.sample.bytes())?, certificates))
    }

    fn examine(&self) -> Result<Examination, Finding> {
        examine(&self.attestation()?, &Collateral::default(), &Anchors::built_in(), self.at)
    }

    fn der(&self, kind: &[CertificateKind]) -> Vec<u8> {
        self.certificates.iter().find(|(k, _)| kind.contains(k)).map(|(_, der)| der.clone()).unwrap()
    }
}

/// Times may be strings or TOML's own.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Datetime(time) => time.to_string(),
        other => panic!("no time: {other:?}"),
    }
}

fn seconds(rfc3339: &str) -> UnixTime {
    let time = time::OffsetDateTime::parse(rfc3339, &time::format_description::well_known::Rfc3339).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(time.unix_timestamp().try_into().unwrap()))
}

fn kind(der: &[u8]) -> CertificateKind {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let name = |name: &x509_parser::x509::X509Name<'_>| {
        name.iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    };
    match (name(certificate.subject()).as_str(), name(certificate.issuer()).as_str()) {
        ("SEV-VCEK", _) => CertificateKind::Vcek,
        ("SEV-VLEK", _) => CertificateKind::Vlek,
        (subject, issuer) if subject == issuer => CertificateKind::Ark,
        _ => CertificateKind::Ask,
    }
}

#[test]
fn every_case_has_the_cryptographic_result_of_the_corpus() {
    for sample in samples(&REPORTS) {
        for case in sample.cases() {
            let Some(crypto) = case.expect.get("crypto").and_then(Value::as_str) else { continue };
            let examination = case.examine();
            let result = examination.as_ref().map_err(Clone::clone).and_then(Examination::result);
            match crypto {
                "valid" => assert_eq!(result, Ok(()), "{}", case.name),
                "invalid" => assert!(result.is_err(), "{}", case.name),
                _ => continue,
            }
            let flag = |name: &str| case.expect.get(name).and_then(Value::as_bool);
            let parts = examination.as_ref().map(|e| {
                [
                    ("report_signature", Some(e.report_signature.is_ok())),
                    ("vek_issued_by_ask", Some(e.vek_issued_by_ask.is_ok())),
                    ("vek_in_validity", Some(e.vek_in_validity.is_ok())),
                    ("reported_tcb_equals_vek_tcb", Some(e.reported_tcb_equals_vek_tcb.is_ok())),
                    ("chip_id_equals_vek_hwid", e.chip_id_equals_vek_hwid.as_ref().map(Result::is_ok)),
                ]
            });
            for (name, found) in parts.iter().flatten() {
                if let Some(expected) = flag(name) {
                    assert_eq!(*found, Some(expected), "{}: {name}", case.name);
                }
            }
            if let (Some(line), Ok(e)) = (case.expect.get("product_line"), &examination) {
                assert_eq!(line.as_str().unwrap(), e.product.name(), "{}", case.name);
            }
        }
    }
}

#[test]
fn full_verification_accepts_what_is_valid_and_refuses_version_2() {
    for sample in samples(&REPORTS) {
        for case in sample.cases() {
            let Ok(attestation) = case.attestation() else { continue };
            let version = attestation.report().version;
            let certificates: Vec<_> = case.certificates.iter().map(|(k, d)| (*k, &**d)).collect();
            let bytes = [&sample.bytes()[..], &encode_table(&certificates)].concat();
            let evidence = Evidence::sniff(&bytes).unwrap();
            let cache = Cache::new(16);
            let run = |at, cache| {
                verify(&evidence, &Collateral::default(), &Anchors::built_in(), at, cache, &mut ())
            };
            let outcome = run(case.at, None);
            match case.expect.get("crypto").and_then(Value::as_str) {
                Some("valid") if version >= 3 => {
                    let claims = outcome.unwrap_or_else(|f| panic!("{}: {f}", case.name));
                    assert!(!claims.emulated);
                    assert!(claims.window.contains(case.at.as_secs()), "{}", case.name);
                    assert_eq!(&claims.report_data, evidence.report_data());
                    // A second time from the cache, and never beyond the window.
                    assert_eq!(run(case.at, Some(&cache)).as_ref(), Ok(&claims));
                    assert_eq!(run(case.at, Some(&cache)).as_ref(), Ok(&claims));
                    let late = UnixTime::since_unix_epoch(Duration::from_secs(claims.window.until + 1));
                    assert_eq!(run(late, Some(&cache)).unwrap_err().reason, Reason::CertificateExpired);
                    let nobody = Anchors::new(vec![], vec![]);
                    let refused =
                        verify(&evidence, &Collateral::default(), &nobody, case.at, Some(&cache), &mut ());
                    assert_eq!(refused.unwrap_err().reason, Reason::UntrustedRoot, "{}", case.name);
                }
                Some("valid") => {
                    assert_eq!(outcome.unwrap_err().reason, Reason::UnsupportedVersion, "{}", case.name);
                }
                _ => assert!(outcome.is_err(), "{}", case.name),
            }
        }
    }
}

#[test]
fn every_field_is_read_as_the_corpus_says() {
    for sample in samples(&REPORTS) {
        let Some(fields) = sample.entry.get("fields").and_then(Value::as_table) else { continue };
        let report = Report::parse(&sample.bytes()).unwrap();
        for (name, expected) in fields {
            let found = field(&report, name, expected);
            assert_eq!(&found, expected, "{}: {name}", sample.id());
        }
        if let Some(debug) = sample.entry.get("expect").and_then(|e| e.get("debug")) {
            assert_eq!(&field(&report, "debug", debug), debug, "{}", sample.id());
        }
    }
}

fn field(report: &Report, name: &str, expected: &Value) -> Value {
    let hex = |bytes: &[u8]| Value::from(hex::encode(bytes));
    let bit = |n: u32| Value::from(report.policy >> n & 1 == 1);
    let number = |n: u64| Value::from(i64::try_from(n).unwrap());
    let cpuid = |i: usize| number(u64::from(report.cpuid.unwrap()[i]));
    match name {
        "version" => number(report.version.into()),
        "guest_svn" => number(report.guest_svn.into()),
        "family_id" => hex(&report.family_id),
        "image_id" => hex(&report.image_id),
        "vmpl" => number(report.vmpl.into()),
        "sig_algo" => number(report.signature_algo.into()),
        "current_tcb" => hex(&report.current_tcb),
        "platform_info" => number(report.platform_info),
        "signer_info" => number(report.key_info.into()),
        "author_key_en" => report.author_key_en().into(),
        "mask_chip_key" => report.mask_chip_key().into(),
        "signing_key" => format!("{:?}", report.signing_key().unwrap()).to_uppercase().into(),
        "report_data" => hex(&report.report_data),
        "measurement" => hex(&report.measurement),
        "host_data" => hex(&report.host_data),
        "id_key_digest" => hex(&report.id_key_digest),
        "author_key_digest" => hex(&report.author_key_digest),
        "report_id" => hex(&report.report_id),
        "report_id_ma" => hex(&report.report_id_ma),
        "reported_tcb" => hex(&report.reported_tcb),
        "cpuid_fam" => cpuid(0),
        "cpuid_mod" => cpuid(1),
        "cpuid_step" => cpuid(2),
        "chip_id" => hex(&report.chip_id),
        "committed_tcb" => hex(&report.committed_tcb),
        "current_version" => report.current_version.to_string().into(),
        "committed_version" => report.committed_version.to_string().into(),
        "launch_tcb" => hex(&report.launch_tcb),
        "launch_mit_vector" => number(report.launch_mit_vector.unwrap()),
        "current_mit_vector" => number(report.current_mit_vector.unwrap()),
        "debug" => bit(19),
        "smt" => bit(16),
        "migrate_ma" => bit(18),
        "single_socket" => bit(20),
        "abi_major" => number(report.policy >> 8 & 0xff),
        "abi_minor" => number(report.policy & 0xff),
        "policy_hex" => format!("{:#x}", report.policy).into(),
        "trailing_bytes" => number(0),
        "reported_tcb_parts" => {
            // The parts name the layout: only Turin's has an FMC.
            let turin = expected.get("fmc").is_some();
            let product =
                report.product().unwrap().unwrap_or(if turin { Product::Turin } else { Product::Milan });
            let tcb = TcbVersion::from_bytes(product, report.reported_tcb);
            let parts = [
                ("fmc", tcb.fmc),
                ("bl", tcb.bootloader),
                ("tee", tcb.tee),
                ("snp", tcb.snp),
                ("ucode", tcb.microcode),
            ];
            let parts = parts.into_iter().filter(|(name, _)| turin || *name != "fmc");
            Value::Table(parts.map(|(name, value)| (name.to_owned(), number(value.into()))).collect())
        }
        other => panic!("the corpus speaks of an unknown field {other}"),
    }
}

#[test]
fn forged_certificates_and_damaged_reports_are_refused() {
    for sample in samples(&["negative-vcek"]) {
        let der = sample.bytes();
        for donor in samples(&REPORTS) {
            for mut case in donor.cases() {
                case.certificates
                    .retain(|(k, _)| !matches!(k, CertificateKind::Vcek | CertificateKind::Vlek));
                case.certificates.push((CertificateKind::Vcek, der.clone()));
                if let Ok(examination) = case.examine() {
                    assert!(examination.vek_issued_by_ask.is_err(), "{} by {}", sample.id(), case.name);
                    assert!(examination.result().is_err());
                }
            }
        }
    }
    for sample in samples(&["negative-snp-report"]) {
        if sample.cases().is_empty() {
            // Nothing to verify it with: its form alone is wrong.
            assert!(Evidence::sniff(&sample.bytes()).is_err(), "{}", sample.id());
        }
    }
}

/// The verdicts of the `sev` crate, an independent implementation. Known
/// differences, in all of which ours is the stricter:
/// - it looks at no validity in time;
/// - it compares neither TCB nor hardware ID of the certificate with the report;
/// - it does not compare the product of the certificate with CPUID.
#[test]
fn the_sev_crate_agrees_on_signatures() {
    for sample in samples(&REPORTS) {
        for case in sample.cases() {
            let Ok(examination) = case.examine() else { continue };
            let certificate = |kinds: &[CertificateKind]| Certificate::from_der(&case.der(kinds)).unwrap();
            let chain = Chain {
                ca: ca::Chain {
                    ark: certificate(&[CertificateKind::Ark]),
                    ask: certificate(&[CertificateKind::Ask]),
                },
                vek: certificate(&[CertificateKind::Vcek, CertificateKind::Vlek]),
            };
            assert_eq!(
                (&chain).verify().is_ok(),
                examination.vek_issued_by_ask.is_ok(),
                "{}: chain",
                case.name
            );
            let report = AttestationReport::from_bytes(&sample.bytes()).unwrap();
            assert_eq!(
                (&chain.vek, &report).verify().is_ok(),
                examination.report_signature.is_ok(),
                "{}: report",
                case.name
            );
        }
    }
}
