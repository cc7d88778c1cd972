//! `openssl` and `curl` as peers that we did not write.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_evidence::Reason;
use countersign_ratls::Identity;
use countersign_ratls::key::PrivateKey;
use countersign_tests::attacker::{evidence, key};
use countersign_tests::{DAY, Mesh, Pair, Platform, Policy, START, Workload, eventually, policy, within};
use tokio::process::{Child, Command};

/// Text and exit code of a program that ends by itself.
async fn run(program: &str, arguments: &[&str], directory: &Path) -> (String, Option<i32>) {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(program, command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program} is needed, see `make packages`: {error}"));
    (String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(), output.status.code())
}

async fn curl(arguments: &[&str]) -> (String, Option<i32>) {
    let fixed = ["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"];
    run("curl", &[&fixed, arguments].concat(), Path::new("/")).await
}

/// A certificate chain and key as `openssl` reads them.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(identity: &Identity, key: &PrivateKey) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("leaf.der"), &identity.chain[0]).unwrap();
        std::fs::write(directory.path().join("key.pem"), key.to_pem().as_bytes()).unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// s_client with this certificate; its standard input stays open.
    fn client(&self, address: SocketAddr, arguments: &[&str]) -> Child {
        let certificate = ["-cert", "leaf.der", "-certform", "DER", "-key", "key.pem"];
        s_client(address, &[&certificate, arguments].concat(), self.path())
    }
}

fn s_client(address: SocketAddr, arguments: &[&str], directory: &Path) -> Child {
    Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("openssl is needed, see `make packages`: {error}"))
}

/// All that s_client says until it ends by itself, because it is refused.
async fn refusal(mut client: Child) -> String {
    // Kept open: at its end s_client would leave in order.
    let input = client.stdin.take();
    let said = end(client).await;
    drop(input);
    said
}

/// All that s_client says when it is told to leave.
async fn leave(mut client: Child) -> String {
    drop(client.stdin.take());
    end(client).await
}

