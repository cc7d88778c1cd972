//! A2. The attack: a caller is led to another genuine TEE than it asked for: another
//! workload's, or one with the same software and the stolen key of the right one. The
//! defence: the caller names the SPIFFE ID that must answer; what the session proves must
//! be of the TEE that the certificate was issued to. Mutations `a02` (any ID will do) and
//! `a15` (platforms are not compared).

use std::sync::Arc;

use countersign_attester::Attester;
use countersign_attester::emulated::{IntelPlatform, TdxSpec};
use countersign_evidence::Reason;
use countersign_tests::middle::Act;
use countersign_tests::pair::refused;
use countersign_tests::session::Prover;
use countersign_tests::{Pair, Platform, Workload};

use crate::common::{calls_until, stolen};

/// A genuine machine with the same software, somewhere else.
pub(crate) fn elsewhere(pair: &Pair) -> Arc<dyn Attester> {
    let platform = IntelPlatform { ppid: [0xb1; 16], piid: Some([0xb2; 16]), ..IntelPlatform::default() };
    Platform::Tdx(TdxSpec { platform, ..TdxSpec::default() }).attester(&pair.mesh.vendor)
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_that_is_diverted_to_another_workload_does_not_arrive() {
    let pair = Pair::start().await;
    let target = Workload::start().await;
    let audit = pair.mesh.sidecar("audit").serving(&[target.port]).ready().await;
    let web = pair.mesh.sidecar("web").beside().calling("ledger", audit.inbound(), target.port).ready().await;
    refused(&web).await;
    assert_eq!(web.denials(Reason::IdentityMismatch), 1.0, "{}", web.metrics());
    assert_eq!(audit.count("istio_tcp_connections_opened_total", &[]), 0.0);
    web.end().await;
    audit.end().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_machine_with_the_key_of_another_is_not_the_other() {
    let (pair, middle) = Pair::with_a_middle().await;
    let thief = Prover::new(&stolen(&pair.ledger).await, &elsewhere(&pair));
    middle.act(Act::Prove(Box::new(thief)));
    calls_until(&pair, "web refuses another machine", || pair.web.denials(Reason::OtherTee) > 0.0).await;
    middle.act(Act::Wire);
    pair.mesh.clock.advance(11);
    pair.another_generation().await;
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
