//! What a machine measures while it runs, and what becomes of its hops.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::sync::Arc;

use countersign_attester::Attester;
use countersign_evidence::Reason;
use countersign_evidence::event_log::native::Record;
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{Mesh, Pair, Platform, Policy, Workload, eventually};
use countersign_wire::proto;

const LEDGER: (&str, &str) = ("exec", "/usr/bin/ledger");
const SHELL: (&str, &str) = ("exec", "/bin/sh");

fn admitting(events: &[(&'static str, &'static str)]) -> Policy {
    Policy { events: Some(events.to_vec()), ..Policy::default() }
}

/// Web calls ledger, and this is ledger's machine.
async fn start(policy: &Policy) -> (Pair, Arc<dyn Attester>) {
    let mesh = Mesh::with(policy).await;
    let workload = Workload::start().await;
    let machine = Platform::default().attester(&mesh.vendor);
    let sidecar = mesh.sidecar("ledger").quoting_by(Arc::clone(&machine)).serving(&[workload.port]);
    let ledger = sidecar.ready().await;
    let web = mesh.sidecar("web").calling("ledger", ledger.inbound(), workload.port).ready().await;
    (Pair { mesh, web, ledger, workload }, machine)
}

fn measure(machine: &dyn Attester, (kind, content): (&str, &str)) {
    machine.extend(&Record::new(kind, content.as_bytes()).unwrap()).unwrap();
}

/// Waits until web knows so many events of ledger. Time passes only as far as
/// rounds must keep apart: far less than an interval.
async fn web_knows(pair: &Pair, events: usize) {
    pair.mesh.clock.advance(20);
    eventually("the round after an event", async || {
        let hops = pair.web.hops().await;
        let known =
            hops.iter().filter_map(|hop| hop["session"]["runtimeEvents"].as_array()).map(Vec::len).max();
        if known == Some(events) { Ok(()) } else { Err(format!("{hops:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_lives_through_admitted_events_and_is_cut_for_another() {
    let (pair, machine) = start(&admitting(&[LEDGER])).await;
    let (mut application, mut served) = pair.connect().await;
    web_knows(&pair, 0).await;
    for count in 1..=2 {
        measure(&*machine, LEDGER);
        web_knows(&pair, count).await;
        passes(&mut application, &mut served, b"still there").await;
        passes(&mut served, &mut application, b"as ever").await;
    }
    assert_eq!(pair.web.denials(Reason::EventNotAdmitted), 0.0);

    measure(&*machine, SHELL);
    pair.mesh.clock.advance(20);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.has_denied(Reason::EventNotAdmitted).await;
    // A new hop fails in its first round: the certificate is of the time before.
    pair.is_refused().await;
    assert!(pair.web.denials(Reason::EventNotAdmitted) >= 1.0, "{}", pair.web.metrics());
    is_explained(&pair).await;
    pair.end().await;
}

/// Certificates show nothing of it: the proxies tell what the session showed, and
/// operators need no log.
async fn is_explained(pair: &Pair) {
    let request = proto::ExplainRequest {
        source: "demo/web".into(),
        destination: "demo/ledger".into(),
        port: u32::from(pair.workload.port),
        request: None,
    };
    let mut operator = pair.mesh.plane().operator().await;
    eventually("an explanation", async || {
        let answer = operator.explain(request.clone()).await.unwrap().into_inner();
        let step = answer.steps.iter().find(|s| s.title == "destination proves itself in the session");
        match step.filter(|step| !step.ok) {
            Some(step) => {
                for part in ["event-not-admitted", "event[2]", "'exec'"] {
                    assert!(step.json.contains(part), "{part} is missing in {step:?}");
                }
                assert!(step.notes[0].contains("with its event log; refused"), "{step:?}");
                Ok(())
            }
            None => Err(format!("{answer:?}")),
        }
    })
    .await;
    let status = operator.status(proto::StatusRequest { refusals: true }).await.unwrap().into_inner();
    for proxy in &status.proxies {
        let refusal = proxy.last_refusal.as_ref().unwrap();
        // The refused side knows what kind of reason it was, and where to look.
        assert_eq!(refusal.by_peer, proxy.workload == "demo/ledger", "{status:?}");
        let said =
            if refusal.by_peer { "reason 5, measurement: what runs here" } else { "event-not-admitted" };
        assert!(refusal.denial.contains(said), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_admitted_no_longer_cuts_at_once() {
    let both = admitting(&[LEDGER, SHELL]);
    let (pair, machine) = start(&both).await;
    measure(&*machine, SHELL);
    measure(&*machine, LEDGER);
    let (mut application, mut served) = pair.connect().await;
    web_knows(&pair, 2).await;
    // Rounds that show nothing new do not make the events forgotten.
    pair.live(600).await;
    passes(&mut application, &mut served, b"still there").await;
    let generation = pair.mesh.apply(&admitting(&[LEDGER])).await;
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.uses(generation).await;
    pair.web.has_denied(Reason::EventNotAdmitted).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_keeps_no_log_is_refused_where_somebody_looks() {
    // A SEV-SNP guest has no registers, and its alternative asks for none.
    let pair = Pair::with(&admitting(&[LEDGER]), [&Platform::snp(), &Platform::snp()]).await;
    let (mut application, mut served) = pair.connect().await;
    passes(&mut application, &mut served, b"hello").await;
    pair.end().await;

    let mesh = Mesh::with(&admitting(&[LEDGER])).await;
    let mut preset = countersign_attester::emulated::TdxSpec::default();
    preset.rtmr[3] = [7; 48];
    let ledger = mesh.sidecar("ledger").on(&Platform::Tdx(preset)).start();
    let report = ledger.waits_for("event-log-missing").await;
    assert!(report.contains("rtmr[3]"), "{report}");
    ledger.end().await;
    mesh.plane.unwrap().stop().await;
}
