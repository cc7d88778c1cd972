//! A proxy and its control plane: certificates, configuration, distrust.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use countersign_attester::emulated::{CollateralSpec, TdxSpec};
use countersign_config::bootstrap::ProxyBootstrap;
use countersign_proxy::context::Credentials;
use countersign_wire::server::Heard;
use countersign_wire::snapshot::{Entries, Entry};
use countersign_wire::{EntryName, Snapshot};
use support::device::Device;
use support::lines::Lines;
use support::plane::{Plane, Seen, Send, forged};
use support::{NOW, Policy, Proxy, WEB, World, at, eventually, http, within};

fn entries(world: &World) -> Entries {
    let mut entries = Entries::new();
    let mut add = |name: EntryName, body: Vec<u8>| {
        entries.insert(name.to_string().into(), Entry::new(Bytes::from(body)));
    };
    for resource in world.resources(&Policy { mr_td: 0xd0, ports: vec![80], level: "L2" }) {
        add(EntryName::Resource(resource.key()), resource.to_json().into_bytes());
    }
    for item in &world.collateral {
        add(EntryName::Collateral(item.name.clone()), item.bytes.clone());
    }
    add(EntryName::Bundle("prod.example".into()), world.bundle.to_json().into_bytes());
    entries
}

fn snapshot(world: &World, generation: u64, entries: Entries) -> Send {
    let trust_domain = world.bundle.trust_domain.clone();
    Send::Snapshot(Arc::new(Snapshot::sign(trust_domain, generation, entries, &world.snapshot_key).unwrap()))
}

/// A bootstrap that wants a control plane with this MRTD.
fn bootstrap(world: &World, plane: &Plane, mr_td: u8) -> ProxyBootstrap {
    let mut bootstrap = world.bootstrap("web", None, Vec::new());
    let (root, mr_td) = (world.vendor.intel_root(), hex::encode([mr_td; 48]));
    let text = format!(
        r#"
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: control-plane }}
spec: {{ tdx: [{{ name: release, mrTd: "{mr_td}" }}] }}
---
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: control-plane }}
spec:
  anyOf: [{{ tdx: {{ emulatedRoots: ["{root}"], measurements: {{ fromReferenceValues: control-plane }} }} }}]
"#
    );
    bootstrap.control_plane.attestation = countersign_config::parse("control-plane.yaml", &text).unwrap();
    bootstrap.control_plane.collateral = world.collateral.clone();
    bootstrap.control_plane.address = plane.address.to_string();
    bootstrap
}

#[tokio::test]
async fn a_proxy_gets_its_certificate_and_configuration_and_is_ready() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec::default()).await;
    plane.send.send_replace(Some(snapshot(&world, 1, entries(&world))));
    let bootstrap = bootstrap(&world, &plane, 0xd0);
    let proxy = Proxy::run(world.bind(&bootstrap));
    assert_eq!(plane.seen.recv().await, Some(Seen::Issued));
    assert!(matches!(plane.heard().await.0, Heard::Hello(peer) if peer.workload == "payments/web"));
    let (acked, rejected) = plane.heard().await;
    assert_eq!((acked, rejected), (Heard::Acked(1), Vec::new()));
    let (status, report) = http(proxy.addresses.readiness, "GET /healthz/ready").await;
    assert_eq!((status, report.as_str()), (200, "ready\n"));
    let (_, certs) = http(proxy.addresses.admin, "GET /certs").await;
    assert!(certs.contains(WEB), "{certs}");

    // One entry that cannot be read is rejected by name; the others are used.
    let mut broken = entries(&world);
    broken.insert("resource/AttestationPolicy/payments/odd".into(), Entry::new(Bytes::from_static(b"{")));
    plane.send.send_replace(Some(snapshot(&world, 2, broken)));
    let (acked, rejected) = plane.heard().await;
    assert_eq!(acked, Heard::Acked(2));
    assert_eq!(rejected, ["resource/AttestationPolicy/payments/odd"]);
    assert_eq!(proxy.ctx.view.load().generation, 2);
    assert!(proxy.metrics().contains("mesh_config_rejected_total{kind=\"AttestationPolicy\"} 1"));

    // A snapshot whose signature does not hold changes nothing and ends the stream.
    plane.send.send_replace(Some(Send::Raw(forged(3, &world.snapshot_key.public().0))));
    assert!(matches!(plane.heard().await.0, Heard::Hello(peer) if peer.generation == 2));
    assert_eq!(proxy.ctx.view.load().generation, 2);
    assert!(proxy.metrics().contains("mesh_config_rejected_total{kind=\"snapshot\"} 1"));
    proxy.end().await;

    // What was in use is kept for the next start.
    let proxy = Proxy::run(world.bind(&bootstrap));
    assert_eq!(proxy.ctx.view.load().generation, 2);
    proxy.end().await;
}

