//! A12. The attack: policy as it was before: a restored backup of the control plane, or a
//! snapshot by another key. The defence: snapshots are signed, their generation grows, and
//! nobody goes back. Mutations `a12-generation` (a lower one is taken), `a12-signature`
//! (it is not verified) and `a12-key` (any key will do).

use countersign_tests::http::http;
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{Pair, Policy, eventually};
use countersign_wire::proto;

use crate::common::copy;

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_does_not_roll_policy_back_and_is_seen() {
    let mut pair = Pair::start().await;
    let backup = tempfile::tempdir().unwrap();
    pair.mesh.stop_plane().await;
    copy(&pair.mesh.state(), backup.path());
    pair.mesh.start_plane().await;

    // ledger's software is withdrawn; then somebody brings the time before back.
    let (mut application, mut served) = pair.connect().await;
    let withdrawn = pair
        .mesh
        .apply(&Policy {
            calls: Vec::new(),
            workloads: vec!["web"],
            tdx: vec![0xd0],
            snp: vec![0xee],
            ..Policy::default()
        })
        .await;
    let key = proto::ResourceKey {
        kind: "AuthorizationPolicy".into(),
        namespace: "demo".into(),
        name: "web-ledger".into(),
    };
    let request = proto::DeleteRequest { keys: vec![key], dry_run: false };
    let deleted = pair.mesh.plane().operator().await.delete(request).await.unwrap().into_inner().generation;
    assert!(deleted > withdrawn);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.uses(deleted).await;
    pair.ledger.uses(deleted).await;

    pair.mesh.stop_plane().await;
    copy(backup.path(), &pair.mesh.state());
    pair.mesh.start_plane().await;
    eventually("the rollback in status", async || {
        let status = pair.mesh.plane().status().await;
        let ahead = status.proxies.iter().filter(|p| p.state == "ahead").count();
        if ahead == 2 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(pair.ledger.ctx.view.load().generation, deleted);
    pair.is_refused().await;

    // The operator meant it: above what the proxies have seen, it is a change like any other.
    let raise = format!("POST /raise_generation?above={deleted}");
    assert_eq!(http(pair.mesh.plane().addresses.admin, &raise).await.0, 200);
    let raised = eventually("the raised generation", async || {
        let now = pair.mesh.plane().status().await.generation;
        if now > deleted { Ok(now) } else { Err(now) }
    })
    .await;
    pair.web.uses(raised).await;
    pair.ledger.uses(raised).await;
    pair.connect().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_by_another_key_changes_nothing() {
    let mut pair = Pair::start().await;
    let generation = pair.mesh.plane().status().await.generation;
    pair.mesh.stop_plane().await;
    // The CA is the same, the machine is good; the key that signs policy is not the one proxies trust.
    std::fs::remove_file(pair.mesh.state().join("snapshot-key.p8")).unwrap();
    pair.mesh.start_plane().await;
    let forged = pair.mesh.apply(&Policy { workloads: vec!["intruder"], ..Policy::default() }).await;
    assert!(forged > generation);
    for proxy in [&pair.web, &pair.ledger] {
        eventually("the snapshot is rejected", async || {
            let rejected = proxy.count("mesh_config_rejected_total", &["kind=\"snapshot\""]);
            if rejected >= 1.0 { Ok(()) } else { Err(proxy.metrics()) }
        })
        .await;
        assert_eq!(proxy.ctx.view.load().generation, generation);
    }
    let (mut application, mut served) = pair.connect().await;
    passes(&mut application, &mut served, b"by the last good policy").await;
    pair.end().await;
}
