//! What the policies demand of a connection, and how evidence that is made for
//! one is judged.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::time::Duration;

use common::{AUDIT, LEDGER, NOW, WORLD, at, id, other_release, policy, resources};
use countersign_attester::Attester as _;
use countersign_attester::emulated::{CollateralSpec, SnpSpec, TdxSpec};
use countersign_config::kinds::assurance::OnFailure;
use countersign_config::{SessionAdmission, SessionEvidence, View};
use countersign_evidence::collateral::Marks;
use countersign_evidence::evidence::media_type::{TSM_SNP, TSM_TDX};
use countersign_evidence::policy::Level;
use countersign_evidence::{Denial, Fingerprint, Reason};
use countersign_ratls::binding::{ReportData, batch_report_data};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Presented};

/// Guards hops of `audit` in addition to those of `resources`.
fn more(name: &str, more: &str) -> String {
    policy("payments", name, more, "Any")
}

fn without_evidence(name: &str, mode: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: {name}, namespace: payments }}\n\
         spec: {{ mode: {mode}, level: L0, acceptUnattested: true }}\n"
    )
}

fn binder(byte: u8) -> ReportData {
    batch_report_data(1, &[byte; 64])
}

fn judge(
    view: &View,
    admission: &Admission,
    spec: TdxSpec,
    binder: &ReportData,
    challenged: u64,
    now: u64,
) -> Result<SessionAdmission, Denial> {
    let produced = WORLD.vendor.tdx(spec).unwrap().evidence(binder.as_bytes()).unwrap();
    let evidence = SessionEvidence {
        media_type: produced.media_type,
        value: &produced.value,
        event_log: None,
        report_data: binder,
        challenged: at(challenged),
    };
    view.judge_session(&id(AUDIT), admission, &evidence, at(now))
}

fn admitted(view: &View, spec: TdxSpec) -> Admission {
    view.judge_hop(&id(AUDIT), WORLD.presented(LEDGER, spec), at(60)).unwrap()
}

fn reason<T>(result: Result<T, Denial>) -> Reason {
    result.map(drop).unwrap_err().reason
}

#[test]
fn the_strictest_of_all_policies_counts() {
    let view = WORLD.view(&resources());
    let plain = view.demands(&id(AUDIT), &id(LEDGER)).unwrap();
    assert_eq!((plain.level, plain.media_types.as_slice()), (Level::L2, &[TSM_TDX][..]));
    let pace = |d: &countersign_config::Demands| {
        (d.interval.as_secs(), d.timeout.as_secs(), d.drain_grace.as_secs())
    };
    assert_eq!((pace(&plain), plain.on_failure), ((300, 15, 30), OnFailure::Drain));
    let everyone = parse_one(&policy("payments", "everyone", "", "{ fromReferenceValues: release }"));
    assert_eq!(plain.policy_id, Fingerprint::of(format!("{everyone}\n").as_bytes()));

    let text = resources()
        + &more("a", "continuous: { interval: 1m, drainGrace: 2m }")
        + &more("b", "continuous: { timeout: 5s, onFailure: Cut }")
        + &more("c", "level: L1")
        + &more("d", "mode: Audit\n  continuous: { interval: 30s, timeout: 1s, drainGrace: 0s }")
        + &more("e", "peers: [\"spiffe://demo.example/other/*\"]\n  continuous: { interval: 30s }")
        + &without_evidence("f", "Enforce");
    let view = WORLD.view(&text);
    let demands = view.demands(&id(AUDIT), &id(LEDGER)).unwrap();
    assert_eq!((pace(&demands), demands.on_failure), ((60, 5, 30), OnFailure::Cut));
    assert_eq!((demands.level, demands.media_types.as_slice()), (Level::L2, &[TSM_TDX][..]));
    assert_ne!(demands.policy_id, plain.policy_id);
    let levels = view.levels(&id(AUDIT)).unwrap();
    assert_eq!((levels.lowest, levels.highest), (Level::L0, Level::L2));
    assert_eq!(view.levels(&id("spiffe://demo.example/x")), None);
    assert_eq!(reason(view.demands(&id("spiffe://demo.example/x"), &id(LEDGER))), Reason::NoPolicy);
}