#[tokio::test]
async fn what_is_in_use_is_stored_also_when_the_stream_ends_with_it() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec::default()).await;
    plane.send.send_replace(Some(snapshot(&world, 1, entries(&world))));
    let bootstrap = bootstrap(&world, &plane, 0xd0);
    let proxy = Proxy::run(world.bind(&bootstrap));
    while plane.heard().await.0 != Heard::Acked(1) {}
    let Send::Snapshot(second) = snapshot(&world, 2, entries(&world)) else { panic!("a snapshot") };
    plane.send.send_replace(Some(Send::Last(second)));
    while !matches!(plane.heard().await.0, Heard::Hello(peer) if peer.generation == 2) {}
    proxy.end().await;
    let proxy = Proxy::run(world.bind(&bootstrap));
    assert_eq!(proxy.ctx.view.load().generation, 2);
    proxy.end().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_with_another_key_before_it_ends() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec::default()).await;
    plane.send.send_replace(Some(snapshot(&world, 1, entries(&world))));
    let proxy = Proxy::run(world.bind(&bootstrap(&world, &plane, 0xd0)));
    while plane.heard().await.0 != Heard::Acked(1) {}
    let mut credentials = proxy.ctx.credentials.subscribe();
    let first = credentials.borrow_and_update().clone().unwrap();
    // Past half of its life and the jitter around it.
    world.advance(2400);
    credentials.changed().await.unwrap();
    let second = credentials.borrow_and_update().clone().unwrap();
    assert_ne!(first.identity.spki_sha256, second.identity.spki_sha256);
    assert!(second.identity.not_after > first.identity.not_after);
    proxy.end().await;
}

#[tokio::test]
async fn collateral_that_was_ahead_of_the_clock_is_in_use_when_its_time_has_come() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec::default()).await;
    let newer = CollateralSpec {
        issued: Some(NOW + 60),
        tcb_evaluation_data_number: 18,
        ..CollateralSpec::default()
    };
    let mut all = entries(&world);
    for item in world.vendor.collateral_with(&newer, at(NOW)).unwrap() {
        let name = EntryName::Collateral(format!("ahead-{}", item.name));
        all.insert(name.to_string().into(), Entry::new(Bytes::from(item.bytes)));
    }
    plane.send.send_replace(Some(snapshot(&world, 1, all)));
    let proxy = Proxy::run(world.bind(&bootstrap(&world, &plane, 0xd0)));
    while plane.heard().await.0 != Heard::Acked(1) {}
    let first = proxy.ctx.view.load_full();
    assert_eq!(first.renew_at(), Some(NOW + 60));
    world.advance(60);
    // The proxy looks at the clock once a second.
    while proxy.ctx.view.load().edition() == first.edition() {
        tokio::task::yield_now().await;
    }
    let second = proxy.ctx.view.load_full();
    assert_eq!((second.generation, second.renew_at()), (1, None));
    assert!(!second.changes_since(&first).is_empty());
    proxy.end().await;
}

#[tokio::test]
async fn a_trust_domain_that_asks_for_another_kind_of_key_gets_it_at_once() {
    let world = World::new();
    let plane = Plane::start(&world, TdxSpec::default()).await;
    let text = "apiVersion: countersign.dev/v1alpha1\nkind: TrustDomain\nmetadata: { name: prod.example }\n\
                spec: { svid: { keyType: EcP384 } }\n";
    let mut wanted = entries(&world);
    for resource in countersign_config::parse("trust-domain.yaml", text).unwrap() {
        let name = EntryName::Resource(resource.key()).to_string();
        wanted.insert(name.into(), Entry::new(Bytes::from(resource.to_json())));
    }
    plane.send.send_replace(Some(snapshot(&world, 1, wanted)));
    let proxy = Proxy::run(world.bind(&bootstrap(&world, &plane, 0xd0)));
    // The first key is made before there is any configuration; secp384r1 is 1.3.132.0.34.
    let on_p384 = |chain: &[u8]| chain.windows(5).any(|bytes| bytes == [0x2b, 0x81, 0x04, 0x00, 0x22]);
    let mut credentials = proxy.ctx.credentials.subscribe();
    let first = credentials.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(!on_p384(&first.identity.chain[0]));
    credentials.wait_for(|now| now.as_ref().is_some_and(|c| on_p384(&c.identity.chain[0]))).await.unwrap();
    proxy.end().await;
}

#[tokio::test]
async fn a_control_plane_that_lost_collateral_is_verified_by_what_it_sent_before() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec::default()).await;
    let newer =
        CollateralSpec { tcb_evaluation_data_number: 18, crl_number: 18, ..CollateralSpec::default() };
    let mut whole = entries(&world);
    for item in world.vendor.collateral_with(&newer, world.clock().now()).unwrap() {
        let name = EntryName::Collateral(item.name).to_string();
        whole.insert(name.into(), Entry::new(Bytes::from(item.bytes)));
    }
    // Its own directory is older by now than what it must not fall behind.
    let bootstrap = bootstrap(&world, &plane, 0xd0);
    plane.send.send_replace(Some(snapshot(&world, 1, whole.clone())));
    let proxy = Proxy::run(world.bind(&bootstrap));
    while plane.heard().await.0 != Heard::Acked(1) {}
    whole.retain(|name, _| !name.starts_with("collateral/"));
    plane.send.send_replace(Some(snapshot(&world, 2, whole.clone())));
    while plane.heard().await.0 != Heard::Acked(2) {}

    // The stream ends, and the proxy comes back: to whom it has to listen to hear more.
    plane.send.send_replace(Some(Send::Raw(forged(3, &world.snapshot_key.public().0))));
    assert!(matches!(plane.heard().await.0, Heard::Hello(peer) if peer.generation == 2));
    plane.send.send_replace(None);
    proxy.end().await;
    // So it does after a restart.
    let proxy = Proxy::run(world.bind(&bootstrap));
    while !matches!(plane.heard().await.0, Heard::Hello(peer) if peer.generation == 2) {}
    proxy.end().await;
}

