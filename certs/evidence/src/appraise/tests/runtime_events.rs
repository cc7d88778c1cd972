//! Events measured at runtime under each rule about them.

use super::*;
use crate::event_log::native::{Log, Record};
use crate::event_log::{RegisterState, extend, media_type};
use crate::policy::{EventContent, EventReference, EventReferences, EventRule};

const EXEC: (&str, &[u8]) = ("exec", b"/bin/ledger");
const CONFIG: (&str, &[u8]) = ("config", b"7");
const SHELL: (&str, &[u8]) = ("exec", b"/bin/sh");

/// Claims of a guest that measured these events.
fn measured(events: &[(&str, &[u8])]) -> Claims {
    let (mut body, mut log) = (tdx(), Log::default());
    body.rtmr[3] = [0; 48];
    for (kind, content) in events {
        let record = Record::new(kind, content).unwrap();
        extend(&mut body.rtmr[3], &record.digest());
        log.push(&record);
    }
    let claims = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(body)));
    let log = log.record(0).unwrap();
    claims.with_event_log(media_type::RUNTIME, &log, &RegisterState::default()).unwrap().0
}

fn reference(kind: &str, content: EventContent) -> EventReference {
    EventReference { name: format!("{kind} 1.0"), kind: kind.to_owned(), content }
}

fn sets(events: EventReferences, valid_until: Option<u64>) -> References {
    let set = ReferenceSet { valid_until, runtime_events: events, ..ReferenceSet::default() };
    [("ns/events".to_owned(), set)].into()
}

fn approved() -> EventReferences {
    let exec = EventContent::Digest(Record::new(EXEC.0, EXEC.1).unwrap().digest());
    [reference("exec", exec), reference("config", EventContent::Any)].into_iter().collect()
}

fn policy(name: PolicyRef, rule: TdxRule) -> Policy {
    Policy { name, mode: Mode::Enforce, any_of: vec![Alternative::Tdx(rule)], max_evidence_age: None }
}

fn by(rule: EventRule, claims: &Claims, references: &References) -> Verdict {
    let rule = TdxRule { runtime_events: rule, ..TdxRule::default() };
    let name = PolicyRef { namespace: "ns".into(), name: "p".into(), generation: 1 };
    let policy = policy(name, rule);
    appraise(
        Arc::new(claims.clone()),
        &policy,
        references,
        0,
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW)),
    )
}

fn admitted() -> EventRule {
    EventRule::Admitted(vec!["ns/events".to_owned()])
}

#[test]
fn admitted_events_change_nothing_and_another_is_named() {
    let references = sets(approved(), None);
    for events in [&[][..], &[EXEC], &[EXEC, CONFIG, EXEC, CONFIG]] {
        assert!(by(admitted(), &measured(events), &references).allows(), "{events:?}");
    }
    let denial = by(admitted(), &measured(&[EXEC, SHELL]), &references).denial().unwrap();
    assert_eq!(denial.reason, Reason::EventNotAdmitted);
    let [finding] = &denial.findings[..] else { panic!("{denial}") };
    let digest = hex::encode(Record::new(SHELL.0, SHELL.1).unwrap().digest());
    assert_eq!(finding.field, "event[1]");
    assert_eq!(finding.presented, format!("'exec' with digest {digest}"));
    assert_eq!(finding.expected, "'exec' (exec 1.0)");
    let digests = [1, 2, 3].map(|n| reference("exec", EventContent::Digest([n; 48])));
    let several = sets(digests.into_iter().collect(), None);
    let denial = by(admitted(), &measured(&[SHELL]), &several).denial().unwrap();
    assert_eq!(denial.findings[0].expected, "'exec' (exec 1.0)", "once");
    let other = by(admitted(), &measured(&[("reboot", b"")]), &references).denial().unwrap();
    assert_eq!(other.findings[0].expected, "every 'config' (config 1.0), 'exec' (exec 1.0)");
    let many = by(admitted(), &measured(&[SHELL; 100]), &references).denial().unwrap();
    assert_eq!((many.findings.len(), many.findings[8].presented.as_str()), (9, "92 more"));
}

#[test]
fn a_digest_admits_only_the_type_that_it_is_for() {
    let digest = EventContent::Digest(Record::new(EXEC.0, EXEC.1).unwrap().digest());
    let references = sets([reference("config", digest)].into_iter().collect(), None);
    let denial = by(admitted(), &measured(&[EXEC]), &references).denial().unwrap();
    assert_eq!(denial.reason, Reason::EventNotAdmitted);
    // Where nothing measures the type, the digest decides and a type alone admits nothing.
    let Body::Tdx(mut body) = measured(&[EXEC]).body else { panic!() };
    let RuntimeEvents::Replayed(events) = &body.runtime_events else { panic!() };
    let events = events.iter().map(|e| crate::event_log::Event { kind_measured: false, ..e.clone() });
    body.runtime_events = RuntimeEvents::Replayed(events.collect());
    let claims = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(body));
    assert!(by(admitted(), &claims, &references).allows());
    let any = sets([reference("exec", EventContent::Any)].into_iter().collect(), None);
    assert!(!by(admitted(), &claims, &any).allows());
    assert!(by(admitted(), &measured(&[EXEC]), &any).allows());
}

