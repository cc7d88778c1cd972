//! A13. The attack: whoever serves collateral serves what was true before: a list without the
//! revocation, a TCB level from before the flaw was known. The defence: nothing older than the
//! newest issue that was ever in use, and nothing past its end. Mutations `a13-mark` (the mark
//! is not compared), `a13-end` (the end of a piece is not looked at) and `a13-update` (nowhere).

use countersign_attester::emulated::{CollateralSpec, SvnLevel, TcbLevel};
use countersign_evidence::Reason;
use countersign_evidence::collateral::Item;
use countersign_tests::http::http;
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{DAY, Pair, Platform, Policy, START, eventually};

use crate::common::{copy, generation_after};

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_not_verified_with_collateral_that_is_past_its_next_update() {
    let policy = Policy { svid_lifetime: DAY, ..Policy::default() };
    let pair = Pair::with(&policy, [&Platform::default(), &Platform::default()]).await;
    let number = |n| CollateralSpec {
        tcb_evaluation_data_number: n,
        crl_number: u64::from(n),
        ..CollateralSpec::default()
    };
    let before = pair.mesh.plane().status().await.generation;
    pair.mesh.clock.advance(1);
    pair.mesh.publish(&CollateralSpec { next_update: Some(START + 7200), ..number(18) });
    let changed = generation_after(&pair, before).await;
    pair.web.uses(changed).await;
    pair.ledger.uses(changed).await;
    let (mut application, mut served) = pair.connect().await;

    pair.mesh.clock.advance(7201);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.is_refused().await;
    pair.web.has_denied(Reason::CollateralExpired).await;

    // Fresh collateral brings traffic back. Proxies cannot take it from a control
    // plane that they cannot verify without it: it comes with their bootstrap.
    let fresh = number(19);
    pair.mesh.publish(&fresh);
    generation_after(&pair, changed).await;
    let Pair { mesh, web, ledger, workload } = pair;
    web.end().await;
    ledger.end().await;
    let ledger = mesh.sidecar("ledger").knowing(&fresh).serving(&[workload.port]).ready().await;
    let web = mesh.sidecar("web").knowing(&fresh).calling("ledger", ledger.inbound(), workload.port);
    let web = web.ready().await;
    let pair = Pair { mesh, web, ledger, workload };
    pair.connect().await;
    pair.end().await;
}

/// Collateral by which the default machine is out of date.
fn out_of_date(number: u32) -> CollateralSpec {
    CollateralSpec {
        tcb_evaluation_data_number: number,
        crl_number: u64::from(number),
        tcb_levels: vec![
            TcbLevel::new(20, "UpToDate", &[]),
            TcbLevel::new(5, "OutOfDate", &["EMULATED-SA-00004"]),
        ],
        module_levels: vec![SvnLevel::new(5, "UpToDate")],
        ..CollateralSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_collateral_does_not_bring_a_revoked_platform_back() {
    // web's machine is not concerned, so that it hears everything that follows.
    let pair = Pair::with(&Policy::default(), [&Platform::snp(), &Platform::default()]).await;
    let old: Vec<Item> = pair.mesh.collateral(&CollateralSpec::default());
    let (mut application, mut served) = pair.connect().await;
    let before = pair.mesh.plane().status().await.generation;

    pair.mesh.clock.advance(60);
    pair.mesh.publish(&out_of_date(18));
    let changed = generation_after(&pair, before).await;
    // What is open may end in order, for thirty seconds.
    pair.web.drains("tcb").await;
    passes(&mut application, &mut served, b"the last words").await;
    pair.mesh.clock.advance(31);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.ledger.uses(changed).await;
    pair.web.uses(changed).await;
    pair.is_refused().await;
    pair.web.has_denied(Reason::TcbOutOfDate).await;

    // Whoever has the directory, or the way to the vendor, serves what was true before.
    pair.mesh.publish_items(&old);
    let plane = pair.mesh.plane();
    eventually("the rollback is seen", async || {
        plane.handle.tick();
        let (_, dump) = http(plane.addresses.admin, "GET /config_dump").await;
        if dump.contains(Reason::CollateralRollback.code()) || dump.contains("older") {
            Ok(())
        } else {
            Err(dump)
        }
    })
    .await;
    let now = generation_after(&pair, changed).await;
    pair.web.uses(now).await;
    pair.is_refused().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_old_collateral_is_rejected_by_name_with_the_reason() {
    let mut pair = Pair::start().await;
    let backup = tempfile::tempdir().unwrap();
    let old = pair.mesh.collateral(&CollateralSpec::default());
    pair.mesh.stop_plane().await;
    copy(&pair.mesh.state(), backup.path());
    pair.mesh.start_plane().await;
    pair.mesh.clock.advance(60);
    let before = pair.mesh.plane().status().await.generation;
    pair.mesh.publish(&CollateralSpec {
        tcb_evaluation_data_number: 18,
        crl_number: 2,
        ..CollateralSpec::default()
    });
    let newer = eventually("newer collateral", async || {
        let now = pair.mesh.plane().status().await.generation;
        if now > before { Ok(now) } else { Err(now) }
    })
    .await;
    pair.web.uses(newer).await;
    pair.ledger.uses(newer).await;

    // The store's memory of the newest collateral is rolled back with it; that of the proxies is not.
    pair.mesh.stop_plane().await;
    copy(backup.path(), &pair.mesh.state());
    pair.mesh.publish_items(&old);
    pair.mesh.start_plane().await;
    let raise = format!("POST /raise_generation?above={newer}");
    assert_eq!(http(pair.mesh.plane().addresses.admin, &raise).await.0, 200);
    let status = eventually("rejected collateral in status", async || {
        let status = pair.mesh.plane().status().await;
        let nacked =
            status.proxies.iter().filter(|p| p.state == "nacked" && p.generation_acked > newer).count();
        if nacked == 2 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    for rejected in status.proxies.iter().flat_map(|proxy| &proxy.rejected) {
        assert!(rejected.name.starts_with("collateral/"), "{rejected:?}");
        assert!(rejected.reason.contains(Reason::CollateralRollback.code()), "{rejected:?}");
    }
    assert!(pair.web.count("mesh_config_rejected_total", &["kind=\"Collateral\""]) > 0.0);
    pair.end().await;
}
