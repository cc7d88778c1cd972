//! What an explanation knows beyond certificates: what proxies tell of sessions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy sees as product code"
)]
#![allow(dead_code, reason = "the helpers are for all files of tests")]

mod common;

use common::{Plane, Proxy, World};
use countersign_attester::emulated::TdxSpec;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_wire::client::{Event, Subscription};
use countersign_wire::refusal::to_json;
use countersign_wire::{MAX_REPORTED_DENIAL, proto};

const CALLS: &str = "---\napiVersion: countersign.dev/v1alpha1\nkind: AuthorizationPolicy\n\
                     metadata: { name: calls, namespace: demo }\nspec:\n  action: Allow\n  rules: [{}]\n";

async fn sidecar(world: &World, plane: &Plane, workload: &str) -> Proxy {
    let guest = world.vendor.tdx(TdxSpec::default()).unwrap();
    let identity = plane.enrol(&*guest, workload).await.unwrap();
    let channel = plane.connect(&identity).await.unwrap();
    let mut proxy =
        Proxy::open(channel, Subscription::new(plane.bundle.clone(), None), workload).await.unwrap();
    let generation = proxy.next().await.unwrap().generation();
    proxy.ack(&[]).await;
    proxy.in_use(generation).await;
    proxy
}

/// Answers the next question who was refused.
async fn tell(proxy: &mut Proxy, hops: &[proto::HopAttestation], refusals: &[proto::Refusal]) {
    loop {
        let message = proxy.stream.message().await.unwrap().expect("the stream goes on");
        let Some(Event::Watch(watch)) = proxy.subscription.feed(message).unwrap() else { continue };
        assert!(watch.refusals > 0);
        let told = Subscription::attestation(hops.len() as u64, hops.to_vec(), Some(refusals.to_vec()));
        return proxy.sent.send(told).await.unwrap();
    }
}

fn refusal(last: u64, generation: u64) -> proto::Refusal {
    let finding =
        Finding::new(Reason::EventNotAdmitted, "event[1]", "'exec' (ledger 1.0)", "'exec' of a shell");
    proto::Refusal {
        direction: "inbound".into(),
        peer: "spiffe://demo.example/client".into(),
        proved: true,
        stage: "gate".into(),
        first: last - 60,
        last,
        times: 14,
        generation,
        denial: to_json(&Denial::from(finding), MAX_REPORTED_DENIAL),
        ..Default::default()
    }
}

async fn explain(plane: &Plane) -> proto::ExplainResponse {
    let wanted = proto::ExplainRequest {
        source: "demo/client".into(),
        destination: "demo/server".into(),
        port: 0,
        request: None,
    };
    plane.operator().await.explain(wanted).await.unwrap().into_inner()
}

