//! One test case per rule: claims that a policy accepts, with exactly one thing
//! changed, are refused for exactly that.

mod runtime_events;

use super::*;
use crate::anchors::{ARK_GENOA, Fingerprint, INTEL_SGX_ROOT};
use crate::claims::{
    IntelPlatform, Product, RuntimeEvents, SgxClaims, SnpClaims, SnpSigningKey, TcbStatus, TcbVersion,
    TdxClaims, Window,
};
use crate::policy::{
    IntelTcbRule, Mode, PlatformList, PolicyRef, ReferenceSet, SgxReference, SgxRule, SnpReference, SnpRule,
    TdxReference, TdxRule,
};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const EMULATED: Fingerprint = Fingerprint([0xee; 32]);

fn platform() -> IntelPlatform {
    IntelPlatform {
        fmspc: [1; 6],
        pce_id: [0; 2],
        ppid: [2; 16],
        piid: None,
        tcb_status: TcbStatus::UpToDate,
        platform_tcb_status: TcbStatus::UpToDate,
        tcb_date: "2026-01-01T00:00:00Z".to_owned(),
        tcb_date_seconds: NOW - 100 * DAY,
        superseded: None,
        module_status: None,
        qe_tcb_status: TcbStatus::UpToDate,
        advisory_ids: Vec::new(),
        tcb_evaluation_data_number: 18,
        tcb_info_issued: NOW - DAY,
    }
}

fn claims(tee: Tee, root: Fingerprint, body: Body) -> Claims {
    Claims {
        tee,
        emulated: false,
        root,
        evidence: Fingerprint([9; 32]),
        report_data: [0; 64],
        body,
        window: Window { from: NOW - DAY, until: NOW + 30 * DAY },
    }
}

fn tdx() -> TdxClaims {
    TdxClaims {
        platform: platform(),
        quote_version: 4,
        tee_tcb_svn: [0; 16],
        mr_seam: [0x0a; 48],
        mr_signer_seam: [0; 48],
        seam_attributes: [0; 8],
        td_attributes: (1_u64 << 28).to_le_bytes(),
        xfam: [0xe7, 0, 0, 0, 0, 0, 0, 0],
        mr_td: [0x01; 48],
        mr_config_id: [0x0c; 48],
        mr_owner: [0x0d; 48],
        mr_owner_config: [0x0e; 48],
        rtmr: [[0x10; 48], [0x11; 48], [0x12; 48], [0x13; 48]],
        tee_tcb_svn2: Some([0; 16]),
        mr_service_td: Some([0; 48]),
        runtime_events: RuntimeEvents::NotShown,
    }
}

