//! The emulated PKI and evidence, read by others than the code that wrote them:
//! OpenSSL and the `sev` crate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use common::{DATA, NOW, VENDOR, at};
use countersign_attester::emulated::{CollateralSpec, IntelPlatform, SgxSpec, SnpSpec, TdxSpec, Vendor};
use countersign_attester::{Attester, Pause};
use countersign_evidence::claims::{Product, TcbVersion, Tee};
use sev::certs::snp::{Chain, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

fn item(name: &str) -> Vec<u8> {
    let items = VENDOR.collateral(at(NOW)).unwrap();
    items.into_iter().find(|i| i.name == format!("emulated/{name}")).unwrap().bytes
}

/// Runs the OpenSSL command line on files of these contents; the arguments name
/// them `@0`, `@1`, ...
fn openssl(arguments: &[&str], files: &[&[u8]]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = |n: usize| directory.path().join(n.to_string());
    for (n, bytes) in files.iter().enumerate() {
        std::fs::write(path(n), bytes).unwrap();
    }
    let arguments = arguments.iter().map(|a| match a.strip_prefix('@') {
        Some(n) => path(n.parse().unwrap()).display().to_string(),
        None => (*a).to_owned(),
    });
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    text
}

fn pem_of(der: &[u8]) -> Vec<u8> {
    openssl(&["x509", "-inform", "DER", "-in", "@0"], &[der]).into_bytes()
}

fn crl_pem(der: &[u8]) -> Vec<u8> {
    openssl(&["crl", "-inform", "DER", "-in", "@0"], &[der]).into_bytes()
}

#[test]
fn openssl_verifies_the_intel_like_chain_with_its_crls() {
    let tdx = VENDOR.tdx(TdxSpec::default()).unwrap();
    let crls = [item("intel-root-ca.crl"), item("intel-pck-platform.crl")].map(|crl| crl_pem(&crl)).concat();
    let time = NOW.to_string();
    let verify = |leaf: &[u8]| {
        let arguments = [
            "verify",
            "-x509_strict",
            "-crl_check_all",
            "-attime",
            &time,
            "-CAfile",
            "@0",
            "-untrusted",
            "@1",
            "-CRLfile",
            "@2",
            "@3",
        ];
        let (root, ca) = (item("intel-root-ca.pem"), item("intel-pck-platform-ca.pem"));
        openssl(&arguments, &[&root, &ca, &crls, leaf])
    };
    assert!(verify(&pem_of(tdx.pck_certificate())).ends_with("OK\n"));
    assert!(verify(&item("intel-tcb-signing.pem")).ends_with("OK\n"));
}

#[test]
fn openssl_reads_the_amd_like_chain_with_its_pss_parameters() {
    // Made anew: the one on disk may be of an older build.
    let vendor = Vendor::generate(at(NOW), Duration::from_secs(86400)).unwrap();
    let snp = vendor.snp(SnpSpec::default()).unwrap();
    let items = vendor.collateral(at(NOW)).unwrap();
    let item = |name: &str| items.iter().find(|i| i.name.ends_with(name)).unwrap().bytes.clone();
    let (ark, ask, crl) = (item("amd-ark.pem"), item("amd-ask.pem"), crl_pem(&item("amd.crl")));
    let time = NOW.to_string();
    let arguments = ["verify", "-attime", &time, "-CAfile", "@0", "-untrusted", "@1", "@2"];
    let vcek = pem_of(snp.endorsement());
    assert!(openssl(&arguments, &[&ark, &ask, &vcek]).ends_with("OK\n"));
    let crl_check = ["verify", "-attime", &time, "-crl_check", "-CAfile", "@0", "-CRLfile", "@1", "@2"];
    assert!(openssl(&crl_check, &[&ark, &crl, &ask]).ends_with("OK\n"));
    let text = openssl(&["x509", "-noout", "-text", "-in", "@0"], &[&vcek]);
    for expected in ["rsassaPss", "Hash Algorithm: sha384", "mgf1 with sha384", "0x30", "secp384r1"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[test]
fn openssl_sees_a_revoked_pck() {
    let tdx = VENDOR.tdx(TdxSpec::default()).unwrap();
    let spec = CollateralSpec { revoked_pck: vec![tdx.pck_serial().clone()], ..CollateralSpec::default() };
    let items = VENDOR.collateral_with(&spec, at(NOW)).unwrap();
    let crl = items.iter().find(|i| i.name.ends_with("pck-platform.crl")).unwrap();
    let text = openssl(&["crl", "-noout", "-text", "-inform", "DER", "-in", "@0"], &[&crl.bytes]);
    assert!(text.contains(&tdx.pck_serial().to_string().to_uppercase()), "{text}");
    assert!(text.contains("Key Compromise"), "{text}");
}

#[test]
fn a_revocation_survives_a_new_machine_of_the_same_platform() {
    let serial =
        |platform| VENDOR.tdx(TdxSpec { platform, ..TdxSpec::default() }).unwrap().pck_serial().clone();
    let platform = IntelPlatform::default();
    assert_eq!(serial(platform.clone()), serial(platform.clone()));
    assert_ne!(serial(platform.clone()), serial(IntelPlatform { ppid: [9; 16], ..platform }));
}

/// Header ‖ body, and the attestation key's signature over them.
fn check_quote(quote: &[u8], version: u16, tee: u32, body: usize) {
    let signed = 48 + body;
    assert_eq!(quote[..2], version.to_le_bytes());
    assert_eq!(quote[2..4], [2, 0]);
    assert_eq!(quote[4..8], tee.to_le_bytes());
    let length = u32::from_le_bytes(quote[signed..signed + 4].try_into().unwrap()) as usize;
    assert_eq!(quote.len(), signed + 4 + length);
    let authentication = &quote[signed + 4..];
    let key = [&[4], &authentication[64..128]].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
    key.verify(&quote[..signed], &authentication[..64]).unwrap();
}

#[test]
fn quotes_of_every_version_have_their_layout_and_a_signature() {
    for (quote_version, body, at) in [(4, 584, 48 + 520), (5, 6 + 648, 54 + 520)] {
        let quote =
            VENDOR.tdx(TdxSpec { quote_version, ..TdxSpec::default() }).unwrap().quote(&DATA).unwrap();
        check_quote(&quote, quote_version, 0x81, body);
        assert_eq!(quote[at..at + 64], DATA);
    }
    let quote = VENDOR.sgx(SgxSpec::default()).unwrap().quote(&DATA).unwrap();
    check_quote(&quote, 3, 0, 384);
    assert_eq!(quote[48 + 320..48 + 384], DATA);
}

#[test]
fn the_sev_crate_verifies_reports_of_every_product_and_version() {
    let (ark, ask, asvk) = (item("amd-ark.pem"), item("amd-ask.pem"), item("amd-asvk.pem"));
    for product in [Product::Milan, Product::Genoa, Product::Turin] {
        for version in [3, 5] {
            for csp_id in [None, Some("emulated.example".to_owned())] {
                let reported_tcb = TcbVersion { fmc: 0, bootloader: 10, tee: 1, snp: 23, microcode: 209 };
                let intermediate = if csp_id.is_some() { &asvk } else { &ask };
                let spec = SnpSpec { version, product, reported_tcb, csp_id, ..SnpSpec::default() };
                let snp = VENDOR.snp(spec).unwrap();
                let report = snp.report(&DATA).unwrap();
                assert_eq!(report.len(), 1184);
                let parsed = AttestationReport::from_bytes(&report).unwrap();
                assert_eq!(parsed.report_data[..], DATA);
                let chain = Chain::from_pem(&ark, intermediate, &pem_of(snp.endorsement())).unwrap();
                (&chain, &parsed).verify().unwrap();
            }
        }
    }
}

#[test]
fn a_report_has_each_field_at_its_place() {
    let spec = SnpSpec {
        guest_svn: 0x0102_0304,
        vmpl: 3,
        platform_info: 0x2f,
        author_key_en: true,
        host_data: [0x77; 32],
        launch_mit_vector: 0xaa,
        current_mit_vector: 0xbb,
        committed_tcb: Some(TcbVersion { bootloader: 1, ..TcbVersion::default() }),
        ..SnpSpec::default()
    };
    let parsed = AttestationReport::from_bytes(&VENDOR.snp(spec).unwrap().report(&DATA).unwrap()).unwrap();
    assert_eq!((parsed.version, parsed.guest_svn, parsed.vmpl), (5, 0x0102_0304, 3));
    assert_eq!(parsed.host_data[..], [0x77; 32]);
    assert_eq!((parsed.cpuid_fam_id, parsed.cpuid_mod_id), (Some(0x19), Some(0x11)));
    assert_eq!((parsed.launch_mit_vector, parsed.current_mit_vector), (Some(0xaa), Some(0xbb)));
    assert_eq!((parsed.committed_tcb.bootloader, parsed.reported_tcb.bootloader), (1, 10));
}

#[test]
fn a_masked_chip_shows_no_identity() {
    let spec = SnpSpec { mask_chip_key: true, ..SnpSpec::default() };
    let report = VENDOR.snp(spec).unwrap().report(&DATA).unwrap();
    assert_eq!(report[0x1a0..0x1e0], [0; 64]);
    assert_eq!(report[0x48] & 2, 2);
}

#[test]
fn a_vendor_comes_back_from_disk_with_the_same_roots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vendor");
    VENDOR.save(&path).unwrap();
    VENDOR.save(&path).unwrap();
    let loaded = Vendor::load(&path).unwrap();
    assert_eq!(loaded.intel_root(), VENDOR.intel_root());
    assert_eq!(loaded.amd_root().unwrap(), VENDOR.amd_root().unwrap());
    assert_eq!(loaded.window(), VENDOR.window());
    loaded.tdx(TdxSpec::default()).unwrap();
    loaded.snp(SnpSpec::default()).unwrap();
    let key = openssl(&["pkey", "-noout", "-text", "-in", "@0"], &[&read(&path, "intel-root.key.pem")]);
    assert!(key.contains("P-256"), "{key}");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 12, "no drafts are left");
}

fn read(directory: &Path, name: &str) -> Vec<u8> {
    std::fs::read(directory.join(name)).unwrap()
}

#[test]
fn keys_on_disk_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vendor");
    Vendor::generate(at(NOW), Duration::from_secs(60)).unwrap().save(&path).unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for name in ["intel-root", "intel-platform-ca", "intel-tcb-signing"] {
        assert_eq!(mode(&path.join(format!("{name}.key.pem"))), 0o600);
    }
}

