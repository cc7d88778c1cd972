//! A18. The attack: one side is not checked: a client without a certificate, or with one
//! that says nothing; a client or a server that speaks a protocol in which nothing is
//! proved for the session. The defence: both are judged, by what the policies of both
//! demand; `h2` is spoken with those for whom a policy says so. Mutations `a18-h2` (`h2` is
//! always offered) and `a18-level` (the level is not looked at).

use countersign_evidence::Reason;
use countersign_ratls::Identity;
use countersign_ratls::tls::ALPN_H2;
use countersign_tests::attacker::{Answer, Impostor, Offer, key};
use countersign_tests::pair::refused;
use countersign_tests::{Pair, Platform, policy};
use http::StatusCode;

use crate::common::{attempt, stolen};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_must_have_a_certificate_and_speak_our_protocol() {
    let pair = Pair::start().await;
    assert_eq!(
        attempt(&pair, Offer::anonymous()).await,
        Answer::Alert(Reason::CertificateRequired.tls_alert())
    );
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let peer = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    for alpn in [Vec::new(), vec![b"http/1.1".to_vec()]] {
        let offer = Offer { alpn, ..Offer::of(&peer) };
        assert_eq!(attempt(&pair, offer).await, Answer::Alert(Reason::NoApplicationProtocol.tls_alert()));
    }
    // A self-signed certificate, as for the first contact with the control plane.
    let bootstrap = Identity::bootstrap(&key(), pair.mesh.clock.now()).unwrap();
    let answer = attempt(&pair, Offer::of(&bootstrap)).await;
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_negotiates_below_the_level_of_the_policy() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    // With every right to call, and the machine to prove it: but nothing is proved in `h2`.
    let by_h2 = |identity: &Identity| Offer { alpn: vec![ALPN_H2.to_vec()], ..Offer::of(identity) };
    let refusal = Answer::Alert(Reason::NoApplicationProtocol.tls_alert());
    assert_eq!(attempt(&pair, by_h2(&web)).await, refusal);
    // The same towards a caller, by somebody who has the real key of the server.
    let ledger = stolen(&pair.ledger).await;
    let mut impostor = Impostor::start(&ledger, &pair.mesh.clock, ALPN_H2).await;
    let caller = pair.mesh.sidecar("web").beside().calling("ledger", impostor.address, pair.workload.port);
    let caller = caller.ready().await;
    refused(&caller).await;
    assert!(impostor.visitor().await.is_err(), "a handshake over h2");
    caller.end().await;

    // A policy for somebody else makes ledger offer `h2`. It is not for web.
    let lower = format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: probes, namespace: demo }}\nspec:\n  level: L1\n  \
         selector: {{ matchLabels: {{ app: ledger }} }}\n  peers: [\"{}\"]\n  anyOf:\n    \
         - tdx: {{ emulatedRoots: [\"{}\"], measurements: {{ fromReferenceValues: images }} }}\n",
        policy::id("audit"),
        pair.mesh.vendor.intel_root(),
    );
    let generation = pair.mesh.plane().apply(&lower).await;
    pair.ledger.uses(generation).await;
    let answer = attempt(&pair, by_h2(&web)).await;
    assert!(matches!(answer, Answer::Closed(_)), "{answer:?}");
    assert_eq!(pair.ledger.denials(Reason::LevelTooLow), 1.0);
    let answer = attempt(&pair, Offer::proving(&web, &platform)).await;
    assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
    drop(pair.workload.accept().await);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