fn parse_one(text: &str) -> String {
    WORLD.inputs(text).resources[0].to_json()
}

#[test]
fn rounds_come_as_often_as_the_age_of_evidence_needs() {
    for (age, interval) in [("1h", 300), ("5m", 237), ("30s", 12), ("10m", 300)] {
        let text = resources() + &more("fresh", &format!("freshness: {{ maxEvidenceAge: {age} }}"));
        let demands = WORLD.view(&text).demands(&id(AUDIT), &id(LEDGER)).unwrap();
        assert_eq!(demands.interval.as_secs(), interval, "{age}");
    }
}

#[test]
fn policies_without_a_common_tee_can_be_satisfied_by_nobody() {
    let snp = "---\napiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
               metadata: { name: snp, namespace: payments }\n\
               spec: { anyOf: [{ sevSnp: { measurements: Any } }] }\n";
    let view = WORLD.view(&(resources() + snp));
    assert_eq!(reason(view.demands(&id(AUDIT), &id(LEDGER))), Reason::TeeNotAccepted);
    let either = snp.replace("{ sevSnp:", "{ tdx: { measurements: Any } }, { sevSnp:");
    let alone =
        resources().replace("name: everyone, namespace: payments", "name: everyone, namespace: other");
    let built = WORLD.build(&(alone + &either));
    let demands = built.view.demands(&id(AUDIT), &id(LEDGER)).unwrap();
    assert_eq!(demands.media_types, [TSM_TDX, TSM_SNP]);
}

#[test]
fn a_connection_that_gives_less_is_refused() {
    let text = resources() + &more("later", "mode: Audit\n  level: L2") + &more("now", "level: L1");
    let view = WORLD.view(&text.replacen("spec:\n  \n", "spec:\n  level: L1\n", 1));
    let check = |level| view.check_level(&id(AUDIT), &id(LEDGER), level);
    let denial = check(Level::L0).unwrap_err();
    assert_eq!((denial.reason, denial.rule.as_str()), (Reason::LevelTooLow, "level"));
    let audited = check(Level::L1).unwrap();
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0].policy.as_ref().unwrap().name, "later");
    assert_eq!(check(Level::L2).unwrap(), []);
}

#[test]
fn a_peer_without_evidence_is_admitted_by_level_0_alone() {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let bare = || Presented::parse(&WORLD.issue(&key.spki(), LEDGER, None)).unwrap();
    let alone =
        resources().replace("name: everyone, namespace: payments", "name: everyone, namespace: other");
    let judged = |text: &str| WORLD.build(text).view.judge_hop(&id(AUDIT), bare(), at(60));
    let lax = alone.clone() + &without_evidence("lax", "Enforce");
    let admission = judged(&lax).unwrap();
    assert!(admission.claims.is_none() && admission.verdicts.is_empty() && admission.audited.is_empty());
    assert_eq!(admission.valid_until, NOW + 7200);
    // One more policy that asks for anything, and nothing less than it is enough.
    for level in ["L1", "L2"] {
        let strict = lax.clone() + &more("strict", &format!("level: {level}"));
        assert_eq!(reason(judged(&strict)), Reason::EvidenceMissing, "{level}");
    }
    let audited = judged(&(lax.clone() + &more("strict", "mode: Audit"))).unwrap();
    assert_eq!(audited.audited[0].reason, Reason::EvidenceMissing);
    assert_eq!(audited.audited[0].policy.as_ref().unwrap().name, "strict");
    assert_eq!(reason(judged(&(alone + &without_evidence("lax", "Audit")))), Reason::NoPolicy);
    // What it presents all the same is believed by nobody, and recorded.
    let view = WORLD
        .build(&(lax + &policy("payments", "strict", "mode: Audit", "{ fromReferenceValues: release }")));
    let other = view.view.judge_hop(&id(AUDIT), WORLD.presented(LEDGER, other_release()), at(60)).unwrap();
    assert!(other.claims.is_none());
    assert_eq!(other.audited[0].reason, Reason::MeasurementMismatch);
    let demands = view.view.demands(&id(AUDIT), &id(LEDGER)).unwrap();
    assert_eq!((demands.level, demands.media_types.len()), (Level::L0, 0));
}

