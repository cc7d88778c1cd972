//! The control plane: who may ask it for what, and what proxies do not take from it.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_evidence::Reason;
use countersign_tests::attacker::{Impostor, evidence, key};
use countersign_tests::plane::{ID, Plane};
use countersign_tests::{Mesh, Pair, Platform, Policy};
use countersign_wire::client::Subscription;
use countersign_wire::proto::identity_client::IdentityClient;
use countersign_wire::proto::mesh_client::MeshClient;
use countersign_wire::proto::operator_client::OperatorClient;
use countersign_wire::{ALPN, proto, refusal};
use tonic::Status;
use tonic::transport::Channel;

fn reason(status: &Status) -> Reason {
    refusal::reason(status).unwrap_or_else(|| panic!("{status:?}"))
}

/// Whether the Mesh service takes a subscription of `demo/WORKLOAD`: the first refusal.
async fn subscribe(plane: &Plane, channel: Channel, workload: &str) -> Option<Status> {
    let hello =
        Subscription::new(plane.bundle.clone(), None).hello("intruder", &format!("demo/{workload}"), "test");
    let messages = futures_util::stream::once(std::future::ready(hello));
    match MeshClient::new(channel).subscribe(messages).await {
        Err(status) => Some(status),
        Ok(stream) => stream.into_inner().message().await.err(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_certificate_opens_its_own_services_and_no_others() {
    let pair = Pair::start().await;
    let plane = pair.mesh.plane();
    // The very identity of a running workload.
    let workload = pair.web.credentials().await.identity.clone();
    let operator = plane.operator_identity();

    for channel in [plane.connect(&workload).await.unwrap(), plane.bootstrap().await] {
        let mut client = OperatorClient::new(channel);
        let refused = client.status(proto::StatusRequest { refusals: false }).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::AuthorizationDenied);
        let request = proto::ApplyRequest { files: Vec::new(), dry_run: false };
        assert_eq!(reason(&client.apply(request).await.unwrap_err()), Reason::AuthorizationDenied);
    }
    for channel in [plane.connect(&operator).await.unwrap(), plane.bootstrap().await] {
        let refused = subscribe(plane, channel, "web").await.expect("a refusal");
        assert_eq!(reason(&refused), Reason::AuthorizationDenied);
    }
    let mut client = IdentityClient::new(plane.connect(&operator).await.unwrap());
    let refused = client.challenge(proto::ChallengeRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::AuthorizationDenied);
    // A workload speaks for itself only.
    let refused =
        subscribe(plane, plane.connect(&workload).await.unwrap(), "ledger").await.expect("a refusal");
    assert_eq!(reason(&refused), Reason::IdentityMismatch);
    assert!(subscribe(plane, plane.connect(&workload).await.unwrap(), "web").await.is_none());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_ca_key_does_not_make_an_operator_of_a_workload_s_machine_nor_a_subscriber() {
    let pair = Pair::start().await;
    let plane = pair.mesh.plane();
    // Without evidence that policy accepts, an SVID of a workload opens nothing.
    for cmw in [None, Some(evidence(&key(), &*Platform::default().attester(&pair.mesh.vendor)))] {
        let thief = key();
        let forged = pair.mesh.forge(&countersign_tests::policy::id("web"), &thief, cmw.as_deref());
        // The alert comes with the first read, which is an error of the connection or of the call.
        if let Ok(channel) = plane.connect(&forged).await {
            assert!(subscribe(plane, channel, "web").await.is_some());
        }
    }
    assert_eq!(plane.status().await.proxies.len(), 2);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_policy_entitles_gets_an_identity() {
    let mesh = Mesh::with(&Policy::default()).await;
    let plane = mesh.plane();
    let refused = async |platform: &Platform, workload: &str| {
        reason(&plane.enrol(&*platform.attester(&mesh.vendor), workload).await.unwrap_err())
    };
    assert_eq!(refused(&Platform::tdx(0xbb), "web").await, Reason::MeasurementMismatch);
    assert_eq!(refused(&Platform::debuggable(), "web").await, Reason::Debug);
    assert_eq!(refused(&Platform::default(), "nobody").await, Reason::UnknownWorkload);
    let stranger = Vendor::generate(mesh.clock.now(), std::time::Duration::from_secs(86_400)).unwrap();
    let stranger = stranger.tdx(TdxSpec::default()).unwrap();
    let found = reason(&plane.enrol(&*stranger, "web").await.unwrap_err());
    assert!(matches!(found, Reason::UntrustedRoot | Reason::EmulatedNotAdmitted), "{found}");
    // The vendor of the mesh, when the policy does not name its root.
    mesh.apply(&Policy { emulated: false, ..Policy::default() }).await;
    let found = refused(&Platform::default(), "web").await;
    assert!(matches!(found, Reason::UntrustedRoot | Reason::EmulatedNotAdmitted), "{found}");
    mesh.plane.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_without_its_own_good_evidence_hears_nothing_from_a_proxy() {
    let mut mesh = Mesh::with(&Policy::default()).await;
    mesh.stop_plane().await;
    let (thief, honest) = (key(), Platform::Tdx(Plane::platform()).attester(&mesh.vendor));
    let modified = Platform::tdx(0x66).attester(&mesh.vendor);
    let mine = |platform: &dyn countersign_attester::Attester| evidence(&thief, platform);
    let cases = [
        (None, Reason::EvidenceMissing),
        (Some(evidence(&key(), &*honest)), Reason::BindingMismatch),
        (Some(mine(&*modified)), Reason::MeasurementMismatch),
    ];
    for (cmw, reason) in cases {
        let forged = mesh.forge(ID, &thief, cmw.as_deref());
        let mut impostor = Impostor::start(&forged, &mesh.clock, ALPN).await;
        mesh.relay.point_to(Some(impostor.address));
        let web = mesh.sidecar("web").start();
        let report = web.waits_for(reason.code()).await;
        assert!(report.contains("identity: "), "{report}");
        assert!(impostor.visitor().await.is_err(), "{reason}: the impostor heard something");
        assert!(web.denials(reason) >= 1.0, "{}", web.metrics());
        web.end().await;
    }
    // With evidence that the proxy's own file approves, the same forgery is believed:
    // a stolen CA key and a good machine are all that a control plane is.
    let forged = mesh.forge(ID, &thief, Some(&mine(&*honest)));
    let mut impostor = Impostor::start(&forged, &mesh.clock, ALPN).await;
    mesh.relay.point_to(Some(impostor.address));
    let web = mesh.sidecar("web").start();
    assert!(impostor.visitor().await.is_ok());
    web.end().await;
}
