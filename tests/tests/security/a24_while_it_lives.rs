//! A24. The attack: a connection is opened while all is well and kept for ever. The defence:
//! it ends with whatever it rests on, and every change of the configuration looks at it again.
//! Mutation `a24`: live hops are not looked at when a view is installed.

use countersign_tests::session::Prover;
use countersign_tests::workload::is_reset;
use countersign_tests::{Pair, Platform, Policy, Proxy, Visitor};
use http::StatusCode;

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_does_not_outlive_the_svid_it_rests_on() {
    let mut pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    pair.mesh.stop_plane().await;
    pair.mesh.clock.advance(3601);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    // Nobody can renew: the proxies say so, and nothing new is carried.
    pair.web.waits_for("our certificate has expired").await;
    pair.is_refused().await;
    // Whichever side looked first.
    let cut = |proxy: &Proxy| proxy.count("mesh_connections_revoked_total", &["cause=\"expired\""]);
    assert!(cut(&pair.web) + cut(&pair.ledger) >= 1.0);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_that_is_held_open_does_not_outlive_the_policy_that_admitted_it() {
    let pair = Pair::start().await;
    let machine = Platform::snp().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*machine, "web").await.unwrap();
    let prover = Prover::new(&web, &machine);
    // It never lets go, and does nothing that would make somebody look at it.
    let mut visitor = Visitor::enter(&prover, pair.ledger.inbound(), &pair.mesh.clock).await;
    let (status, _stream) = visitor.call(pair.workload.port).await;
    assert_eq!(status, StatusCode::OK);
    let mut served = pair.workload.accept().await;
    pair.mesh.apply(&Policy { snp: vec![0xee], ..Policy::default() }).await;
    visitor.is_cut_off().await;
    is_reset(&mut served).await;
    pair.ledger.cuts("verdict").await;
    pair.end().await;
}