#[test]
fn no_identity_is_given_for_nothing() {
    let text = resources().replace("policy: everyone", "policy: lax") + &without_evidence("lax", "Enforce");
    let built = WORLD.build(&text);
    assert!(
        built.rejected.iter().all(|(_, why)| why.contains("asks for no evidence")),
        "{:?}",
        built.rejected
    );
    assert_eq!(built.rejected.len(), 2);
    let refused = built.view.judge_workload(WORLD.presented(LEDGER, TdxSpec::default()), at(60));
    assert_eq!(reason(refused), Reason::NoPolicy);
}

#[test]
fn a_peer_proves_itself_for_the_connection() {
    let text = resources() + &more("fresh", "freshness: { maxEvidenceAge: 1h }\n  level: L1");
    let view = WORLD.view(&(text + &more("rounds", "freshness: { maxEvidenceAge: 5m }")));
    let admission = admitted(&view, TdxSpec::default());
    let session = judge(&view, &admission, TdxSpec::default(), &binder(7), 100, 102).unwrap();
    assert_eq!(session.valid_until, NOW + 400, "five minutes after the challenge");
    let names: Vec<_> = session.verdicts.iter().map(|v| v.policy.name.as_str()).collect();
    assert_eq!(names, ["everyone", "rounds"], "those of a lower level judge the certificate");
    assert_eq!((session.generation, session.challenged), (17, NOW + 100));
    let late = judge(&view, &admission, TdxSpec::default(), &binder(7), 100, 401);
    assert_eq!(reason(late), Reason::EvidenceStale);
}

#[test]
fn where_a_peer_proves_itself_in_rounds_its_certificate_may_be_old() {
    let fresh = |level| more("fresh", &format!("freshness: {{ maxEvidenceAge: 5m }}\n  level: {level}"));
    let judge_at = |text: &str, seconds| {
        WORLD.view(text).judge_hop(&id(AUDIT), WORLD.presented(LEDGER, TdxSpec::default()), at(seconds))
    };
    let text = resources() + &fresh("L2");
    let admission = judge_at(&text, 600).unwrap();
    assert_eq!(admission.valid_until, NOW + 7200, "the SVID ends first");
    let view = WORLD.view(&text);
    assert!(judge(&view, &admission, TdxSpec::default(), &binder(7), 600, 601).is_ok());
    let late = judge(&view, &admission, TdxSpec::default(), &binder(7), 600, 901);
    assert_eq!(reason(late), Reason::EvidenceStale);
    // No round follows for a policy of a lower level, and where one of a higher
    // level is only recorded.
    assert_eq!(reason(judge_at(&(resources() + &fresh("L1")), 600)), Reason::EvidenceStale);
    let head = "name: everyone, namespace: payments }\nspec:\n";
    let lower = resources().replace(head, &format!("{head}  level: L1\n"));
    let admission = judge_at(&(lower + &fresh("L2\n  mode: Audit")), 600).unwrap();
    let audited: Vec<_> = admission.audited.iter().map(|denial| denial.reason).collect();
    assert_eq!(audited, [Reason::EvidenceStale]);
}

#[test]
fn evidence_for_another_connection_proves_nothing() {
    let view = WORLD.view(&resources());
    let admission = admitted(&view, TdxSpec::default());
    let report_data = binder(7);
    for bit in [0, 7, 100, 255, 256, 300, 511] {
        let mut other = *report_data.as_bytes();
        other[bit / 8] ^= 1 << (bit % 8);
        let produced = WORLD.vendor.tdx(TdxSpec::default()).unwrap().evidence(&other).unwrap();
        let evidence = SessionEvidence {
            media_type: produced.media_type,
            value: &produced.value,
            event_log: None,
            report_data: &report_data,
            challenged: at(60),
        };
        let refused = view.judge_session(&id(AUDIT), &admission, &evidence, at(61));
        assert_eq!(reason(refused), Reason::BindingMismatch, "bit {bit}");
    }
}

