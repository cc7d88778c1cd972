//! Attacks that are not on the list of A1 to A25: a stolen CA key, callers who want more than
//! they may, emulated machines, bytes before the verdict.

use std::time::Duration;

use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_evidence::Reason;
use countersign_tests::attacker::{Answer, Offer, Raw, evidence, key};
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{DAY, Pair, Platform, Policy, policy};
use http::StatusCode;

use crate::common::{attempt, is_refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_ca_key_admits_nobody() {
    let pair = Pair::start().await;
    let mesh = &pair.mesh;
    let honest = Platform::default().attester(&mesh.vendor);
    let web = policy::id("web");
    let (thief, victim) = (key(), key());

    // No evidence at all; evidence of another key; and machines that policy does not admit.
    is_refused(&pair, &mesh.forge(&web, &thief, None), Reason::EvidenceMissing).await;
    let relayed = evidence(&victim, &*honest);
    is_refused(&pair, &mesh.forge(&web, &thief, Some(&relayed)), Reason::BindingMismatch).await;
    let modified = Platform::tdx(0xbb).attester(&mesh.vendor);
    is_refused(&pair, &mesh.forge_on("web", &*modified), Reason::MeasurementMismatch).await;
    let debuggable = Platform::debuggable().attester(&mesh.vendor);
    is_refused(&pair, &mesh.forge_on("web", &*debuggable), Reason::Debug).await;
    let stranger = Vendor::generate(mesh.clock.now(), Duration::from_secs(DAY)).unwrap();
    let stranger = stranger.tdx(TdxSpec::default()).unwrap();
    is_refused(&pair, &mesh.forge_on("web", &*stranger), Reason::UntrustedRoot).await;

    // The same CA with an honest machine is what the control plane does: the tests above can fail.
    let answer = attempt(&pair, Offer::proving(&mesh.forge_on("web", &*honest), &honest)).await;
    assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
    drop(pair.workload.accept().await);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_admitted_may_still_not_call_whom_it_wants() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let audit = pair.mesh.plane().enrol(&*platform, "audit").await.unwrap();
    let denied = Answer::Connect(StatusCode::FORBIDDEN, Reason::AuthorizationDenied.code().to_owned());
    assert_eq!(attempt(&pair, Offer::proving(&audit, &platform)).await, denied);
    // A port of this host that is not the workload's, by a caller that may call the workload.
    let web = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let admin = pair.ledger.addresses.admin.port();
    let client = Raw::new(Offer::proving(&web, &platform), &pair.mesh.clock);
    let not_offered = Answer::Connect(StatusCode::FORBIDDEN, Reason::PortNotOffered.code().to_owned());
    assert_eq!(client.connect(pair.ledger.inbound(), admin).await.1, not_offered);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulated_platform_is_admitted_by_its_root_by_name_and_not_otherwise() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let generation = pair.mesh.apply(&Policy { emulated: false, ..Policy::default() }).await;
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.uses(generation).await;
    pair.is_refused().await;
    let seen = pair.web.denials(Reason::EmulatedNotAdmitted) + pair.web.denials(Reason::UntrustedRoot);
    assert!(seen > 0.0, "{}", pair.web.metrics());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_reaches_the_workload_before_the_verdict_and_the_200() {
    let pair = Pair::start().await;
    // The application talks at once; ledger's machine is judged meanwhile, and falls.
    let generation = pair.mesh.apply(&Policy { tdx: vec![0xee], ..Policy::default() }).await;
    pair.web.uses(generation).await;
    for _ in 0..5 {
        pair.is_refused().await;
    }
    let generation = pair.mesh.apply(&Policy::default()).await;
    pair.web.uses(generation).await;
    pair.ledger.uses(generation).await;
    pair.nothing_reached_the_workload().await;
    assert_eq!(pair.ledger.count("istio_tcp_received_bytes_total", &[]), "the first of all".len() as f64);
    let (mut application, mut served) = pair.connect().await;
    passes(&mut application, &mut served, b"afterwards").await;
    pair.end().await;
}
