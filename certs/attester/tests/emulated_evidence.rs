//! Evidence of emulated machines under the verification that hardware gets: what
//! is right verifies, and each thing that can be wrong has its own reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{DATA, NOW, VENDOR, at};
use countersign_attester::Attester;
use countersign_attester::emulated::{
    CollateralSpec, IntelPlatform, SgxSpec, SnpCertificateSpec, SnpSpec, SvnLevel, TcbLevel, TdxSpec, Vendor,
};
use countersign_evidence::cache::Cache;
use countersign_evidence::claims::{
    Body, IntelPlatform as PlatformClaims, Product, TcbStatus, TcbVersion, Tee,
};
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::{
    Anchors, Claims, Collateral, Evidence, Finding, Fingerprint, Reason, verify, verify_again,
};

/// The emulated roots and nobody else's.
fn anchors() -> Anchors {
    Anchors::new(Vec::new(), VENDOR.roots())
}

fn collateral(spec: &CollateralSpec) -> Collateral {
    let appraised = appraise(&VENDOR.collateral_with(spec, at(NOW)).unwrap());
    assert!(appraised.refused.is_empty(), "{:?}", appraised.refused);
    appraised.collateral
}

fn appraise(items: &[Item]) -> countersign_evidence::collateral::Appraised {
    Collateral::appraise(items, &anchors(), &mut Marks::default(), at(NOW))
}

fn verify_with(
    machine: &dyn Attester,
    collateral: &Collateral,
    anchors: &Anchors,
    now: u64,
) -> Result<Arc<Claims>, Finding> {
    let produced = machine.evidence(&DATA).unwrap();
    let evidence = Evidence::parse(produced.media_type, &produced.value)?;
    assert_eq!(evidence.report_data(), &DATA);
    verify(&evidence, collateral, anchors, at(now), None, &mut ())
}

/// Verifies under this collateral, now.
fn under(machine: &dyn Attester, spec: &CollateralSpec) -> Result<Arc<Claims>, Finding> {
    verify_with(machine, &collateral(spec), &anchors(), NOW)
}

fn reason(outcome: Result<Arc<Claims>, Finding>) -> Reason {
    outcome.map(|claims| format!("{claims:?}")).unwrap_err().reason
}

fn tdx(spec: TdxSpec) -> Arc<dyn Attester> {
    VENDOR.tdx(spec).unwrap()
}

fn on(platform: IntelPlatform) -> Arc<dyn Attester> {
    tdx(TdxSpec { platform, ..TdxSpec::default() })
}

fn snp(spec: SnpSpec) -> Arc<dyn Attester> {
    VENDOR.snp(spec).unwrap()
}

fn platform(claims: &Claims) -> &PlatformClaims {
    match &claims.body {
        Body::Tdx(tdx) => &tdx.platform,
        Body::Sgx(sgx) => &sgx.platform,
        Body::SevSnp(_) => panic!("no Intel platform"),
    }
}

#[test]
fn tdx_quotes_of_both_versions_are_up_to_date_and_say_what_the_machine_is() {
    for quote_version in [4, 5] {
        let spec = TdxSpec { quote_version, mr_config_id: [7; 48], ..TdxSpec::default() };
        let claims = under(&*tdx(spec.clone()), &CollateralSpec::default()).unwrap();
        assert_eq!((claims.tee, claims.emulated, claims.debug()), (Tee::Tdx, true, false));
        assert_eq!((claims.root, claims.report_data), (VENDOR.intel_root(), DATA));
        let Body::Tdx(body) = &claims.body else { panic!("{claims:?}") };
        assert_eq!(body.quote_version, quote_version);
        assert_eq!((body.mr_td, body.rtmr, body.mr_config_id), (spec.mr_td, spec.rtmr, spec.mr_config_id));
        assert_eq!(body.mr_service_td.is_some(), quote_version == 5);
        let platform = platform(&claims);
        assert_eq!(platform.tcb_status, TcbStatus::UpToDate);
        assert_eq!(platform.qe_tcb_status, TcbStatus::UpToDate);
        assert_eq!(platform.module_status, Some(TcbStatus::UpToDate));
        assert_eq!((platform.ppid, platform.piid), (spec.platform.ppid, spec.platform.piid));
        assert_eq!(platform.fmspc, spec.platform.fmspc);
        assert!(platform.advisory_ids.is_empty());
    }
}