fn sgx() -> SgxClaims {
    SgxClaims {
        platform: platform(),
        quote_version: 3,
        cpu_svn: [0; 16],
        misc_select: [0; 4],
        attributes: [0x05, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        mr_enclave: [0x01; 32],
        mr_signer: [0x02; 32],
        isv_prod_id: 7,
        isv_svn: 3,
        config_id: [0x0c; 64],
        config_svn: 0,
    }
}

fn snp() -> SnpClaims {
    let tcb = TcbVersion { fmc: 0, bootloader: 10, tee: 1, snp: 23, microcode: 84 };
    SnpClaims {
        version: 3,
        product: Product::Genoa,
        guest_svn: 4,
        policy: 1 << 17,
        family_id: [0; 16],
        image_id: [0; 16],
        vmpl: 0,
        platform_info: 1 << 5,
        signing_key: SnpSigningKey::Vcek,
        mask_chip_key: false,
        author_key_en: true,
        measurement: [0x01; 48],
        host_data: [0x02; 32],
        id_key_digest: [0x03; 48],
        author_key_digest: [0x04; 48],
        report_id: [0; 32],
        chip_id: [0x05; 64],
        current_tcb: tcb,
        reported_tcb: tcb,
        committed_tcb: tcb,
        launch_tcb: tcb,
        launch_mit_vector: None,
        current_mit_vector: None,
        csp_id: None,
        crl_checked: true,
        signed_by: Fingerprint([8; 32]),
    }
}

fn tdx_rule() -> TdxRule {
    TdxRule { common: common(hex::encode([2; 16])), ..TdxRule::default() }
}

fn sgx_rule() -> SgxRule {
    SgxRule { common: common(hex::encode([2; 16])), config_id: Some([0x0c; 64]), ..SgxRule::default() }
}

fn snp_rule() -> SnpRule {
    SnpRule {
        common: common(hex::encode([5; 64])),
        min_tcb: Some(TcbVersion { fmc: 0, bootloader: 10, tee: 1, snp: 23, microcode: 84 }),
        host_data: Some([2; 32]),
        id_key_digests: Some(vec![[3; 48], [9; 48]]),
        author_key_digests: Some(vec![[4; 48]]),
        min_guest_svn: 4,
        platform_info_set: 1 << 5,
        platform_info_clear: 1,
        policy_set: 1 << 17,
        policy_clear: 1 << 16,
        ..SnpRule::default()
    }
}

fn common(platform: String) -> Common {
    Common {
        platforms: Some(vec![platform]),
        references: vec!["default/app".to_owned()],
        ..Common::default()
    }
}

fn references() -> References {
    let tdx = TdxReference {
        name: "app 1.2".to_owned(),
        mr_td: Some([0x01; 48]),
        rtmr: [Some([0x10; 48]), Some([0x11; 48]), Some([0x12; 48]), None],
        mr_seam: Some([0x0a; 48]),
    };
    let older = TdxReference {
        name: "app 1.1".to_owned(),
        rtmr: [Some([0x20; 48]), Some([0x21; 48]), Some([0x22; 48]), None],
        ..tdx
    };
    let sgx = SgxReference {
        name: "enclave".to_owned(),
        mr_enclave: Some([1; 32]),
        mr_signer: Some([2; 32]),
        isv_prod_id: Some(7),
        min_isv_svn: Some(3),
    };
    let set = ReferenceSet {
        valid_until: Some(NOW + 7 * DAY),
        tdx: vec![older, tdx],
        sgx: vec![sgx],
        sev_snp: vec![SnpReference { name: "guest".to_owned(), measurement: [1; 48] }],
        ..ReferenceSet::default()
    };
    References::from([("default/app".to_owned(), set)])
}

fn policy(any_of: Vec<Alternative>) -> Policy {
    let name = PolicyRef { namespace: "default".to_owned(), name: "p".to_owned(), generation: 1 };
    Policy { name, mode: Mode::Enforce, any_of, max_evidence_age: Some(DAY) }
}

fn decide(claims: Claims, policy: &Policy, references: &References, age: u64, now: u64) -> Verdict {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    appraise(Arc::new(claims), policy, references, age, now)
}

/// The findings of the only rejection, as reason and field.
fn findings(verdict: &Verdict) -> Vec<(Reason, String)> {
    match &verdict.outcome {
        Outcome::Allow { .. } => Vec::new(),
        Outcome::Deny { rejections } => {
            assert_eq!(rejections.len(), 1);
            rejections[0].findings.iter().map(|f| (f.reason, f.field.clone())).collect()
        }
    }
}

fn tdx_findings(change: impl FnOnce(&mut TdxClaims, &mut TdxRule)) -> Vec<(Reason, String)> {
    let (mut body, mut rule) = (tdx(), tdx_rule());
    change(&mut body, &mut rule);
    let claims = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(body)));
    findings(&decide(claims, &policy(vec![Alternative::Tdx(rule)]), &references(), 0, NOW))
}

fn sgx_findings(change: impl FnOnce(&mut SgxClaims, &mut SgxRule)) -> Vec<(Reason, String)> {
    let (mut body, mut rule) = (sgx(), sgx_rule());
    change(&mut body, &mut rule);
    let claims = claims(Tee::Sgx, INTEL_SGX_ROOT, Body::Sgx(Box::new(body)));
    findings(&decide(claims, &policy(vec![Alternative::Sgx(rule)]), &references(), 0, NOW))
}

