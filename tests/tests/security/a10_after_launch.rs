//! A10. The attack: what was admitted changes while its hop lives: the machine is another
//! one now, or goes on by a new certificate for other software. The defence: evidence in
//! rounds is of the TEE that the certificate names, and a new certificate on a live hop is
//! judged as in a handshake. Mutations `a10-tee` (evidence of another TEE will do) and
//! `a10-judge` (a certificate that replaces one is not judged).

use std::sync::Arc;

use countersign_evidence::Reason;
use countersign_tests::session::Prover;
use countersign_tests::{Pair, Platform, Visitor};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_became_another_falls_in_the_next_round() {
    let pair = Pair::start().await;
    let machine = Platform::default().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*machine, "web").await.unwrap();
    let prover = Prover::new(&web, &machine);
    let mut visitor = Visitor::enter(&prover, pair.ledger.inbound(), &pair.mesh.clock).await;
    visitor.speaker.move_to(&Platform::tdx(0xbb).attester(&pair.mesh.vendor));
    pair.ledger.settled().await;
    pair.mesh.clock.advance(361);
    visitor.answer().await;
    visitor.is_cut_off().await;
    assert_eq!(pair.ledger.denials(Reason::OtherTee), 1.0, "{}", pair.ledger.metrics());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_for_other_software_ends_the_hop_that_it_comes_on() {
    let pair = Pair::start().await;
    let machine = Platform::default().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*machine, "web").await.unwrap();
    let prover = Prover::new(&web, &machine);
    let mut visitor = Visitor::enter(&prover, pair.ledger.inbound(), &pair.mesh.clock).await;
    // Not even the CA helps: its certificates carry what the machine is.
    let modified = Platform::tdx(0xbb).attester(&pair.mesh.vendor);
    let renewed = Arc::new(pair.mesh.forge_on("web", &*modified));
    visitor.speaker.endpoint.renew(&renewed, pair.mesh.clock.moment()).unwrap();
    let said = visitor.speaker.pump();
    visitor.say(said);
    visitor.is_cut_off().await;
    assert_eq!(pair.ledger.denials(Reason::MeasurementMismatch), 1.0, "{}", pair.ledger.metrics());
    pair.end().await;
}