#[test]
fn a_vendor_saved_without_the_amd_family_does_not_invent_one() {
    let directory = tempfile::tempdir().unwrap();
    Vendor::generate(at(NOW), Duration::from_secs(60)).unwrap().save(directory.path()).unwrap();
    let loaded = Vendor::load(directory.path()).unwrap();
    let error = loaded.snp(SnpSpec::default()).unwrap_err().to_string();
    assert!(error.contains("saved before"), "{error}");
}

#[test]
fn a_damaged_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(Vendor::load(path).is_err());
    Vendor::generate(at(NOW), Duration::from_secs(60)).unwrap().save(path).unwrap();
    let key = read(path, "intel-root.key.pem");
    for (name, content) in [
        ("intel-root.key.pem", read(path, "intel-platform-ca.key.pem")),
        ("intel-root.key.pem", b"nonsense".to_vec()),
        ("intel-root.key.pem", vec![0xff; 100]),
        ("vendor.json", b"{}".to_vec()),
    ] {
        let before = read(path, name);
        std::fs::write(path.join(name), content).unwrap();
        assert!(Vendor::load(path).is_err(), "{name}");
        std::fs::write(path.join(name), before).unwrap();
    }
    assert_eq!(read(path, "intel-root.key.pem"), key);
    Vendor::load(path).unwrap();
}