fn snp_findings(change: impl FnOnce(&mut SnpClaims, &mut SnpRule)) -> Vec<(Reason, String)> {
    let (mut body, mut rule) = (snp(), snp_rule());
    change(&mut body, &mut rule);
    let claims = claims(Tee::SevSnp, ARK_GENOA, Body::SevSnp(Box::new(body)));
    findings(&decide(claims, &policy(vec![Alternative::SevSnp(rule)]), &references(), 0, NOW))
}

fn one(reason: Reason, field: &str) -> Vec<(Reason, String)> {
    vec![(reason, field.to_owned())]
}

const ALLOWED: Vec<(Reason, String)> = Vec::new();

fn genuine_tdx() -> Claims {
    claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(tdx())))
}

#[test]
fn what_meets_the_policy_is_allowed_until_the_first_thing_ends() {
    let policy = policy(vec![Alternative::SevSnp(snp_rule()), Alternative::Tdx(tdx_rule())]);
    let verdict = decide(genuine_tdx(), &policy, &references(), DAY / 2, NOW);
    let allowed = |until| Outcome::Allow {
        rule: "anyOf[1].tdx".to_owned(),
        reference: Some("app 1.2".to_owned()),
        valid_until: until,
    };
    assert_eq!(verdict.outcome, allowed(NOW + DAY / 2), "the evidence's age ends first");
    assert!(verdict.denial().is_none());

    let ageless = Policy { max_evidence_age: None, ..policy };
    let verdict = decide(genuine_tdx(), &ageless, &references(), 99 * DAY, NOW);
    assert_eq!(verdict.outcome, allowed(NOW + 7 * DAY), "the reference values end first");

    let mut endless = references();
    endless.get_mut("default/app").unwrap().valid_until = None;
    let verdict = decide(genuine_tdx(), &ageless, &endless, 0, NOW);
    assert_eq!(verdict.outcome, allowed(NOW + 30 * DAY), "the collateral ends first");
    assert_eq!(sgx_findings(|_, _| {}), ALLOWED);
    assert_eq!(snp_findings(|_, _| {}), ALLOWED);
}

#[test]
fn debug_is_refused_even_when_the_policy_names_the_attributes() {
    for bit in 0..8 {
        let attributes = (1_u64 << 28 | 1 << bit).to_le_bytes();
        let refused = tdx_findings(|c, r| {
            c.td_attributes = attributes;
            r.td_attributes = Some(attributes);
        });
        assert_eq!(refused, one(Reason::Debug, "tdAttributes.TUD"));
    }
    assert_eq!(sgx_findings(|c, _| c.attributes[0] |= 2), one(Reason::Debug, "attributes.DEBUG"));
    assert_eq!(snp_findings(|c, _| c.policy |= 1 << 19), one(Reason::Debug, "policy.DEBUG"));
}

#[test]
fn each_tdx_rule_refuses_what_it_is_about() {
    let with = |value: u64| value.to_le_bytes();
    let mismatch = |field| one(Reason::AttributeMismatch, field);
    assert_eq!(
        tdx_findings(|c, _| c.td_attributes = with(1 << 28 | 1 << 29)),
        one(Reason::Migratable, "tdAttributes.MIGRATABLE")
    );
    assert_eq!(tdx_findings(|c, _| c.td_attributes = with(0)), mismatch("tdAttributes.SEPT_VE_DISABLE"));
    assert_eq!(tdx_findings(|_, r| r.td_attributes = Some(with(0))), mismatch("tdAttributes"));
    let named = tdx_findings(|c, r| {
        c.td_attributes = with(1 << 29);
        r.td_attributes = Some(with(1 << 29));
    });
    assert_eq!(named, ALLOWED, "exact attributes replace the defaults");
    assert_eq!(tdx_findings(|c, _| c.mr_service_td = Some([7; 48])), one(Reason::Migratable, "mrServiceTd"));
    let known = tdx_findings(|c, r| {
        c.mr_service_td = Some([7; 48]);
        r.service_tds = vec![[7; 48]];
    });
    assert_eq!(known, ALLOWED);
    assert_eq!(tdx_findings(|_, r| r.xfam = Some([0; 8])), mismatch("xfam"));
    assert_eq!(tdx_findings(|_, r| r.mr_config_id = Some([0; 48])), mismatch("mrConfigId"));
    assert_eq!(tdx_findings(|_, r| r.mr_owner = Some([0; 48])), mismatch("mrOwner"));
    assert_eq!(tdx_findings(|_, r| r.mr_owner_config = Some([0; 48])), mismatch("mrOwnerConfig"));
}

