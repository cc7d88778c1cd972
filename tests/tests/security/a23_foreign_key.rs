//! A23. The attack: an identity for a key that was not made in the TEE: its evidence is of
//! another key, of another moment, of nobody. The defence: a request proves its key, carries
//! evidence over it, and answers a challenge of this connection. Mutations `a23-once` (a
//! challenge works again) and `a23-possession` (nobody proves the key).

use countersign_evidence::Reason;
use countersign_ratls::csr::Pending;
use countersign_tests::attacker::key as another_key;
use countersign_tests::plane::request;
use countersign_tests::{Mesh, Platform, Policy};
use countersign_wire::proto::identity_client::IdentityClient;
use countersign_wire::{proto, refusal};
use tonic::Status;

fn reason(status: &Status) -> Reason {
    refusal::reason(status).unwrap_or_else(|| panic!("{status:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_issued_for_fresh_evidence_of_the_key_and_nothing_else() {
    let mesh = Mesh::with(&Policy::default()).await;
    let plane = mesh.plane();
    let platform = Platform::default().attester(&mesh.vendor);
    let ask = |csr: Vec<u8>| proto::IssueRequest { workload: "demo/web".into(), csr: csr.into() };
    let mut client = IdentityClient::new(plane.bootstrap().await);
    let mut challenge =
        async || client.challenge(proto::ChallengeRequest {}).await.unwrap().into_inner().nonce;
    let mut other = IdentityClient::new(plane.bootstrap().await);
    let (mine, key) = (challenge().await, another_key());

    let csr = request(&key, &*platform, &mine);
    let foreign = other.issue(ask(csr.clone())).await.unwrap_err();
    assert_eq!(reason(&foreign), Reason::BindingMismatch, "a challenge of another connection");
    let late = request(&key, &*platform, &challenge().await);
    let victim = another_key();
    let nonce = challenge().await;
    let honest = Pending::new(&victim, &nonce).unwrap();
    let relayed = platform.evidence(&honest.report_data).unwrap();
    let relayed =
        Pending::new(&key, &nonce).unwrap().finish(&key, relayed.media_type, &relayed.value).unwrap();

    client.issue(ask(csr.clone())).await.unwrap();
    assert_eq!(reason(&client.issue(ask(csr)).await.unwrap_err()), Reason::BindingMismatch, "used twice");
    assert_eq!(
        reason(&client.issue(ask(relayed)).await.unwrap_err()),
        Reason::BindingMismatch,
        "another key"
    );
    mesh.clock.advance(61);
    assert_eq!(reason(&client.issue(ask(late)).await.unwrap_err()), Reason::BindingMismatch, "too late");
    mesh.plane.unwrap().stop().await;
}
