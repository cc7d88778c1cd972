//! The whole mesh: what an operator and a workload see of it.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::time::Instant;

use countersign_attester::emulated::TdxSpec;
use countersign_evidence::Reason;
use countersign_tests::http::http;
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{Mesh, Pair, Platform, Policy, Workload, eventually, policy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_through_two_sidecars_on_machines_of_different_vendors() {
    let pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::snp()]).await;
    let (mut application, mut served) = pair.connect().await;
    passes(&mut served, &mut application, b"from an SEV-SNP guest to a TDX guest").await;
    // Either side may finish first, and the other still speaks.
    application.shutdown().await.unwrap();
    assert_eq!(served.read(&mut [0; 1]).await.unwrap(), 0);
    passes(&mut served, &mut application, b"still here").await;

    let seen = pair.ledger.admin("/connections").await;
    assert_eq!(seen["hops"][0]["identity"], policy::id("web"));
    assert_eq!((&seen["hops"][0]["tee"], &seen["hops"][0]["emulated"]), (&"tdx".into(), &true.into()));
    let seen = pair.web.admin("/connections").await;
    assert_eq!(seen["hops"][0]["identity"], policy::id("ledger"));
    assert_eq!(seen["hops"][0]["tee"], "sevSnp");
    let judged = ["direction=\"outbound\"", "result=\"allow\""];
    assert!(pair.web.count("mesh_attestation_appraisal_seconds_count", &judged) > 0.0);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_every_proxy_with_its_tee_and_the_generation_in_use() {
    let pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::snp()]).await;
    let plane = pair.mesh.plane();
    let status = eventually("both proxies in status", async || {
        let status = plane.status().await;
        let synced =
            status.proxies.iter().filter(|p| p.state == "synced" && p.generation_in_use == status.generation);
        if synced.count() == 2 { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(status.missing.is_empty(), "{status:?}");
    let ledger = status.proxies.iter().find(|p| p.name == "ledger").unwrap();
    assert_eq!((ledger.tee.as_str(), ledger.emulated, ledger.connected), ("sevSnp", true, true));
    assert_eq!((&*ledger.spiffe_id, &*ledger.workload), (&*policy::id("ledger"), "demo/ledger"));
    assert!(ledger.rejected.is_empty());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_change_cuts_the_live_hop_with_both_sockets_and_its_return_lets_traffic_go_on() {
    let pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::snp()]).await;
    let (mut application, mut served) = pair.connect().await;

    let withdrawn = Policy { snp: vec![0xee], ..Policy::default() };
    let started = Instant::now();
    let generation = pair.mesh.apply(&withdrawn).await;
    is_reset(&mut application).await;
    let took = started.elapsed();
    is_reset(&mut served).await;
    println!("apply to cut: {:.1} ms", took.as_secs_f64() * 1e3);
    pair.web.uses(generation).await;
    assert_eq!(pair.web.count("mesh_connections_revoked_total", &["cause=\"verdict\""]), 1.0);
    pair.is_refused().await;
    pair.web.has_denied(Reason::MeasurementMismatch).await;

    // No process was restarted; the ledger lost its stream and comes back by itself.
    let generation = pair.mesh.apply(&Policy::default()).await;
    pair.web.uses(generation).await;
    pair.ledger.uses(generation).await;
    let (mut application, mut served) = pair.connect().await;
    passes(&mut served, &mut application, b"back again").await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_no_longer_authorized_is_cut_and_the_peer_stays_admitted() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let text = Policy { calls: vec![("audit", "ledger")], ..Policy::default() };
    pair.mesh.plane().apply(&text.yaml(&pair.mesh.vendor)).await;
    let key = countersign_wire::proto::ResourceKey {
        kind: "AuthorizationPolicy".into(),
        namespace: "demo".into(),
        name: "web-ledger".into(),
    };
    let request = countersign_wire::proto::DeleteRequest { keys: vec![key], dry_run: false };
    let generation =
        pair.mesh.plane().operator().await.delete(request).await.unwrap().into_inner().generation;
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.ledger.uses(generation).await;
    assert_eq!(pair.ledger.count("mesh_connections_revoked_total", &["cause=\"authorization\""]), 1.0);
    assert_eq!(pair.ledger.count("mesh_hops", &["direction=\"inbound\""]), 1.0);
    pair.is_refused().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_without_the_control_plane_and_a_restarted_proxy_says_what_it_misses() {
    let mut pair = Pair::start().await;
    let generation = pair.mesh.plane().status().await.generation;
    let (mut application, mut served) = pair.connect().await;
    pair.mesh.stop_plane().await;
    passes(&mut application, &mut served, b"the live hop goes on").await;
    // New connections too, and not only over the hop that exists.
    pair.connect().await;
    assert!(pair.web.ctx.readiness.is_ready());

    // A restart finds the last good snapshot, verified anew. Keys are never on
    // disk, so there is no certificate until the control plane is back.
    let Pair { mut mesh, web, ledger, workload } = pair;
    web.end().await;
    let web = mesh.sidecar("web").calling("ledger", ledger.inbound(), workload.port).start();
    assert_eq!(web.ctx.view.load().generation, generation);
    let report = web.waits_for("last attempt").await;
    assert!(report.contains("identity: waiting for the control plane at 127.0.0.1:"), "{report}");
    assert!(!report.contains("snapshot: "), "{report}");

    mesh.start_plane().await;
    mesh.clock.advance(60);
    web.ready().await;
    let pair = Pair { mesh, web, ledger, workload };
    pair.connect().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_without_control_plane_says_what_it_waits_for_and_is_ready_when_it_comes() {
    let mut mesh = Mesh::with(&Policy::default()).await;
    mesh.stop_plane().await;
    let web = mesh.sidecar("web").start();
    let report = web.waits_for("last attempt").await;
    for line in [
        "evidence: ",
        "identity: waiting for the control plane at ",
        "snapshot: waiting for the control plane",
    ] {
        assert!(report.contains(line), "{report}");
    }
    assert_eq!(http(web.addresses.readiness, "GET /healthz/live").await.0, 200);
    assert_eq!(web.ctx.view.load().generation, 0);

    mesh.start_plane().await;
    // The next attempt is due by the clock.
    mesh.clock.advance(60);
    web.ready().await;
    web.end().await;
    mesh.stop_plane().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_hop_cut_it_when_the_software_of_both_is_withdrawn() {
    // The control plane admits neither of them any more; both must still learn why.
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let generation = pair.mesh.apply(&Policy { tdx: vec![0xee], ..Policy::default() }).await;
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.uses(generation).await;
    pair.ledger.uses(generation).await;
    pair.is_refused().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_its_reference_values_is_refused_before_anybody_gets_it() {
    let pair = Pair::start().await;
    let odd = "apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
               metadata: { name: odd, namespace: elsewhere }\nspec:\n  anyOf:\n    - tdx: { measurements: { fromReferenceValues: nowhere } }\n";
    let before = pair.mesh.plane().status().await.generation;
    let answer = pair.mesh.plane().try_apply(odd).await;
    let problem = answer.problems.iter().find(|p| p.severity == "error").expect("an error");
    assert!(problem.message.contains("elsewhere/nowhere"), "{problem:?}");
    assert_eq!(pair.mesh.plane().status().await.generation, before);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_an_error_changes_nothing() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let before = pair.mesh.plane().status().await.generation;
    // The first document would cut the hop; the second has a misspelt field.
    let withdrawn = Policy { tdx: vec![0xee], ..Policy::default() }.reference_values();
    let text = format!(
        "{withdrawn}---\napiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: peers, namespace: demo }}\nspec:\n  anyOff: []\n"
    );
    let response = pair.mesh.plane().try_apply(&text).await;
    let problem = response.problems.iter().find(|p| p.message.contains("anyOff")).expect("a problem");
    let line = 1 + text.lines().position(|line| line.contains("anyOff")).unwrap() as u64;
    assert_eq!(
        (problem.severity.as_str(), problem.file.as_str(), problem.line),
        ("error", "mesh.yaml", line)
    );
    assert!(problem.column > 0 && problem.hint.contains("anyOf"), "{problem:?}");
    assert!(response.results.is_empty());
    assert_eq!(pair.mesh.plane().status().await.generation, before);
    // What comes next is the next generation, and it has nothing of the bad file.
    let extra = Policy { workloads: vec!["extra"], calls: Vec::new(), ..Policy::default() };
    let next = pair.mesh.apply(&extra).await;
    assert_eq!(next, before + 1);
    pair.web.uses(next).await;
    pair.ledger.uses(next).await;
    passes(&mut application, &mut served, b"not cut").await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_streams_finish_and_refuses_new_ones() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    assert_eq!(http(pair.ledger.addresses.admin, "POST /drain").await.0, 200);
    let report = pair.ledger.waits_for("draining").await;
    assert!(report.starts_with("draining\n"), "{report}");
    passes(&mut application, &mut served, b"what is open goes on").await;
    pair.is_refused().await;
    passes(&mut served, &mut application, b"to its own end").await;
    application.shutdown().await.unwrap();
    assert_eq!(served.read(&mut [0; 1]).await.unwrap(), 0);
    drop((application, served));
    pair.ledger.ended().await;
    pair.web.end().await;
    pair.mesh.plane.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_with_another_key_and_streams_outlive_it_as_far_as_it_holds() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let first = pair.web.credentials().await.identity.clone();
    // Past half of its life.
    pair.live(2400).await;
    let second = eventually("another certificate", async || {
        let now = pair.web.credentials().await.identity.clone();
        if now.spki_sha256 == first.spki_sha256 { Err(now.not_after) } else { Ok(now) }
    })
    .await;
    assert!(second.not_after > first.not_after);
    passes(&mut application, &mut served, b"still on the old hop").await;
    pair.connect().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_several_certificates_of_both_sides_and_loses_no_byte() {
    const LIFETIME: u64 = 1200;
    let policy = Policy { svid_lifetime: LIFETIME, ..Policy::default() };
    let pair = Pair::with(&policy, [&Platform::default(), &Platform::snp()]).await;
    let (mut application, served) = pair.connect().await;
    let hop = pair.web.hops().await.remove(0);
    let first = [pair.web.credentials().await, pair.ledger.credentials().await];
    // The workload sends everything back.
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = served.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    for minute in 0..4 * LIFETIME / 60 {
        // Bytes are under way while keys, evidence and rounds change.
        let sent: Vec<u8> = (0..128 << 10).map(|i: u32| (u64::from(i) * 31 + minute) as u8).collect();
        let mut received = vec![0; sent.len()];
        let (mut read, mut write) = application.split();
        let flowing = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut received)) };
        let ((), flowed) = tokio::join!(pair.live(60), within("bytes through the hop", flowing));
        flowed.unwrap();
        assert!(sent == received, "in minute {minute}");
    }
    let now = pair.web.hops().await.remove(0);
    assert_eq!((&now["hop"], &now["identity"]), (&hop["hop"], &hop["identity"]), "another hop");
    for side in ["own", "peer"] {
        let renewals = now["session"]["renewals"][side].as_u64().unwrap();
        assert!(renewals >= 4, "{side}: {renewals} renewals in four lifetimes");
        assert!(now["session"][side]["rounds"].as_u64().unwrap() > renewals, "{now}");
    }
    for (proxy, first) in [&pair.web, &pair.ledger].into_iter().zip(&first) {
        let last = proxy.credentials().await;
        assert!(last.identity.not_before > first.identity.not_after, "it never ended");
        assert_eq!(proxy.count("mesh_connections_revoked_total", &[]), 0.0);
        assert_eq!(proxy.count("mesh_connections_drained_total", &[]), 0.0);
    }
    application.shutdown().await.unwrap();
    assert_eq!(application.read(&mut [0; 1]).await.unwrap(), 0);
    echo.await.unwrap();
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_which_side_refuses_and_why() {
    let pair = Pair::with(&Policy::default(), [&Platform::default(), &Platform::snp()]).await;
    let ask = async || {
        let request = countersign_wire::proto::ExplainRequest {
            source: "demo/web".into(),
            destination: "demo/ledger".into(),
            port: u32::from(pair.workload.port),
            request: None,
        };
        pair.mesh.plane().operator().await.explain(request).await.unwrap().into_inner()
    };
    let answer = eventually("both are connected", async || {
        let answer = ask().await;
        if answer.allowed { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert!(answer.steps.iter().all(|step| step.ok), "{answer:?}");
    pair.mesh.apply(&Policy { snp: vec![0xee], ..Policy::default() }).await;
    let answer = ask().await;
    assert!(!answer.allowed);
    let refused =
        answer.steps.iter().find(|s| s.title.starts_with("destination proves itself")).expect("a step");
    assert!(!refused.ok, "{answer:?}");
    for part in ["measurement", &"a0".repeat(8)] {
        assert!(refused.text.contains(part), "{part} is missing in {refused:?}");
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_takes_its_time_delays_readiness_and_nothing_else() {
    let mesh = Mesh::with(&Policy::default()).await;
    let slow = TdxSpec { quoting_latency: std::time::Duration::from_millis(300), ..TdxSpec::default() };
    let workload = Workload::start().await;
    let ledger = mesh.sidecar("ledger").on(&Platform::Tdx(slow)).serving(&[workload.port]).start();
    assert_eq!(http(ledger.addresses.readiness, "GET /healthz/live").await.0, 200);
    ledger.ready().await;
    ledger.end().await;
    mesh.plane.unwrap().stop().await;
}