#[test]
fn each_measured_register_is_compared() {
    let mismatch = |field| one(Reason::MeasurementMismatch, field);
    assert_eq!(tdx_findings(|c, _| c.mr_td[47] ^= 1), mismatch("mrTd"));
    assert_eq!(tdx_findings(|c, _| c.rtmr[0][0] ^= 1), mismatch("rtmr[0]"));
    assert_eq!(tdx_findings(|c, _| c.rtmr[1][0] ^= 1), mismatch("rtmr[1]"));
    assert_eq!(tdx_findings(|c, _| c.rtmr[2][0] ^= 1), mismatch("rtmr[2]"));
    assert_eq!(tdx_findings(|c, _| c.rtmr[3][0] ^= 1), ALLOWED, "no entry speaks of it");
    assert_eq!(tdx_findings(|c, _| c.mr_seam[0] ^= 1), mismatch("mrSeam"));
    assert_eq!(sgx_findings(|c, _| c.mr_enclave[0] ^= 1), mismatch("mrEnclave"));
    assert_eq!(sgx_findings(|c, _| c.mr_signer[0] ^= 1), mismatch("mrSigner"));
    assert_eq!(sgx_findings(|c, _| c.isv_prod_id += 1), mismatch("isvProdId"));
    assert_eq!(sgx_findings(|c, _| c.isv_svn -= 1), mismatch("isvSvn"));
    assert_eq!(sgx_findings(|c, _| c.isv_svn += 1), ALLOWED);
    assert_eq!(snp_findings(|c, _| c.measurement[0] ^= 1), mismatch("measurement"));
    assert_eq!(tdx_findings(|c, r| (c.mr_td, r.common.references) = ([0; 48], vec![])), ALLOWED);
}

#[test]
fn registers_of_two_entries_cannot_be_combined() {
    let mixed = tdx_findings(|c, _| c.rtmr[2] = [0x22; 48]);
    assert_eq!(mixed, one(Reason::MeasurementMismatch, "rtmr[2]"));
}

#[test]
fn a_mismatch_lists_every_accepted_value_by_name() {
    let mut body = tdx();
    body.rtmr[2] = [0x5f; 48];
    let claims = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(body)));
    let verdict = decide(claims, &policy(vec![Alternative::Tdx(tdx_rule())]), &references(), 0, NOW);
    let denial = verdict.denial().unwrap();
    assert_eq!(denial.rule, "anyOf[0].tdx");
    assert_eq!(denial.findings[0].expected, "2222…22 (app 1.1), 1212…12 (app 1.2)");
    assert_eq!(denial.findings[0].presented, "5f".repeat(48));
}

#[test]
fn reference_values_must_be_there_and_current() {
    let policy = policy(vec![Alternative::Tdx(tdx_rule())]);
    let decide = |references: &References, now| {
        let mut claims = genuine_tdx();
        claims.window.until = u64::MAX;
        findings(&decide(claims, &policy, references, 0, now))
    };
    let unusable = (Reason::ReferenceValuesUnusable, "references".to_owned());
    let nothing = (Reason::MeasurementMismatch, "references".to_owned());
    assert_eq!(decide(&References::new(), NOW), [unusable.clone(), nothing.clone()]);
    assert_eq!(decide(&references(), NOW + 7 * DAY), ALLOWED, "the last second counts");
    assert_eq!(decide(&references(), NOW + 7 * DAY + 1), [unusable, nothing.clone()]);
    let mut empty = references();
    empty.get_mut("default/app").unwrap().tdx.clear();
    assert_eq!(decide(&empty, NOW), std::slice::from_ref(&nothing));
    empty.get_mut("default/app").unwrap().tdx.push(TdxReference::default());
    assert_eq!(decide(&empty, NOW), [nothing], "an entry that compares nothing approves nothing");
}