async fn end(client: Child) -> String {
    let output = within("the end of s_client", client.wait_with_output()).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_with_a_good_svid_gets_a_full_handshake_each_time_and_no_ticket() {
    let pair = Pair::start().await;
    let (key, platform) = (key(), Platform::default().attester(&pair.mesh.vendor));
    let identity = pair.mesh.plane().enrol_key(&key, &*platform, "web").await.unwrap();
    let files = Files::new(&identity, &key);
    let before = pair.ledger.admissions();
    for count in 1..=2 {
        let session = if files.path().join("session").exists() {
            ["-sess_in", "session"]
        } else {
            ["-sess_out", "session"]
        };
        let client = files.client(pair.ledger.inbound(), &[&["-alpn", "ratls-h2/1"], &session[..]].concat());
        eventually("openssl is admitted", async || {
            let now = pair.ledger.admissions();
            if now == before + f64::from(count) { Ok(()) } else { Err(now) }
        })
        .await;
        let said = leave(client).await;
        for line in ["New, TLSv1.3", "ALPN protocol: ratls-h2/1"] {
            assert!(said.contains(line), "{line} is missing in {said}");
        }
        assert!(!said.contains("New Session Ticket arrived") && !said.contains("Reused"), "{said}");
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_hears_the_alert_of_each_reason() {
    let pair = Pair::start().await;
    let mesh = &pair.mesh;
    let web = policy::id("web");
    let stranger = Vendor::generate(mesh.clock.now(), Duration::from_secs(DAY)).unwrap();
    let honest = Platform::default().attester(&mesh.vendor);
    let thief = key();
    let cases = [
        (None, Reason::EvidenceMissing),
        (Some(evidence(&key(), &*honest)), Reason::BindingMismatch),
        (Some(evidence(&thief, &*Platform::tdx(0xbb).attester(&mesh.vendor))), Reason::MeasurementMismatch),
        (Some(evidence(&thief, &*stranger.tdx(TdxSpec::default()).unwrap())), Reason::UntrustedRoot),
    ];
    for (cmw, reason) in cases {
        let files = Files::new(&mesh.forge(&web, &thief, cmw.as_deref()), &thief);
        let said = refusal(files.client(pair.ledger.inbound(), &["-alpn", "ratls-h2/1"])).await;
        let alert = format!("alert number {}", reason.tls_alert());
        assert!(said.contains(&alert), "{reason}: {alert} is missing in {said}");
        assert_eq!(pair.ledger.denials(reason), 1.0, "{reason}");
    }
    let none = Path::new("/");
    for (arguments, number) in [
        (&["-alpn", "ratls-h2/1"][..], 116),
        (&[], 120),
        (&["-alpn", "http/1.1"], 120),
        (&["-alpn", "ratls-h2/1", "-tls1_2"], 70),
    ] {
        let said = refusal(s_client(pair.ledger.inbound(), arguments, none)).await;
        assert!(said.contains(&format!("alert number {number}")), "{arguments:?}: {said}");
    }
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_an_svid_against_the_ca_and_reads_its_id() {
    let mesh = Mesh::with(&Policy::default()).await;
    let (key, platform) = (key(), Platform::snp().attester(&mesh.vendor));
    let identity = mesh.plane().enrol_key(&key, &*platform, "web").await.unwrap();
    let files = Files::new(&identity, &key);
    let (said, code) =
        run("openssl", &["x509", "-inform", "DER", "-in", "leaf.der", "-noout", "-text"], files.path()).await;
    assert_eq!(code, Some(0), "{said}");
    for line in [format!("URI:{}", policy::id("web")), "CA:FALSE".into(), "Digital Signature".into()] {
        assert!(said.contains(&line), "{line} is missing in {said}");
    }
    let (said, code) =
        run("openssl", &["x509", "-inform", "DER", "-in", "leaf.der", "-out", "leaf.pem"], files.path())
            .await;
    assert_eq!(code, Some(0), "{said}");
    let ca = mesh.state().join("ca.pem").display().to_string();
    let verify = |at: u64| {
        let (at, ca, path) = (at.to_string(), ca.clone(), files.path());
        async move { run("openssl", &["verify", "-attime", &at, "-CAfile", &ca, "leaf.pem"], path).await }
    };
    let (said, code) = verify(START + 1).await;
    assert_eq!((said.as_str(), code), ("leaf.pem: OK\n", Some(0)));
    let (said, code) = verify(START + DAY).await;
    assert!(code != Some(0) && said.contains("expired"), "{said}");
    mesh.plane.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http_through_a_mapped_port_and_is_cut_off_when_policy_says_so() {
    let mesh = Mesh::with(&Policy::default()).await;
    let body = "the ledger's books\n";
    let answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let port = Workload::start().await.answer(answer);
    let ledger = mesh.sidecar("ledger").on(&Platform::snp()).serving(&[port]).ready().await;
    let web = mesh.sidecar("web").calling("ledger", ledger.inbound(), port).ready().await;
    let url = format!("http://{}/books", web.outbound());
    assert_eq!(curl(&[&url]).await, (body.to_owned(), Some(0)));

    let generation = mesh.apply(&Policy { snp: vec![0xee], ..Policy::default() }).await;
    web.uses(generation).await;
    let (said, code) = curl(&[&url]).await;
    // A reset as soon as it is connected, before an answer, or while it is read.
    assert!(matches!(code, Some(7 | 52 | 56)), "{code:?} {said}");
    let generation = mesh.apply(&Policy::default()).await;
    web.uses(generation).await;
    ledger.ready().await;
    ledger.uses(generation).await;
    assert_eq!(curl(&[&url]).await, (body.to_owned(), Some(0)));
    web.end().await;
    ledger.end().await;
    mesh.plane.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_readiness_metrics_and_admin_of_both_processes() {
    let pair = Pair::start().await;
    let (_application, _served) = pair.connect().await;
    let status = ["--write-out", "%{http_code}", "--output", "/dev/null"];
    let plane = pair.mesh.plane().addresses;
    for ready in [pair.web.addresses.readiness, plane.readiness] {
        let url = format!("http://{ready}/healthz/ready");
        assert_eq!(curl(&[&status[..], &[&url]].concat()).await.0, "200");
    }
    let (metrics, _) = curl(&[&format!("http://{}/metrics", pair.ledger.addresses.metrics)]).await;
    assert!(metrics.contains("mesh_hops{direction=\"inbound\"} 1"), "{metrics}");
    let (metrics, _) = curl(&[&format!("http://{}/metrics", plane.metrics)]).await;
    assert!(metrics.contains("mesh_cp_proxies{state=\"synced\"} 2"), "{metrics}");
    let (dump, _) = curl(&[&format!("http://{}/config_dump", pair.web.addresses.admin)]).await;
    assert!(dump.contains("AuthorizationPolicy") && !dump.contains("PRIVATE"), "{dump}");

    // What changes something is no GET, and no page in a browser may send it.
    let drain = format!("http://{}/drain", pair.web.addresses.admin);
    assert_eq!(curl(&[&status[..], &[&drain]].concat()).await.0, "405");
    let foreign =
        [&status[..], &["--request", "POST", "--header", "Origin: http://evil.example", &drain]].concat();
    assert_eq!(curl(&foreign).await.0, "403");
    let rebound = [&status[..], &["--request", "POST", "--header", "Host: evil.example", &drain]].concat();
    assert_eq!(curl(&rebound).await.0, "403");
    assert!(pair.web.ctx.readiness.is_ready());
    // TLS where there is none, and none where there is TLS.
    let (_, code) = curl(&[&format!("http://{}/", pair.ledger.inbound())]).await;
    assert!(matches!(code, Some(1 | 8 | 52 | 56)), "{code:?}");
    pair.end().await;
}
