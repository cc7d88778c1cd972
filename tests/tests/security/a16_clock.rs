//! A16. The attack: the host sets a guest's clock back, so that what expired is valid again.
//! The defence: no clock is believed that is behind the newest time that somebody signed.
//! Mutation `a16`: the floor is not compared.

use countersign_evidence::Reason;
use countersign_tests::{DAY, Pair};

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_does_not_make_old_things_new() {
    let mut pair = Pair::start().await;
    pair.mesh.stop_plane().await;
    // Before the SVIDs, the collateral and the vendor's own signatures of them.
    pair.mesh.clock.set_back(2 * DAY);
    pair.web.ctx.live.sever_all(&pair.web.ctx.metrics);
    pair.is_refused().await;
    let reasons = [
        Reason::SvidExpired,
        Reason::CollateralNotYetValid,
        Reason::CertificateNotYetValid,
        Reason::SvidUntrusted,
    ];
    assert!(reasons.iter().any(|reason| pair.web.denials(*reason) > 0.0), "{}", pair.web.metrics());
    pair.end().await;
}
