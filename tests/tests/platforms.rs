//! Machines are enrolled by an operator, and a hop stands and falls with that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use countersign_attester::emulated::{IntelPlatform, TdxSpec};
use countersign_evidence::Reason;
use countersign_tests::pair::refused;
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{Mesh, Platform, Policy, Workload, policy, within};
use countersign_wire::proto;
use tokio::net::TcpStream;

/// The machine that has this byte again and again as its PPID.
fn machine(byte: u8) -> Platform {
    let platform = IntelPlatform { ppid: [byte; 16], piid: None, ..IntelPlatform::default() };
    Platform::Tdx(TdxSpec { platform, ..TdxSpec::default() })
}

/// What ledger demands of its callers, besides the policy of everybody: a machine that is enrolled.
fn enrolled(mesh: &Mesh) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: enrolled, namespace: demo }}\nspec:\n  selector: {{ matchLabels: {{ app: ledger }} }}\n  \
         peers: [\"{}\"]\n  anyOf:\n    - tdx: {{ emulatedRoots: [\"{}\"], platformsFrom: [machines], \
         measurements: {{ fromReferenceValues: images }} }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: PlatformList\n\
         metadata: {{ name: machines, namespace: demo }}\nspec: {{ platforms: [] }}\n",
        policy::id("web"),
        mesh.vendor.intel_root(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_gets_hops_when_it_is_enrolled_and_loses_them_at_once_when_it_is_not() {
    let mesh = Mesh::with(&Policy::default()).await;
    let plane = mesh.plane();
    plane.apply(&enrolled(&mesh)).await;
    let workload = Workload::start().await;
    let ledger = mesh.sidecar("ledger").serving(&[workload.port]).ready().await;
    let caller = mesh.sidecar("web").on(&machine(0xa1)).calling("ledger", ledger.inbound(), workload.port);
    let web = caller.ready().await;
    // It has an identity, for which nobody asks on which machine it is, and no hop.
    refused(&web).await;
    ledger.has_denied(Reason::PlatformNotAllowed).await;

    let mut operator = plane.operator().await;
    let seen = operator.platforms(proto::PlatformsRequest {}).await.unwrap().into_inner().platforms;
    let seen = seen.iter().find(|p| p.workloads.iter().any(|w| w.workload == "demo/web")).unwrap();
    assert_eq!((seen.id.as_str(), seen.approvals.len()), ("a1".repeat(16).as_str(), 0));
    let approval = proto::ApprovePlatformRequest {
        id: "ppid:a1a1a1a1".into(),
        namespace: "demo".into(),
        name: "machines".into(),
        ..Default::default()
    };
    let approved = operator.approve_platform(approval).await.unwrap().into_inner();
    assert!(approved.problems.is_empty(), "{:?}", approved.problems);
    web.uses(approved.generation).await;
    ledger.uses(approved.generation).await;
    let mut application = TcpStream::connect(web.outbound()).await.unwrap();
    let mut served = workload.accept().await;
    passes(&mut application, &mut served, b"from an enrolled machine").await;

    // No other than the generation that says so cuts it, and at once.
    let revocation = proto::RevokePlatformRequest { id: "a1a1a1a1".into(), ..Default::default() };
    let revoked = within("a revocation", operator.revoke_platform(revocation)).await.unwrap().into_inner();
    assert!(revoked.generation > approved.generation);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    assert_eq!(ledger.count("mesh_connections_revoked_total", &["cause=\"verdict\""]), 1.0);
    refused(&web).await;

    web.end().await;
    ledger.end().await;
}
