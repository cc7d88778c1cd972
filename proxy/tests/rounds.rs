//! A peer behind the gate: stream 1, rounds, and how a hop ends with a word.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_attester::emulated::TdxSpec;
use countersign_config::bootstrap::ProxyBootstrap;
use countersign_evidence::Reason;
use countersign_proxy::live::Cause;
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::{Level, WireReason};
use http::Response;
use support::called::Called;
use support::caller::Caller;
use support::peer::{Peer, Requests, Who, attest, connect};
use support::{LEDGER, Pair, Policy, WEB, World, assert_reset, eventually, within};
use tokio::io::AsyncReadExt;

async fn call(pair: &Pair, level: Level) -> Peer {
    Peer::call(&pair.world, Who::new(&pair.world, WEB, level), LEDGER, pair.ledger.inbound()).await
}

#[tokio::test]
async fn a_caller_that_is_cut_for_a_new_policy_is_told_why() {
    let pair = Pair::new().await;
    let mut caller = Caller::new(&pair, Level::L2).await;
    let hop = Arc::clone(&caller.hop);
    pair.ledger.ctx.install(&pair.world.view(2, &Policy { mr_td: 0xaa, ..pair.policy() }));
    let Some(Cause::Verdict(denial)) = hop.cut.cause() else { panic!("{:?}", hop.cut.cause()) };
    assert_eq!(denial.reason, Reason::MeasurementMismatch);
    caller.peer.hear_out().await;
    assert_eq!(caller.peer.told(), Some(WireReason::Measurement));
    caller.assert_ended().await;
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    pair.end().await;
}

#[tokio::test]
async fn a_called_peer_that_is_cut_for_a_new_policy_is_told_why() {
    let called = Called::new("L2", "").await;
    let (mut application, peer) = called.dialled(Level::L2).await;
    let (mut peer, mut requests) = peer.called().await;
    let (_, mut respond) = within("a call", requests.recv()).await.unwrap();
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    send.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut hello = [0; 5];
    application.read_exact(&mut hello).await.unwrap();
    let policy = Policy { mr_td: 0xaa, ..called.policy() };
    called.web.ctx.install(&called.world.view(9, &policy));
    peer.hear_out().await;
    assert_eq!(peer.told(), Some(WireReason::Measurement));
    within("the end of the application's socket", assert_reset(&mut application)).await;
    called.web.end().await;
}

/// Both ends are proxies: the one that is cut knows the reason, and says it.
#[tokio::test]
async fn a_proxy_that_is_cut_knows_the_reason_of_its_peer() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let hop = pair.web.ctx.live.hops().remove(0);
    pair.ledger.ctx.install(&pair.world.view(2, &Policy { mr_td: 0xaa, ..pair.policy() }));
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    eventually("the end of the hop", || hop.cut.cause().is_some()).await;
    let Some(Cause::Peer(denial)) = hop.cut.cause() else { panic!("{:?}", hop.cut.cause()) };
    assert_eq!(denial.reason, Reason::PeerRefused);
    assert!(denial.to_string().contains("measurement"), "{denial}");
    pair.end().await;
}

#[tokio::test]
async fn evidence_of_another_machine_ends_the_hop_with_a_result_that_says_so() {
    let pair = Pair::new().await;
    let mut caller = Caller::new(&pair, Level::L1).await;
    let hop = Arc::clone(&caller.hop);
    caller.peer.move_to(pair.world.platform(TdxSpec { mr_td: [0xaa; 48], ..TdxSpec::default() }));
    // The next challenge is due by then, whatever the jitter says.
    pair.world.advance(360);
    caller.peer.hear_out().await;
    assert_eq!(
        (caller.peer.kinds().last(), caller.peer.told()),
        (Some(&Kind::Result), Some(WireReason::Identity))
    );
    let Some(Cause::Session(denial, WireReason::Identity)) = hop.cut.cause() else {
        panic!("{:?}", hop.cut.cause())
    };
    assert_eq!(denial.reason, Reason::OtherTee);
    caller.assert_ended().await;
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    pair.end().await;
}

#[tokio::test]
async fn a_second_stream_for_the_rounds_ends_the_hop() {
    let pair = Pair::new().await;
    let mut caller = Caller::new(&pair, Level::L2).await;
    let hop = Arc::clone(&caller.hop);
    let (_response, _send) = caller.request.send_request(attest(), false).unwrap();
    caller.peer.hear_out().await;
    assert_eq!(caller.peer.told(), Some(WireReason::Format));
    let Some(Cause::Session(denial, WireReason::Format)) = hop.cut.cause() else {
        panic!("{:?}", hop.cut.cause())
    };
    assert_eq!(denial.reason, Reason::BadRequest);
    caller.assert_ended().await;
    pair.end().await;
}