#[test]
fn each_sgx_rule_refuses_what_it_is_about() {
    let mismatch = |field| one(Reason::AttributeMismatch, field);
    assert_eq!(sgx_findings(|c, _| c.attributes[0] ^= 1), mismatch("attributes.INIT"));
    assert_eq!(sgx_findings(|c, _| c.attributes[0] |= 1 << 4), mismatch("attributes.PROVISION_KEY"));
    assert_eq!(sgx_findings(|c, _| c.attributes[0] |= 1 << 5), mismatch("attributes.EINITTOKEN_KEY"));
    assert_eq!(sgx_findings(|c, _| c.config_id[0] ^= 1), mismatch("configId"));
}

#[test]
fn each_snp_rule_refuses_what_it_is_about() {
    let mismatch = |field| one(Reason::AttributeMismatch, field);
    let below = |field| one(Reason::TcbBelowMinimum, field);
    assert_eq!(snp_findings(|c, _| c.policy |= 1 << 18), one(Reason::Migratable, "policy.MIGRATE_MA"));
    assert_eq!(snp_findings(|c, _| c.product = Product::Milan), one(Reason::TeeNotAccepted, "product"));
    let named = snp_findings(|c, r| (c.product, r.products) = (Product::Milan, vec![Product::Milan]));
    assert_eq!(named, ALLOWED, "Milan must be named, and can be");
    assert_eq!(
        snp_findings(|_, r| r.products = vec![Product::Turin]),
        one(Reason::TeeNotAccepted, "product")
    );
    assert_eq!(snp_findings(|c, _| c.reported_tcb.bootloader -= 1), below("reportedTcb.bootloader"));
    assert_eq!(snp_findings(|c, _| c.reported_tcb.tee -= 1), below("reportedTcb.tee"));
    assert_eq!(snp_findings(|c, _| c.reported_tcb.snp -= 1), below("reportedTcb.snp"));
    assert_eq!(snp_findings(|c, _| c.reported_tcb.microcode -= 1), below("reportedTcb.microcode"));
    let fmc = snp_findings(|_, r| r.min_tcb = Some(TcbVersion { fmc: 1, ..TcbVersion::default() }));
    assert_eq!(fmc, below("reportedTcb.fmc"));
    assert_eq!(snp_findings(|c, _| c.vmpl = 1), mismatch("vmpl"));
    assert_eq!(snp_findings(|c, r| (c.vmpl, r.vmpl) = (1, 1)), ALLOWED);
    assert_eq!(snp_findings(|c, _| c.guest_svn = 3), mismatch("guestSvn"));
    assert_eq!(snp_findings(|c, _| c.host_data[0] ^= 1), mismatch("hostData"));
    assert_eq!(snp_findings(|c, _| c.id_key_digest[0] ^= 1), mismatch("idKeyDigest"));
    assert_eq!(snp_findings(|c, _| c.author_key_digest[0] ^= 1), mismatch("authorKeyDigest"));
    assert_eq!(snp_findings(|c, _| c.author_key_en = false), mismatch("authorKeyEn"));
    assert_eq!(snp_findings(|c, _| c.platform_info = 0), mismatch("platformInfo.ALIAS_CHECK_COMPLETE"));
    assert_eq!(snp_findings(|c, _| c.platform_info |= 1), mismatch("platformInfo.SMT_EN"));
    assert_eq!(snp_findings(|c, _| c.policy &= !(1 << 17)), mismatch("policy.bit 17"));
    assert_eq!(snp_findings(|c, _| c.policy |= 1 << 16), mismatch("policy.SMT"));
    assert_eq!(snp_findings(|c, _| c.crl_checked = false), one(Reason::CrlMissing, "crl"));
    assert_eq!(snp_findings(|c, r| (c.crl_checked, r.crl_optional) = (false, true)), ALLOWED);
}