#[test]
fn an_sgx_quote_is_up_to_date() {
    let spec = SgxSpec { isv_prod_id: 7, config_id: [9; 64], ..SgxSpec::default() };
    let machine: Arc<dyn Attester> = VENDOR.sgx(spec.clone()).unwrap();
    let claims = under(&*machine, &CollateralSpec::default()).unwrap();
    assert_eq!((claims.tee, claims.emulated, claims.debug()), (Tee::Sgx, true, false));
    let Body::Sgx(body) = &claims.body else { panic!("{claims:?}") };
    assert_eq!((body.mr_enclave, body.mr_signer), (spec.mr_enclave, spec.mr_signer));
    assert_eq!((body.isv_prod_id, body.config_id), (7, spec.config_id));
    assert_eq!(body.platform.tcb_status, TcbStatus::UpToDate);
}

#[test]
fn reports_of_every_product_version_and_key_verify() {
    let collateral = collateral(&CollateralSpec::default());
    for product in Product::ALL {
        for version in [3, 5] {
            for csp_id in [None, Some("emulated.example".to_owned())] {
                let spec = SnpSpec { version, product, csp_id, host_data: [8; 32], ..SnpSpec::default() };
                let claims = verify_with(&*snp(spec.clone()), &collateral, &anchors(), NOW).unwrap();
                assert_eq!((claims.tee, claims.emulated, claims.debug()), (Tee::SevSnp, true, false));
                assert_eq!((claims.root, claims.report_data), (VENDOR.amd_root().unwrap(), DATA));
                let Body::SevSnp(body) = &claims.body else { panic!("{claims:?}") };
                assert_eq!((body.product, body.version), (product, version));
                assert_eq!((body.measurement, body.host_data), (spec.measurement, spec.host_data));
                assert_eq!((body.reported_tcb, body.launch_tcb), (spec.reported_tcb, spec.reported_tcb));
                assert_eq!((&body.csp_id, body.crl_checked), (&spec.csp_id, true));
                assert_eq!(body.launch_mit_vector.is_some(), version == 5);
            }
        }
    }
}

#[test]
fn debug_and_migration_are_said() {
    let default = CollateralSpec::default();
    let td_attributes = [1, 0, 0, 0x10, 0, 0, 0, 0];
    assert!(under(&*tdx(TdxSpec { td_attributes, ..TdxSpec::default() }), &default).unwrap().debug());
    let mut attributes = SgxSpec::default().attributes;
    attributes[0] |= 2;
    let machine: Arc<dyn Attester> = VENDOR.sgx(SgxSpec { attributes, ..SgxSpec::default() }).unwrap();
    assert!(under(&*machine, &default).unwrap().debug());
    let claims = under(&*snp(SnpSpec { policy: 0xf_0000, ..SnpSpec::default() }), &default).unwrap();
    assert!(claims.debug());
    assert!(matches!(&claims.body, Body::SevSnp(body) if body.migratable()));
}

#[test]
fn the_pce_svn_of_a_machine_chooses_its_tcb_level() {
    use TcbStatus::*;
    for (pce_svn, expected) in [
        (13, UpToDate),
        (12, SWHardeningNeeded),
        (11, ConfigurationNeeded),
        (10, ConfigurationAndSWHardeningNeeded),
        (9, OutOfDate),
        (5, OutOfDate),
        (4, Revoked),
    ] {
        let machine = on(IntelPlatform { pce_svn, ..IntelPlatform::default() });
        let claims = under(&*machine, &CollateralSpec::default()).unwrap();
        assert_eq!(platform(&claims).tcb_status, expected, "PCESVN {pce_svn}");
        assert_eq!(platform(&claims).advisory_ids.is_empty(), expected == UpToDate);
    }
    let unknown = on(IntelPlatform { pce_svn: 0, ..IntelPlatform::default() });
    assert_eq!(reason(under(&*unknown, &CollateralSpec::default())), Reason::TcbNotSupported);
}