#[tokio::test]
async fn a_hop_whose_first_stream_is_not_for_the_rounds_is_cut_before_it_is_served() {
    let pair = Pair::new().await;
    let mut request = call(&pair, Level::L2).await.without_rounds().await;
    let hop = pair.ledger.ctx.live.hops().remove(0);
    let (response, _send) = request.send_request(connect(pair.port), false).unwrap();
    assert!(within("the end of the hop", response).await.is_err());
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::BadRequest);
    // What reaches the workload next is somebody else's.
    drop(pair.connect().await);
    pair.end().await;
}

#[tokio::test]
async fn a_hop_without_a_stream_for_the_rounds_is_cut_after_two_seconds() {
    let pair = Pair::new().await;
    let _request = call(&pair, Level::L2).await.without_rounds().await;
    let hop = pair.ledger.ctx.live.hops().remove(0);
    let open = "mesh_hops{direction=\"inbound\"} 1\n";
    eventually("the gate of the proxy", || pair.ledger.metrics().contains(open)).await;
    pair.world.advance(1);
    assert!(hop.cut.cause().is_none());
    pair.world.advance(1);
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::ChannelClosed);

    // The other way round: a called peer that does not answer, or says no.
    let called = Called::new("L2", "").await;
    for says_no in [false, true] {
        let (mut application, peer) = called.dialled(Level::L2).await;
        let hop = called.web.ctx.live.hops().remove(0);
        let mut connection = peer.serving().await;
        let (_request, mut respond) = within("stream 1", connection.accept()).await.unwrap().unwrap();
        if says_no {
            let response = Response::builder().status(404).body(()).unwrap();
            respond.send_response(response, false).unwrap();
        } else {
            called.world.advance(2);
        }
        tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
        within("the end of the application's socket", assert_reset(&mut application)).await;
        eventually("the end of the hop", || called.web.ctx.live.is_empty()).await;
        let expected = if says_no { Reason::BadRequest } else { Reason::ChannelClosed };
        assert_eq!(hop.cut.cause().unwrap().denial().reason, expected);
    }
    called.web.end().await;
    pair.end().await;
}

/// Behind the gate, and not even HTTP/2: the same two seconds, and every cut.
#[tokio::test]
async fn a_peer_that_says_nothing_behind_the_gate_is_watched_all_the_same() {
    let patient = |b: &mut ProxyBootstrap| b.limits.handshake_timeout = Duration::from_secs(3600);
    let pair = Pair::build(World::new(), patient).await;
    let open = |pair: &Pair| pair.ledger.metrics().contains("mesh_hops{direction=\"inbound\"} 1\n");
    for late in [true, false] {
        let mut peer = call(&pair, Level::L2).await;
        peer.pass().await;
        eventually("the gate of the proxy", || open(&pair)).await;
        let hop = pair.ledger.ctx.live.hops().remove(0);
        if late {
            pair.world.advance(2);
        } else {
            pair.ledger.ctx.install(&pair.world.view(2, &Policy { mr_td: 0xaa, ..pair.policy() }));
        }
        eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
        let reason = if late { Reason::ChannelClosed } else { Reason::MeasurementMismatch };
        assert_eq!(hop.cut.cause().unwrap().denial().reason, reason);
    }
    pair.end().await;
}

#[tokio::test]
async fn a_peer_that_ends_the_stream_of_the_rounds_ends_the_hop() {
    let pair = Pair::new().await;
    for reset in [false, true] {
        let mut caller = Caller::new(&pair, Level::L2).await;
        let hop = Arc::clone(&caller.hop);
        caller.peer.close(reset);
        caller.assert_ended().await;
        eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
        assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::ChannelClosed);
    }
    pair.end().await;
}

/// What `pair`'s requests bring: the call, answered.
async fn answered(requests: &mut Requests) -> h2::RecvStream {
    let (request, mut respond) = within("a call", requests.recv()).await.unwrap();
    respond.send_response(Response::new(()), false).unwrap();
    request.into_body()
}

#[tokio::test]
async fn a_stream_that_a_hop_does_not_take_is_opened_on_another_and_no_byte_is_lost() {
    let called = Called::new("L2", "").await;
    let (_application, peer) = called.dialled(Level::L2).await;
    let (_first, mut requests) = peer.called().await;
    let (_, mut respond) = within("a call", requests.recv()).await.unwrap();
    respond.send_reset(h2::Reason::REFUSED_STREAM);
    let (_second, mut requests) = called.next(Level::L2).await.called().await;
    let mut body = answered(&mut requests).await;
    assert_eq!(within("the bytes", body.data()).await.unwrap().unwrap(), support::called::SECRET);
    assert_eq!(called.web.ctx.live.len(), 2, "the hop itself lives");
    called.web.end().await;
}

#[tokio::test]
async fn any_other_refusal_of_a_stream_is_not_tried_again() {
    let called = Called::new("L2", "").await;
    let (mut application, peer) = called.dialled(Level::L2).await;
    let (_peer, mut requests) = peer.called().await;
    let (_, mut respond) = within("a call", requests.recv()).await.unwrap();
    respond.send_reset(h2::Reason::INTERNAL_ERROR);
    within("the end of the application's socket", assert_reset(&mut application)).await;
    assert!(called.has_no_other_call());
    called.web.end().await;
}
