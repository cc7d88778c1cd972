//! What a proxy says of itself: at the first start, after a restart, to operators.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_config::bootstrap::Inbound;
use countersign_proxy::BuildError;
use countersign_wire::snapshot::Entry;
use countersign_wire::{EntryName, Snapshot};
use support::{Pair, Policy, Proxy, World, http};

#[tokio::test]
async fn a_first_start_without_control_plane_is_not_ready_and_says_what_it_waits_for() {
    let world = World::new();
    let proxy = Proxy::run(world.bind(&world.bootstrap("web", None, Vec::new())));
    let (status, report) = http(proxy.addresses.readiness, "GET /healthz/ready").await;
    assert_eq!(status, 503);
    for part in
        ["identity: waiting for the control plane", "snapshot: waiting for the control plane", "evidence: "]
    {
        assert!(report.contains(part), "{report}");
    }
    assert_eq!(http(proxy.addresses.readiness, "GET /healthz/live").await.0, 200);
    proxy.end().await;
}

#[tokio::test]
async fn the_last_good_snapshot_is_in_use_after_a_restart_without_control_plane() {
    let world = World::new();
    let policy = Policy { mr_td: 0xd0, ports: vec![1], level: "L2" };
    let mut entries: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
    for resource in world.resources(&policy) {
        let body = Bytes::from(resource.to_json());
        entries.insert(EntryName::Resource(resource.key()).to_string().into(), Entry::new(body));
    }
    let snapshot =
        Snapshot::sign(world.bundle.trust_domain.clone(), 5, entries, &world.snapshot_key).unwrap();
    let bootstrap = world.bootstrap("web", None, Vec::new());
    std::fs::create_dir_all(&bootstrap.state_dir).unwrap();
    std::fs::write(bootstrap.state_dir.join("snapshot"), snapshot.encode()).unwrap();
    let proxy = Proxy::run(world.bind(&bootstrap));
    assert_eq!(proxy.ctx.view.load().generation, 5);
    let (status, report) = http(proxy.addresses.readiness, "GET /healthz/ready").await;
    // The key was only in memory: configuration is there, a certificate is not.
    assert_eq!(status, 503);
    assert!(report.contains("identity: ") && !report.contains("snapshot: "), "{report}");
    // What was stored is in use, so nothing waits for a first snapshot.
    assert!(report.contains("collateral: not checked yet"), "{report}");
    let (_, dump) = http(proxy.addresses.admin, "GET /config_dump").await;
    assert!(dump.contains("\"generation\": 5") && dump.contains("AuthorizationPolicy"), "{dump}");
    proxy.end().await;
}

#[tokio::test]
async fn operators_of_this_host_see_hops_and_verdicts_and_others_nothing() {
    let pair = Pair::new().await;
    let _streams = pair.connect().await;
    let admin = pair.ledger.addresses.admin;
    let (status, connections) = http(admin, "GET /connections").await;
    assert_eq!(status, 200);
    let connections: serde_json::Value = serde_json::from_str(&connections).unwrap();
    assert_eq!(connections["hops"][0]["identity"], support::WEB);
    assert_eq!(connections["hops"][0]["emulated"], true);
    assert_eq!(connections["hops"][0]["streams"][0]["bytesReceived"], 5);
    let (_, attestation) = http(admin, "GET /attestation").await;
    let attestation: serde_json::Value = serde_json::from_str(&attestation).unwrap();
    assert_eq!(attestation["peers"][0]["tee"], "tdx");
    assert!(!attestation["collateral"].as_array().unwrap().is_empty());
    assert_eq!(http(admin, "GET /drain").await.0, 405);
    assert_eq!(http(admin, "GET /quitquitquit").await.0, 405);
    assert_eq!(http(admin, "GET /nothing").await.0, 404);
    let page = "GET /connections HTTP/1.1\r\nhost: rebound.example\r\nx:";
    assert_eq!(http(admin, page).await.0, 403);
    let (status, metrics) = http(pair.ledger.addresses.metrics, "GET /stats/prometheus").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("mesh_hops{direction=\"inbound\"} 1"), "{metrics}");
    for kind in ["certificate", "crl", "qeIdentity", "tcbInfo"] {
        let first =
            attestation["collateral"].as_array().unwrap().iter().filter(|piece| piece["kind"] == kind);
        let first = first.map(|piece| piece["window"]["until"].as_u64().unwrap()).min().unwrap();
        let name = "mesh_attestation_collateral_expiration_timestamp_seconds";
        assert!(metrics.contains(&format!("{name}{{kind=\"{kind}\"}} {first}\n")), "{metrics}");
    }
    assert_eq!(http(admin, "POST /quitquitquit").await.0, 200);
    pair.ledger.task.await.unwrap();
    pair.web.end().await;
}

#[tokio::test]
async fn a_bootstrap_that_contradicts_itself_is_refused() {
    let world = World::new();
    let mut exposed = world.bootstrap("web", None, Vec::new());
    exposed.admin = SocketAddr::from(([0, 0, 0, 0], 0));
    let built = countersign_proxy::build(&exposed, world.clock(), world.source(), None);
    assert!(matches!(built, Err(BuildError::AdminExposed(_))));
    let (_taken, port) = support::workload().await;
    let inbound = Inbound {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        workload: [127, 0, 0, 1].into(),
        ports: vec![80.into()],
    };
    let taken = world.bootstrap("web", Some(inbound), Vec::new());
    let built = countersign_proxy::build(&taken, world.clock(), world.source(), None);
    let Err(error) = built else { panic!("bound twice") };
    assert!(error.to_string().contains(&format!("127.0.0.1:{port} (inbound)")), "{error}");
}
