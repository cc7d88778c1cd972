//! A16. The attack: the host sets a guest's clock back, so that what expired is valid again.
//! The defence: no clock is believed that is behind the newest time at which something was
//! signed that was verified; a restart does not forget it; timers run by another clock.
//! Mutations `a16` (the floor is not compared) and `a16-restart` (a restart forgets it).

use countersign_ratls::Identity;
use countersign_tests::attacker::key;
use countersign_tests::http::http;
use countersign_tests::workload::is_reset;
use countersign_tests::{DAY, Mesh, Pair, Policy, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_does_not_make_old_things_new() {
    let mut pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    pair.mesh.stop_plane().await;
    pair.mesh.clock.set_back(DAY);
    for proxy in [&pair.web, &pair.ledger] {
        proxy.waits_for("clock: clock-behind").await;
    }
    pair.is_refused().await;
    // What is open is let go as for any other reason of ours: by a clock that nobody sets.
    pair.mesh.clock.advance(31);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.is_refused().await;

    // Put right, all is well again: nothing was lost but time.
    pair.mesh.clock.advance(DAY);
    pair.web.ready().await;
    pair.ledger.ready().await;
    eventually("a hop", async || {
        let hops = pair.web.ctx.live.len();
        drop(pair.dial().await);
        if hops > 0 { Ok(()) } else { Err(hops) }
    })
    .await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_forget_what_time_it_is_not() {
    let Pair { mesh, web, ledger, workload } = Pair::start().await;
    web.end().await;
    // Without collateral that would say so: the certificate that it had is enough.
    let state = mesh.directory().join("proxies/web");
    std::fs::remove_file(state.join("marks.json")).unwrap();
    mesh.clock.set_back(DAY);
    let web = mesh.sidecar("web").calling("ledger", ledger.inbound(), workload.port).start();
    let report = web.waits_for("clock: clock-behind").await;
    assert!(report.contains("accepted: "), "{report}");
    assert!(web.ctx.credentials.borrow().is_none());
    web.end().await;
    ledger.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_clock_is_behind_admits_nobody() {
    let mesh = Mesh::with(&Policy::default()).await;
    let plane = mesh.plane();
    let report = async || http(plane.addresses.readiness, "GET /healthz/ready").await;
    assert_eq!(report().await.0, 200);
    mesh.clock.set_back(DAY);
    eventually("the control plane is not ready", async || match report().await {
        (503, text) if text.contains("clock: clock-behind") => Ok(()),
        (_, text) => Err(text),
    })
    .await;
    // Valid for a clock that was set back as well.
    let caller = Identity::bootstrap(&key(), mesh.clock.now()).unwrap();
    assert!(plane.connect(&caller).await.is_err());
    assert!(plane.connect(&plane.operator_identity()).await.is_err());
    mesh.clock.advance(DAY);
    eventually("the control plane is ready", async || match report().await {
        (200, _) => Ok(()),
        (_, text) => Err(text),
    })
    .await;
    plane.status().await;
    mesh.plane.unwrap().stop().await;
}
