//! Machines are seen, approved and revoked, over the real TLS port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy sees as product code"
)]
#![allow(dead_code, reason = "the helpers are for all files of tests")]

mod common;

use std::sync::Arc;

use common::{DOMAIN, START, World};
use countersign_attester::emulated::{EmulatedTdx, IntelPlatform, TdxSpec};
use countersign_evidence::Reason;
use countersign_wire::proto::operator_client::OperatorClient;
use countersign_wire::{proto, refusal};
use tonic::transport::Channel;

/// A machine whose PPID is this byte again and again.
fn machine(world: &World, byte: u8) -> Arc<EmulatedTdx> {
    let platform = IntelPlatform { ppid: [byte; 16], piid: None, ..IntelPlatform::default() };
    world.vendor.tdx(TdxSpec { platform, ..TdxSpec::default() }).unwrap()
}

/// The resources of the demonstration, on listed machines only.
fn resources(world: &World, listed: &str) -> String {
    let text = world.resources().replace(
        "measurements: { fromReferenceValues: demo }",
        "measurements: { fromReferenceValues: demo }\n        platformsFrom: [machines]",
    );
    format!(
        "{text}---\napiVersion: countersign.dev/v1alpha1\nkind: PlatformList\n\
         metadata: {{ name: machines, namespace: demo }}\nspec: {{ platforms: [{listed}] }}\n"
    )
}

async fn list(operator: &mut OperatorClient<Channel>) -> Vec<proto::Platform> {
    operator.platforms(proto::PlatformsRequest {}).await.unwrap().into_inner().platforms
}

fn approval(id: &str, tee: &str) -> proto::ApprovePlatformRequest {
    proto::ApprovePlatformRequest {
        id: id.into(),
        tee: tee.into(),
        namespace: "demo".into(),
        name: "machines".into(),
        note: "rack 4".into(),
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_refused_is_seen_approved_and_revoked() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&resources(&world, "")).await;
    let guest = machine(&world, 0xa1);
    let refused = plane.enrol(&*guest, "demo/client").await.unwrap_err();
    assert_eq!(refusal::reason(&refused), Some(Reason::PlatformNotAllowed));

    let mut operator = plane.operator().await;
    let id = "a1".repeat(16);
    let seen = list(&mut operator).await.into_iter().find(|p| p.id == id).expect("it was seen");
    assert_eq!((seen.tee.as_str(), seen.emulated, seen.approvals.len()), ("tdx", true, 0));
    assert_eq!((seen.first_seen, seen.tcb.as_str(), seen.kind.as_str()), (START, "UpToDate", "ppid"));
    assert_eq!(seen.workloads[0].workload, "demo/client");
    assert_eq!(seen.workloads[0].refused, "platform-not-allowed");

    // Said, not done.
    let dry = proto::ApprovePlatformRequest { dry_run: true, ..approval("a1a1a1a1", "") };
    let said = operator.approve_platform(dry).await.unwrap().into_inner();
    assert_eq!((said.platform.unwrap().id, said.results.len()), (id.clone(), 1));
    assert!(plane.enrol(&*guest, "demo/client").await.is_err());

    let done = operator.approve_platform(approval("a1a1a1a1", "")).await.unwrap().into_inner();
    let given = &done.platform.unwrap().approvals[0];
    assert_eq!(given.approved_by, format!("spiffe://{DOMAIN}/operator/admin"));
    assert_eq!((given.approved_at, given.note.as_str(), given.name.as_str()), (START, "rack 4", "machines"));
    plane.enrol(&*guest, "demo/client").await.unwrap();
    let now = list(&mut operator).await.into_iter().find(|p| p.id == id).unwrap();
    assert_eq!((now.workloads[0].refused.as_str(), now.approvals.len()), ("", 1));
    // Once more changes nothing, and makes no generation.
    let again = operator.approve_platform(approval(&id, "tdx")).await.unwrap().into_inner();
    assert_eq!(again.results[0].outcome(), proto::applied::Outcome::Unchanged);
    assert_eq!(again.generation, done.generation);

    let request = proto::RevokePlatformRequest { id: id.clone(), ..Default::default() };
    let revoked = operator.revoke_platform(request.clone()).await.unwrap().into_inner();
    assert!(revoked.generation > done.generation);
    assert!(revoked.platform.unwrap().approvals.is_empty());
    assert!(plane.enrol(&*guest, "demo/client").await.is_err());
    let nothing = operator.revoke_platform(request).await.unwrap_err();
    assert_eq!(refusal::reason(&nothing), Some(Reason::BadRequest));
    assert!(nothing.message().contains("not on any PlatformList"), "{nothing}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_made_when_it_is_not_there_and_what_it_would_break_changes_nothing() {
    let world = World::new();
    let plane = world.start().await;
    let mut operator = plane.operator().await;
    let id = "b2".repeat(16);
    // Nobody names the list yet: somebody should know.
    let done = operator.approve_platform(approval(&id, "tdx")).await.unwrap().into_inner();
    assert_eq!(done.results[0].outcome(), proto::applied::Outcome::Created);
    assert!(
        done.problems.iter().any(|p| p.severity == "warning" && p.message.contains("no AttestationPolicy"))
    );
    assert_eq!(list(&mut operator).await.iter().filter(|p| p.last_seen == 0).count(), 1);
    // What a machine says that hides its identity names no machine.
    let hidden = operator.approve_platform(approval(&"0".repeat(32), "sgx")).await.unwrap().into_inner();
    assert!(
        hidden.problems.iter().any(|p| p.severity == "error" && p.message.contains("hides its identity"))
    );
    assert!(hidden.results.is_empty());
    let long = proto::ApprovePlatformRequest { note: "x".repeat(2000), ..approval(&id, "tdx") };
    let long = operator.approve_platform(long).await.unwrap().into_inner();
    assert!(long.problems.iter().any(|p| p.severity == "error" && p.path.contains("note")), "{long:?}");
    for name in ["", "No Such Name", "a/b"] {
        let odd = proto::ApprovePlatformRequest { name: name.into(), ..approval(&id, "tdx") };
        let answer = operator.approve_platform(odd).await;
        assert!(answer.map_or(true, |a| a.into_inner().results.is_empty()), "{name}");
    }
    assert_eq!(list(&mut operator).await.iter().filter(|p| !p.approvals.is_empty()).count(), 1);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_enrol() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*machine(&world, 0xc3), "demo/client").await.unwrap();
    let mut workload = OperatorClient::new(plane.connect(&identity).await.unwrap());
    let refused = workload.approve_platform(approval(&"c3".repeat(16), "tdx")).await.unwrap_err();
    assert_eq!(refusal::reason(&refused), Some(Reason::AuthorizationDenied));
    assert!(workload.platforms(proto::PlatformsRequest {}).await.is_err());
    plane.stop().await;
}