#[test]
fn an_old_module_or_quoting_enclave_is_out_of_date() {
    let mut tee_tcb_svn = TdxSpec::default().tee_tcb_svn;
    tee_tcb_svn[0] = 4;
    let claims = under(&*tdx(TdxSpec { tee_tcb_svn, ..TdxSpec::default() }), &CollateralSpec::default());
    assert_eq!(platform(&claims.unwrap()).module_status, Some(TcbStatus::OutOfDate));
    let machine = on(IntelPlatform { qe_isv_svn: 2, ..IntelPlatform::default() });
    let claims = under(&*machine, &CollateralSpec::default()).unwrap();
    assert_eq!(platform(&claims).qe_tcb_status, TcbStatus::OutOfDate);
    assert_eq!(platform(&claims).tcb_status, TcbStatus::OutOfDate);
}

#[test]
fn an_update_of_the_module_after_launch_advises_a_relaunch() {
    let mut at_launch = TdxSpec::default().tee_tcb_svn;
    at_launch[0] = 3;
    let spec = TdxSpec {
        quote_version: 5,
        tee_tcb_svn: at_launch,
        tee_tcb_svn2: Some(TdxSpec::default().tee_tcb_svn),
        ..TdxSpec::default()
    };
    let claims = under(&*tdx(spec), &CollateralSpec::default()).unwrap();
    assert_eq!(platform(&claims).tcb_status, TcbStatus::TDRelaunchAdvised);
}

#[test]
fn a_vendor_can_publish_other_levels() {
    let spec = CollateralSpec {
        tcb_levels: vec![
            TcbLevel::new(14, "UpToDate", &[]),
            TcbLevel::new(13, "OutOfDate", &["EMULATED-SA-7"]),
        ],
        tcb_evaluation_data_number: 18,
        ..CollateralSpec::default()
    };
    let claims = under(&*tdx(TdxSpec::default()), &spec).unwrap();
    assert_eq!(platform(&claims).tcb_status, TcbStatus::OutOfDate);
    assert_eq!(platform(&claims).advisory_ids, ["EMULATED-SA-7"]);
    assert_eq!(platform(&claims).tcb_evaluation_data_number, 18);
}

#[test]
fn collateral_with_an_unknown_status_is_refused() {
    let qe_levels = vec![SvnLevel::new(1, "Splendid")];
    let spec = CollateralSpec { qe_levels, ..CollateralSpec::default() };
    let refused = appraise(&VENDOR.collateral_with(&spec, at(NOW)).unwrap()).refused;
    let names: Vec<_> = refused.iter().map(|(name, finding)| (name.as_str(), finding.reason)).collect();
    let expected = ["emulated/intel-qe-identity.json", "emulated/intel-td_qe-identity.json"];
    assert_eq!(names, expected.map(|name| (name, Reason::CollateralInvalid)));
}

#[test]
fn each_revocation_is_noticed() {
    let machine = VENDOR.tdx(TdxSpec::default()).unwrap();
    let default = CollateralSpec::default;
    for spec in [
        CollateralSpec { revoked_pck: vec![machine.pck_serial().clone()], ..default() },
        CollateralSpec { revoked_by_intel_root: vec![VENDOR.platform_ca_serial().unwrap()], ..default() },
    ] {
        assert_eq!(reason(under(&*machine, &spec)), Reason::CertificateRevoked);
    }
    let spec = CollateralSpec { revoked_by_ark: vec![VENDOR.ask_serial().unwrap()], ..default() };
    assert_eq!(reason(under(&*snp(SnpSpec::default()), &spec)), Reason::CertificateRevoked);
    let vlek = snp(SnpSpec { csp_id: Some("emulated.example".to_owned()), ..SnpSpec::default() });
    under(&*vlek, &spec).unwrap();
    let spec = CollateralSpec { revoked_by_ark: vec![VENDOR.asvk_serial().unwrap()], ..default() };
    assert_eq!(reason(under(&*vlek, &spec)), Reason::CertificateRevoked);
}

