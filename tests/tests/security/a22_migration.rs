//! A22. The attack: a TD that can be moved to another machine, or that a service TD looks
//! after which nobody approved. The defence: both are refused unless a policy names them
//! exactly. Mutation `a22`: MIGRATABLE is not looked at.

use countersign_attester::emulated::TdxSpec;
use countersign_evidence::Reason;
use countersign_tests::{Pair, Platform};

use crate::common::is_refused;

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_can_be_moved_or_are_looked_after_are_refused() {
    let pair = Pair::start().await;
    // SEPT_VE_DISABLE as everybody has it, and MIGRATABLE.
    let movable = TdxSpec { td_attributes: [0, 0, 0, 0x30, 0, 0, 0, 0], ..TdxSpec::default() };
    let served = TdxSpec { quote_version: 5, mr_service_td: [7; 48], ..TdxSpec::default() };
    for spec in [movable, served] {
        let machine = Platform::Tdx(spec).attester(&pair.mesh.vendor);
        is_refused(&pair, &pair.mesh.forge_on("web", &*machine), Reason::Migratable).await;
    }
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
