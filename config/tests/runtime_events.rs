//! Events that a guest measures while it runs: in its certificate, in the rounds
//! of a connection, and when the policy about them changes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::sync::Arc;

use common::{AUDIT, LEDGER, WORLD, at, id, policy, resources};
use countersign_attester::Attester;
use countersign_attester::emulated::{EmulatedTdx, EventSpec, SnpSpec, TdxSpec};
use countersign_config::{SessionAdmission, SessionEvidence, SessionLog, View};
use countersign_evidence::event_log::native::Record;
use countersign_evidence::{Denial, Reason, RegisterState};
use countersign_ratls::binding::{ReportData, batch_report_data};
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Presented};

/// A policy about events, for hops of `audit` in addition to `resources`.
fn events(name: &str, more: &str, rule: &str) -> String {
    policy("payments", name, more, &format!("Any\n        runtimeEvents: {rule}"))
}

fn approved(entries: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: ReferenceValues\n\
         metadata: {{ name: events, namespace: payments }}\nspec: {{ runtimeEvents: [{entries}] }}\n"
    )
}

const EXEC: &str = "{ name: ledger 1.4, type: exec, content: /usr/bin/ledger }";
const ADMITTED: &str = "{ fromReferenceValues: events }";

fn view(policies: &str, entries: &str) -> View {
    WORLD.view(&(resources() + policies + &approved(entries)))
}

fn machine(events: &[(&str, &str)]) -> Arc<EmulatedTdx> {
    let spec =
        |(kind, content): &(&str, &str)| EventSpec { kind: (*kind).into(), content: (*content).into() };
    let events = events.iter().map(spec).collect();
    WORLD.vendor.tdx(TdxSpec { events, ..TdxSpec::default() }).unwrap()
}

/// A certificate with evidence of this machine, and its log unless it is left out.
fn presented(machine: &dyn Attester, log: bool) -> Presented {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let pending = Pending::new(&key, &[7; 32]).unwrap();
    let produced = machine.evidence(&pending.report_data).unwrap();
    let pending = pending.with_event_log(produced.event_log_from(0).filter(|_| log));
    let request = pending.finish(&key, produced.media_type, &produced.value).unwrap();
    let request = AttestedRequest::parse(&request).unwrap();
    assert_eq!(request.evidence.event_log.is_some(), log);
    Presented::parse(&WORLD.issue(&request.spki, LEDGER, Some(&request.cmw))).unwrap()
}

fn hop(view: &View, presented: Presented) -> Result<Admission, Denial> {
    view.judge_hop(&id(AUDIT), presented, at(60))
}

/// One round: the machine sends what is new since `replayed`.
fn round(
    view: &View,
    admission: &Admission,
    machine: &dyn Attester,
    replayed: &RegisterState,
) -> Result<SessionAdmission, Denial> {
    let binder: ReportData = batch_report_data(1, &[9; 64]);
    let produced = machine.evidence(binder.as_bytes()).unwrap();
    let log = produced.event_log_from(replayed.next());
    let evidence = SessionEvidence {
        media_type: produced.media_type,
        value: &produced.value,
        event_log: log.as_ref().map(|(media_type, value)| SessionLog { media_type, value, replayed }),
        report_data: &binder,
        challenged: at(60),
    };
    view.judge_session(&id(AUDIT), admission, &evidence, at(61))
}

fn reason<T>(result: Result<T, Denial>) -> Reason {
    result.map(drop).unwrap_err().reason
}

#[test]
fn an_admitted_event_changes_nothing_and_another_ends_the_hop() {
    let view = view(&events("e", "", ADMITTED), EXEC);
    assert!(view.demands(&id(AUDIT), &id(LEDGER)).unwrap().event_log);
    let ledger = machine(&[]);
    let admission = hop(&view, presented(&*ledger, true)).unwrap();
    let first = round(&view, &admission, &*ledger, &RegisterState::default()).unwrap();
    ledger.extend(&Record::new("exec", b"/usr/bin/ledger").unwrap()).unwrap();
    let second = round(&view, &admission, &*ledger, first.registers.as_ref().unwrap()).unwrap();
    assert_eq!(second.registers.as_ref().unwrap().next(), 1);
    let third = round(&view, &admission, &*ledger, second.registers.as_ref().unwrap()).unwrap();
    ledger.extend(&Record::new("exec", b"/bin/sh").unwrap()).unwrap();
    let registers = third.registers.as_ref().unwrap();
    let denial = round(&view, &admission, &*ledger, registers).unwrap_err();
    assert_eq!(denial.reason, Reason::EventNotAdmitted);
    assert_eq!(denial.findings[0].field, "event[1]");
    assert!(denial.findings[0].expected.contains("ledger 1.4"), "{denial}");
}

