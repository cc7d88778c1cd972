//! A7. The attack: a peer's own words come back to it: its key, its frames, or, by way of a
//! second connection, its own evidence for its own challenge. The defence: one's own key is
//! no peer's; the role is in every Hello and in what is quoted. Mutations `a07-key` (one's
//! own key is a peer's) and `a07-role` (a Hello of our own role is taken).

use countersign_evidence::Reason;
use countersign_ratls::session::frame::{Kind, encode};
use countersign_ratls::session::message::{Evidence, Hello, feature};
use countersign_ratls::session::{Level, Side, WireReason};
use countersign_tests::attacker::{Offer, Raw, Tls};
use countersign_tests::middle::{Frame, frames, refusal};
use countersign_tests::{Pair, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{is_refused, stolen};

/// Reads until there is a frame of this kind; all that came.
async fn until(session: &mut Tls, heard: &mut Vec<u8>, kind: Kind) -> Frame {
    loop {
        let found = frames(Side::Server, heard).into_iter().find(|frame| frame.kind == kind);
        if let Some(frame) = found {
            return frame;
        }
        let mut some = vec![0; 16 << 10];
        let read = within("frames", session.read(&mut some)).await.unwrap();
        assert!(read > 0, "no {kind}");
        heard.extend_from_slice(&some[..read]);
    }
}

async fn say(session: &mut Tls, bytes: &[u8]) {
    session.write_all(bytes).await.unwrap();
    session.flush().await.unwrap();
}

/// Reads to the end, however it comes: with what it was refused.
async fn refused(session: &mut Tls, mut heard: Vec<u8>) -> Option<WireReason> {
    let _ = within("the end of a session", session.read_to_end(&mut heard)).await;
    refusal(&frames(Side::Server, &heard))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_his_own_peer() {
    let pair = Pair::start().await;
    is_refused(&pair, &stolen(&pair.ledger).await, Reason::SelfConnection).await;
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_back_are_none_of_the_peer() {
    let pair = Pair::start().await;
    let thief = Raw::new(Offer::of(&stolen(&pair.web).await), &pair.mesh.clock);
    let mut session = thief.handshake(pair.ledger.inbound()).await.unwrap();
    let mut heard = Vec::new();
    until(&mut session, &mut heard, Kind::Challenge).await;
    say(&mut session, &heard).await;
    assert_eq!(refused(&mut session, heard).await, Some(WireReason::Format));
    pair.mesh.clock.advance(11);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_does_not_answer_its_own_challenge() {
    let pair = Pair::start().await;
    let thief = Raw::new(Offer::of(&stolen(&pair.web).await), &pair.mesh.clock);
    // What a client of this mesh says first; it demands proof, so that it may ask for some.
    let hello = |nonce| Hello {
        side: Side::Client,
        verifies: vec![countersign_evidence::evidence::media_type::TSM_TDX.to_owned()],
        produces: vec![countersign_evidence::evidence::media_type::TSM_TDX.to_owned()],
        features: feature::MERKLE,
        nonce,
        max_evidence: 256 << 10,
        interval: 300,
        demands: Level::L2,
    };
    let (mut first, mut heard) = (thief.handshake(pair.ledger.inbound()).await.unwrap(), Vec::new());
    let challenge = until(&mut first, &mut heard, Kind::Challenge).await.payload;

    let (mut second, mut oracle) = (thief.handshake(pair.ledger.inbound()).await.unwrap(), Vec::new());
    let asked = [encode(Kind::Hello, &hello([2; 32]).encode()), encode(Kind::Challenge, &challenge)].concat();
    say(&mut second, &asked).await;
    let answer = until(&mut second, &mut oracle, Kind::Evidence).await.payload;
    assert_eq!(Evidence::decode(&answer).unwrap().round, 0);

    let said = [encode(Kind::Hello, &hello([1; 32]).encode()), encode(Kind::Evidence, &answer)].concat();
    say(&mut first, &said).await;
    assert_eq!(refused(&mut first, heard).await, Some(WireReason::Binding));
    pair.mesh.clock.advance(11);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
