//! The program: starts from a file, answers, and ends when it is told to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::{World, http};

#[tokio::test]
async fn the_program_says_what_it_waits_for_and_ends_in_order_at_the_first_signal() {
    let world = World::new();
    let dir = world.dir.path();
    world.vendor.save(&dir.join("vendor")).unwrap();
    std::fs::create_dir(dir.join("collateral")).unwrap();
    std::fs::write(dir.join("bundle.json"), world.bundle.to_json()).unwrap();
    std::fs::write(
        dir.join("control-plane.yaml"),
        "{apiVersion: countersign.dev/v1alpha1, kind: AttestationPolicy, metadata: {name: control-plane}, \
         spec: {anyOf: [{tdx: {measurements: Any}}]}}",
    )
    .unwrap();
    let bootstrap = r#"
apiVersion: countersign.dev/v1alpha1
kind: ProxyBootstrap
spec:
  name: web-0
  workload: payments/web
  trustBundle: ./bundle.json
  stateDir: ./state
  attester: { emulated: { vendor: ./vendor, tdx: {} } }
  controlPlane:
    address: 127.0.0.1:1
    id: spiffe://prod.example/countersign/control-plane
    attestation: ./control-plane.yaml
    collateral: ./collateral
  inbound: { listen: "127.0.0.1:0", workload: 127.0.0.1, ports: [8443] }
  admin: 127.0.0.1:0
  metrics: 127.0.0.1:0
  readiness: 127.0.0.1:0
"#;
    std::fs::write(dir.join("proxy.yaml"), bootstrap).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_countersign-proxy"))
        .args(["--log-format", "json", "--config"])
        .arg(dir.join("proxy.yaml"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap()).lines();
    let readiness = log
        .find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            line["fields"]["readiness"].as_str().map(str::to_owned)
        })
        .expect("the program ended early");
    let (status, report) = http(readiness.parse().unwrap(), "GET /healthz/ready").await;
    assert_eq!(status, 503);
    assert!(report.contains("identity: waiting for the control plane at 127.0.0.1:1"), "{report}");
    let memory = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    println!(
        "{}",
        memory
            .lines()
            .filter(|l| l.starts_with("VmRSS") || l.starts_with("Rss"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    Command::new("kill").arg(program.id().to_string()).status().unwrap();
    let ended = program.wait().unwrap();
    assert!(ended.success(), "{ended}");
    assert!(log.any(|line| line.unwrap().contains("draining")));
}
