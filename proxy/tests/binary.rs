//! The program as it is started.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::io::{BufRead, BufReader, Lines, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use support::{World, assert_refused, assert_reset, http};
use tokio::net::TcpStream;

/// The program, with its log as JSON.
struct Program {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// What it said of the sockets that it has bound.
    bound: serde_json::Value,
}

impl Drop for Program {
    fn drop(&mut self) {
        // After a failure; else it has ended already.
        let _ = self.child.kill();
    }
}

/// Writes everything that a bootstrap names, and the command that starts it.
fn command(world: &World, shell: &str) -> Command {
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
  outbound:
    - { listen: "127.0.0.1:0", to: "spiffe://prod.example/ledger", address: "127.0.0.1:1", port: 8080 }
  limits: { connectTimeout: 60s }
  drainTimeout: 1h
  admin: 127.0.0.1:0
  metrics: 127.0.0.1:0
  readiness: 127.0.0.1:0
"#;
    std::fs::write(dir.join("proxy.yaml"), bootstrap).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_countersign-proxy")])
        .arg("--config")
        .arg(dir.join("proxy.yaml"))
        .env_remove("NO_COLOR")
        .stderr(Stdio::piped());
    command
}

impl Program {
    fn start(world: &World, shell: &str) -> Self {
        let mut child = command(world, shell).args(["--log-format", "json"]).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let bound = log
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                line["fields"]["readiness"].is_string().then(|| line["fields"].clone())
            })
            .expect("the program ended early");
        Self { child, log, bound }
    }

    fn address(&self, of: &str) -> SocketAddr {
        self.bound[of].as_str().unwrap().parse().unwrap()
    }

    /// The address that is listed first, in a text for people.
    fn outbound(&self) -> SocketAddr {
        self.bound["outbound"].as_str().unwrap().trim_matches(['[', ']']).parse().unwrap()
    }

    fn terminate(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// Reads the log until it says this.
    fn says(&mut self, what: &str) {
        assert!(self.log.any(|line| line.unwrap().contains(what)), "the log ended without {what:?}");
    }
}

#[tokio::test]
async fn the_program_says_what_it_waits_for_and_ends_in_order_at_the_first_signal() {
    let mut program = Program::start(&World::new(), "");
    let (status, report) = http(program.address("readiness"), "GET /healthz/ready").await;
    assert_eq!(status, 503);
    assert!(report.contains("identity: waiting for the control plane at 127.0.0.1:1"), "{report}");
    program.terminate();
    program.says("draining");
    let ended = program.child.wait().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_that_waits_for_a_connection() {
    // Descriptors for two connections of workloads, besides those that are reserved.
    let mut program = Program::start(&World::new(), "ulimit -n 132;");
    let outbound = program.outbound();
    // They wait for a certificate, which does not come.
    let mut waiting =
        [TcpStream::connect(outbound).await.unwrap(), TcpStream::connect(outbound).await.unwrap()];
    // One more is refused at once: both of them have been accepted.
    assert_refused(outbound).await;
    program.terminate();
    program.says("draining");
    let (status, report) = http(program.address("readiness"), "GET /healthz/ready").await;
    assert_eq!((status, report.lines().next()), (503, Some("draining")));
    assert!(program.child.try_wait().unwrap().is_none());
    program.terminate();
    for connection in &mut waiting {
        assert_reset(connection).await;
    }
    let ended = program.child.wait().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn operators_of_this_host_see_and_change_what_is_logged() {
    let mut program = Program::start(&World::new(), "");
    let admin = program.address("admin");
    assert_eq!(http(admin, "GET /logging").await, (200, "info\n".to_owned()));
    // Looking changes nothing, and a page that is merely loaded must not either.
    assert_eq!(http(admin, "GET /logging?level=trace").await.0, 405);
    assert_eq!(http(admin, "GET /logging").await.1, "info\n");
    let (status, why) = http(admin, "POST /logging?level=info,countersign_proxy=loud").await;
    assert_eq!(status, 400, "{why}");
    let (status, filter) = http(admin, "PUT /logging?level=warn,countersign_proxy=debug").await;
    assert_eq!((status, filter.as_str()), (200, "countersign_proxy=debug,warn\n"));
    assert_eq!(http(admin, "POST /logging?level=error").await, (200, "error\n".to_owned()));
    // The drain is told at the level info: not any more.
    program.terminate();
    assert!(!program.log.any(|line| line.unwrap().contains("draining")));
    assert!(program.child.wait().unwrap().success());
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let world = World::new();
    let mut child = command(&world, "").spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("not ready") {
        assert_ne!(log.read_line(&mut text).unwrap(), 0, "{text}");
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains(" INFO ") && !text.contains('\u{1b}'), "{text}");
    assert!(child.wait().unwrap().success());
}
