//! How long a change takes to be used, as it is counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy sees as product code"
)]
#![allow(dead_code, reason = "the helpers are for all files of tests")]

mod common;

use std::sync::Arc;

use common::{Plane, Proxy, World, reference_values};
use countersign_attester::emulated::TdxSpec;
use countersign_ratls::Identity;
use countersign_wire::Snapshot;
use countersign_wire::client::Subscription;

async fn proxy(plane: &Plane, identity: &Identity, last: Option<Arc<Snapshot>>) -> Proxy {
    let channel = plane.connect(identity).await.unwrap();
    Proxy::open(channel, Subscription::new(plane.bundle.clone(), last), "demo/client").await.unwrap()
}

/// How many convergences are counted.
async fn convergences(plane: &Plane) -> u64 {
    let metrics = plane.http(plane.addresses.metrics, "GET /metrics").await;
    let count = metrics.lines().find_map(|line| line.strip_prefix("mesh_cp_convergence_seconds_count "));
    count.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn convergence_counts_once_for_each_proxy_and_generation() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*world.vendor.tdx(TdxSpec::default()).unwrap(), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    let first = sidecar.next().await.unwrap();
    sidecar.ack(&[]).await;
    // It says so again whenever something else of it changes.
    for hops in 0..5 {
        sidecar.in_use_with(first.generation(), hops).await;
    }
    let second = plane.apply(&reference_values("d0").replace("guest", "guest, reviewed")).await;
    // What it said before was heard before it answers this.
    sidecar.next().await.unwrap();
    sidecar.ack(&[]).await;
    plane.apply(&reference_values("d0")).await;
    sidecar.next().await.unwrap();
    assert_eq!(convergences(&plane).await, 1);

    // It skipped the second and uses the third; then it comes back and says the same.
    sidecar.ack(&[]).await;
    let third = sidecar.subscription.current().unwrap().clone();
    assert!(third.generation() > second);
    sidecar.in_use(third.generation()).await;
    drop(sidecar);
    let mut sidecar = proxy(&plane, &identity, Some(third.clone())).await;
    sidecar.next().await.unwrap();
    sidecar.ack(&[]).await;
    sidecar.in_use(third.generation()).await;
    plane.apply(&reference_values("d0").replace("guest", "guest, twice")).await;
    sidecar.next().await.unwrap();
    assert_eq!(convergences(&plane).await, 2);
    plane.stop().await;
}
