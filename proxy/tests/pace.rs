//! Rounds on live hops: what else happens on a hop does not keep them from their time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use countersign_evidence::Reason;
use countersign_proxy::live::Cause;
use support::{Pair, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The window of a connection between proxies.
const WINDOW: u64 = 16 << 20;
/// More than the longest interval, which is 300 s and a fifth.
const INTERVAL: u64 = 361;

/// Looks again and again, for what the product shows and does not announce.
async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let looking = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    assert!(tokio::time::timeout(limit, looking).await.is_ok(), "{what}: not in {limit:?}");
}

/// How often the peer of a proxy proved itself.
fn accepted(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics();
    let rounds = metrics.lines().filter(|line| {
        line.starts_with("mesh_attestation_rounds_total{") && line.contains("result=\"accept\"")
    });
    rounds.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Bytes that callers have sent and workloads have not taken.
fn held(pair: &Pair) -> u64 {
    let sent = |proxy: &Proxy| -> u64 {
        let hops = proxy.ctx.live.hops();
        let streams = hops.iter().flat_map(|hop| hop.streams());
        streams.map(|stream| stream.received.load(std::sync::atomic::Ordering::Relaxed)).sum()
    };
    sent(&pair.web).saturating_sub(sent(&pair.ledger))
}

#[tokio::test]
async fn workloads_that_do_not_read_do_not_stop_the_rounds() {
    let pair = Pair::new().await;
    let mut workloads = Vec::new();
    for _ in 0..8 {
        let (mut app, workload) = pair.connect().await;
        workloads.push(workload);
        tokio::spawn(async move { while app.write_all(&[7; 64 << 10]).await.is_ok() {} });
    }
    assert_eq!(pair.web.ctx.live.len(), 1);
    eventually("a window that is used up", || held(&pair) >= WINDOW - (64 << 10)).await;
    for round in 2..10 {
        pair.world.advance(INTERVAL);
        eventually("a round", || [&pair.web, &pair.ledger].iter().all(|p| accepted(p) == round)).await;
    }
    for proxy in [&pair.web, &pair.ledger] {
        assert!(!proxy.metrics().contains("mesh_connections_drained_total{"), "{}", proxy.metrics());
        assert!(proxy.ctx.live.hops()[0].cut.cause().is_none());
    }
    // The streams have their turn when somebody reads: each gets more than it had window for.
    let mut reading = tokio::task::JoinSet::new();
    for mut workload in workloads {
        reading.spawn(async move { workload.read_exact(&mut vec![0; 16 << 20]).await.map(drop) });
    }
    while let Some(read) = reading.join_next().await {
        read.unwrap().unwrap();
    }
    pair.end().await;
}

#[tokio::test]
async fn a_deadline_holds_even_if_the_task_of_the_hop_does_not_get_to_it() {
    let pair = Pair::new().await;
    let _streams = pair.connect().await;
    let ctx = &pair.ledger.ctx;
    let hop = ctx.live.hops().remove(0);
    pair.world.advance(600);
    // On this thread nothing else runs in between.
    ctx.live.expire(ctx);
    let Some(Cause::Session(denial, _)) = hop.cut.cause() else { panic!("{:?}", hop.cut) };
    assert_eq!(denial.reason, Reason::EvidenceStale);
    pair.end().await;
}