#[test]
fn the_certificate_and_the_connection_are_of_one_tee() {
    let any = resources().replace("{ fromReferenceValues: release }", "Any");
    let view = WORLD.view(&any);
    let admission = admitted(&view, TdxSpec::default());
    let mut machine = TdxSpec::default();
    machine.platform.piid = Some([0x55; 16]);
    let denial = judge(&view, &admission, machine, &binder(1), 60, 61).unwrap_err();
    assert_eq!(
        (denial.reason, denial.findings[0].field.as_str()),
        (Reason::OtherTee, "platform"),
        "{denial}"
    );
    let firmware = TdxSpec { mr_td: [0x66; 48], ..TdxSpec::default() };
    let denial = judge(&view, &admission, firmware, &binder(1), 60, 61).unwrap_err();
    assert_eq!((denial.reason, denial.findings[0].field.as_str()), (Reason::OtherTee, "mrTd"), "{denial}");
    // What is measured while the guest runs may change: that is for policies.
    assert!(judge(&view, &admission, other_release(), &binder(1), 60, 61).is_ok());

    let snp = WORLD.vendor.snp(SnpSpec::default()).unwrap().evidence(binder(1).as_bytes()).unwrap();
    let expected = binder(1);
    let evidence = SessionEvidence {
        media_type: snp.media_type,
        value: &snp.value,
        event_log: None,
        report_data: &expected,
        challenged: at(60),
    };
    let amd = format!("emulatedRoots: [\"{}\"]", WORLD.vendor.amd_root().unwrap());
    let both = any.replace(
        "  anyOf:\n",
        &format!("  anyOf:\n    - sevSnp:\n        {amd}\n        measurements: Any\n"),
    );
    let view = WORLD.view(&both);
    let denial = view.judge_session(&id(AUDIT), &admission, &evidence, at(61)).unwrap_err();
    assert_eq!((denial.reason, denial.findings.len()), (Reason::OtherTee, 3), "{denial}");
}

#[test]
fn audits_of_connections_are_recorded_and_refuse_nobody() {
    let any = resources().replace("{ fromReferenceValues: release }", "Any");
    let text = any + &policy("payments", "strict", "mode: Audit", "{ fromReferenceValues: release }");
    let view = WORLD.view(&text);
    let admission = admitted(&view, other_release());
    assert_eq!(admission.audited[0].reason, Reason::MeasurementMismatch);
    let session = judge(&view, &admission, other_release(), &binder(1), 60, 61).unwrap();
    assert_eq!(session.audited.len(), 1);
    assert_eq!(session.audited[0].policy.as_ref().unwrap().name, "strict");
    assert_eq!(session.verdicts.len(), 2);
}

#[test]
fn stored_evidence_is_judged_again_without_a_new_quote() {
    let view = WORLD.view(&resources());
    let admission = admitted(&view, TdxSpec::default());
    let session = judge(&view, &admission, TdxSpec::default(), &binder(1), 60, 61).unwrap();
    let again = view.rejudge_session(&id(AUDIT), &admission, &session, at(90)).unwrap();
    assert_eq!((again.challenged, again.evidence()), (session.challenged, session.evidence()));

    let gone = resources().replace(&"d3".repeat(48), &"d4".repeat(48));
    let strict = View::build_after(&view, WORLD.inputs(&gone), &mut Marks::default(), at(90)).view;
    let denied = strict.rejudge_session(&id(AUDIT), &admission, &session, at(90));
    assert_eq!(reason(denied), Reason::MeasurementMismatch);
    // Too old is what the peer can mend: said only when no policy finds anything worse.
    let young = more("a-young-one", "freshness: { maxEvidenceAge: 30s }");
    for (text, expected) in [(resources(), Reason::EvidenceStale), (gone, Reason::MeasurementMismatch)] {
        let view =
            View::build_after(&view, WORLD.inputs(&(text + &young)), &mut Marks::default(), at(95)).view;
        let denied = view.rejudge_session(&id(AUDIT), &admission, &session, at(95));
        assert_eq!(reason(denied), expected);
    }

    let revoked = CollateralSpec {
        issued: Some(NOW + 80),
        crl_number: 2,
        revoked_pck: vec![WORLD.vendor.tdx(TdxSpec::default()).unwrap().pck_serial().clone()],
        ..CollateralSpec::default()
    };
    let mut inputs = WORLD.inputs(&resources());
    inputs.collateral.extend(WORLD.vendor.collateral_with(&revoked, at(80)).unwrap());
    let view = View::build_after(&view, inputs, &mut Marks::default(), at(90)).view;
    let denied = view.rejudge_session(&id(AUDIT), &admission, &session, at(90));
    assert_eq!(reason(denied), Reason::CertificateRevoked);
}

