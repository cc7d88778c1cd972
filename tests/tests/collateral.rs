//! Collateral that loses its file for a moment must not stop a mesh for good.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use countersign_attester::emulated::CollateralSpec;
use countersign_evidence::Reason;
use countersign_tests::http::http;
use countersign_tests::workload::passes;
use countersign_tests::{Mesh, Pair, Platform, Policy, eventually};

/// What the control plane says of its collateral, once it is as wanted.
async fn dump(mesh: &Mesh, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    eventually(what, async || {
        let plane = mesh.plane();
        plane.handle.tick();
        let (_, dump) = http(plane.addresses.admin, "GET /config_dump").await;
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        if wanted(&dump) { Ok(dump) } else { Err(dump["keptCollateral"].clone()) }
    })
    .await
}

fn kept(dump: &serde_json::Value) -> usize {
    dump["keptCollateral"].as_array().map_or(0, Vec::len)
}

/// A newer issue of everything.
fn issue(number: u32) -> CollateralSpec {
    CollateralSpec {
        tcb_evaluation_data_number: number,
        crl_number: u64::from(number),
        ..CollateralSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_gone_for_a_moment_cut_nobody_and_are_missed() {
    let mut pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::snp()]).await;
    let (mut application, mut served) = pair.connect().await;
    let directory = pair.mesh.directory().join("collateral");
    let whole = dump(&pair.mesh, "collateral in use", |dump| kept(dump) == 0).await;
    let away = pair.mesh.directory().join("away");
    std::fs::rename(&directory, &away).unwrap();
    std::fs::create_dir(&directory).unwrap();
    let gone = dump(&pair.mesh, "files are missed", |dump| kept(dump) > 0).await;
    assert_eq!(gone["collateral"], whole["collateral"]);
    assert_eq!(gone["generation"], whole["generation"]);
    let (_, metrics) = http(pair.mesh.plane().addresses.metrics, "GET /metrics").await;
    assert!(metrics.contains(&format!("mesh_cp_collateral_kept {}", kept(&gone))), "{metrics}");
    passes(&mut served, &mut application, b"nothing happened").await;

    // Not even to those who must begin anew: the control plane and a proxy.
    pair.mesh.stop_plane().await;
    pair.mesh.start_plane().await;
    dump(&pair.mesh, "files are missed still", |dump| kept(dump) == kept(&gone)).await;
    passes(&mut served, &mut application, b"nothing happened").await;
    let Pair { mesh, web, ledger, workload } = pair;
    web.end().await;
    let web = mesh.sidecar("web").calling("ledger", ledger.inbound(), workload.port).ready().await;
    let pair = Pair { mesh, web, ledger, workload };
    let (mut application, mut served) = pair.connect().await;

    std::fs::remove_dir(&directory).unwrap();
    std::fs::rename(&away, &directory).unwrap();
    let back = dump(&pair.mesh, "no file is missed", |dump| kept(dump) == 0).await;
    assert_eq!(back["collateral"], whole["collateral"]);
    passes(&mut served, &mut application, b"nothing happened").await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_files_over_newer_ones_take_nothing_away() {
    let pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::default()]).await;
    let old = pair.mesh.collateral(&CollateralSpec::default());
    pair.mesh.clock.advance(60);
    pair.mesh.publish(&issue(18));
    let newer = pair.mesh.collateral(&issue(18));
    let before =
        dump(&pair.mesh, "the newer issue", |dump| dump["collateral"].to_string().contains("1800000060"))
            .await;
    pair.web.uses(before["generation"].as_u64().unwrap()).await;
    pair.ledger.uses(before["generation"].as_u64().unwrap()).await;
    let (mut application, mut served) = pair.connect().await;

    pair.mesh.publish_items(&old);
    let rolled = dump(&pair.mesh, "the rollback is seen", |dump| {
        dump["refusedCollateral"].to_string().contains(Reason::CollateralRollback.code()) && kept(dump) > 0
    })
    .await;
    assert_eq!(rolled["collateral"], before["collateral"]);
    pair.web.uses(rolled["generation"].as_u64().unwrap()).await;
    pair.ledger.uses(rolled["generation"].as_u64().unwrap()).await;
    passes(&mut served, &mut application, b"nothing happened").await;

    pair.mesh.publish_items(&newer);
    dump(&pair.mesh, "the newer issue again", |dump| {
        kept(dump) == 0 && dump["refusedCollateral"] == serde_json::json!([])
    })
    .await;
    passes(&mut served, &mut application, b"nothing happened").await;
    pair.end().await;
}
