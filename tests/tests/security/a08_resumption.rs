//! A8. The attack: a session is resumed, so that nobody is judged again, or data is sent
//! before anybody is. The defence: no tickets, no resumption, no early data, on either side.
//! Mutation `a08`: a server gives out tickets, and remembers.

use countersign_tests::attacker::{Answer, Offer, Raw};
use countersign_tests::{Pair, Platform};
use http::StatusCode;
use rustls::HandshakeKind;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_never_resumed_and_every_connection_is_judged() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let peer = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let client = Raw::new(Offer::proving(&peer, &platform), &pair.mesh.clock);
    let before = pair.ledger.admissions();
    for count in 1..=2 {
        let (kind, answer) = client.connect(pair.ledger.inbound(), pair.workload.port).await;
        assert_eq!(kind, Some(HandshakeKind::Full), "connection {count}");
        assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
        assert_eq!(pair.ledger.admissions(), before + f64::from(count));
        drop(pair.workload.accept().await);
    }
    pair.end().await;
}
