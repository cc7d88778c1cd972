//! The stream between a proxy and its control plane: renewed in time, and ended
//! when the proxy is not admitted any more.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use countersign_evidence::Reason;
use countersign_tests::http::http;
use countersign_tests::workload::passes;
use countersign_tests::{Pair, Platform, Policy, eventually};
use countersign_wire::proto::ProxyStatus;

async fn status(pair: &Pair, name: &str) -> ProxyStatus {
    let status = pair.mesh.plane().status().await;
    status.proxies.into_iter().find(|proxy| proxy.name == name).unwrap()
}

/// Waits until the control plane's own certificate lasts longer than this.
async fn renewed(pair: &Pair, end: u64) {
    let plane = pair.mesh.plane();
    eventually("the control plane's next certificate", async || {
        plane.handle.tick();
        let (_, metrics) = http(plane.addresses.metrics, "GET /metrics").await;
        let name = "mesh_identity_cert_expiration_timestamp_seconds ";
        let until = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
        if until.is_some_and(|until| until > end as f64) { Ok(()) } else { Err(format!("{until:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_renewed_before_the_certificates_that_it_began_with_end() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let first = [status(&pair, "web").await, status(&pair, "ledger").await];
    let end = first.iter().map(|proxy| proxy.svid_not_after).min().unwrap();
    let lifetime = end - pair.mesh.clock.seconds();
    // All certificates are renewed at half of their life, streams after three quarters.
    pair.live(lifetime * 13 / 20).await;
    renewed(&pair, end).await;
    pair.live(lifetime * 9 / 40).await;
    for before in &first {
        let now = eventually(&format!("another stream of {}", before.name), async || {
            let now = status(&pair, &before.name).await;
            if now.address != before.address { Ok(now) } else { Err(format!("{now:?}")) }
        })
        .await;
        assert!(now.connected && now.svid_not_after > end, "{now:?}");
    }
    // Past the end of the first certificates: no stream has ended before the next was there.
    pair.live(lifetime / 4).await;
    for proxy in [&pair.web, &pair.ledger] {
        assert!(status(&pair, proxy.name).await.connected);
        assert_eq!(proxy.count("mesh_config_stream_ends_total", &[]), 0.0, "{}", proxy.metrics());
    }
    // And over the new one arrives what is new.
    let generation = pair.mesh.apply(&Policy { tdx: vec![0xd0, 0xd1], ..Policy::default() }).await;
    pair.web.uses(generation).await;
    passes(&mut application, &mut served, b"the live hop knows nothing of it").await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_admitted_any_more_is_shown_as_refused_and_says_so_itself() {
    let pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::snp()]).await;
    assert_eq!(status(&pair, "ledger").await.refused, "");
    pair.mesh.apply(&Policy { snp: vec![0xee], ..Policy::default() }).await;
    let refused = eventually("a refused proxy", async || {
        let now = status(&pair, "ledger").await;
        if now.state == "refused" && !now.connected { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert!(refused.refused.contains(Reason::MeasurementMismatch.code()), "{}", refused.refused);
    let report = pair.ledger.waits_for("admission: ").await;
    assert!(report.contains(Reason::MeasurementMismatch.code()), "{report}");
    eventually("web goes on", async || {
        let now = status(&pair, "web").await;
        if now.state == "synced" { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;

    // Approved again, both say so.
    pair.mesh.apply(&Policy::default()).await;
    pair.ledger.ready().await;
    eventually("a proxy that is admitted again", async || {
        let now = status(&pair, "ledger").await;
        if now.state == "synced" && now.refused.is_empty() { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    pair.end().await;
}