#[test]
fn a_vlek_is_only_accepted_of_the_cloud_that_is_named() {
    let vlek = |csp: Option<&str>| {
        let csp = csp.map(str::to_owned);
        snp_findings(|c, r| {
            c.signing_key = SnpSigningKey::Vlek;
            c.csp_id = Some("aws".to_owned());
            r.csp_id = csp;
            r.common.platforms = None;
        })
    };
    assert_eq!(vlek(Some("aws")), ALLOWED);
    assert_eq!(vlek(Some("other")), one(Reason::AttributeMismatch, "cspId"));
    assert_eq!(vlek(None), one(Reason::AttributeMismatch, "cspId"));
    let enrolled = snp_findings(|c, r| {
        c.signing_key = SnpSigningKey::Vlek;
        c.csp_id = Some("aws".to_owned());
        r.csp_id = Some("aws".to_owned());
    });
    assert_eq!(enrolled, one(Reason::PlatformNotAllowed, "platform"), "a VLEK names no machine");
}

#[test]
fn machines_that_are_not_enrolled_are_refused() {
    let refused = one(Reason::PlatformNotAllowed, "platform");
    assert_eq!(tdx_findings(|c, _| c.platform.ppid[0] ^= 1), refused);
    assert_eq!(
        tdx_findings(|c, _| c.platform.piid = Some([8; 16])),
        refused,
        "the PIID goes before the PPID"
    );
    assert_eq!(sgx_findings(|c, _| c.platform.ppid[0] ^= 1), refused);
    assert_eq!(snp_findings(|c, _| c.chip_id[0] ^= 1), refused);
    assert_eq!(
        tdx_findings(|_, r| r.common.platforms = Some(vec![])),
        refused,
        "an empty list allows nobody"
    );
    assert_eq!(tdx_findings(|_, r| r.common.platforms = None), ALLOWED);
}

#[test]
fn machines_can_be_enrolled_in_lists() {
    let refused = one(Reason::PlatformNotAllowed, "platform");
    let ppid = hex::encode(tdx().platform.ppid);
    let list = |members: Option<&[(Tee, &str)]>| {
        let owned = |m: &[(Tee, &str)]| m.iter().map(|(tee, id)| (*tee, (*id).to_owned())).collect();
        Arc::new(PlatformList { name: "n/ours".to_owned(), members: members.map(owned) })
    };
    let with = |named: Option<Vec<String>>, lists: Vec<Arc<PlatformList>>| {
        tdx_findings(|_, r| (r.common.platforms, r.common.platform_lists) = (named, lists))
    };
    let (ours, other) =
        (list(Some(&[(Tee::Tdx, &ppid)])), list(Some(&[(Tee::Sgx, &ppid), (Tee::Tdx, "00")])));
    assert_eq!(with(None, vec![Arc::clone(&ours)]), ALLOWED);
    assert_eq!(with(Some(vec![]), vec![Arc::clone(&other), ours]), ALLOWED);
    assert_eq!(with(Some(vec![ppid]), vec![Arc::clone(&other)]), ALLOWED);
    assert_eq!(with(None, vec![other]), refused, "enrolled for another kind of TEE");
    assert_eq!(with(None, vec![list(Some(&[]))]), refused, "an empty list allows nobody");
    assert_eq!(with(None, vec![list(None)]), refused, "nor does one that does not exist");
}

#[test]
fn roots_are_admitted_by_name() {
    let decide = |root, emulated, roots: Option<Vec<Fingerprint>>, emulated_roots: Vec<Fingerprint>| {
        let mut rule = tdx_rule();
        (rule.common.roots, rule.common.emulated_roots) = (roots, emulated_roots);
        let mut claims = genuine_tdx();
        (claims.root, claims.emulated) = (root, emulated);
        findings(&decide(claims, &policy(vec![Alternative::Tdx(rule)]), &references(), 0, NOW))
    };
    let other = Fingerprint([3; 32]);
    let emulated = one(Reason::EmulatedNotAdmitted, "root");
    let untrusted = one(Reason::UntrustedRoot, "root");
    assert_eq!(decide(EMULATED, true, None, vec![]), emulated);
    assert_eq!(decide(EMULATED, true, Some(vec![EMULATED]), vec![]), emulated, "not as a vendor's root");
    assert_eq!(decide(EMULATED, true, None, vec![other]), emulated);
    assert_eq!(decide(EMULATED, true, None, vec![EMULATED]), ALLOWED);
    assert_eq!(decide(INTEL_SGX_ROOT, false, None, vec![EMULATED]), ALLOWED, "hardware stays accepted");
    assert_eq!(decide(other, false, None, vec![]), untrusted);
    assert_eq!(decide(INTEL_SGX_ROOT, false, Some(vec![other]), vec![]), untrusted);
    assert_eq!(decide(other, false, Some(vec![other]), vec![]), ALLOWED);
}

