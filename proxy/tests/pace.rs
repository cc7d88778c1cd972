//! Rounds on live hops: what else happens on a hop does not keep them from their time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_evidence::Reason;
use countersign_proxy::live::Cause;
use countersign_quoting::{Platform, Quoting, Source, SourceError, Subject};
use support::{Pair, Proxy, World, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A device that fails once: for the second quote over sessions, that of the first
/// round of a live hop.
#[derive(Debug)]
struct Hiccup(Arc<dyn Source>, AtomicU64);

impl Source for Hiccup {
    fn platform(&self) -> Platform {
        self.0.platform()
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        let of_session = matches!(*subject, Subject::Sessions(_));
        if of_session && self.1.fetch_add(1, Ordering::Relaxed) == 1 {
            let busy = SourceError::Failed("device or resource busy".to_owned());
            return Box::pin(std::future::ready(Err(busy)));
        }
        self.0.quote(subject)
    }
}

/// The window of a connection between proxies.
const WINDOW: u64 = 16 << 20;
/// More than the longest interval, which is 300 s and a fifth.
const INTERVAL: u64 = 361;

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
        streams.map(|stream| stream.received.load(Ordering::Relaxed)).sum()
    };
    sent(&pair.web).saturating_sub(sent(&pair.ledger))
}

#[tokio::test]
async fn workloads_that_do_not_read_do_not_stop_the_rounds() {
    let pair = Pair::new().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(pair.connect().await);
    }
    // Afterwards: a stream that begins has no window either.
    let mut workloads = Vec::new();
    for (mut app, workload) in streams {
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

#[tokio::test]
async fn a_device_that_fails_once_is_asked_again() {
    let world = World { device: |source| Arc::new(Hiccup(source, AtomicU64::new(0))), ..World::new() };
    let pair = Pair::build(world, |_| {}).await;
    let _streams = pair.connect().await;
    pair.world.advance(INTERVAL);
    eventually("a round", || [&pair.web, &pair.ledger].iter().all(|p| accepted(p) == 2)).await;
    for proxy in [&pair.web, &pair.ledger] {
        let metrics = proxy.metrics();
        // The age of a proof counts from its challenge.
        let proof = proxy.ctx.live.hops()[0].proof().unwrap();
        assert_eq!(proof.challenged, support::NOW + INTERVAL);
        assert!(
            metrics.contains("mesh_quotes_total{purpose=\"session\",result=\"failure\"} 1\n"),
            "{metrics}"
        );
        assert!(!metrics.contains("mesh_connections_drained_total{"), "{metrics}");
    }
    pair.end().await;
}

/// A policy about the events of guests, where nobody asked for their logs before.
#[tokio::test]
async fn a_new_policy_about_events_asks_live_hops_and_ends_none() {
    let pair = Pair::new().await;
    let (mut app, mut workload) = pair.connect().await;
    let text = format!(
        r#"
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: events, namespace: payments }}
spec:
  level: L2
  anyOf:
    - tdx: {{ emulatedRoots: ["{}"], measurements: Any, runtimeEvents: Any }}
"#,
        pair.world.vendor.intel_root()
    );
    let events = countersign_config::parse("events.yaml", &text).unwrap().into_iter().map(Arc::new);
    let resources = pair.world.resources(&pair.policy()).into_iter().chain(events).collect();
    let view = pair.world.view_of(2, resources, &pair.world.collateral);
    for proxy in [&pair.web, &pair.ledger] {
        proxy.ctx.install(&view);
        let hop = proxy.ctx.live.hops().remove(0);
        assert!(hop.cut.cause().is_none(), "{:?}", hop.cut.cause());
    }
    // The next quote for a hop is 5 s after the last at the earliest.
    pair.world.advance(5);
    let shown = |proxy: &Proxy| proxy.ctx.live.hops()[0].proof().is_some_and(|p| p.registers.is_some());
    eventually("rounds with logs", || shown(&pair.web) && shown(&pair.ledger)).await;
    pair.world.advance(60);
    app.write_all(b"still").await.unwrap();
    let mut still = [0; 5];
    workload.read_exact(&mut still).await.unwrap();
    for proxy in [&pair.web, &pair.ledger] {
        proxy.ctx.live.expire(&proxy.ctx);
        assert!(!proxy.metrics().contains("mesh_connections_drained_total{"), "{}", proxy.metrics());
    }
    pair.end().await;
}