fn session(answer: &proto::ExplainResponse) -> &proto::Step {
    answer.steps.iter().find(|step| step.title == "source proves itself in the session").expect("a step")
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_the_session_demands_and_what_came_of_it() {
    let world = World::new();
    let plane = world.start().await;
    let generation = plane.apply(&(world.resources() + CALLS)).await;
    let mut client = sidecar(&world, &plane, "demo/client").await;
    let mut server = sidecar(&world, &plane, "demo/server").await;
    let now = plane.handle.status().now;
    let hop = proto::HopAttestation {
        hop: 7,
        direction: "inbound".into(),
        peer: "spiffe://demo.example/client".into(),
        state: "open".into(),
        round: Some(3),
        age: Some(0),
        ..Default::default()
    };
    let other = proto::HopAttestation { peer: "spiffe://demo.example/another".into(), ..hop.clone() };
    let flipped = proto::HopAttestation { direction: "outbound".into(), ..hop.clone() };
    let unproved = proto::Refusal { proved: false, stage: "handshake".into(), ..refusal(now, generation) };
    let mut ask = async |hops: &[proto::HopAttestation], refusals: &[proto::Refusal]| {
        tokio::join!(explain(&plane), tell(&mut server, hops, refusals), tell(&mut client, &[], &[])).0
    };

    // Certificates say nothing against it, and nobody has tried.
    for refusals in [&[][..], std::slice::from_ref(&unproved)] {
        let answer = ask(&[other.clone(), flipped.clone()], refusals).await;
        let step = session(&answer);
        assert!(answer.allowed && step.ok && step.untried, "{answer:?}");
        assert!(
            step.text.starts_with("L2 before the first byte, and again every 300 s; not tried yet"),
            "{step:?}"
        );
        let doubted = step.notes.iter().any(|note| note.contains("whoever it was showed a certificate"));
        assert_eq!(doubted, refusals.first() == Some(&unproved), "{step:?}");
    }
    // The guard refused it, under what is in use: it is denied, as its log says.
    let answer = ask(&[], &[refusal(now, generation)]).await;
    let step = session(&answer);
    assert!(!answer.allowed && !step.ok && step.json.contains("\"event-not-admitted\""), "{answer:?}");
    assert!(step.notes[0].contains("refused 0 s ago by proxy sidecar (gate), 14 times in all"), "{step:?}");
    // What the other side heard is believed where the guard does not tell.
    let heard = proto::Refusal { by_peer: true, ..refusal(now, generation) };
    let answer = ask(&[], &[heard]).await;
    let step = answer.steps.iter().find(|s| s.title == "destination proves itself in the session").unwrap();
    assert!(
        session(&answer).ok && !step.ok && step.notes[0].contains("as its proxy sidecar was told"),
        "{step:?}"
    );
    // Since then it has proved itself.
    let answer = ask(std::slice::from_ref(&hop), &[refusal(now - 5, generation)]).await;
    let step = session(&answer);
    assert!(answer.allowed && step.ok && !step.untried && step.notes.is_empty(), "{answer:?}");
    assert!(step.text.ends_with("hop 7 at proxy sidecar: round 3 proved 0 s ago"), "{step:?}");
    // By another configuration it may be admitted.
    let answer = ask(&[], &[refusal(now, generation - 1)]).await;
    let step = session(&answer);
    assert!(
        answer.allowed && step.untried && step.text.ends_with("not tried since it was refused"),
        "{answer:?}"
    );
    assert!(step.notes.iter().any(|note| note.starts_with("warning: refused") && note.contains("event[1]")));

    // Whoever does not answer is not waited for.
    let answer = explain(&plane).await;
    assert!(session(&answer).text.contains("no proxy of it tells"), "{answer:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_last_refusal_of_somebody_who_proved_who_he_is() {
    let world = World::new();
    let plane = world.start().await;
    let generation = plane.apply(&world.resources()).await;
    let mut server = sidecar(&world, &plane, "demo/server").await;
    let now = plane.handle.status().now;
    let stranger = proto::Refusal { proved: false, ..refusal(now, generation) };
    let status = async || {
        let asked = proto::StatusRequest { refusals: true };
        let status = plane.operator().await.status(asked).await.unwrap().into_inner();
        status.proxies[0].last_refusal.clone()
    };
    let (told, ()) = tokio::join!(status(), tell(&mut server, &[], std::slice::from_ref(&stranger)));
    assert_eq!(told, None, "anybody can show a certificate");
    let refusals = [refusal(now, generation), stranger];
    let (told, ()) = tokio::join!(status(), tell(&mut server, &[], &refusals));
    assert_eq!(told.as_ref(), refusals.first());
    // One that goes away, or does not answer, leaves what it told.
    drop(server);
    assert_eq!(status().await.as_ref(), refusals.first());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_would_be_decided_about_a_request() {
    let world = World::new();
    let plane = world.start().await;
    let rules = "rules: [{ to: [{ methods: [GET], paths: ['/v1/*'] }] }]";
    plane.apply(&(world.resources() + &CALLS.replace("rules: [{}]", rules))).await;
    let authorization = async |path: Option<&str>| {
        let asked = |path: &str| proto::AskedRequest {
            method: "GET".into(),
            host: "server.example".into(),
            path: path.into(),
        };
        let wanted = proto::ExplainRequest {
            source: "demo/client".into(),
            destination: "demo/server".into(),
            port: 8080,
            request: path.map(asked),
        };
        let answer = plane.operator().await.explain(wanted).await.unwrap().into_inner();
        answer.steps.into_iter().find(|step| step.title == "authorization").expect("a step")
    };
    assert!(authorization(Some("/v1/entries")).await.ok);
    let other = authorization(Some("/v1/../v2")).await;
    assert!(!other.ok && other.text.contains("allows GET /v2 of server.example"), "{other:?}");
    let bytes = authorization(None).await;
    assert!(!bytes.ok && bytes.notes.iter().any(|note| note.contains("for some requests")), "{bytes:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_does_not_count_a_policy_that_would_refuse_among_those_that_admit() {
    let world = World::new();
    let plane = world.start().await;
    let audit = "---\napiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
                 metadata: { name: stricter, namespace: demo }\nspec:\n  mode: Audit\n  \
                 anyOf: [{ tdx: { measurements: Any } }]\n";
    plane.apply(&(world.resources() + audit)).await;
    let _client = sidecar(&world, &plane, "demo/client").await;
    let wanted = proto::ExplainRequest {
        source: "demo/client".into(),
        destination: "demo/server".into(),
        port: 8080,
        request: None,
    };
    let answer = plane.operator().await.explain(wanted).await.unwrap().into_inner();
    let step = answer.steps.iter().find(|s| s.title == "source proves itself to destination").unwrap();
    let (admitted, audited) = step.text.split_once('\n').unwrap();
    assert!(admitted.contains("demo/demo") && !admitted.contains("stricter"), "{step:?}");
    assert!(audited.starts_with("mode Audit: demo/stricter"), "{step:?}");
    assert!(step.json.contains("\"mode\":\"Audit\""), "{step:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_names_what_decides() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let mut operator = plane.operator().await;
    let wanted = proto::ExplainRequest {
        source: "demo/client".into(),
        destination: "demo/server".into(),
        port: 8080,
        request: None,
    };
    let answer = operator.explain(wanted).await.unwrap().into_inner();
    assert!(!answer.allowed);
    assert!(answer.steps.iter().any(|s| s.title == "authorization" && !s.ok), "{answer:?}");
    let wanted = proto::ExplainRequest {
        source: "no one".into(),
        destination: "demo/server".into(),
        port: 1,
        request: None,
    };
    let refused = operator.explain(wanted).await.unwrap_err();
    assert_eq!(countersign_wire::refusal::reason(&refused), Some(Reason::BadRequest));
    plane.stop().await;
}