#[test]
fn a_change_of_what_is_admitted_reaches_events_of_long_ago() {
    let policies = events("e", "", ADMITTED);
    let before = view(&policies, EXEC);
    let ledger = machine(&[("exec", "/usr/bin/ledger")]);
    let admission = hop(&before, presented(&*ledger, true)).unwrap();
    let first = round(&before, &admission, &*ledger, &RegisterState::default()).unwrap();
    // The second round sends nothing new, and still knows the event.
    let second = round(&before, &admission, &*ledger, first.registers.as_ref().unwrap()).unwrap();
    let again = before.rejudge_session(&id(AUDIT), &admission, &second, at(70)).unwrap();
    assert_eq!(again.registers, second.registers);
    let after = view(&policies, "{ name: ledger 1.5, type: exec, content: /usr/bin/ledger-1.5 }");
    let denial = after.rejudge_session(&id(AUDIT), &admission, &second, at(70)).unwrap_err();
    assert_eq!((denial.reason, denial.findings[0].field.as_str()), (Reason::EventNotAdmitted, "event[0]"));
}

/// A policy about events, on the very hops of which nobody asked for the log so far.
#[test]
fn a_log_that_nobody_asked_for_may_come_with_the_next_round_and_no_later() {
    let (before, after) = (view("", EXEC), view(&events("e", "", ADMITTED), EXEC));
    let ledger = machine(&[("exec", "/usr/bin/ledger")]);
    let admission = hop(&before, presented(&*ledger, false)).unwrap();
    let binder = batch_report_data(1, &[9; 64]);
    let produced = ledger.evidence(binder.as_bytes()).unwrap();
    let silent = SessionEvidence {
        media_type: produced.media_type,
        value: &produced.value,
        event_log: None,
        report_data: &binder,
        challenged: at(60),
    };
    let unasked = before.judge_session_before_log(&id(AUDIT), &admission, &silent, at(61)).unwrap();
    assert!(unasked.valid_until > at(90).as_secs(), "nothing is to follow");
    let kept = after.rejudge_session(&id(AUDIT), &admission, &unasked, at(70)).unwrap();
    assert_eq!(kept.valid_until, at(85).as_secs(), "an answer may take 15 s");
    // And so for a challenge that was under way.
    let late = after.judge_session_before_log(&id(AUDIT), &admission, &silent, at(70)).unwrap();
    assert_eq!(late.valid_until, at(85).as_secs());
    let shown = round(&after, &admission, &*ledger, &RegisterState::default()).unwrap();
    assert!(shown.valid_until > at(90).as_secs());
    // Who was asked and had none has none.
    let asked = before.judge_session(&id(AUDIT), &admission, &silent, at(61)).unwrap();
    let denied = after.rejudge_session(&id(AUDIT), &admission, &asked, at(70));
    assert_eq!(reason(denied), Reason::EventLogMissing);
    // What is wrong for another reason does not wait.
    let stale = SessionEvidence { challenged: at(0), ..silent };
    let old = view(&events("e", "freshness: { maxEvidenceAge: 1m }", ADMITTED), EXEC);
    let denied = old.judge_session_before_log(&id(AUDIT), &admission, &stale, at(70));
    assert_eq!(reason(denied), Reason::EvidenceStale);
}

#[test]
fn the_log_may_wait_for_the_first_round_and_no_longer() {
    let ledger = machine(&[("exec", "/usr/bin/ledger")]);
    let view_of = |more: &str, rule: &str| view(&events("e", more, rule), EXEC);
    for rule in [ADMITTED, "Any"] {
        let bound = view_of("", rule);
        let admission = hop(&bound, presented(&*ledger, false)).unwrap();
        assert!(round(&bound, &admission, &*ledger, &RegisterState::default()).is_ok());
        let binder = batch_report_data(1, &[9; 64]);
        let produced = ledger.evidence(binder.as_bytes()).unwrap();
        let silent = SessionEvidence {
            media_type: produced.media_type,
            value: &produced.value,
            event_log: None,
            report_data: &binder,
            challenged: at(60),
        };
        let denied = bound.judge_session(&id(AUDIT), &admission, &silent, at(61));
        assert_eq!(reason(denied), Reason::EventLogMissing);
        // Where no round follows, the certificate must carry it.
        let certificate = view_of("level: L1", rule);
        assert_eq!(reason(hop(&certificate, presented(&*ledger, false))), Reason::EventLogMissing);
        assert!(hop(&certificate, presented(&*ledger, true)).is_ok());
    }
    let none = view_of("", "None");
    assert_eq!(reason(hop(&none, presented(&*ledger, false))), Reason::EventNotAdmitted);
    assert!(hop(&none, presented(&*machine(&[]), false)).is_ok());
}

