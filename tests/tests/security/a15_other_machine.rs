//! A15. The attack: malware in a TEE gives its key to a genuine TEE of the attacker's, with
//! the same software, which proves whatever is asked. The defence: what a session proves
//! must be of the machine that the certificate was issued to. Mutation `a15`: platforms are
//! not compared.

use countersign_evidence::Reason;
use countersign_ratls::session::WireReason;
use countersign_tests::Pair;
use countersign_tests::attacker::{Answer, Offer};

use crate::a02_diversion::elsewhere;
use crate::common::{attempt, stolen};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_left_its_machine_is_noticed() {
    let pair = Pair::start().await;
    let thief = elsewhere(&pair);
    let answer = attempt(&pair, Offer::proving(&stolen(&pair.web).await, &thief)).await;
    assert_eq!(answer, Answer::Session(true, WireReason::Identity));
    assert_eq!(pair.ledger.denials(Reason::OtherTee), 1.0, "{}", pair.ledger.metrics());
    pair.mesh.clock.advance(11);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
