//! Connections on hops of their own (`ratls-tcp/1`): bytes through two proxies, rounds
//! beside them, and how a hop and its stream end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_attester::emulated::TdxSpec;
use countersign_config::Guard;
use countersign_config::bootstrap::{Hop, ProxyBootstrap};
use countersign_config::kinds::service::AppProtocol;
use countersign_evidence::Reason;
use countersign_proxy::context::Credentials;
use countersign_proxy::gate::Framing;
use countersign_proxy::live::Cause;
use countersign_ratls::session::Level;
use countersign_ratls::tls::{ALPN_MESH, Acceptor, Profile};
use support::called::{Called, SECRET};
use support::lines::Lines;
use support::peer::{Peer, Who};
use support::plane::Everybody;
use support::{LEDGER, Pair, Policy, Proxy, WEB, World, assert_reset, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a proxy takes in beyond what its application has read.
const WINDOW: u64 = 4 << 20;
/// More than the longest interval, which is 300 s and a fifth.
const INTERVAL: u64 = 361;

/// Nothing was cut and nothing drained, and no hop is left.
async fn ended_in_order(pair: &Pair) {
    for proxy in [&pair.web, &pair.ledger] {
        eventually("the end of the hop", || proxy.ctx.live.is_empty()).await;
        let metrics = proxy.metrics();
        assert!(!metrics.contains("mesh_connections_revoked_total{"), "{metrics}");
        assert!(!metrics.contains("mesh_connections_drained_total{"), "{metrics}");
    }
}

async fn says(from: &mut TcpStream, to: &mut TcpStream, what: &[u8]) {
    from.write_all(what).await.unwrap();
    let mut heard = vec![0; what.len()];
    within("bytes", to.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, what);
}

async fn hears_the_end(socket: &mut TcpStream) {
    assert_eq!(within("an end", socket.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_side_may_finish_first() {
    let pair = Pair::dedicated().await;
    for app_first in [true, false] {
        let (mut app, mut server) = pair.connect().await;
        let hop = pair.ledger.ctx.live.hops().remove(0);
        assert_eq!((hop.framing, hop.streams().len()), (Framing::Dedicated, 1));
        says(&mut server, &mut app, b"welcome").await;
        let (first, second) = if app_first { (&mut app, &mut server) } else { (&mut server, &mut app) };
        first.shutdown().await.unwrap();
        hears_the_end(second).await;
        // The other one still answers.
        says(second, first, b"bye").await;
        second.shutdown().await.unwrap();
        hears_the_end(first).await;
        ended_in_order(&pair).await;
    }
    let metrics = pair.ledger.metrics();
    let labels = format!(
        "{{connection_security_policy=\"mutual_tls\",destination_principal=\"{LEDGER}\",reporter=\"destination\",request_protocol=\"tcp\",source_principal=\"{WEB}\"}}"
    );
    assert!(metrics.contains(&format!("istio_tcp_received_bytes_total{labels} 13\n")), "{metrics}");
    assert!(metrics.contains(&format!("istio_tcp_sent_bytes_total{labels} 17\n")), "{metrics}");
    assert!(metrics.contains("alpn=\"ratls-tcp/1\""), "{metrics}");
    pair.end().await;
}

#[tokio::test]
async fn each_connection_has_a_hop_and_bulk_data_arrives_whole() {
    let pair = Pair::dedicated().await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(pair.connect().await);
    }
    assert_eq!((pair.web.ctx.live.len(), pair.ledger.ctx.live.len()), (3, 3));
    let bulk: Arc<Vec<u8>> = Arc::new((0..12_000_000_u32).map(|i| (i % 251) as u8).collect());
    let mut echoes = tokio::task::JoinSet::new();
    for (mut app, mut server) in connections {
        let bulk = Arc::clone(&bulk);
        echoes.spawn(async move {
            let echo = tokio::spawn(async move {
                let (mut read, mut write) = server.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
            let (mut read, mut write) = app.split();
            let send = async {
                write.write_all(&bulk).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut received = Vec::new();
            let ((), read) = tokio::join!(send, read.read_to_end(&mut received));
            read.unwrap();
            assert!(received == *bulk);
            echo.await.unwrap();
        });
    }
    while let Some(echo) = within("the echoes", echoes.join_next()).await {
        echo.unwrap();
    }
    ended_in_order(&pair).await;
    pair.end().await;
}

/// How often the peer of a proxy proved itself.
fn accepted(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics();
    let rounds = metrics.lines().filter(|line| {
        line.starts_with("mesh_attestation_rounds_total{") && line.contains("result=\"accept\"")
    });
    rounds.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Bytes that a caller has sent and the workload has not taken, and the other way round.
fn held(pair: &Pair) -> (u64, u64) {
    let [web, ledger] = [&pair.web, &pair.ledger].map(|proxy| {
        let stream = proxy.ctx.live.hops()[0].streams().remove(0);
        (stream.received.load(Ordering::Relaxed), stream.sent.load(Ordering::Relaxed))
    });
    (web.0.saturating_sub(ledger.0), ledger.1.saturating_sub(web.1))
}

#[tokio::test]
async fn workloads_that_do_not_read_do_not_stop_the_rounds() {
    // More than all buffers of the system on the way.
    const ALL: usize = 64 << 20;
    let pair = Pair::dedicated().await;
    let (app, server) = pair.connect().await;
    let mut readers = Vec::new();
    for socket in [app, server] {
        let (read, mut write) = socket.into_split();
        readers.push(read);
        tokio::spawn(async move {
            write.write_all(&vec![7; ALL]).await.unwrap();
            write
        });
    }
    // What was taken has credit by the quarter.
    let used_up = |held: (u64, u64)| held.0 > WINDOW / 4 * 3 && held.1 > WINDOW / 4 * 3;
    eventually("windows that are used up", || used_up(held(&pair))).await;
    for round in 2..8 {
        pair.world.advance(INTERVAL);
        eventually("a round", || [&pair.web, &pair.ledger].iter().all(|p| accepted(p) == round)).await;
        assert!(used_up(held(&pair)), "{:?}", held(&pair));
    }
    // What waited arrives when somebody reads.
    let mut reading = tokio::task::JoinSet::new();
    for mut read in readers {
        reading.spawn(async move {
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.map(|_| all.len())
        });
    }
    while let Some(read) = within("what waited", reading.join_next()).await {
        assert_eq!(read.unwrap().unwrap(), ALL);
    }
    ended_in_order(&pair).await;
    pair.end().await;
}

/// Bytes flow without a pause, in both directions.
#[tokio::test]
async fn rounds_go_on_while_bulk_data_flows() {
    let pair = Pair::dedicated().await;
    let (app, server) = pair.connect().await;
    let mut flowing = tokio::task::JoinSet::new();
    for socket in [app, server] {
        let (mut read, mut write) = socket.into_split();
        flowing.spawn(async move { while write.write_all(&[7; 64 << 10]).await.is_ok() {} });
        flowing.spawn(async move { while read.read(&mut [0; 64 << 10]).await.is_ok_and(|n| n > 0) {} });
    }
    for round in 2..6 {
        pair.world.advance(INTERVAL);
        eventually("a round", || [&pair.web, &pair.ledger].iter().all(|p| accepted(p) == round)).await;
    }
    assert!(!pair.web.metrics().contains("mesh_connections_drained_total{"));
    pair.end().await;
    within("the end of both sockets", flowing.join_all()).await;
}

#[tokio::test]
async fn a_refused_call_says_why_and_the_application_sees_a_reset() {
    let (lines, _captured) = Lines::capture();
    let mut pair = Pair::dedicated().await;
    let mut app = TcpStream::connect(pair.web.addresses.outbound[1]).await.unwrap();
    assert_reset(&mut app).await;
    // Allowed, and nobody listens.
    let (elsewhere, _) = support::workload().await;
    drop(std::mem::replace(&mut pair.workload, elsewhere));
    let mut app = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    assert_reset(&mut app).await;
    ended_in_order(&pair).await;
    let outbound = |what: &str| {
        let access = lines.with("direction=\"outbound\"");
        access.iter().any(|line| line.contains(what))
    };
    assert!(outbound("403 authorization-denied"), "{:?}", lines.with("access"));
    assert!(outbound("503 connect-failed"), "{:?}", lines.with("access"));
    pair.end().await;
}

#[tokio::test]
async fn a_policy_that_no_longer_admits_the_peer_cuts_the_hop_and_both_sockets() {
    let pair = Pair::dedicated().await;
    let (mut app, mut server) = pair.connect().await;
    let [web, ledger] = [&pair.web, &pair.ledger].map(|proxy| proxy.ctx.live.hops().remove(0));
    pair.ledger.ctx.install(&pair.world.view(2, &Policy { mr_td: 0xaa, ..pair.policy() }));
    let Some(Cause::Verdict(denial)) = ledger.cut.cause() else { panic!("{:?}", ledger.cut.cause()) };
    assert_eq!(denial.reason, Reason::MeasurementMismatch);
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    // Both ends are proxies: the one that is cut knows the reason.
    eventually("the end of the hop", || web.cut.cause().is_some()).await;
    let Some(Cause::Peer(denial)) = web.cut.cause() else { panic!("{:?}", web.cut.cause()) };
    assert!(denial.to_string().contains("measurement"), "{denial}");
    for proxy in [&pair.web, &pair.ledger] {
        eventually("the end of the hop", || proxy.ctx.live.is_empty()).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn a_call_that_is_no_longer_authorized_is_cut_and_its_hop_ends_with_it() {
    let pair = Pair::dedicated().await;
    let (mut app, mut server) = pair.connect().await;
    pair.ledger.ctx.install(&pair.world.view(2, &Policy { ports: vec![1], ..pair.policy() }));
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    for proxy in [&pair.web, &pair.ledger] {
        eventually("the end of the hop", || proxy.ctx.live.is_empty()).await;
    }
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains("mesh_connections_revoked_total{cause=\"authorization\"} 1"), "{metrics}");
    let metrics = pair.web.metrics();
    assert!(!metrics.contains("mesh_connections_revoked_total{"), "{metrics}");
    pair.end().await;
}

#[tokio::test]
async fn a_workload_that_resets_its_connection_resets_the_application_s() {
    let pair = Pair::dedicated().await;
    for of_app in [true, false] {
        let (app, server) = pair.connect().await;
        let (resets, mut other) = if of_app { (app, server) } else { (server, app) };
        countersign_net::abort(resets);
        within("a reset", assert_reset(&mut other)).await;
        ended_in_order(&pair).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn a_stream_without_a_byte_is_closed_in_the_end() {
    let second = |bootstrap: &mut ProxyBootstrap| {
        bootstrap.limits.idle_timeout = Duration::from_secs(1);
        bootstrap.outbound.iter_mut().for_each(|mapping| mapping.hop = Hop::Dedicated);
    };
    let pair = Pair::build(World::new(), second).await;
    let (mut app, mut server) = pair.connect().await;
    within("a reset", assert_reset(&mut app)).await;
    within("a reset", assert_reset(&mut server)).await;
    ended_in_order(&pair).await;
    pair.end().await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_takes_no_new_ones() {
    let pair = Pair::dedicated().await;
    let (mut app, mut server) = pair.connect().await;
    pair.ledger.drain.begin();
    says(&mut app, &mut server, b"still").await;
    says(&mut server, &mut app, b"yes").await;
    eventually("a listener that is gone", || std::net::TcpStream::connect(pair.ledger.inbound()).is_err())
        .await;
    let mut other = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    assert_reset(&mut other).await;
    app.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    let Pair { web, ledger, .. } = pair;
    within("the end of the proxy", ledger.task).await.unwrap();
    web.end().await;
}

#[tokio::test]
async fn a_live_hop_changes_to_a_new_certificate() {
    let pair = Pair::dedicated().await;
    let (mut app, mut server) = pair.connect().await;
    let hop = pair.ledger.ctx.live.hops().remove(0);
    let before = hop.admission().presented.spki_sha256;
    let identity = pair.world.identity(WEB, &*pair.world.platform(TdxSpec::default()));
    let ctx = &pair.web.ctx;
    let guard = Arc::new(Guard::new(identity.id.clone().unwrap(), Arc::clone(&ctx.view), 8));
    ctx.present(&Arc::new(Credentials::new(identity, guard, ctx).unwrap()));
    eventually("the new certificate", || hop.admission().presented.spki_sha256 != before).await;
    says(&mut app, &mut server, b"still").await;
    pair.end().await;
}

/// Requests are decided about one by one: they share a hop even so.
#[tokio::test]
async fn to_a_port_whose_requests_are_decided_about_connections_share_hops() {
    let (lines, _captured) = Lines::capture();
    let pair = Pair::build(World::new(), |bootstrap| {
        bootstrap.outbound.iter_mut().for_each(|mapping| mapping.hop = Hop::Dedicated);
        let ports = bootstrap.inbound.iter_mut().flat_map(|inbound| &mut inbound.ports);
        ports.for_each(|port| port.protocol = Some(AppProtocol::Http));
    })
    .await;
    let mut app = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    app.write_all(b"GET / HTTP/1.1\r\nhost: ledger\r\nx-countersign-peer: me\r\n\r\n").await.unwrap();
    let (mut server, _) = within("a call of the workload", pair.workload.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(within("a request", server.read_buf(&mut head)).await.unwrap() > 0);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains(&format!("x-countersign-peer: {WEB}\r\n")), "{head}");
    let hops = pair.ledger.ctx.live.hops();
    let framings: Vec<_> = hops.iter().filter(|h| !h.streams().is_empty()).map(|h| h.framing).collect();
    assert_eq!(framings, [Framing::Shared]);
    let said = lines.with("no dedicated hop");
    assert!(said.len() == 1 && said[0].contains("421 no-application-protocol"), "{said:?}");
    pair.end().await;
}

/// Those that share hops find places, however much bulk data there is.
#[tokio::test]
async fn dedicated_hops_take_half_of_the_places_and_who_finds_none_is_told() {
    let (lines, _captured) = Lines::capture();
    let pair = Pair::build(World::new(), |bootstrap| {
        bootstrap.outbound.iter_mut().for_each(|mapping| mapping.hop = Hop::Dedicated);
        bootstrap.limits.hops = if bootstrap.inbound.is_some() { 2 } else { 64 };
    })
    .await;
    let (app, server) = pair.connect().await;
    let mut other = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    within("a reset", assert_reset(&mut other)).await;
    eventually("the end of its hop", || pair.ledger.ctx.live.len() == 1).await;
    let access = lines.with("direction=\"outbound\"");
    assert!(access.iter().any(|line| line.contains("503 overloaded")), "{access:?}");
    drop((app, server));
    ended_in_order(&pair).await;
    within("a place", pair.connect()).await;
    pair.end().await;
}

/// A peer that is there and says nothing.
#[tokio::test]
async fn who_waits_for_a_peer_that_does_not_answer_waits_for_a_time() {
    let (lines, _captured) = Lines::capture();
    let second = |bootstrap: &mut ProxyBootstrap| bootstrap.limits.connect_timeout = Duration::from_secs(1);
    let called = Called::build(Hop::Dedicated, "L2", "", second).await;
    let (mut applications, mut dials) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        applications.push(called.application().await);
        dials.push(called.connection().await);
    }
    // Nobody else dials, nor waits for all of them to fail.
    let mut other = called.application().await;
    within("a reset", assert_reset(&mut other)).await;
    assert!(called.has_no_other_call());
    let waited = lines.with("direction=\"outbound\"");
    assert!(waited.len() == 1 && waited[0].contains("a turn in 1s"), "{waited:?}");
    // Who leaves does not hold up those that come.
    countersign_net::abort(applications.remove(0));
    let _next = called.application().await;
    dials.push(called.connection().await);
    let left = lines.with("before there was a hop");
    assert_eq!(left.len(), 1, "{left:?}");
    called.web.end().await;
}

/// An older proxy: it speaks HTTP/2 and nothing else.
#[tokio::test]
async fn to_a_peer_that_does_not_speak_it_connections_share_hops() {
    let (lines, _captured) = Lines::capture();
    let called = Called::over(Hop::Dedicated, "L2", "").await;
    let _first = called.application().await;
    let identity = called.world.identity(LEDGER, &*called.world.platform(TdxSpec::default()));
    let profile =
        Profile { alpn: vec![ALPN_MESH.to_vec()], require_pq: false, clock: called.world.clock().provider() };
    let acceptor = Acceptor::new(&identity, Arc::new(Everybody), &profile).unwrap();
    let refuse = async || {
        let accepted = within("a refusal", acceptor.accept(called.connection().await)).await;
        assert!(accepted.is_err());
    };
    refuse().await;
    // The same connection comes again, over HTTP/2.
    let who = Who::new(&called.world, LEDGER, Level::L2);
    let (_peer, mut requests) =
        Peer::answer(&called.world, who, called.connection().await).await.called().await;
    // The next one does not even ask.
    let _second = called.application().await;
    for _ in 0..2 {
        let (request, mut respond) = within("a call", requests.recv()).await.unwrap();
        respond.send_response(http::Response::new(()), false).unwrap();
        let mut body = request.into_body();
        assert_eq!(within("bytes", body.data()).await.unwrap().unwrap(), SECRET);
    }
    assert!(called.has_no_other_call());
    assert_eq!(lines.with("does not speak ratls-tcp/1").len(), 1);
    // Later it does, and then again it does not: each change is told.
    called.world.advance(61);
    let _third = called.application().await;
    let _peer = called.next(Level::L2).await.dedicated().await;
    eventually("a peer that speaks it", || lines.with("speaks ratls-tcp/1 again").len() == 1).await;
    let _fourth = called.application().await;
    refuse().await;
    eventually("both lines", || lines.with("does not speak ratls-tcp/1").len() == 2).await;
    called.web.end().await;
}
