//! A19. The attack: somebody between caller and called ends TLS, as load balancers and middle
//! proxies do, with what he has: no evidence, another's, another machine's, another's name, a
//! chain without its key. The defence: the key of the TLS certificate is the key in the
//! evidence, and the caller knows whom it wants. Mutations `a01-compare` (report data is not
//! compared) and `a19-key` (whoever shows a chain need not have its key).

use countersign_evidence::Reason;
use countersign_tests::attacker::{Answer, Offer, evidence, key};
use countersign_tests::{Pair, Platform, policy};

use crate::common::{attempt, is_not_believed};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_own_good_evidence_hears_no_byte_of_the_application() {
    let pair = Pair::start().await;
    let mesh = &pair.mesh;
    let honest = Platform::default().attester(&mesh.vendor);
    let ledger = policy::id("ledger");
    let thief = key();
    is_not_believed(&pair, &mesh.forge(&ledger, &thief, None), Reason::EvidenceMissing).await;
    let relayed = evidence(&key(), &*honest);
    is_not_believed(&pair, &mesh.forge(&ledger, &thief, Some(&relayed)), Reason::BindingMismatch).await;
    let modified = Platform::tdx(0xbb).attester(&mesh.vendor);
    is_not_believed(&pair, &mesh.forge_on("ledger", &*modified), Reason::MeasurementMismatch).await;
    // A genuine peer, on a good machine, that is not the one that was asked for.
    let audit = mesh.plane().enrol(&*honest, "audit").await.unwrap();
    is_not_believed(&pair, &audit, Reason::IdentityMismatch).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_its_key_is_nothing() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let victim = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let thief = pair.mesh.forge(&policy::id("web"), &key(), None);
    // The victim's chain with all of its evidence, as everybody sees it on the wire.
    let offer = Offer { certificate: Some((victim.chain.clone(), thief.key.clone())), ..Offer::of(&thief) };
    let before = pair.ledger.admissions();
    let answer = attempt(&pair, offer).await;
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
    assert_eq!(pair.ledger.admissions(), before);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}
