//! The control plane over its real TLS port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy sees as product code"
)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use common::{
    Plane, Proxy, START, World, apply, challenge, enrol, operator_identity, reference_values, request,
};
use countersign_attester::Attester;
use countersign_attester::emulated::{CollateralSpec, EmulatedTdx, TdxSpec, Vendor};
use countersign_evidence::Reason;
use countersign_ratls::Identity;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::Presented;
use countersign_ratls::tls::HandshakeError;
use countersign_wire::client::Subscription;
use countersign_wire::proto::identity_client::IdentityClient;
use countersign_wire::proto::operator_client::OperatorClient;
use countersign_wire::{Snapshot, proto, refusal};
use tonic::{Code, Status};

fn guest(world: &World) -> Arc<EmulatedTdx> {
    world.vendor.tdx(TdxSpec::default()).unwrap()
}

fn reason(status: &Status) -> Reason {
    refusal::reason(status).unwrap_or_else(|| panic!("{status:?}"))
}

async fn proxy(plane: &Plane, identity: &Identity, last: Option<Arc<Snapshot>>) -> Proxy {
    let channel = plane.connect(identity).await.unwrap();
    Proxy::open(channel, Subscription::new(plane.bundle.clone(), last), "demo/client").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_goes_from_the_operator_to_the_proxy_and_its_answer_back() {
    let world = World::new();
    let plane = world.start().await;
    let first = plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    assert_eq!(identity.id.as_ref().unwrap().as_str(), "spiffe://demo.example/client");
    let mut sidecar = proxy(&plane, &identity, None).await;
    let snapshot = sidecar.next().await.unwrap();
    assert_eq!(snapshot.generation(), first);
    assert!(snapshot.entries().contains_key("resource/WorkloadIdentity/demo/client"));
    assert!(snapshot.entries().contains_key("bundle/demo.example"));
    assert!(snapshot.entries().keys().any(|name| name.starts_with("collateral/")));
    let refused = ("resource/ReferenceValues/demo/demo".to_owned(), "not for us".to_owned());
    sidecar.ack(&[refused]).await;
    sidecar.in_use(first).await;

    // Only the difference travels.
    sidecar.arrived.clear();
    let second = plane.apply(&reference_values("d0").replace("guest", "guest of today")).await;
    assert_eq!(second, first + 1);
    assert_eq!(sidecar.next().await.unwrap().generation(), second);
    assert_eq!(sidecar.arrived, ["resource/ReferenceValues/demo/demo"]);

    let status =
        plane.operator().await.status(proto::StatusRequest { refusals: false }).await.unwrap().into_inner();
    let [known] = status.proxies.as_slice() else { panic!("{status:?}") };
    assert_eq!((known.name.as_str(), known.spiffe_id.as_str()), ("sidecar", "spiffe://demo.example/client"));
    assert_eq!((known.tee.as_str(), known.emulated, known.connected), ("tdx", true, true));
    assert_eq!((known.generation_acked, known.generation_sent), (first, second));
    assert_eq!(known.rejected[0].reason, "not for us");
    assert_eq!(known.state, "nacked");
    let wanted = proto::ListRequest { kind: "refval".into(), ..Default::default() };
    let listed = plane.operator().await.list(wanted).await.unwrap().into_inner();
    assert_eq!(listed.items[0].status.as_ref().unwrap().rejected[0].name, "sidecar");

    // An answered InUse is seen once a later snapshot arrives: messages are in order.
    sidecar.ack(&[]).await;
    plane.apply(&reference_values("d0")).await;
    sidecar.next().await.unwrap();
    let status = plane.handle.status();
    assert_eq!((status.proxies[0].generation_in_use, status.proxies[0].hops), (first, 1));
    assert!(status.proxies[0].rejected.is_empty());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_an_error_changes_nothing() {
    let world = World::new();
    let plane = world.start().await;
    let generation = plane.apply(&world.resources()).await;
    let mut operator = plane.operator().await;
    let bad = format!(
        "{}---\n{}",
        reference_values("ee"),
        reference_values("zz").replace("name: demo,", "name: x,")
    );
    let response = apply(&mut operator, &bad).await;
    assert!(response.results.is_empty());
    let problem = response.problems.iter().find(|p| p.severity == "error").unwrap();
    assert_eq!(problem.file, "demo.yaml");
    assert!(problem.line > 7, "{problem:?}");
    assert_eq!(response.generation, generation);

    // References across resources count as well, in both directions.
    let key = proto::ResourceKey {
        kind: "AttestationPolicy".into(),
        namespace: "demo".into(),
        name: "demo".into(),
    };
    let wanted = proto::DeleteRequest { keys: vec![key], dry_run: false };
    let response = operator.delete(wanted).await.unwrap().into_inner();
    assert!(response.deleted.is_empty() && !response.problems.is_empty(), "{response:?}");
    let stranger = "apiVersion: countersign.dev/v1alpha1\nkind: TrustDomain\nmetadata: { name: other.example }\nspec: {}\n";
    let response = apply(&mut operator, stranger).await;
    assert!(response.problems[0].message.contains("demo.example"), "{response:?}");

    let listed = operator.list(proto::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!((listed.generation, listed.items.len()), (generation, 5));
    let response = apply(&mut operator, &world.resources()).await;
    assert!(response.results.iter().all(|r| r.outcome() == proto::applied::Outcome::Unchanged));
    assert_eq!(response.generation, generation, "what does not change makes no generation");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_evidence_that_policy_accepts_gets_an_identity() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;

    let modified = TdxSpec { mr_td: [0xbb; 48], ..TdxSpec::default() };
    let modified = world.vendor.tdx(modified).unwrap();
    let refused = plane.enrol(&*modified, "demo/client").await.unwrap_err();
    assert_eq!((reason(&refused), refused.code()), (Reason::MeasurementMismatch, Code::PermissionDenied));

    let debuggable = TdxSpec { td_attributes: [1, 0, 0, 0x10, 0, 0, 0, 0], ..TdxSpec::default() };
    let debuggable = world.vendor.tdx(debuggable).unwrap();
    assert_eq!(reason(&plane.enrol(&*debuggable, "demo/client").await.unwrap_err()), Reason::Debug);

    let now = world.clock.now();
    let stranger = Vendor::generate(now, Duration::from_secs(86_400)).unwrap();
    let stranger = stranger.tdx(TdxSpec::default()).unwrap();
    let refused = plane.enrol(&*stranger, "demo/client").await.unwrap_err();
    assert!(matches!(reason(&refused), Reason::UntrustedRoot | Reason::EmulatedNotAdmitted), "{refused:?}");

    let refused = plane.enrol(&*guest(&world), "demo/nobody").await.unwrap_err();
    assert_eq!(reason(&refused), Reason::UnknownWorkload);
    let denial = countersign_wire::refusal::denial(&refused).unwrap();
    assert_eq!(
        (denial.findings[0].field.as_str(), denial.findings[0].presented.as_str()),
        ("workload", "demo/nobody")
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_bound_to_its_key_and_to_a_fresh_challenge_of_its_connection() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let guest = guest(&world);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let mut client = IdentityClient::new(plane.bootstrap().await);
    let ask = |csr: Vec<u8>| proto::IssueRequest { workload: "demo/client".into(), csr: csr.into() };

    let csr = request(&key, &*guest, &challenge(&mut client).await);
    client.issue(ask(csr.clone())).await.unwrap();
    let refused = client.issue(ask(csr)).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::BindingMismatch, "a challenge works once");

    let mut other = IdentityClient::new(plane.bootstrap().await);
    let elsewhere = request(&key, &*guest, &challenge(&mut other).await);
    assert_eq!(reason(&client.issue(ask(elsewhere)).await.unwrap_err()), Reason::BindingMismatch);

    let late = request(&key, &*guest, &challenge(&mut client).await);
    world.clock.advance(61);
    assert_eq!(reason(&client.issue(ask(late)).await.unwrap_err()), Reason::BindingMismatch);

    // The evidence of one key in the request of another.
    let nonce = challenge(&mut client).await;
    let thief = PrivateKey::generate(KeyType::EcP256).unwrap();
    let honest = countersign_ratls::csr::Pending::new(&key, &nonce).unwrap();
    let stolen = guest.evidence(&honest.report_data).unwrap();
    let pending = countersign_ratls::csr::Pending::new(&thief, &nonce).unwrap();
    let forged = pending.finish(&thief, stolen.media_type, &stolen.value);
    let forged = forged.expect("the request can be made, it is for the CA to refuse");
    assert_eq!(reason(&client.issue(ask(forged)).await.unwrap_err()), Reason::BindingMismatch);
    assert!(client.issue(ask(vec![0x30; 100])).await.is_err());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_of_caller_has_its_services_and_no_others() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let subscription = || Subscription::new(plane.bundle.clone(), None);
    let workload = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let operator = operator_identity(&world.state());

    for channel in [plane.bootstrap().await, plane.connect(&operator).await.unwrap()] {
        let refused = Proxy::open(channel, subscription(), "demo/client").await;
        assert_eq!(reason(&refused.err().unwrap()), Reason::AuthorizationDenied);
    }
    for channel in [plane.bootstrap().await, plane.connect(&workload).await.unwrap()] {
        let refused =
            OperatorClient::new(channel).status(proto::StatusRequest { refusals: false }).await.unwrap_err();
        assert_eq!(reason(&refused), Reason::AuthorizationDenied);
    }
    let channel = plane.connect(&operator).await.unwrap();
    let refused = IdentityClient::new(channel).challenge(proto::ChallengeRequest {}).await.unwrap_err();
    assert_eq!(reason(&refused), Reason::AuthorizationDenied);

    // A workload renews itself, and speaks for itself only.
    let renewed =
        enrol(plane.connect(&workload).await.unwrap(), &*guest(&world), "demo/client").await.unwrap();
    assert_ne!(renewed.spki_sha256, workload.spki_sha256);
    let refused = enrol(plane.connect(&workload).await.unwrap(), &*guest(&world), "demo/server").await;
    assert_eq!(reason(&refused.unwrap_err()), Reason::IdentityMismatch);
    let channel = plane.connect(&workload).await.unwrap();
    let mut impostor = Proxy::open(channel, subscription(), "demo/server").await.unwrap();
    assert_eq!(reason(&impostor.next().await.unwrap_err()), Reason::IdentityMismatch);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_policy_no_longer_admits_hears_it_and_loses_its_stream() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    sidecar.next().await.unwrap();
    sidecar.ack(&[]).await;
    let withdrawn = plane.apply(&reference_values("ee")).await;
    // It is by this generation that the proxy cuts its own hops.
    assert_eq!(sidecar.next().await.unwrap().generation(), withdrawn);
    let closed = sidecar.next().await.unwrap_err();
    assert_eq!(reason(&closed), Reason::MeasurementMismatch);
    let again = plane.connect(&identity).await;
    let refused = match again {
        Err(HandshakeError::Tls { .. }) => true,
        // TLS 1.3: the alert may come after the client has finished.
        Err(HandshakeError::Io(_)) => true,
        Err(HandshakeError::Denied(denial)) => panic!("{denial}"),
        Ok(channel) => {
            Proxy::open(channel, Subscription::new(plane.bundle.clone(), None), "demo/client").await.is_err()
        }
    };
    assert!(refused);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_behind_hears_that_it_is_no_longer_admitted_when_it_has_caught_up() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    // It has not answered this one when the next comes.
    sidecar.next().await.unwrap();
    let withdrawn = plane.apply(&reference_values("ee")).await;
    sidecar.ack(&[]).await;
    assert_eq!(sidecar.next().await.unwrap().generation(), withdrawn);
    assert_eq!(reason(&sidecar.next().await.unwrap_err()), Reason::MeasurementMismatch);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_that_expires_ends_its_stream() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    sidecar.next().await.unwrap();
    world.clock.advance(601);
    plane.handle.tick();
    assert_eq!(reason(&sidecar.next().await.unwrap_err()), Reason::SvidExpired);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_keys_and_generation_and_sends_nothing_again() {
    let world = World::new();
    let plane = world.start().await;
    let generation = plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    let snapshot = sidecar.next().await.unwrap();
    let bundle = plane.bundle.clone();
    plane.stop().await;
    assert_eq!(reason(&sidecar.next().await.unwrap_err()), Reason::Draining);

    let plane = world.start().await;
    assert_eq!(plane.bundle, bundle);
    let mut sidecar = proxy(&plane, &identity, Some(snapshot)).await;
    assert_eq!(sidecar.next().await.unwrap().generation(), generation);
    assert!(sidecar.arrived.is_empty(), "{:?}", sidecar.arrived);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_seen_and_does_not_roll_policy_back() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    plane.stop().await;
    let store = world.state().join("store.redb");
    let backup = std::fs::read(&store).unwrap();

    let plane = world.start().await;
    let newest = plane.apply(&reference_values("d0").replace("guest", "guest, reviewed")).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    let snapshot = sidecar.next().await.unwrap();
    plane.stop().await;

    std::fs::write(&store, backup).unwrap();
    let plane = world.start().await;
    let mut sidecar = proxy(&plane, &identity, Some(snapshot)).await;
    let answer = plane.http(plane.addresses.admin, &format!("POST /raise_generation?above={newest}")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Nothing that is older ever arrives; what comes has the restored content and a newer number.
    let restored = sidecar.next().await.unwrap();
    assert!(restored.generation() > newest);
    assert_eq!(sidecar.arrived, ["resource/ReferenceValues/demo/demo"]);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collateral_that_is_put_into_the_directory_reaches_proxies() {
    let world = World::new();
    let plane = world.start().await;
    let before = plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    let old = sidecar.next().await.unwrap();
    sidecar.ack(&[]).await;
    sidecar.arrived.clear();
    world.clock.advance(60);
    let directory = world.directory.path().join("collateral");
    for (i, item) in world.vendor.collateral(world.clock.now()).unwrap().into_iter().enumerate() {
        std::fs::write(directory.join(format!("{i:02}")), item.bytes).unwrap();
    }
    plane.handle.tick();
    // The directory may have been read while it was written: then there is one more.
    let new = loop {
        let snapshot = sidecar.next().await.unwrap();
        sidecar.ack(&[]).await;
        if snapshot.entries().len() == old.entries().len() {
            break snapshot;
        }
    };
    assert!(new.generation() > before);
    assert!(sidecar.arrived.iter().all(|name| name.starts_with("collateral/")), "{:?}", sidecar.arrived);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collateral_that_was_ahead_of_the_clock_counts_when_its_time_has_come() {
    let world = World::new();
    let mut newer = CollateralSpec {
        issued: Some(START + 60),
        tcb_evaluation_data_number: 18,
        without_crls: true,
        ..CollateralSpec::default()
    };
    newer.tcb_levels.iter_mut().for_each(|level| level.status = "OutOfDate".to_owned());
    let directory = world.directory.path().join("collateral");
    for (i, item) in world.vendor.collateral_with(&newer, world.clock.now()).unwrap().into_iter().enumerate()
    {
        std::fs::write(directory.join(format!("ahead-{i:02}")), item.bytes).unwrap();
    }
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let mut sidecar = proxy(&plane, &identity, None).await;
    let snapshot = sidecar.next().await.unwrap();
    sidecar.ack(&[]).await;
    world.clock.advance(60);
    plane.handle.tick();
    // Nothing was applied and no file changed: the platform is out of date by now.
    let closed = loop {
        // It hears first that its snapshot is current.
        match sidecar.next().await {
            Ok(current) => assert_eq!(current.generation(), snapshot.generation()),
            Err(closed) => break closed,
        }
    };
    assert_eq!(reason(&closed), Reason::TcbOutOfDate);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_workload_gets_our_own_id_whatever_it_is() {
    let world = World { id: "spiffe://demo.example/mesh/root", ..World::new() };
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let taken = "apiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\n\
                 metadata: { name: root, namespace: demo }\nspec:\n  spiffeId: spiffe://demo.example/mesh/root\n  \
                 attestation: { policy: demo }\n";
    let response = apply(&mut plane.operator().await, taken).await;
    let problem = response.problems.iter().find(|p| p.severity == "error").unwrap();
    assert!(problem.message.contains("is this control plane"), "{problem:?}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_ports_and_evidence_are_as_promised() {
    let world = World::new();
    let plane = world.start().await;
    for (file, mode) in
        [("ca-key.pem", 0o600), ("snapshot-key.p8", 0o600), ("operator.yaml", 0o600), ("store.redb", 0o600)]
    {
        let found = world.state().join(file).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{file}");
    }
    // A handshake shows that there is an identity, and so does readiness from then on.
    let channel = plane.bootstrap().await;
    IdentityClient::new(channel).challenge(proto::ChallengeRequest {}).await.unwrap();
    let ports = plane.addresses;
    assert!(plane.http(ports.readiness, "GET /healthz/ready").await.starts_with("HTTP/1.1 200"));
    assert!(plane.http(ports.readiness, "GET /healthz/live").await.starts_with("HTTP/1.1 200"));
    let metrics = plane.http(ports.metrics, "GET /metrics").await;
    for name in ["mesh_cp_proxies{state=\"synced\"}", "mesh_policy_generation", "mesh_ca_cert_expiration"] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    assert!(plane.http(ports.admin, "GET /quitquitquit").await.starts_with("HTTP/1.1 405"));
    let dump = plane.http(ports.admin, "GET /config_dump").await;
    assert!(dump.contains("\"collateral\"") && !dump.contains("PRIVATE"), "{dump}");
    // A page in a browser of this host is not an operator of it.
    for foreign in
        ["/ HTTP/1.1\r\nhost: evil.example\r\nx:", "/ HTTP/1.1\r\norigin: http://evil.example\r\nx:"]
    {
        let raise = format!("POST /raise_generation?above=9{}", foreign.trim_start_matches('/'));
        assert!(plane.http(ports.admin, &raise).await.starts_with("HTTP/1.1 4"), "{foreign}");
    }
    assert!(plane.http(ports.admin, "POST /quitquitquit").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_first_issuance_is_that_of_an_emulated_machine() {
    let world = World::new();
    let plane = world.start().await;
    // Whoever is let in finds that we have an identity. No policy names the emulated root yet.
    plane.bootstrap().await;
    let issued = plane.http(plane.addresses.admin, "GET /issued").await;
    let issued: serde_json::Value = serde_json::from_str(issued.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let own = &issued["issued"][0];
    assert_eq!((&own["policy"], &own["tee"]), (&"our own".into(), &"tdx".into()));
    assert_eq!(own["emulated"], true);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_context_names_the_policy_by_which_we_are_judged() {
    let world = World::new();
    let plane = world.start().await;
    plane.bootstrap().await;
    let context = std::fs::read_to_string(world.state().join("operator.yaml")).unwrap();
    let context: serde_json::Value = serde_saphyr::from_str(&context).unwrap();
    // Beside the context, so that both can be copied together.
    assert_eq!(context["attestation"], "control-plane-attestation.yaml");
    assert_eq!(context["collateral"][0], world.directory.path().join("collateral").to_str().unwrap());
    let policy = world.state().join("control-plane-attestation.yaml");
    let text = std::fs::read_to_string(&policy).unwrap();
    assert!(
        text.contains(&world.vendor.intel_root().to_string()) && text.contains(&"d0".repeat(48)),
        "{text}"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issued_certificate_carries_the_evidence_and_is_written_down() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let identity = plane.enrol(&*guest(&world), "demo/client").await.unwrap();
    let presented = Presented::parse(&identity.chain).unwrap();
    assert!(presented.evidence.is_some());
    assert_eq!(presented.not_after, START + 600);
    let issued = plane.http(plane.addresses.admin, "GET /issued").await;
    assert!(
        issued.contains("spiffe://demo.example/client") && issued.contains("\"emulated\":true"),
        "{issued}"
    );
    plane.stop().await;
}
