//! A11. The attack: a TEE whose memory a debugger can read. The defence: debug is refused,
//! whatever the policy says. Mutation `a11`: the bit is not looked at.

use countersign_tests::{Pair, Platform, Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_in_debug_gets_no_identity_and_says_why() {
    let pair = Pair::start().await;
    let debuggable: Proxy = pair.mesh.sidecar("audit").on(&Platform::debuggable()).start();
    let report = debuggable.waits_for("debug").await;
    assert!(report.contains("identity: "), "{report}");
    assert!(debuggable.ctx.credentials.borrow().is_none());
    debuggable.end().await;
    pair.end().await;
}
