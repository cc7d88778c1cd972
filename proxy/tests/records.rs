//! A peer on a dedicated hop that breaks its rules, or goes away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;

use countersign_config::bootstrap::Hop;
use countersign_config::kinds::service::AppProtocol;
use countersign_evidence::Reason;
use countersign_proxy::live;
use countersign_proxy::opaque::record::{self, Answer, Kind, Part};
use countersign_ratls::session::frame::Kind as Frame;
use countersign_ratls::session::{Level, WireReason};
use countersign_ratls::tls::ALPN_TCP;
use support::called::{Called, SECRET};
use support::peer::{Peer, Who};
use support::records::{WINDOW, connect, record};
use support::{LEDGER, Pair, Policy, WEB, World, assert_reset, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A peer behind the gate of the ledger's proxy.
async fn called(pair: &Pair) -> (Peer, Arc<live::Hop>) {
    let who = Who::new(&pair.world, WEB, Level::L2).over(ALPN_TCP);
    let peer = Peer::call(&pair.world, who, LEDGER, pair.ledger.inbound()).await.dedicated().await;
    // The proxy sees its gate open a moment later.
    let open = "mesh_hops{direction=\"inbound\"} 1\n";
    eventually("the gate of the proxy", || pair.ledger.metrics().contains(open)).await;
    (peer, pair.ledger.ctx.live.hops().pop().unwrap())
}

/// The same with a stream, and its workload.
async fn calling(pair: &Pair) -> (Peer, Arc<live::Hop>, TcpStream) {
    let (mut peer, hop) = called(pair).await;
    peer.records().connect(pair.port).await;
    let (workload, _) = within("a call of the workload", pair.workload.accept()).await.unwrap();
    peer.until_records("an answer", |records| !records.parts.is_empty()).await;
    let answer = Answer { status: 200, window: 4 << 20, reason: None };
    assert_eq!(peer.records().parts, [Part::Answer(answer)]);
    (peer, hop, workload)
}

fn data(length: usize) -> Vec<u8> {
    record(Kind::Data, &vec![7; length])
}

fn credit(n: u32) -> Vec<u8> {
    record(Kind::Credit, &n.to_be_bytes())
}

/// What is said before a call, and on the stream of one.
type Case = (&'static str, Option<Vec<u8>>, Option<Vec<u8>>);

#[tokio::test]
async fn whoever_breaks_the_rules_of_records_loses_the_hop() {
    let pair = Pair::dedicated().await;
    let port = pair.port;
    let answer = record(Kind::Answer, &Answer { status: 200, window: 9, reason: None }.encode());
    let cases: &[Case] = &[
        ("an unknown type", Some(vec![7, 0, 0, 0, 0]), Some(vec![255, 0, 0, 0, 0])),
        ("too long", Some(vec![1, 0, 4, 0, 1]), Some(vec![0, 0, 4, 0, 1])),
        ("four GiB", Some(vec![2, 255, 255, 255, 255]), Some(vec![0, 255, 255, 255, 255])),
        ("empty", Some(record(Kind::Attest, &[])), Some(record(Kind::Data, &[]))),
        ("an end with something", None, Some(record(Kind::End, &[1]))),
        ("data before the call", Some(data(1)), None),
        ("data before the answer", Some([connect(port), data(1)].concat()), None),
        ("an end before the call", Some(record(Kind::End, &[])), None),
        ("a reset before the call", Some(record(Kind::Reset, &[])), None),
        ("credit before the call", Some(credit(1)), None),
        ("an answer", Some(answer.clone()), Some(answer)),
        ("a call that is none", Some(record(Kind::Connect, b"1234\0\n:")), None),
        ("a second call", None, Some(connect(port))),
        ("credit for nothing", None, Some(credit(1))),
        ("no credit", None, Some(credit(0))),
        ("data behind the end", None, Some([record(Kind::End, &[]), data(1)].concat())),
        ("a second end", None, Some([record(Kind::End, &[]), record(Kind::End, &[])].concat())),
        ("no frame", Some(record(Kind::Attest, b"GET /")), Some(record(Kind::Attest, &[0, 0, 0, 2, 9, 0]))),
    ];
    for (name, before, on_stream) in cases {
        if let Some(bytes) = before {
            let (mut peer, hop) = called(&pair).await;
            peer.records().raw(bytes).await.unwrap();
            refused(name, &mut peer, &hop).await;
        }
        if let Some(bytes) = on_stream {
            let (mut peer, hop, mut workload) = calling(&pair).await;
            peer.records().raw(bytes).await.unwrap();
            refused(name, &mut peer, &hop).await;
            within(name, gone(&mut workload)).await;
        }
        // A call may have gone through by then; what reaches the workload next is another's.
        while let Ok(accepted) = tokio::time::timeout(std::time::Duration::ZERO, pair.workload.accept()).await
        {
            drop(accepted);
        }
        // Who is distrusted comes back with another key.
        eventually(name, || pair.ledger.ctx.live.is_empty()).await;
    }
    pair.end().await;
}

/// A socket that is reset, also if its peer had said all.
async fn gone(socket: &mut TcpStream) {
    while socket.write_all(b"more").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

async fn refused(name: &str, peer: &mut Peer, hop: &live::Hop) {
    peer.hear_out().await;
    assert_eq!(peer.told(), Some(WireReason::Format), "{name}: {:?}", peer.kinds());
    let Some(live::Cause::Session(denial, WireReason::Format)) = hop.cut.cause() else {
        panic!("{name}: {:?}", hop.cut.cause())
    };
    assert!(
        matches!(denial.reason, Reason::BadRequest | Reason::Malformed | Reason::Oversized),
        "{name}: {denial}"
    );
}

#[tokio::test]
async fn a_sender_that_does_not_wait_for_credit_loses_the_hop() {
    let pair = Pair::dedicated().await;
    let (mut peer, hop, mut workload) = calling(&pair).await;
    // Whatever the sockets take, and more than the window.
    let flooding = async { while peer.records().raw(&data(256 << 10)).await.is_ok() {} };
    within("the end of the hop", flooding).await;
    eventually("the end of the hop", || hop.cut.cause().is_some()).await;
    assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::BadRequest);
    within("a reset", assert_reset(&mut workload)).await;
    pair.end().await;
}

#[tokio::test]
async fn an_end_of_the_connection_is_no_end_of_the_stream() {
    let pair = Pair::dedicated().await;
    for ended in [false, true] {
        let (mut peer, hop, mut workload) = calling(&pair).await;
        peer.records().raw(&data(5)).await.unwrap();
        let mut five = [0; 5];
        workload.read_exact(&mut five).await.unwrap();
        if ended {
            // Its own end only: the workload may have more to say.
            peer.records().write(Kind::End, &[]).await.unwrap();
            assert_eq!(workload.read(&mut five).await.unwrap(), 0);
            workload.write_all(b"more").await.unwrap();
        }
        peer.records().close().await;
        within("a reset", gone(&mut workload)).await;
        eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
        assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::ChannelClosed);
    }
    // In the middle of a record.
    let (mut peer, _, mut workload) = calling(&pair).await;
    peer.records().raw(&data(5)[..8]).await.unwrap();
    peer.records().close().await;
    within("a reset", assert_reset(&mut workload)).await;
    pair.end().await;
}

#[tokio::test]
async fn a_stream_that_is_over_for_both_ends_in_order() {
    let pair = Pair::dedicated().await;
    let (mut peer, hop, mut workload) = calling(&pair).await;
    let mut all = Vec::new();
    workload.write_all(b"from the workload").await.unwrap();
    workload.shutdown().await.unwrap();
    peer.until_records("the workload's end", |records| records.parts.contains(&Part::End)).await;
    assert_eq!(peer.records().data, b"from the workload");
    peer.records().raw(&[data(3), credit(17), record(Kind::End, &[])].concat()).await.unwrap();
    within("the end", workload.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all, [7; 3]);
    peer.hear_out().await;
    assert_eq!(peer.records().parts.last(), Some(&Part::Credit(3)));
    assert!(matches!(peer.records().end, Some(Ok(()))), "{:?}", peer.records().end);
    peer.records().close().await;
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    assert!(hop.cut.cause().is_none(), "{:?}", hop.cut.cause());
    pair.end().await;
}

#[tokio::test]
async fn a_reset_of_the_peer_resets_the_workload_and_cuts_nothing() {
    let pair = Pair::dedicated().await;
    let (mut peer, hop, mut workload) = calling(&pair).await;
    peer.records().write(Kind::Reset, &[]).await.unwrap();
    within("a reset", assert_reset(&mut workload)).await;
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    assert!(hop.cut.cause().is_none());
    pair.end().await;
}

#[tokio::test]
async fn nobody_gets_more_than_its_window() {
    let pair = Pair::dedicated().await;
    let (mut peer, _, mut workload) = calling(&pair).await;
    let writing =
        tokio::spawn(
            async move { workload.write_all(&vec![7; 2 * WINDOW as usize]).await.map(|()| workload) },
        );
    let window = WINDOW as usize;
    peer.until_records("a window", |records| records.data.len() >= window).await;
    // A round gets through, and nothing else.
    pair.world.advance(361);
    peer.until("a round", |peer| peer.count(Frame::Challenge) >= 2).await;
    assert_eq!(peer.records().data.len(), window);
    peer.records().raw(&credit(WINDOW)).await.unwrap();
    peer.until_records("the rest", |records| records.data.len() >= 2 * window).await;
    assert_eq!(peer.records().data.len(), 2 * window);
    drop(writing.await.unwrap().unwrap());
    pair.end().await;
}

#[tokio::test]
async fn a_workload_that_is_gone_is_missed_also_while_no_more_of_it_may_be_read() {
    let pair = Pair::dedicated().await;
    let (mut peer, hop, mut workload) = calling(&pair).await;
    let bulk = vec![7; 2 * WINDOW as usize];
    let says = async {
        workload.write_all(&bulk).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = says => {}
        () = peer.until_records("a window", |records| records.data.len() >= WINDOW as usize) => {}
    }
    countersign_net::abort(workload);
    peer.until_records("a reset", |records| records.parts.contains(&Part::Reset)).await;
    assert!(hop.cut.cause().is_none());
    pair.end().await;
}

#[tokio::test]
async fn a_caller_that_is_cut_is_told_why_and_gets_no_byte_after_that() {
    let pair = Pair::dedicated().await;
    let (mut peer, hop, mut workload) = calling(&pair).await;
    let speaking = tokio::spawn(async move {
        let (mut read, mut write) = workload.split();
        let said = async { while write.write_all(b"secret").await.is_ok() {} };
        let heard = async { while read.read(&mut [0; 9]).await.is_ok_and(|n| n > 0) {} };
        tokio::join!(said, heard);
    });
    peer.until_records("bytes", |records| !records.data.is_empty()).await;
    pair.ledger.ctx.install(&pair.world.view(2, &Policy { mr_td: 0xaa, ..pair.policy() }));
    assert!(hop.cut.cause().is_some());
    let sent = hop.streams().first().map(|stream| stream.sent.load(std::sync::atomic::Ordering::SeqCst));
    peer.hear_out().await;
    if let Some(sent) = sent {
        assert!(peer.records().data.len() as u64 <= sent);
    }
    // It was being written to: there may be no word, but no other one.
    assert!(matches!(peer.told(), Some(WireReason::Measurement) | None), "{:?}", peer.told());
    within("the end of the workload", speaking).await.unwrap();
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;

    // At rest there is one.
    pair.ledger.ctx.install(&pair.world.view(3, &pair.policy()));
    let (mut peer, _, mut workload) = calling(&pair).await;
    pair.ledger.ctx.install(&pair.world.view(4, &Policy { mr_td: 0xaa, ..pair.policy() }));
    peer.hear_out().await;
    assert_eq!(peer.told(), Some(WireReason::Measurement));
    within("a reset", assert_reset(&mut workload)).await;
    pair.end().await;
}

#[tokio::test]
async fn a_called_peer_that_answers_what_it_was_not_asked_loses_the_hop() {
    let called = Called::over(Hop::Dedicated, "L2", "").await;
    let yes = record(Kind::Answer, &Answer { status: 200, window: WINDOW, reason: None }.encode());
    for bytes in [
        data(1),
        record(Kind::End, &[]),
        connect(7),
        [yes.clone(), yes.clone()].concat(),
        [yes.clone(), data(1), credit(1 << 20)].concat(),
    ] {
        let (mut application, peer) = called.dialled(Level::L2).await;
        let hop = called.web.ctx.live.hops().pop().unwrap();
        let mut peer = peer.dedicated().await;
        peer.until_records("a call", |records| !records.parts.is_empty()).await;
        assert!(matches!(&peer.records().parts[0], Part::Connect(call) if call.authority.ends_with(":4711")));
        assert_eq!(peer.records().data, b"", "bytes before the answer");
        peer.records().raw(&bytes).await.unwrap();
        peer.hear_out().await;
        let gone = async { while application.read(&mut [0; 9]).await.is_ok_and(|n| n > 0) {} };
        within("the end of the application's socket", gone).await;
        assert_eq!(hop.cut.cause().unwrap().denial().reason, Reason::BadRequest);
        eventually("the end of the hop", || called.web.ctx.live.is_empty()).await;
    }
    // And one that says yes.
    let (_application, peer) = called.dialled(Level::L2).await;
    let mut peer = peer.dedicated().await;
    peer.until_records("a call", |records| !records.parts.is_empty()).await;
    peer.records().raw(&yes).await.unwrap();
    peer.until_records("bytes", |records| records.data == SECRET).await;
    called.web.end().await;
}

fn draining() -> Answer {
    Answer { status: 503, window: 0, reason: Some("draining".to_owned()) }
}

#[tokio::test]
async fn a_call_that_comes_when_a_drain_has_begun_is_answered() {
    let pair = Pair::dedicated().await;
    let (mut peer, _) = called(&pair).await;
    pair.ledger.drain.begin();
    peer.records().connect(pair.port).await;
    peer.until_records("an answer", |records| !records.parts.is_empty()).await;
    assert_eq!(peer.records().parts, [Part::Answer(draining())]);
    peer.hear_out().await;
    pair.end().await;
}

#[tokio::test]
async fn a_call_that_a_hop_did_not_take_is_made_once_more_on_another() {
    let called = Called::over(Hop::Dedicated, "L2", "").await;
    // A peer that drains, and one that has ended.
    for (drains, takes) in [(true, true), (false, true), (true, false)] {
        let (mut application, first) = called.dialled(Level::L2).await;
        leave(first, drains).await;
        let second = called.next(Level::L2).await;
        if takes {
            let mut peer = called_on(second).await;
            let yes = Answer { status: 200, window: WINDOW, reason: None };
            peer.records().write(Kind::Answer, &yes.encode()).await.unwrap();
            peer.until_records("bytes", |records| records.data == SECRET).await;
        } else {
            leave(second, drains).await;
            within("a reset", assert_reset(&mut application)).await;
        }
        drop(application);
        eventually("the end of the hop", || called.web.ctx.live.is_empty()).await;
        assert!(called.has_no_other_call());
    }
    called.web.end().await;
}

/// The called peer, when it was asked for a stream.
async fn called_on(peer: Peer) -> Peer {
    let mut peer = peer.dedicated().await;
    peer.until_records("a call", |records| !records.parts.is_empty()).await;
    assert_eq!(peer.records().data, b"");
    peer
}

/// Takes no call, in one way or another.
async fn leave(peer: Peer, drains: bool) {
    let mut peer = called_on(peer).await;
    if drains {
        peer.records().write(Kind::Answer, &draining().encode()).await.unwrap();
        peer.hear_out().await;
    } else {
        peer.records().close().await;
    }
}

/// Who could send requests as bytes would go round the rules about requests.
#[tokio::test]
async fn a_port_whose_requests_are_decided_about_takes_no_dedicated_hop() {
    let pair = Pair::build(World::new(), |bootstrap| {
        let ports = bootstrap.inbound.iter_mut().flat_map(|inbound| &mut inbound.ports);
        ports.for_each(|port| port.protocol = Some(AppProtocol::Http));
    })
    .await;
    let (mut peer, _) = called(&pair).await;
    peer.records().connect(pair.port).await;
    peer.until_records("an answer", |records| !records.parts.is_empty()).await;
    let answer = Answer { status: 421, window: 0, reason: Some("no-application-protocol".to_owned()) };
    assert_eq!(peer.records().parts, [Part::Answer(answer)]);
    peer.hear_out().await;
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    pair.end().await;
}

/// Evidence is larger than a record need be.
#[tokio::test]
async fn frames_come_in_pieces_of_any_size() {
    let pair = Pair::dedicated().await;
    let (mut peer, hop) = called(&pair).await;
    let before = hop.proof().unwrap().challenged;
    pair.world.advance(361);
    peer.withheld = vec![Frame::Evidence];
    peer.until("a challenge", |peer| !peer.held.is_empty()).await;
    let (_, evidence) = peer.held.pop_front().unwrap();
    for byte in evidence {
        peer.records().raw(&[&record::head(Kind::Attest, 1)[..], &[byte]].concat()).await.unwrap();
    }
    eventually("a proof", || hop.proof().unwrap().challenged > before).await;
    pair.end().await;
}