#[test]
fn a_log_in_a_certificate_is_judged_like_any_other() {
    let view = view(&events("e", "", ADMITTED), EXEC);
    let intruded = machine(&[("exec", "/usr/bin/ledger"), ("exec", "/bin/sh")]);
    assert_eq!(reason(hop(&view, presented(&*intruded, true))), Reason::EventNotAdmitted);
    // Whoever calls the control plane has no rounds.
    let identity = resources().replace("policy: everyone", "policy: e");
    let view = WORLD.view(&(identity + &events("e", "", ADMITTED) + &approved(EXEC)));
    let ledger = machine(&[("exec", "/usr/bin/ledger")]);
    let caller = |log| view.judge_workload(presented(&*ledger, log), at(60));
    assert!(caller(true).is_ok());
    assert_eq!(reason(caller(false)), Reason::EventLogMissing);
    let entitled = |log| {
        let evidence = presented(&*ledger, log).evidence.unwrap();
        let claims = view.verify_conveyed(&evidence, at(60))?;
        view.entitle("payments/ledger", &claims, at(60))
    };
    assert!(entitled(true).is_ok());
    assert_eq!(reason(entitled(false)), Reason::EventLogMissing);
}

#[test]
fn hops_to_one_machine_share_its_log() {
    let contents: Vec<String> = (0..1000).map(|n| format!("/usr/bin/{n}")).collect();
    let measured: Vec<_> = contents.iter().map(|content| ("exec", content.as_str())).collect();
    let machine = machine(&measured);
    let view = view(&events("e", "", "Any"), EXEC);
    let admission = hop(&view, presented(&*machine, false)).unwrap();
    let judge = |root: u8, hops: usize, replayed: &RegisterState| -> Vec<SessionAdmission> {
        let binder = batch_report_data(1, &[root; 64]);
        let produced = machine.evidence(binder.as_bytes()).unwrap();
        let (media_type, log) = produced.event_log_from(replayed.next()).unwrap();
        let evidence = SessionEvidence {
            media_type: produced.media_type,
            value: &produced.value,
            event_log: Some(SessionLog { media_type, value: &log, replayed }),
            report_data: &binder,
            challenged: at(60),
        };
        let judged = (0..hops).map(|_| view.judge_session(&id(AUDIT), &admission, &evidence, at(61)));
        judged.collect::<Result<_, _>>().unwrap()
    };
    let batch = judge(0, 50, &RegisterState::default());
    let registers = batch[0].registers.clone().unwrap();
    assert_eq!(registers.events().len(), 1000);
    assert!(batch.iter().all(|hop| Arc::ptr_eq(&hop.claims, &batch[0].claims)), "of one quote");
    let mut hops = batch;
    // Under quotes of their own, and in a later round in which nothing new is sent.
    hops.extend((1..50).flat_map(|root| judge(root, 1, &RegisterState::default())));
    hops.extend(judge(50, 1, &registers));
    let logs = hops.iter().map(|hop| hop.registers.as_ref().unwrap().events());
    assert!(logs.clone().all(|log| Arc::ptr_eq(log, registers.events())), "of one machine");
    assert_eq!(logs.count(), 100);
}

#[test]
fn a_log_that_does_not_fit_is_refused_by_every_policy() {
    let view = view(&events("e", "mode: Audit", "Any"), EXEC);
    let (ledger, other) = (machine(&[("exec", "a")]), machine(&[("exec", "b")]));
    let admission = hop(&view, presented(&*ledger, true)).unwrap();
    let binder = batch_report_data(1, &[9; 64]);
    let produced = ledger.evidence(binder.as_bytes()).unwrap();
    let (media_type, value) = other.evidence(&[0; 64]).unwrap().event_log_from(0).unwrap();
    let replayed = RegisterState::default();
    let evidence = SessionEvidence {
        media_type: produced.media_type,
        value: &produced.value,
        event_log: Some(SessionLog { media_type, value: &value, replayed: &replayed }),
        report_data: &binder,
        challenged: at(60),
    };
    let denied = view.judge_session(&id(AUDIT), &admission, &evidence, at(61));
    assert_eq!(reason(denied), Reason::EventLogMismatch);
}

#[test]
fn a_policy_without_a_word_about_events_does_not_ask_for_a_log() {
    let plain = WORLD.view(&resources());
    assert!(!plain.demands(&id(AUDIT), &id(LEDGER)).unwrap().event_log);
    let snp = WORLD.vendor.snp(SnpSpec::default()).unwrap();
    assert!(!snp.keeps_event_log());
    let recorded = view(&events("e", "mode: Audit", "Any"), EXEC);
    assert!(recorded.demands(&id(AUDIT), &id(LEDGER)).unwrap().event_log);
    let certificate = view(&events("e", "level: L1", "Any"), EXEC);
    assert!(!certificate.demands(&id(AUDIT), &id(LEDGER)).unwrap().event_log);
}

#[test]
fn missing_sets_of_events_are_reported() {
    let built = WORLD.build(&(resources() + &events("e", "", "{ fromReferenceValues: nowhere }")));
    assert_eq!(built.rejected.len(), 1);
    assert!(built.rejected[0].1.contains("payments/nowhere"), "{:?}", built.rejected);
}