/// What a new list costs: a look at the list.
#[test]
fn evidence_that_was_verified_is_verified_again_without_the_signature_over_it() {
    let machine = VENDOR.tdx(TdxSpec::default()).unwrap();
    let tdx_revoked =
        CollateralSpec { revoked_pck: vec![machine.pck_serial().clone()], ..CollateralSpec::default() };
    let snp_revoked =
        CollateralSpec { revoked_by_ark: vec![VENDOR.ask_serial().unwrap()], ..CollateralSpec::default() };
    // Behind the data that the attester chose.
    let cases: [(Arc<dyn Attester>, _, _); 2] =
        [(machine, tdx_revoked, 68), (snp(SnpSpec::default()), snp_revoked, 592)];
    for (machine, revoking, signature) in cases {
        let cache = Cache::default();
        let produced = machine.evidence(&DATA).unwrap();
        let newer = collateral(&CollateralSpec { crl_number: 2, ..CollateralSpec::default() });
        let anew = |collateral: &Collateral| {
            let evidence = Evidence::parse(produced.media_type, &produced.value)?;
            verify(&evidence, collateral, &anchors(), at(NOW), Some(&cache), &mut ())
        };
        let again = |value: &[u8], last: &Claims, collateral: &Collateral| {
            let evidence = Evidence::parse(produced.media_type, value)?;
            verify_again(&evidence, last, collateral, &anchors(), at(NOW), Some(&cache))
        };
        let claims = anew(&collateral(&CollateralSpec::default())).unwrap();
        assert_eq!(again(&produced.value, &claims, &newer).unwrap(), anew(&newer).unwrap());
        let revoked = again(&produced.value, &claims, &collateral(&revoking));
        assert_eq!(reason(revoked), Reason::CertificateRevoked);

        let mut forged = produced.value.clone();
        let data = forged.windows(DATA.len()).position(|bytes| bytes == DATA).unwrap();
        forged[data + signature] ^= 1;
        assert_eq!(reason(again(&forged, &claims, &newer)), Reason::BadSignature);
        // It is the bytes and the key by which it is known what was verified.
        let mut last = Claims::clone(&claims);
        last.evidence = match Evidence::parse(produced.media_type, &forged).unwrap() {
            Evidence::Intel(quote) => Fingerprint::of(quote.bytes()),
            Evidence::Amd(report) => Fingerprint::of(report.report().as_bytes()),
        };
        assert!(again(&forged, &last, &newer).is_ok());
        if let Body::SevSnp(report) = &mut last.body {
            report.signed_by = Fingerprint([0; 32]);
            assert_eq!(reason(again(&forged, &last, &newer)), Reason::BadSignature);
        }
    }
}

#[test]
fn collateral_must_be_there_current_and_for_the_platform() {
    let machine = tdx(TdxSpec::default());
    let default = CollateralSpec::default;
    assert_eq!(
        reason(under(&*machine, &CollateralSpec { without_crls: true, ..default() })),
        Reason::CrlMissing
    );
    let nothing = Collateral::default();
    assert!(verify_with(&*machine, &nothing, &anchors(), NOW).is_err());
    let old = CollateralSpec { issued: Some(NOW - 100), next_update: Some(NOW - 1), ..default() };
    assert_eq!(reason(under(&*machine, &old)), Reason::CollateralExpired);
    assert_eq!(reason(under(&*snp(SnpSpec::default()), &old)), Reason::CollateralExpired);
    let future = CollateralSpec { issued: Some(NOW + 10), ..default() };
    assert_eq!(reason(under(&*machine, &future)), Reason::CollateralNotYetValid);
    let other = on(IntelPlatform { fmspc: [9; 6], ..IntelPlatform::default() });
    assert_eq!(reason(under(&*other, &default())), Reason::CollateralMismatch);
    under(&*other, &CollateralSpec { fmspcs: vec![[9; 6]], ..default() }).unwrap();
    let other = on(IntelPlatform { pce_id: [1, 0], ..IntelPlatform::default() });
    assert_eq!(reason(under(&*other, &default())), Reason::CollateralMismatch);
}