#[tokio::test]
async fn a_directory_of_collateral_that_is_refreshed_is_read_again_without_a_restart() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let mut bootstrap = bootstrap(&world, &plane, 0xd0);
    bootstrap.control_plane.collateral = Vec::new();
    bootstrap.control_plane.collateral_dir = Some(directory.path().to_owned());
    let proxy = Proxy::run(world.bind(&bootstrap));
    assert_eq!(plane.seen.recv().await, Some(Seen::Refused));
    let mut report = proxy.ctx.readiness.report();
    while !report.contains("controlPlane.collateral of this proxy is") {
        tokio::task::yield_now().await;
        report = proxy.ctx.readiness.report();
    }
    let named =
        format!("controlPlane.collateral of this proxy is the files in {}", directory.path().display());
    assert!(report.contains(&named), "{report}");
    for (i, item) in world.collateral.iter().enumerate() {
        std::fs::write(directory.path().join(i.to_string()), &item.bytes).unwrap();
    }
    // One attempt finds that it needs it, and the next one has it.
    world.advance(600);
    assert_eq!(plane.seen.recv().await, Some(Seen::Refused));
    world.advance(600);
    assert_eq!(plane.seen.recv().await, Some(Seen::Issued));
    proxy.end().await;
}

#[tokio::test]
async fn a_control_plane_with_other_measurements_gets_nothing_from_us() {
    let world = World::new();
    let mut plane = Plane::start(&world, TdxSpec { mr_td: [0xaa; 48], ..TdxSpec::default() }).await;
    let proxy = Proxy::run(world.bind(&bootstrap(&world, &plane, 0xd0)));
    assert_eq!(plane.seen.recv().await, Some(Seen::Refused));
    let mut report = proxy.ctx.readiness.report();
    while !report.contains("measurement-mismatch") {
        tokio::task::yield_now().await;
        report = proxy.ctx.readiness.report();
    }
    assert!(report.contains("identity: waiting for the control plane at 127.0.0.1"), "{report}");
    proxy.end().await;
}

#[tokio::test]
async fn an_attester_that_fails_keeps_the_certificate_and_is_told_of_early() {
    let (lines, _captured) = Lines::capture();
    let world = World::new();
    let (mut plane, device) = (Plane::start(&world, TdxSpec::default()).await, Device::new(&world));
    plane.send.send_replace(Some(snapshot(&world, 1, entries(&world))));
    let proxy = Proxy::run(world.bind_on(&bootstrap(&world, &plane, 0xd0), Arc::clone(&device) as _));
    while plane.heard().await.0 != Heard::Acked(1) {}
    let first = proxy.ctx.credentials().unwrap();
    let failures = || {
        let (name, metrics) = ("mesh_identity_cert_refreshes_total{outcome=\"failure\"} ", proxy.metrics());
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or_default()
    };
    assert_eq!(failures(), 0);
    device.is_broken(true);
    // Past half of its life and the jitter around it: 20 minutes are left.
    world.advance(2400);
    eventually("an attempt that fails", || failures() > 0).await;
    assert!(!lines.with("certificate not renewed yet").is_empty());
    assert!(lines.with("certificate not renewed for a long time").is_empty());
    let (status, report) = http(proxy.addresses.readiness, "GET /healthz/ready").await;
    assert_eq!(status, 503);
    assert!(report.contains("evidence: ") && report.contains("on fire"), "{report}");
    assert!(!report.contains("identity: "), "it has one: {report}");
    let expires = format!("mesh_identity_cert_expiration_timestamp_seconds {}\n", support::NOW + 3600);
    assert!(proxy.metrics().contains(&expires), "{}", proxy.metrics());

    // Less than a quarter of its life is left: somebody should look.
    world.advance(360);
    eventually("the alarm", || !lines.with("certificate not renewed for a long time").is_empty()).await;
    let alarm = lines.with("certificate not renewed for a long time").remove(0);
    assert!(alarm.contains("ERROR") && alarm.contains("on fire"), "{alarm}");
    let now = proxy.ctx.credentials().unwrap();
    assert!(Arc::ptr_eq(&first, &now), "the one that holds is in use");

    device.is_broken(false);
    world.advance(60);
    let mut changes = proxy.ctx.credentials.subscribe();
    let renewed = |now: &Option<Arc<Credentials>>| now.as_ref().is_some_and(|now| !Arc::ptr_eq(now, &first));
    within("another certificate", changes.wait_for(renewed)).await.unwrap();
    eventually("readiness", || proxy.ctx.readiness.is_ready()).await;
    proxy.end().await;
}
