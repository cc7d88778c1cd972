//! A9. The attack: a peer that was good once answers the next challenge with what it had, or
//! for another round, or not at all, and keeps its hop. The defence: nonce, round and the
//! binder before are in what is quoted; who does not answer in time is drained, then cut.
//! Mutations `a09-previous` (not in what is quoted), `a09-nonce` and `a09-round` (not
//! compared), `a09-deadline` (none).

use countersign_evidence::Reason;
use countersign_ratls::session::Side;
use countersign_ratls::session::frame::{Kind, encode};
use countersign_ratls::session::message::{Challenge, Evidence};
use countersign_tests::middle::frames;
use countersign_tests::session::Prover;
use countersign_tests::workload::is_reset;
use countersign_tests::{Pair, Platform, Visitor};
use http::StatusCode;

/// Longer than an interval with its jitter.
const INTERVAL: u64 = 361;
/// In which an answer must come.
const RESPONSE: u64 = 15;

/// Somebody whom ledger admitted, with a stream to its workload.
async fn admitted(pair: &Pair) -> (Visitor, tokio::net::TcpStream, Box<dyn std::any::Any>) {
    let machine = Platform::default().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*machine, "web").await.unwrap();
    let prover = Prover::new(&web, &machine);
    let mut visitor = Visitor::enter(&prover, pair.ledger.inbound(), &pair.mesh.clock).await;
    let (status, stream) = visitor.call(pair.workload.port).await;
    assert_eq!(status, StatusCode::OK);
    (visitor, pair.workload.accept().await, Box::new(stream))
}

/// The next challenge.
async fn challenged(pair: &Pair, visitor: &mut Visitor) -> Challenge {
    pair.ledger.settled().await;
    pair.mesh.clock.advance(INTERVAL);
    let heard = visitor.hear().await;
    let frame = frames(Side::Server, &heard).into_iter().find(|frame| frame.kind == Kind::Challenge);
    Challenge::decode(&frame.unwrap().payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_the_last_round_or_for_another_cuts_the_hop() {
    let pair = Pair::start().await;
    for (skipped, reason, cause) in
        [(0, Reason::BindingMismatch, "binding"), (1, Reason::Malformed, "format")]
    {
        let (mut visitor, mut served, _stream) = admitted(&pair).await;
        let said = frames(Side::Client, &visitor.speaker.said);
        let round_0 = said.iter().find(|frame| frame.kind == Kind::Evidence).unwrap();
        let old = Evidence::decode(&round_0.payload).unwrap();
        let round = challenged(&pair, &mut visitor).await.round;
        assert_eq!(round, 1);
        let again = Evidence { round: round + skipped, nonce: [9; 32], ..old };
        visitor.say(encode(Kind::Evidence, &again.encode()));
        visitor.is_cut_off().await;
        is_reset(&mut served).await;
        pair.ledger.cuts(cause).await;
        assert_eq!(pair.ledger.denials(reason), 1.0, "{}", pair.ledger.metrics());
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_answering_is_drained_and_then_cut() {
    let pair = Pair::start().await;
    let (mut visitor, mut served, _stream) = admitted(&pair).await;
    challenged(&pair, &mut visitor).await;
    pair.mesh.clock.advance(RESPONSE);
    pair.ledger.drains("timeout").await;
    pair.mesh.clock.advance(RESPONSE);
    visitor.is_cut_off().await;
    is_reset(&mut served).await;
    pair.ledger.cuts("timeout").await;
    pair.end().await;
}