#[test]
fn certificates_must_be_in_their_validity() {
    let year = 365 * 86400;
    let forever = CollateralSpec { next_update: Some(NOW + 2 * year), ..CollateralSpec::default() };
    let collateral = collateral(&forever);
    for machine in [tdx(TdxSpec::default()), snp(SnpSpec::default())] {
        let at = |now| verify_with(&*machine, &collateral, &anchors(), now);
        at(NOW + year).unwrap();
        assert_eq!(reason(at(NOW + year + 1)), Reason::CertificateExpired);
        assert_eq!(reason(at(NOW - 1)), Reason::CertificateNotYetValid);
    }
}

#[test]
fn a_root_that_nobody_admits_is_unknown() {
    let collateral = collateral(&CollateralSpec::default());
    for machine in [tdx(TdxSpec::default()), snp(SnpSpec::default())] {
        let outcome = verify_with(&*machine, &collateral, &Anchors::built_in(), NOW);
        assert_eq!(reason(outcome), Reason::UntrustedRoot);
    }
    let stranger = Vendor::generate(at(NOW), Duration::from_secs(60)).unwrap();
    let outcome = verify_with(&*stranger.tdx(TdxSpec::default()).unwrap(), &collateral, &anchors(), NOW);
    assert_eq!(reason(outcome), Reason::UntrustedRoot);
}

