//! A proxy whose quotes come from a broker that is killed, and what becomes of its hops.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use countersign_quoting::broker::Client;
use countersign_tests::http::http;
use countersign_tests::vendor::{profile, target};
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{Mesh, Pair, Policy, START, Workload, eventually};
use tokio::process::{Child, Command};

/// A certificate of these tests lives for an hour, and is renewed in the middle of it,
/// give or take a tenth.
const LIFETIME: u64 = 3600;
const RENEWED: u64 = LIFETIME * 6 / 10 + 1;
/// Nobody's is due yet but that of the control plane, which lives for half an hour.
const ALONE: u64 = 1200;

/// Starts the program on the emulated machine of all tests, and waits until it answers.
async fn broker(socket: &Path) -> (Child, Client) {
    let program: PathBuf = profile().join("countersign-broker");
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first",
        program.display()
    );
    let vendor = target().join("tmp").join(format!("emulated-vendor-{START}"));
    let child = Command::new(program)
        .args(["--log-format", "json", "--socket"])
        .arg(socket)
        .arg("--emulated")
        .arg(vendor)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = eventually("a broker", async || Client::open(socket).await.map_err(|e| e.to_string())).await;
    (child, client)
}

async fn the_control_plane_has_renewed(pair: &Pair) {
    let plane = pair.mesh.plane();
    eventually("a new certificate of the control plane", async || {
        plane.handle.tick();
        let (_, metrics) = http(plane.addresses.metrics, "GET /metrics").await;
        let line =
            metrics.lines().find(|line| line.starts_with("mesh_identity_cert_expiration_timestamp_seconds "));
        let ends: f64 = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default();
        if ends > (START + RENEWED) as f64 { Ok(()) } else { Err(metrics) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_costs_nothing_until_something_must_be_proved() {
    let mesh = Mesh::with(&Policy { svid_lifetime: LIFETIME, ..Policy::default() }).await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/quotes");
    let (mut killed, client) = broker(&socket).await;
    let workload = Workload::start().await;
    let ledger = mesh.sidecar("ledger").asking(Arc::new(client)).serving(&[workload.port]).ready().await;
    let web = mesh.sidecar("web").calling("ledger", ledger.inbound(), workload.port).ready().await;
    let pair = Pair { mesh, web, ledger, workload };
    let (mut application, mut served) = pair.connect().await;
    let certificate = Arc::clone(&pair.ledger.credentials().await.identity);

    // SIGKILL: it says good-bye to nobody, and its socket stays where it is.
    killed.kill().await.unwrap();
    passes(&mut application, &mut served, b"nobody has noticed").await;
    // What was proved holds for another stream, and for some time.
    pair.connect().await;
    pair.mesh.clock.advance(60);
    passes(&mut application, &mut served, b"nor a minute later").await;
    pair.ledger.ready().await;
    let failures = || pair.ledger.count("mesh_identity_cert_refreshes_total", &["outcome=\"failure\""]);
    assert_eq!(failures(), 0.0);

    // The proofs of the hop are too old, and there are no others.
    pair.mesh.clock.advance(ALONE - 60);
    the_control_plane_has_renewed(&pair).await;
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.ledger.ready().await;

    // The certificate is to be renewed, long before it ends: that nobody can quote for
    // it is told, and no traffic is sent here.
    pair.mesh.clock.advance(RENEWED - ALONE);
    let seen = Cell::new(0.0);
    let report = eventually("ledger tells of missing evidence", async || {
        let (status, report) = http(pair.ledger.addresses.readiness, "GET /healthz/ready").await;
        if status == 503 && report.contains("evidence: ") {
            return Ok(report);
        }
        // Attempts keep a minute apart.
        if failures() > seen.replace(failures()) {
            pair.mesh.clock.advance(61);
        }
        Err(report)
    })
    .await;
    assert!(report.contains("broker") && !report.contains("identity: "), "{report}");
    eventually(
        "a failure is counted",
        async || {
            if failures() >= 1.0 { Ok(()) } else { Err(pair.ledger.metrics()) }
        },
    )
    .await;
    let kept = Arc::clone(&pair.ledger.credentials().await.identity);
    assert_eq!((kept.not_after, kept.spki_sha256), (certificate.not_after, certificate.spki_sha256));
    pair.is_refused().await;

    // Another takes the place of the one that was killed: all goes on, without a restart.
    let (_broker, _) = broker(&socket).await;
    eventually("a new certificate", async || {
        pair.mesh.clock.advance(1);
        let now = Arc::clone(&pair.ledger.credentials().await.identity);
        if now.not_after > certificate.not_after { Ok(()) } else { Err(now.not_after) }
    })
    .await;
    pair.ledger.ready().await;
    eventually("a hop", async || {
        let hops = pair.web.ctx.live.len();
        drop(pair.dial().await);
        if hops > 0 { Ok(()) } else { Err(hops) }
    })
    .await;
    pair.end().await;
}