#[derive(Debug, Default)]
struct Count(Mutex<Vec<Duration>>);

impl Pause for Count {
    fn pause(&self, duration: Duration) {
        self.0.lock().unwrap().push(duration);
    }
}

#[test]
fn quoting_takes_as_long_as_the_machine_says() {
    let count = Arc::new(Count::default());
    let vendor = Vendor::generate(at(NOW), Duration::from_secs(60)).unwrap();
    let vendor = vendor.with_pause(Arc::clone(&count) as Arc<dyn Pause>);
    let quoting_latency = Duration::from_millis(250);
    let tdx = vendor.tdx(TdxSpec { quoting_latency, ..TdxSpec::default() }).unwrap();
    tdx.evidence(&DATA).unwrap();
    assert_eq!(*count.0.lock().unwrap(), [quoting_latency]);
    assert_eq!((tdx.tee(), tdx.driver(), tdx.emulated()), (Tee::Tdx, "emulated", true));
}

#[test]
fn a_vendor_is_generated_once_and_then_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vendor");
    let again = || Vendor::load_or_generate(&path, at(NOW), Duration::from_secs(60)).unwrap().roots();
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(again);
        let second = scope.spawn(again);
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!((first.len(), &first), (2, &second));
    assert_eq!(again(), first);
}