#[test]
fn a_foreign_quoting_enclave_or_module_is_refused() {
    let default = CollateralSpec::default();
    let mut debug = IntelPlatform::default().qe_attributes;
    debug[0] |= 2;
    for platform in [
        IntelPlatform { qe_mr_signer: [1; 32], ..IntelPlatform::default() },
        IntelPlatform { qe_attributes: debug, ..IntelPlatform::default() },
    ] {
        assert_eq!(reason(under(&*on(platform), &default)), Reason::QeIdentityMismatch);
    }
    for spec in [
        TdxSpec { mr_signer_seam: [1; 48], ..TdxSpec::default() },
        TdxSpec { seam_attributes: [1; 8], ..TdxSpec::default() },
        TdxSpec { tee_tcb_svn: [5, 9, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..TdxSpec::default() },
    ] {
        assert_eq!(reason(under(&*tdx(spec.clone()), &default)), Reason::ModuleMismatch, "{spec:?}");
    }
}

#[test]
fn an_endorsement_key_of_another_chip_tcb_or_product_does_not_count() {
    let other = TcbVersion { snp: 9, ..SnpSpec::default().reported_tcb };
    for certificate in [
        SnpCertificateSpec { tcb: Some(other), ..SnpCertificateSpec::default() },
        SnpCertificateSpec { chip_id: Some([9; 64]), ..SnpCertificateSpec::default() },
        SnpCertificateSpec { product: Some(Product::Milan), ..SnpCertificateSpec::default() },
    ] {
        let outcome = under(&*snp(SnpSpec { certificate, ..SnpSpec::default() }), &CollateralSpec::default());
        assert_eq!(reason(outcome), Reason::CertificateMismatch);
    }
}

#[test]
fn unknown_versions_and_processors_are_refused() {
    let default = CollateralSpec::default();
    let version = |version| snp(SnpSpec { version, ..SnpSpec::default() });
    assert_eq!(reason(under(&*version(2), &default)), Reason::UnsupportedVersion);
    assert_eq!(reason(under(&*version(99), &default)), Reason::UnsupportedVersion);
    let venice = snp(SnpSpec { cpuid: Some([0x1a, 0x50, 0]), ..SnpSpec::default() });
    assert_eq!(reason(under(&*venice, &default)), Reason::UnsupportedFormat);
    assert_eq!(
        reason(under(&*tdx(TdxSpec { quote_version: 6, ..TdxSpec::default() }), &default)),
        Reason::UnsupportedVersion
    );
}

#[test]
fn a_masked_chip_has_no_platform_identity() {
    let spec = SnpSpec { mask_chip_key: true, ..SnpSpec::default() };
    // AMD's firmware signs with the VCEK all the same, whose certificate names the chip.
    assert_eq!(reason(under(&*snp(spec.clone()), &CollateralSpec::default())), Reason::CertificateMismatch);
    let vlek = SnpSpec { csp_id: Some("emulated.example".to_owned()), ..spec };
    let claims = under(&*snp(vlek), &CollateralSpec::default()).unwrap();
    assert_eq!(claims.platform(), None);
}

#[test]
fn the_identity_of_the_platform_is_the_one_of_the_specification() {
    let default = CollateralSpec::default();
    let intel = |piid| {
        let machine = on(IntelPlatform { ppid: [2; 16], piid, ..IntelPlatform::default() });
        under(&*machine, &default).unwrap().platform().unwrap().to_string()
    };
    assert_eq!(intel(Some([3; 16])), format!("piid:{}", "03".repeat(16)));
    assert_eq!(intel(None), format!("ppid:{}", "02".repeat(16)));
    let claims = under(&*snp(SnpSpec { chip_id: [4; 64], ..SnpSpec::default() }), &default).unwrap();
    assert_eq!(claims.platform().unwrap().to_string(), format!("chipId:{}", "04".repeat(64)));
}

#[test]
fn every_flipped_byte_of_the_signed_part_is_noticed() {
    let collateral = collateral(&CollateralSpec::default());
    let quote = VENDOR.tdx(TdxSpec::default()).unwrap().quote(&DATA).unwrap();
    for at in 48..48 + 584 {
        let mut bytes = quote.clone();
        bytes[at] ^= 1;
        let outcome = Evidence::sniff(&bytes)
            .and_then(|evidence| verify(&evidence, &collateral, &anchors(), common::at(NOW), None, &mut ()));
        assert!(outcome.is_err(), "byte {at}");
    }
}

#[test]
fn a_tdx_machine_measures_events_and_sends_their_log() {
    use countersign_attester::emulated::EventSpec;
    use countersign_evidence::RegisterState;
    use countersign_evidence::claims::RuntimeEvents;
    use countersign_evidence::event_log::native::Record;

    let events = vec![EventSpec { kind: "boot".to_owned(), content: "done".to_owned() }];
    let machine = tdx(TdxSpec { events, ..TdxSpec::default() });
    let collateral = collateral(&CollateralSpec::default());
    let mut state = RegisterState::default();
    for (n, content) in [(1, "/bin/a"), (2, "/bin/b"), (3, "")] {
        // What is measured after the quote is in the log already.
        let before = machine.evidence(&DATA).unwrap();
        let evidence = Evidence::parse(before.media_type, &before.value).unwrap();
        let claims = verify(&evidence, &collateral, &anchors(), at(NOW), None, &mut ()).unwrap();
        assert_eq!(machine.extend(&Record::new("exec", content.as_bytes()).unwrap()).unwrap(), n + 1);
        let (media_type, log) = before.event_log_from(state.next()).unwrap();
        let (claims, next) = claims.with_event_log(media_type, &log, &state).unwrap();
        let Body::Tdx(body) = &claims.body else { panic!("{claims:?}") };
        let RuntimeEvents::Replayed(events) = &body.runtime_events else { panic!("{body:?}") };
        assert_eq!((events.len() as u64, next.next()), (n, n));
        assert_eq!(&*events[0].kind, "boot");
        state = next;
    }
    assert!(machine.keeps_event_log());
    // A register that was set says nothing about events.
    let preset = tdx(TdxSpec { rtmr: [[1; 48]; 4], ..TdxSpec::default() });
    assert!(!preset.keeps_event_log() && preset.evidence(&DATA).unwrap().event_log.is_none());
    assert!(preset.extend(&Record::new("exec", b"").unwrap()).is_err());
    let error = snp(SnpSpec::default()).extend(&Record::new("exec", b"").unwrap()).unwrap_err().to_string();
    assert!(error.contains("Intel TDX"), "{error}");
}