#[test]
fn only_accepted_tcb_statuses_pass() {
    use TcbStatus::*;
    let default = |status| tdx_findings(|c, _| c.platform.tcb_status = status);
    for (status, reason) in [
        (SWHardeningNeeded, Reason::TcbStatusNotAccepted),
        (ConfigurationNeeded, Reason::TcbStatusNotAccepted),
        (ConfigurationAndSWHardeningNeeded, Reason::TcbStatusNotAccepted),
        (OutOfDate, Reason::TcbOutOfDate),
        (OutOfDateConfigurationNeeded, Reason::TcbOutOfDate),
        (Revoked, Reason::TcbRevoked),
        (TDRelaunchAdvised, Reason::TcbStatusNotAccepted),
        (TDRelaunchAdvisedConfigurationNeeded, Reason::TcbStatusNotAccepted),
    ] {
        assert_eq!(default(status), one(reason, "tcbStatus"));
        let named = tdx_findings(|c, r| {
            c.platform.tcb_status = status;
            r.tcb.accepted.push(status);
        });
        let expected = if status == Revoked { one(Reason::TcbRevoked, "tcbStatus") } else { ALLOWED };
        assert_eq!(named, expected, "revoked cannot be named");
    }
    let revoked = sgx_findings(|c, _| c.platform.tcb_status = Revoked);
    assert_eq!(revoked, one(Reason::TcbRevoked, "tcbStatus"));
}

#[test]
fn every_advisory_of_an_accepted_status_must_be_listed() {
    let with = |accepted: &[&str]| {
        tdx_findings(|c, r| {
            c.platform.tcb_status = TcbStatus::SWHardeningNeeded;
            c.platform.advisory_ids = vec!["INTEL-SA-1".to_owned(), "INTEL-SA-2".to_owned()];
            r.tcb.accepted.push(TcbStatus::SWHardeningNeeded);
            r.tcb.advisories = Some(accepted.iter().map(|a| (*a).to_owned()).collect());
        })
    };
    assert_eq!(with(&["INTEL-SA-2", "INTEL-SA-1"]), ALLOWED);
    assert_eq!(with(&["INTEL-SA-1"]), one(Reason::TcbStatusNotAccepted, "advisoryIds"));
    assert_eq!(with(&[]).len(), 2);
}

#[test]
fn a_grace_period_ends() {
    let rule = |grace| IntelTcbRule { grace_period: grace, ..IntelTcbRule::default() };
    let decide = |superseded, grace| {
        let mut body = tdx();
        body.platform.tcb_status = TcbStatus::OutOfDate;
        body.platform.superseded = superseded;
        let tcb = TdxRule { tcb: rule(grace), ..tdx_rule() };
        let claims = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(body)));
        decide(claims, &policy(vec![Alternative::Tdx(tcb)]), &references(), 0, NOW)
    };
    let inside = decide(Some(NOW - DAY), DAY + 60);
    assert!(matches!(inside.outcome, Outcome::Allow { valid_until, .. } if valid_until == NOW + 60));
    assert!(decide(Some(NOW - DAY), DAY).allows(), "the last second counts");
    assert_eq!(findings(&decide(Some(NOW - DAY), DAY - 1)), one(Reason::TcbOutOfDate, "tcbStatus"));
    assert_eq!(findings(&decide(Some(NOW), 0)), one(Reason::TcbOutOfDate, "tcbStatus"));
    let unknown = findings(&decide(None, DAY));
    assert_eq!(unknown, one(Reason::TcbOutOfDate, "tcbStatus"), "no grace without a beginning");
    let revoked = tdx_findings(|c, r| {
        c.platform.tcb_status = TcbStatus::Revoked;
        r.tcb = rule(u64::MAX);
    });
    assert_eq!(revoked, one(Reason::TcbRevoked, "tcbStatus"), "there is no grace for what is revoked");
}

