//! A17. The attack: input that is malformed, too large, or comes too slowly, from somebody who
//! is not admitted yet or who is. The defence: bounds before anything is kept, time limits in
//! every state, parsers that refuse. Mutations `a17` (a chain may be of any size), `a17-frames`
//! (a frame may) and `a17-slow` (a handshake may take for ever).

use std::time::Duration;

use countersign_evidence::Reason;
use countersign_ratls::peer::MAX_CHAIN_BYTES;
use countersign_ratls::session::frame::{Kind, encode};
use countersign_ratls::session::{Side, WireReason};
use countersign_tests::attacker::{Answer, Offer, Raw};
use countersign_tests::middle::{frames, refusal};
use countersign_tests::workload::passes;
use countersign_tests::{Pair, Platform, Workload, eventually, within};
use http::StatusCode;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{attempt, is_refused};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_in_plaintext_and_no_slow_client_holds_on() {
    let pair = Pair::start().await;
    for plain in [
        &b"GET / HTTP/1.1\r\nhost: ledger\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
    ] {
        let mut socket = TcpStream::connect(pair.ledger.inbound()).await.unwrap();
        socket.write_all(plain).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = within("the end of a plaintext connection", socket.read_to_end(&mut answer)).await;
        assert!(answer.first().is_none_or(|kind| *kind == 21), "an alert or nothing: {answer:?}");
    }
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go_in_every_state() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let target = Workload::start().await;
    let hasty =
        pair.mesh.sidecar("audit").hasty(Duration::from_secs(2)).serving(&[target.port]).ready().await;
    // Nothing; half a record; a handshake and then silence.
    let silent = TcpStream::connect(hasty.inbound()).await.unwrap();
    let mut half = TcpStream::connect(hasty.inbound()).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    for mut socket in [silent, half] {
        let ended = within("the end of a slow client", socket.read_to_end(&mut Vec::new())).await;
        assert_eq!(ended.unwrap_or(0), 0, "bytes for nobody");
    }
    // A handshake, and silence at the gate.
    let client = Raw::new(Offer::of(&web), &pair.mesh.clock);
    let silent = tokio::spawn({
        let at = hasty.inbound();
        async move { client.stay_silent(at).await }
    });
    eventually("somebody before the gate", async || {
        let hops = hasty.ctx.live.len();
        if hops > 0 { Ok(()) } else { Err(hops) }
    })
    .await;
    pair.mesh.clock.advance(11);
    silent.await.unwrap();
    eventually("nobody is left", async || {
        let hops = hasty.ctx.live.len();
        if hops == 0 { Ok(()) } else { Err(hops) }
    })
    .await;
    hasty.end().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_certificates_and_headers_are_refused_by_size() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let peer = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();

    let padded = |to: usize| {
        let mut large = peer.clone();
        let sizes: usize = peer.chain.iter().map(|c| c.len()).sum();
        large.chain.push(CertificateDer::from(vec![0x30; to - sizes]));
        large
    };
    is_refused(&pair, &padded(MAX_CHAIN_BYTES + 1), Reason::Oversized).await;
    // More than a message of TLS may hold: nobody is asked at all.
    let answer = attempt(&pair, Offer::of(&padded(66 << 10))).await;
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
    let mut long = peer.clone();
    long.chain.extend(std::iter::repeat_n(peer.chain[0].clone(), 8));
    is_refused(&pair, &long, Reason::Oversized).await;

    let client = Raw::new(Offer::proving(&peer, &platform), &pair.mesh.clock);
    let answer = client.connect_with(pair.ledger.inbound(), pair.workload.port, &"x".repeat(100 << 10)).await;
    assert!(!matches!(answer, Answer::Connect(StatusCode::OK, _)), "{answer:?}");
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_sense_end_their_own_session_and_no_other() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let machine = Platform::default().attester(&pair.mesh.vendor);
    for bytes in [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        // No length, a kind that does not exist, a Hello of 4 GiB.
        vec![0, 0, 0, 0, 1],
        vec![0, 0, 0, 2, 99, 0],
        vec![0xff, 0xff, 0xff, 0xff, Kind::Hello.byte()],
        // A map of indefinite length; a Hello without a field; the wrong frame first.
        encode(Kind::Hello, &[0xbf, 0xff]),
        encode(Kind::Hello, &[0xa0]),
        encode(Kind::Evidence, &[0xa0]),
    ] {
        // A key that did so once is refused for a while: each time another one.
        let peer = pair.mesh.plane().enrol(&*machine, "web").await.unwrap();
        let raw = Raw::new(Offer::of(&peer), &pair.mesh.clock);
        let mut session = raw.handshake(pair.ledger.inbound()).await.unwrap();
        session.write_all(&bytes).await.unwrap();
        session.flush().await.unwrap();
        let mut answer = Vec::new();
        // However it ends: the frames before count.
        let _ = within("the end of nonsense", session.read_to_end(&mut answer)).await;
        assert_eq!(refusal(&frames(Side::Server, &answer)), Some(WireReason::Format), "{bytes:?}");
    }
    passes(&mut application, &mut served, b"as if nothing had been").await;
    pair.end().await;
}
