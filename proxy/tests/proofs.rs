//! What a proxy proves and what it knows of its peers' proofs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;

use countersign_attester::emulated::TdxSpec;
use countersign_evidence::Evidence;
use countersign_evidence::event_log::native::Record;
use countersign_quoting::Local;
use countersign_ratls::binding::SessionContext;
use countersign_ratls::binding::session::hello_hash;
use countersign_ratls::session::collection::Parts;
use countersign_ratls::session::frame::{self, Kind};
use countersign_ratls::session::message::{self, Challenge, Hello, feature};
use countersign_ratls::session::{Level, Side, Wanted};
use countersign_ratls::tls::ALPN_MESH;
use http::Response;
use serde_json::Value;
use support::called::Called;
use support::caller::Caller;
use support::peer::{Peer, Who};
use support::{LEDGER, NOW, Pair, Proxy, WEB, World, eventually, http, within};

/// `/attestation`.
async fn attestation(proxy: &Proxy) -> Value {
    let (status, body) = http(proxy.addresses.admin, "GET /attestation").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// How many rounds of its peer each hop of a proxy has accepted.
fn rounds(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics();
    let lines = metrics.lines().filter(|l| l.starts_with("mesh_attestation_rounds_total{"));
    let accepted = lines.filter(|line| line.contains("result=\"accept\""));
    accepted.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn an_event_on_this_machine_brings_the_next_round_at_once() {
    let world = World::new();
    let machine = world.platform(TdxSpec::default());
    let source = Arc::new(Local::new(Arc::clone(&machine)));
    let pair = Pair::with_source("L2", world, |_| {}, source).await;
    let (_app, _server) = pair.connect().await;
    let mut caller = Caller::new(&pair, Level::L2).await;
    assert_eq!(rounds(&pair.web), 1);
    machine.extend(&Record::new("exec", b"/usr/bin/ledger").unwrap()).unwrap();
    // Not a second later: every peer is told.
    caller.peer.until("word of the event", |peer| peer.has_heard(Kind::Changed)).await;
    // Quotes for one hop keep five seconds apart; the next round would be due in 240.
    pair.world.advance(5);
    caller.peer.until("the next proof", |peer| peer.count(Kind::Evidence) == 2).await;
    eventually("the next round of the proxy that calls", || rounds(&pair.web) == 2).await;
    pair.end().await;
}

#[tokio::test]
async fn a_hop_whose_proof_has_lapsed_is_not_handed_out() {
    let called = Called::new("L2", "  continuous: { interval: 30s, timeout: 60s }").await;
    let (_application, peer) = called.dialled(Level::L1).await;
    let (mut peer, mut requests) = peer.called().await;
    let (_, mut respond) = within("a call", requests.recv()).await.unwrap();
    let _send = respond.send_response(Response::new(()), false).unwrap();
    // Time may pass when the stream for the rounds is there.
    while attestation(&called.web).await["peers"][0]["session"]["phase"] != "open" {}
    // It is asked again and does not answer, and not long enough for a timeout.
    peer.withheld = vec![Kind::Evidence];
    called.world.advance(36);
    peer.until("the next challenge", |peer| peer.count(Kind::Challenge) == 2).await;
    // Two intervals after the last proof the hop is of no use to anybody.
    called.world.advance(24);
    let _other = called.application().await;
    let (_peer, mut others) = called.next(Level::L1).await.called().await;
    within("the call", others.recv()).await.unwrap();
    assert!(requests.try_recv().is_err(), "a stream on a hop whose proof has lapsed");
    called.web.end().await;
}

#[tokio::test]
async fn operators_see_what_was_proved_on_each_hop_and_what_comes_next() {
    let pair = Pair::new().await;
    let _streams = pair.connect().await;
    let own = &attestation(&pair.ledger).await;
    assert_eq!(own["generation"], 1);
    for (proxy, direction, identity) in [(&pair.web, "outbound", LEDGER), (&pair.ledger, "inbound", WEB)] {
        eventually("the round of the other direction", || rounds(proxy) == 1).await;
        let seen = attestation(proxy).await;
        assert_eq!(seen["peers"].as_array().unwrap().len(), 1);
        let hop = &seen["peers"][0];
        assert_eq!((&hop["direction"], &hop["identity"]), (&direction.into(), &identity.into()));
        assert_eq!(
            (&hop["tee"], &hop["emulated"], &hop["generation"]),
            (&"tdx".into(), &true.into(), &1.into())
        );
        assert!(hop["validUntil"].as_u64().unwrap() > NOW);
        let session = &hop["session"];
        assert_eq!((&session["alpn"], &session["tee"]), (&"ratls-h2/1".into(), &"tdx".into()));
        assert!(session["phase"] == "open" || session["phase"] == "opening", "{session}");
        assert_eq!(session["policies"], serde_json::json!(["payments/peers (generation 1)"]));
        assert_eq!(session["policyId"].as_str().unwrap().len(), 64);
        assert!(session["platform"].is_string(), "{session}");
        assert_eq!(session["draining"], Value::Null);
        assert_eq!(session["renewals"], serde_json::json!({ "own": 0, "peer": 0 }));
        // Both certificates live for an hour; a proof counts for two intervals.
        assert_eq!((&session["endsIn"], &session["usableFor"]), (&3600.into(), &600.into()));
        for direction in ["own", "peer"] {
            let proof = &session[direction];
            assert_eq!((&proof["level"], &proof["round"]), (&"L2".into(), &0.into()), "{direction}: {proof}");
            assert_eq!((&proof["rounds"], &proof["age"]), (&1.into(), &0.into()), "{direction}: {proof}");
            assert_eq!((&proof["acceptedAt"], &proof["inRound"]), (&NOW.into(), &false.into()));
            assert_eq!((&proof["retries"], &proof["timeouts"]), (&0.into(), &0.into()));
            assert!((239..=360).contains(&proof["nextChallenge"].as_u64().unwrap()), "{direction}: {proof}");
        }
    }
    pair.world.advance(100);
    let seen = attestation(&pair.web).await;
    let session = &seen["peers"][0]["session"];
    assert_eq!((&session["peer"]["age"], &session["usableFor"]), (&100.into(), &500.into()));
    // On its way to its end, with the reason.
    let view = pair.world.view_of(2, pair.world.resources(&pair.policy()), &[]);
    pair.ledger.ctx.install(&view);
    let seen = attestation(&pair.ledger).await;
    let session = &seen["peers"][0]["session"];
    assert_eq!((&session["phase"], &session["usableFor"]), (&"draining".into(), &Value::Null));
    let draining = &session["draining"];
    assert_eq!(
        (&draining["reason"], &draining["byPeer"], &draining["cutIn"]),
        (&"crl-missing".into(), &false.into(), &30.into())
    );
    pair.end().await;
}

/// A peer that cannot verify batches gets a quote over its binder alone. All of it
/// is done by hand here, from docs/session.md, and not by our machine.
#[tokio::test]
async fn a_peer_that_verifies_no_batches_gets_a_quote_of_its_own() {
    let pair = Pair::new().await;
    let who = Who::new(&pair.world, WEB, Level::L2);
    let (mut peer, agreed) = Peer::mute(&pair.world, who, LEDGER, pair.ledger.inbound()).await;
    let hello = Hello {
        side: Side::Client,
        verifies: vec![countersign_evidence::evidence::media_type::TSM_TDX.to_owned()],
        produces: vec![countersign_evidence::evidence::media_type::TSM_TDX.to_owned()],
        features: 0,
        nonce: [1; 32],
        max_evidence: 256 << 10,
        interval: 300,
        demands: Level::L2,
    }
    .encode();
    let challenge = Challenge {
        round: 0,
        nonce: [2; 32],
        accepted: vec![countersign_evidence::evidence::media_type::TSM_TDX.to_owned()],
        wanted: Wanted::CPU,
        policy_id: [3; 32],
        deadline_ms: 15_000,
        event_log_from: None,
    }
    .encode();
    peer.write(&frame::encode(Kind::Hello, &hello)).await.unwrap();
    peer.write(&frame::encode(Kind::Challenge, &challenge)).await.unwrap();
    while !peer.has_heard(Kind::Evidence) {
        assert!(peer.listen().await, "{:?}", peer.kinds());
    }
    let payload = |kind| &peer.heard.iter().find(|(heard, _)| *heard == kind).unwrap().1;
    let theirs = payload(Kind::Hello);
    assert_eq!(Hello::decode(theirs).unwrap().features & feature::MERKLE, feature::MERKLE);
    let evidence = message::Evidence::decode(payload(Kind::Evidence)).unwrap();
    assert!(evidence.proof.is_none());
    let binder = SessionContext {
        attester_is_server: true,
        quic: false,
        alpn: ALPN_MESH,
        ekm: &agreed.ekm,
        client_spki_sha256: &agreed.own_spki_sha256,
        server_spki_sha256: &agreed.peer_spki_sha256,
        hellos: &hello_hash(&hello, theirs),
        challenge: &challenge,
        attester_nonce: &evidence.nonce,
        round: 0,
        previous: None,
        client_id: WEB,
        server_id: LEDGER,
    }
    .core()
    .binder(&[]);
    let parts = Parts::decode(evidence.collection).unwrap();
    let quote = Evidence::parse(parts.cpu.0, parts.cpu.1).unwrap();
    binder.check(quote.report_data()).unwrap();
    pair.end().await;
}