#[test]
fn old_tcb_info_is_refused() {
    let refused = tdx_findings(|_, r| r.tcb.min_evaluation_data_number = Some(19));
    assert_eq!(refused, one(Reason::CollateralRollback, "tcbEvaluationDataNumber"));
    assert_eq!(tdx_findings(|_, r| r.tcb.min_evaluation_data_number = Some(18)), ALLOWED);
}

#[test]
fn evidence_and_what_it_rests_on_grow_old() {
    let policy = policy(vec![Alternative::Tdx(tdx_rule())]);
    let at = |age, now| findings(&decide(genuine_tdx(), &policy, &References::new(), age, now));
    let without_measurements = |found: Vec<(Reason, String)>| -> Vec<_> {
        found.into_iter().filter(|(_, field)| field != "references").collect()
    };
    assert_eq!(without_measurements(at(DAY, NOW)), ALLOWED);
    assert_eq!(without_measurements(at(DAY + 1, NOW)), one(Reason::EvidenceStale, "maxEvidenceAge"));
    assert_eq!(without_measurements(at(0, NOW + 30 * DAY)), ALLOWED);
    assert_eq!(without_measurements(at(0, NOW + 30 * DAY + 1)), one(Reason::CollateralExpired, "window"));
    assert_eq!(without_measurements(at(0, NOW - DAY - 1)), one(Reason::CollateralNotYetValid, "window"));
}

#[test]
fn a_policy_without_an_alternative_for_the_tee_says_so() {
    let verdict =
        decide(genuine_tdx(), &policy(vec![Alternative::SevSnp(snp_rule())]), &references(), 0, NOW);
    assert_eq!(findings(&verdict), one(Reason::TeeNotAccepted, "tee"));
    assert_eq!(verdict.denial().unwrap().findings[0].expected, "sevSnp");
    assert_eq!(findings(&decide(genuine_tdx(), &policy(vec![]), &references(), 0, NOW)).len(), 1);
}

#[test]
fn all_mismatches_of_all_alternatives_are_collected() {
    let mut body = snp();
    body.vmpl = 2;
    body.reported_tcb.snp = 0;
    body.reported_tcb.microcode = 0;
    body.policy |= 1 << 19 | 1 << 18;
    body.measurement = [0xff; 48];
    let claims = claims(Tee::SevSnp, Fingerprint([3; 32]), Body::SevSnp(Box::new(body)));
    let lenient = SnpRule { vmpl: 2, ..SnpRule::default() };
    let policy = policy(vec![
        Alternative::SevSnp(snp_rule()),
        Alternative::Tdx(tdx_rule()),
        Alternative::SevSnp(lenient),
    ]);
    let verdict = decide(claims, &policy, &references(), 2 * DAY, NOW);
    let Outcome::Deny { rejections } = &verdict.outcome else { panic!("allowed") };
    let rules: Vec<_> = rejections.iter().map(|r| (r.rule.as_str(), r.findings.len())).collect();
    assert_eq!(rules, [("anyOf[0].sevSnp", 8), ("anyOf[2].sevSnp", 4)]);
    let first: Vec<_> = rejections[0].findings.iter().map(|f| f.field.as_str()).collect();
    let expected = [
        "policy.DEBUG",
        "policy.MIGRATE_MA",
        "reportedTcb.snp",
        "reportedTcb.microcode",
        "vmpl",
        "root",
        "measurement",
        "maxEvidenceAge",
    ];
    assert_eq!(first, expected);
    assert_eq!(verdict.denial().unwrap().rule, "anyOf[2].sevSnp", "the closest alternative explains");
}
