//! What is bounded: handshakes, hops, idleness, and lines in the log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::time::Duration;

use countersign_attester::emulated::TdxSpec;
use countersign_ratls::session::Level;
use http::Method;
use support::lines::Lines;
use support::peer::{Peer, Who};
use support::raw::Raw;
use support::{LEDGER, Pair, WEB, World, assert_refused, eventually, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

fn refused(metrics: &str, direction: &str) -> bool {
    let line =
        format!("mesh_connections_refused_total{{direction=\"{direction}\",reason=\"overloaded\"}} 1\n");
    metrics.contains(&line)
}

#[tokio::test]
async fn handshakes_beyond_the_limit_are_refused_at_once_and_the_next_one_passes() {
    let pair = Pair::build(World::new(), |b| b.limits.handshakes_in_progress = 1).await;
    // Says nothing: its handshake is in progress for as long as it stays.
    let silent = TcpStream::connect(pair.ledger.inbound()).await.unwrap();
    assert_refused(pair.ledger.inbound()).await;
    assert!(refused(&pair.ledger.metrics(), "inbound"), "{}", pair.ledger.metrics());
    drop(silent);
    while pair.ledger.ctx.live.is_empty() {
        // Until the proxy has seen the end of the silent one, this may be refused as well.
        let (mut app, mut end) = (TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap(), [0; 1]);
        tokio::select! {
            accepted = pair.workload.accept() => drop(accepted.unwrap()),
            _ = app.read(&mut end) => {}
        }
    }
    pair.end().await;
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let pair = Pair::build(World::new(), |b| b.limits.handshake_timeout = Duration::from_millis(1)).await;
    let mut silent = TcpStream::connect(pair.ledger.inbound()).await.unwrap();
    // An end or a reset; without the limit there is none.
    let _ = silent.read(&mut [0; 1]).await;
    assert!(pair.ledger.ctx.live.is_empty());
    pair.end().await;
}

#[tokio::test]
async fn hops_beyond_the_limit_are_refused_on_the_side_of_the_called() {
    let pair = Pair::at("L1", World::new(), |b| b.limits.hops = 1).await;
    let mut first = Raw::connect(&pair).await;
    // A client is done before the server has judged it, and another client can be
    // judged before it: who is answered has the one place.
    first.ask(Method::CONNECT, "ledger:1").await;
    let (mut hop, connection) = Raw::unserved(&pair).await;
    // The connection ends before it has answered anything.
    let uri = format!("ledger:{}", pair.port);
    let (ended, answer) =
        within("a refusal", async { tokio::join!(connection, hop.try_ask(Method::CONNECT, &uri)) }).await;
    assert!(ended.is_err() || answer.is_none());
    assert!(refused(&pair.ledger.metrics(), "inbound"), "{}", pair.ledger.metrics());
    assert_eq!(pair.ledger.ctx.live.len(), 1);
    drop(first);
    pair.end().await;
}

#[tokio::test]
async fn hops_beyond_the_limit_are_refused_on_the_side_of_the_caller() {
    let one = |b: &mut countersign_config::bootstrap::ProxyBootstrap| {
        b.limits.hops = 1;
        b.limits.streams_per_hop = 1;
    };
    let pair = Pair::build(World::new(), one).await;
    let streams = pair.connect().await;
    assert_refused(pair.web.addresses.outbound[0]).await;
    // Counted as a connection that became nothing, with the flag of the reason.
    let labels = format!(
        "{{connection_security_policy=\"mutual_tls\",destination_principal=\"{LEDGER}\",reporter=\"source\",\
         request_protocol=\"tcp\",response_flags=\"{}\",source_principal=\"{WEB}\"}}",
        countersign_evidence::Reason::Overloaded.flag()
    );
    let metrics = pair.web.metrics();
    assert!(metrics.contains(&format!("istio_tcp_connections_failed_total{labels} 1\n")), "{metrics}");
    drop(streams);
    pair.end().await;
}

#[tokio::test]
async fn a_hop_that_nobody_uses_is_let_go_and_one_in_use_is_not() {
    let idle = |b: &mut countersign_config::bootstrap::ProxyBootstrap| {
        b.limits.idle_timeout = Duration::ZERO;
        b.limits.streams_per_hop = 1;
    };
    let pair = Pair::build(World::new(), idle).await;
    let live = || pair.web.ctx.live.hops();
    let used = pair.connect().await;
    let hop = live().remove(0);
    let others = pair.connect().await;
    assert_eq!(live().len(), 2);
    drop(others);
    while live().len() == 2 {
        tokio::task::yield_now().await;
    }
    // The same look that let the other one go has seen this one.
    assert!(hop.cut.cause().is_none());
    assert_eq!(live()[0].id, hop.id);
    drop(used);
    while !(live().is_empty() && pair.ledger.ctx.live.is_empty()) {
        tokio::task::yield_now().await;
    }
    pair.end().await;
}

#[tokio::test]
async fn a_flood_of_strangers_does_not_hide_who_fails_at_the_gate() {
    let (lines, _captured) = Lines::capture();
    let pair = Pair::new().await;
    // As many as a second has lines for.
    while pair.ledger.ctx.throttle.line(pair.ledger.ctx.clock.seconds()).is_some() {}
    let elsewhere = pair.world.platform(TdxSpec { mr_td: [0xaa; 48], ..TdxSpec::default() });
    let who = Who::new(&pair.world, WEB, Level::L1);
    let mut peer = Peer::call(&pair.world, who, LEDGER, pair.ledger.inbound()).await;
    peer.move_to(elsewhere);
    peer.hear_out().await;
    eventually("the end of the hop", || pair.ledger.ctx.live.is_empty()).await;
    eventually("a line", || lines.with("gate: hop refused").len() == 1).await;
    assert!(lines.with("gate: hop refused")[0].contains("reason=other-tee"));
    pair.end().await;
}

#[tokio::test]
async fn an_admitted_peer_cannot_fill_the_log_with_refusals() {
    let (lines, _captured) = Lines::capture();
    let pair = Pair::at("L1", World::new(), |_| {}).await;
    let mut hop = Raw::connect(&pair).await;
    for port in 1..=100 {
        hop.ask(Method::CONNECT, &format!("ledger:{port}")).await;
    }
    assert_eq!(lines.with("stream refused").len(), 20, "in one second");
    pair.world.advance(1);
    hop.ask(Method::CONNECT, "ledger:1").await;
    assert_eq!(lines.with("stream refused").len(), 21);
    assert_eq!(lines.with("line.suppressed=80").len(), 1);
    // The same again is told once, and then how often it happened.
    for _ in 0..50 {
        hop.ask(Method::CONNECT, "ledger:1").await;
    }
    pair.world.advance(10);
    hop.ask(Method::CONNECT, "ledger:1").await;
    assert_eq!(lines.with("stream refused").len(), 22);
    assert_eq!(lines.with("stream refused again, 51 times in 10 s").len(), 1);
    let refusals = pair.ledger.ctx.refused.all();
    assert_eq!((refusals.len(), refusals[0].times), (1, 152), "{refusals:?}");
    // What strangers may make us log is counted apart.
    assert!(pair.ledger.ctx.throttle.line(0).is_some_and(|line| line.suppressed.is_none()));
    pair.end().await;
}