#[test]
fn content_is_compared_by_the_digest_of_each_form_of_log() {
    let exactly = EventContent::Exactly(EXEC.1.to_vec());
    let set: EventReferences = [reference("exec", exactly)].into_iter().collect();
    let references = sets(set, None);
    assert!(by(admitted(), &measured(&[EXEC]), &references).allows());
    assert!(!by(admitted(), &measured(&[SHELL]), &references).allows());
    let mut body = tdx();
    body.rtmr = [[0; 48]; 4];
    extend(&mut body.rtmr[3], &crate::event_log::dstack_digest(EXEC.0, EXEC.1));
    let json = format!(
        r#"[{{"imr":3,"event_type":134217729,"event":"exec","event_payload":"{}"}}]"#,
        hex::encode(EXEC.1)
    );
    let claims = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(body)));
    let start = RegisterState::default();
    let claims = claims.with_event_log(media_type::DSTACK, json.as_bytes(), &start).unwrap().0;
    assert!(by(admitted(), &claims, &references).allows());
}

#[test]
fn a_log_must_come_when_somebody_looks_at_it() {
    let silent = || claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(tdx())));
    let references = sets(approved(), None);
    for rule in [EventRule::Anything, admitted()] {
        let denial = by(rule.clone(), &silent(), &references).denial().unwrap();
        assert_eq!(denial.reason, Reason::EventLogMissing);
        assert!(by(rule.clone(), &silent().with_event_log_to_follow(), &references).allows());
        // What is there is looked at, whatever follows.
        let shown = measured(&[SHELL]).with_event_log_to_follow();
        assert_eq!(by(rule.clone(), &shown, &references).allows(), rule == EventRule::Anything);
    }
    assert!(by(EventRule::Unchecked, &silent(), &references).allows());
    assert!(by(EventRule::Unchecked, &measured(&[SHELL]), &references).allows());
}

#[test]
fn nothing_means_that_the_register_is_zero() {
    let none = References::new();
    let nothing = |claims: &Claims| by(EventRule::Nothing, claims, &none).denial();
    assert_eq!(nothing(&measured(&[])), None);
    let denial = nothing(&measured(&[EXEC])).unwrap();
    assert_eq!(denial.reason, Reason::EventNotAdmitted);
    assert_eq!(denial.findings[0].field, "event[0]");
    let silent = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(tdx()))).with_event_log_to_follow();
    assert_eq!(nothing(&silent).unwrap().findings[0].field, "rtmr[3]");
}

#[test]
fn sets_of_events_expire_and_may_be_missing() {
    let verdict = by(admitted(), &measured(&[EXEC]), &sets(approved(), Some(NOW + 60)));
    let Outcome::Allow { valid_until, .. } = verdict.outcome else { panic!("{verdict:?}") };
    assert_eq!(valid_until, NOW + 60);
    for references in [sets(approved(), Some(NOW - 1)), References::new()] {
        let denial = by(admitted(), &measured(&[EXEC]), &references).denial().unwrap();
        assert_eq!(denial.reason, Reason::EventNotAdmitted);
        assert_eq!(denial.findings[1].reason, Reason::ReferenceValuesUnusable);
        assert!(by(admitted(), &measured(&[]), &references).allows(), "nothing to admit");
    }
}

#[test]
fn a_pinned_register_and_its_events_must_both_hold() {
    let claims = measured(&[EXEC]);
    let Body::Tdx(body) = &claims.body else { panic!() };
    let rule = |register| {
        let entry = TdxReference { rtmr: [None, None, None, Some(register)], ..TdxReference::default() };
        let set = ReferenceSet { tdx: vec![entry], runtime_events: approved(), ..ReferenceSet::default() };
        let references: References = [("ns/events".to_owned(), set)].into();
        let common = Common { references: vec!["ns/events".to_owned()], ..Common::default() };
        let rule = TdxRule { common, runtime_events: admitted(), ..TdxRule::default() };
        let name = PolicyRef { namespace: "ns".into(), name: "p".into(), generation: 1 };
        let policy = policy(name, rule);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
        appraise(Arc::new(claims.clone()), &policy, &references, 0, now)
    };
    assert!(rule(body.rtmr[3]).allows());
    assert_eq!(rule([0; 48]).denial().unwrap().reason, Reason::MeasurementMismatch);
}

#[test]
fn a_tee_without_registers_has_no_event_log() {
    let claims = claims(Tee::SevSnp, ARK_GENOA, Body::SevSnp(Box::new(snp())));
    let outcome = claims.with_event_log(media_type::RUNTIME, &[0x80], &RegisterState::default());
    assert_eq!(outcome.unwrap_err().reason, Reason::EventLogMismatch);
    assert_eq!(claims.with_event_log_to_follow(), claims);
}

#[test]
fn claims_show_the_events() {
    let json = serde_json::to_value(measured(&[CONFIG])).unwrap();
    let digest = hex::encode(Record::new(CONFIG.0, CONFIG.1).unwrap().digest());
    let expected = serde_json::json!([{"index": 0, "type": "config", "digest": digest}]);
    assert_eq!(json["body"]["tdx"]["runtimeEvents"], expected);
    let silent = claims(Tee::Tdx, INTEL_SGX_ROOT, Body::Tdx(Box::new(tdx())));
    assert!(serde_json::to_value(silent).unwrap()["body"]["tdx"].get("runtimeEvents").is_none());
}
