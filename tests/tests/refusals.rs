//! The control plane: who may ask it for what, and what proxies do not take from it.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::Path;

use countersign_attester::emulated::{CollateralSpec, TdxSpec, Vendor};
use countersign_evidence::Reason;
use countersign_ratls::csr::Pending;
use countersign_tests::attacker::{Impostor, evidence, key};
use countersign_tests::http::http;
use countersign_tests::plane::{ID, Plane, request};
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{Mesh, Pair, Platform, Policy, eventually};
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
        let refused = client.status(proto::StatusRequest {}).await.unwrap_err();
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
async fn an_identity_is_issued_for_fresh_evidence_of_the_key_and_nothing_else() {
    let mesh = Mesh::with(&Policy::default()).await;
    let plane = mesh.plane();
    let platform = Platform::default().attester(&mesh.vendor);
    let ask = |csr: Vec<u8>| proto::IssueRequest { workload: "demo/web".into(), csr: csr.into() };
    let mut client = IdentityClient::new(plane.bootstrap().await);
    let mut challenge =
        async || client.challenge(proto::ChallengeRequest {}).await.unwrap().into_inner().nonce;
    let mut other = IdentityClient::new(plane.bootstrap().await);
    let (mine, key) = (challenge().await, key());

    let csr = request(&key, &*platform, &mine);
    let foreign = other.issue(ask(csr.clone())).await.unwrap_err();
    assert_eq!(reason(&foreign), Reason::BindingMismatch, "a challenge of another connection");
    let late = request(&key, &*platform, &challenge().await);
    let victim = countersign_tests::attacker::key();
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

/// Copies the store as a backup would, while the control plane is away.
fn copy(from: &Path, to: &Path) {
    std::fs::copy(from.join("store.redb"), to.join("store.redb")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_does_not_roll_policy_back_and_is_seen() {
    let mut pair = Pair::start().await;
    let backup = tempfile::tempdir().unwrap();
    pair.mesh.stop_plane().await;
    copy(&pair.mesh.state(), backup.path());
    pair.mesh.start_plane().await;

    // ledger's software is withdrawn; then somebody brings the time before back.
    let (mut application, mut served) = pair.connect().await;
    let withdrawn = pair
        .mesh
        .apply(&Policy {
            calls: Vec::new(),
            workloads: vec!["web"],
            tdx: vec![0xd0],
            snp: vec![0xee],
            ..Policy::default()
        })
        .await;
    let key = proto::ResourceKey {
        kind: "AuthorizationPolicy".into(),
        namespace: "demo".into(),
        name: "web-ledger".into(),
    };
    let request = proto::DeleteRequest { keys: vec![key], dry_run: false };
    let deleted = pair.mesh.plane().operator().await.delete(request).await.unwrap().into_inner().generation;
    assert!(deleted > withdrawn);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.uses(deleted).await;
    pair.ledger.uses(deleted).await;

    pair.mesh.stop_plane().await;
    copy(backup.path(), &pair.mesh.state());
    pair.mesh.start_plane().await;
    eventually("the rollback in status", async || {
        let status = pair.mesh.plane().status().await;
        let ahead = status.proxies.iter().filter(|p| p.state == "ahead").count();
        if ahead == 2 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(pair.ledger.ctx.view.load().generation, deleted);
    pair.is_refused().await;

    // The operator meant it: above what the proxies have seen, it is a change like any other.
    let raise = format!("POST /raise_generation?above={deleted}");
    assert_eq!(http(pair.mesh.plane().addresses.admin, &raise).await.0, 200);
    let raised = eventually("the raised generation", async || {
        let now = pair.mesh.plane().status().await.generation;
        if now > deleted { Ok(now) } else { Err(now) }
    })
    .await;
    pair.web.uses(raised).await;
    pair.ledger.uses(raised).await;
    pair.connect().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_old_collateral_is_rejected_by_name_with_the_reason() {
    let mut pair = Pair::start().await;
    let backup = tempfile::tempdir().unwrap();
    let old = pair.mesh.collateral(&CollateralSpec::default());
    pair.mesh.stop_plane().await;
    copy(&pair.mesh.state(), backup.path());
    pair.mesh.start_plane().await;
    pair.mesh.clock.advance(60);
    let before = pair.mesh.plane().status().await.generation;
    pair.mesh.publish(&CollateralSpec {
        tcb_evaluation_data_number: 18,
        crl_number: 2,
        ..CollateralSpec::default()
    });
    let newer = eventually("newer collateral", async || {
        let now = pair.mesh.plane().status().await.generation;
        if now > before { Ok(now) } else { Err(now) }
    })
    .await;
    pair.web.uses(newer).await;
    pair.ledger.uses(newer).await;

    // The store's memory of the newest collateral is rolled back with it; that of the proxies is not.
    pair.mesh.stop_plane().await;
    copy(backup.path(), &pair.mesh.state());
    pair.mesh.publish_items(&old);
    pair.mesh.start_plane().await;
    let raise = format!("POST /raise_generation?above={newer}");
    assert_eq!(http(pair.mesh.plane().addresses.admin, &raise).await.0, 200);
    let status = eventually("rejected collateral in status", async || {
        let status = pair.mesh.plane().status().await;
        let nacked =
            status.proxies.iter().filter(|p| p.state == "nacked" && p.generation_acked > newer).count();
        if nacked == 2 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    for rejected in status.proxies.iter().flat_map(|proxy| &proxy.rejected) {
        assert!(rejected.name.starts_with("collateral/"), "{rejected:?}");
        assert!(rejected.reason.contains(Reason::CollateralRollback.code()), "{rejected:?}");
    }
    assert!(pair.web.count("mesh_config_rejected_total", &["kind=\"Collateral\""]) > 0.0);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_by_another_key_changes_nothing() {
    let mut pair = Pair::start().await;
    let generation = pair.mesh.plane().status().await.generation;
    pair.mesh.stop_plane().await;
    // The CA is the same, the machine is good; the key that signs policy is not the one proxies trust.
    std::fs::remove_file(pair.mesh.state().join("snapshot-key.p8")).unwrap();
    pair.mesh.start_plane().await;
    let forged = pair.mesh.apply(&Policy { workloads: vec!["intruder"], ..Policy::default() }).await;
    assert!(forged > generation);
    for proxy in [&pair.web, &pair.ledger] {
        eventually("the snapshot is rejected", async || {
            let rejected = proxy.count("mesh_config_rejected_total", &["kind=\"snapshot\""]);
            if rejected >= 1.0 { Ok(()) } else { Err(proxy.metrics()) }
        })
        .await;
        assert_eq!(proxy.ctx.view.load().generation, generation);
    }
    let (mut application, mut served) = pair.connect().await;
    passes(&mut application, &mut served, b"by the last good policy").await;
    pair.end().await;
}