#[test]
fn a_shared_quote_is_verified_and_kept_once() {
    let view = WORLD.view(&resources());
    let admission = admitted(&view, TdxSpec::default());
    let produced = WORLD.vendor.tdx(TdxSpec::default()).unwrap().evidence(binder(1).as_bytes()).unwrap();
    let expected = binder(1);
    let judge = |now: u64| {
        let value = produced.value.clone();
        let evidence = SessionEvidence {
            media_type: produced.media_type,
            value: &value,
            event_log: None,
            report_data: &expected,
            challenged: at(60),
        };
        view.judge_session(&id(AUDIT), &admission, &evidence, at(now))
    };
    let (one, other) = (judge(61).unwrap(), judge(62).unwrap());
    assert!(std::sync::Arc::ptr_eq(&one.claims, &other.claims));
    assert!(std::ptr::eq(one.evidence().1, other.evidence().1));
    // It is not believed beyond the collateral that it was verified with.
    let end = one.claims.window.until - NOW;
    assert_eq!(reason(judge(end + 1)), Reason::CollateralExpired);
    assert!(Duration::from_secs(end) > Duration::from_secs(3600));
}

#[test]
fn a_machine_that_is_not_on_the_list_is_refused() {
    let list = |name: &str, id: &str| {
        format!(
            "---\napiVersion: countersign.dev/v1alpha1\nkind: PlatformList\n\
             metadata: {{ name: {name}, namespace: payments }}\nspec: {{ platforms: [{{ tee: tdx, id: '{id}' }}] }}\n"
        )
    };
    let text = resources()
        .replace("spec:\n  \n", "spec:\n  level: L3\n")
        .replace("        measurements:", "        platformsFrom: [ours]\n        measurements:");
    let enrolled = hex::encode(TdxSpec::default().platform.piid.unwrap());
    let view = WORLD.view(&(text.clone() + &list("ours", &enrolled)));
    let admission = admitted(&view, TdxSpec::default());
    assert_eq!(view.demands(&id(AUDIT), &id(LEDGER)).unwrap().level, Level::L3);
    assert!(judge(&view, &admission, TdxSpec::default(), &binder(1), 60, 61).is_ok());

    let other = WORLD.view(&(text.clone() + &list("ours", &"77".repeat(16))));
    let denied = judge(&other, &admission, TdxSpec::default(), &binder(1), 60, 61);
    assert_eq!(reason(denied), Reason::PlatformNotAllowed);
    // A list that does not exist guards as well, and says so.
    let dangling = WORLD.build(&(text + &list("theirs", &enrolled)));
    assert_eq!(dangling.rejected.len(), 1);
    assert!(
        dangling.rejected[0].1.contains("there is no PlatformList payments/ours"),
        "{:?}",
        dangling.rejected
    );
    let denial = judge(&dangling.view, &admission, TdxSpec::default(), &binder(1), 60, 61).unwrap_err();
    assert_eq!(denial.reason, Reason::PlatformNotAllowed);
    assert!(denial.to_string().contains("PlatformList payments/ours, which does not exist"), "{denial}");
}
