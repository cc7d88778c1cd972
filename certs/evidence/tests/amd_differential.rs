//! SEV-SNP reports as the `sev` crate judges them and as we do: its own samples,
//! and the reports of the evidence corpus where there is one.
//!
//! Known differences, in all of which ours is the stricter:
//! - it looks at no validity in time;
//! - it compares neither TCB nor hardware ID of the certificate with the report;
//! - it does not compare the product of the certificate with CPUID.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod oracle;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_evidence::amd::{Attestation, CertificateKind, Report, examine};
use countersign_evidence::{Anchors, Collateral, UnixTime};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sev::certs::snp::{Certificate, Chain, Verifiable as _, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use toml::Value;

/// A report with the certificates of its key, at a time when they are valid.
struct Case {
    name: String,
    report: Vec<u8>,
    certificates: Vec<(CertificateKind, Vec<u8>)>,
    at: UnixTime,
}

impl Case {
    fn new(name: String, report: Vec<u8>, certificates: Vec<Vec<u8>>) -> Self {
        let certificates: Vec<_> = certificates.into_iter().map(|der| (kind(&der), der)).collect();
        let vek = certificates.iter().find(|(k, _)| is_vek(*k)).unwrap();
        let (_, vek) = x509_parser::parse_x509_certificate(&vek.1).unwrap();
        let from = u64::try_from(vek.validity().not_before.timestamp()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(from + 24 * 3600));
        Self { name, report, certificates, at }
    }

    fn der(&self, kinds: &[CertificateKind]) -> &[u8] {
        &self.certificates.iter().find(|(k, _)| kinds.contains(k)).unwrap().1
    }
}

const fn is_vek(kind: CertificateKind) -> bool {
    matches!(kind, CertificateKind::Vcek | CertificateKind::Vlek)
}

fn kind(der: &[u8]) -> CertificateKind {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let subject = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap();
    match subject {
        "SEV-VCEK" => CertificateKind::Vcek,
        "SEV-VLEK" => CertificateKind::Vlek,
        _ if certificate.subject() == certificate.issuer() => CertificateKind::Ark,
        _ => CertificateKind::Ask,
    }
}

/// The report of the crate, with the certificates of its chip and with those of
/// another product.
fn own_samples() -> Vec<Case> {
    let dir = oracle::package("sev").join("tests/certs_data");
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let report = hex::decode(read("report_milan.hex").trim_ascii()).unwrap();
    let case = |product: &str| {
        let chain = read(&format!("cert_chain_{product}"));
        let mut certificates: Vec<_> =
            CertificateDer::pem_slice_iter(&chain).map(|c| c.unwrap().to_vec()).collect();
        certificates.push(read(&format!("vcek_{product}.der")));
        Case::new(format!("report_milan with vcek_{product}"), report.clone(), certificates)
    };
    vec![case("milan"), case("turin")]
}

fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("COUNTERSIGN_CORPUS").map(PathBuf::from);
    let beside =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("shared/evidence")).collect();
    let candidates: Vec<PathBuf> = named.map_or(beside, |dir| vec![dir]);
    candidates.into_iter().find(|dir| dir.join("manifest.toml").is_file())
}

/// The cases of the corpus that bring all three certificates.
fn corpus_samples() -> Vec<Case> {
    let Some(dir) = corpus() else { return Vec::new() };
    let text = std::fs::read_to_string(dir.join("manifest.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let read = |path: &Value| std::fs::read(dir.join(path.as_str().unwrap())).unwrap();
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let mut cases = Vec::new();
    for sample in list(manifest.get("sample")) {
        if !sample["kind"].as_str().is_some_and(|kind| kind.contains("snp-report")) {
            continue;
        }
        for case in list(sample.get("case")) {
            let certificates: Vec<_> = list(case.get("collateral")).iter().map(read).collect();
            if certificates.len() == 3 {
                let name = format!("{} / {}", sample["id"].as_str().unwrap(), case["name"].as_str().unwrap());
                cases.push(Case::new(name, read(&sample["path"]), certificates));
            }
        }
    }
    cases
}

#[test]
fn the_sev_crate_agrees_on_signatures() {
    for case in own_samples().into_iter().chain(corpus_samples()) {
        let certificates = case.certificates.iter().map(|(kind, der)| (*kind, Cow::from(der))).collect();
        let attestation = Attestation::new(Report::parse(&case.report).unwrap(), certificates);
        let examination =
            examine(&attestation, &Collateral::default(), &Anchors::built_in(), case.at).unwrap();
        let certificate = |kinds: &[CertificateKind]| Certificate::from_der(case.der(kinds)).unwrap();
        let chain = Chain {
            ca: ca::Chain {
                ark: certificate(&[CertificateKind::Ark]),
                ask: certificate(&[CertificateKind::Ask]),
            },
            vek: certificate(&[CertificateKind::Vcek, CertificateKind::Vlek]),
        };
        let theirs = (&chain).verify().is_ok();
        assert_eq!(theirs, examination.vek_issued_by_ask.is_ok(), "{}: chain", case.name);
        let report = AttestationReport::from_bytes(&case.report).unwrap();
        let theirs = (&chain.vek, &report).verify().is_ok();
        assert_eq!(theirs, examination.report_signature.is_ok(), "{}: report", case.name);
    }
}
