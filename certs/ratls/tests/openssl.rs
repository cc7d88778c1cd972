//! `openssl s_client` and `openssl s_server` as peers that we did not write.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "test code")]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use common::{Clock, Gatekeeper, Mesh, pem, profile};
use countersign_evidence::Reason;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::tls::{Acceptor, HandshakeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A client certificate and key as files, and a server that judges it.
struct Scene {
    directory: tempfile::TempDir,
    acceptor: Acceptor,
    judge: Arc<Gatekeeper>,
    listener: TcpListener,
}

impl Scene {
    async fn new(denied: Option<Reason>) -> Self {
        let (mesh, clock) = (Mesh::new(), Clock::new());
        let directory = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let cmw = common::cmw_with(common::sha256(&key.spki()), |expected| expected);
        let chain = mesh.chain(&key, "spiffe://td/openssl", Some(&cmw));
        std::fs::write(directory.path().join("cert.pem"), pem("CERTIFICATE", &chain[0])).unwrap();
        std::fs::write(directory.path().join("key.pem"), key.to_pem().as_bytes()).unwrap();
        let judge = match denied {
            Some(reason) => Gatekeeper::denying(&mesh.bundle, reason),
            None => Gatekeeper::new(&mesh.bundle),
        };
        let acceptor =
            Acceptor::new(&mesh.attested("spiffe://td/server"), Arc::clone(&judge) as _, &profile(&clock))
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { directory, acceptor, judge, listener }
    }

    /// s_client with our certificate; its standard input stays open.
    fn client(&self, arguments: &[&str]) -> Child {
        let address = self.listener.local_addr().unwrap().to_string();
        Command::new("openssl")
            .args(["s_client", "-connect", &address, "-cert", "cert.pem", "-key", "key.pem"])
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("the openssl command is needed: {error}"))
    }

    /// One connection: what the server made of it, and all that s_client said.
    async fn meet(&self, arguments: &[&str]) -> (Result<(), HandshakeError>, String) {
        let client = self.client(arguments);
        let (tcp, _) = self.listener.accept().await.unwrap();
        let outcome = match self.acceptor.accept(tcp).await {
            Err(error) => Err(error),
            Ok(mut hop) => {
                // What was sent of its own accord comes before this, and the
                // client has read it when it is done.
                hop.stream.write_all(b"done\n").await.unwrap();
                hop.stream.shutdown().await.unwrap();
                let _ = hop.stream.read_to_end(&mut Vec::new()).await;
                Ok(())
            }
        };
        let output = client.wait_with_output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (outcome, String::from_utf8_lossy(&said).into_owned())
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

#[tokio::test]
async fn no_ticket_is_offered_so_no_session_is_resumed() {
    let scene = Scene::new(None).await;
    let (first, said) = scene.meet(&["-alpn", "h2", "-sess_out", "session"]).await;
    first.unwrap();
    assert!(said.contains("TLSv1.3") && said.contains("ALPN protocol: h2"), "{said}");
    assert!(!said.contains("New Session Ticket arrived"), "{said}");
    assert_eq!(scene.judge.asked(), 1);
    // The library writes a session file only when it got a ticket; without one
    // the second attempt has nothing to resume and is judged like the first.
    let again = ["-alpn", "h2", "-sess_in", "session"];
    let arguments = if scene.path().join("session").exists() { &again[..] } else { &again[..2] };
    let (second, said) = scene.meet(arguments).await;
    second.unwrap();
    assert!(said.contains("New, TLSv1.3") && !said.contains("Reused, TLSv1.3"), "{said}");
    assert_eq!(scene.judge.asked(), 2);
}

#[tokio::test]
async fn a_client_without_alpn_is_refused_although_its_certificate_is_good() {
    let scene = Scene::new(None).await;
    let (outcome, said) = scene.meet(&[]).await;
    let Err(HandshakeError::Denied(denial)) = outcome else { panic!() };
    assert_eq!(denial.reason, Reason::NoApplicationProtocol);
    assert!(said.contains("no application protocol") || said.contains("alert number 120"), "{said}");
    assert_eq!(scene.judge.asked(), 0);
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let scene = Scene::new(None).await;
    let (outcome, said) = scene.meet(&["-alpn", "h2", "-tls1_2"]).await;
    assert!(matches!(outcome, Err(HandshakeError::Tls { .. })));
    assert!(said.contains("alert protocol version") || said.contains("alert number 70"), "{said}");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let scene = Scene::new(None).await;
    let address = scene.listener.local_addr().unwrap().to_string();
    let client = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-alpn", "h2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("the openssl command is needed: {error}"));
    let (tcp, _) = scene.listener.accept().await.unwrap();
    let Err(HandshakeError::Denied(denial)) = scene.acceptor.accept(tcp).await else { panic!() };
    assert_eq!(denial.reason, Reason::CertificateRequired);
    let output = client.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("certificate required") || said.contains("alert number 116"), "{said}");
}

#[tokio::test]
async fn a_denial_reaches_openssl_as_the_alert_of_its_reason() {
    for (reason, alert) in [
        (Reason::MeasurementMismatch, 49),
        (Reason::BadSignature, 42),
        (Reason::UnsupportedFormat, 43),
        (Reason::TcbRevoked, 44),
        (Reason::EvidenceStale, 45),
        (Reason::UntrustedRoot, 48),
        (Reason::CollateralMissing, 40),
    ] {
        let scene = Scene::new(Some(reason)).await;
        let (outcome, said) = scene.meet(&["-alpn", "h2"]).await;
        let Err(HandshakeError::Denied(denial)) = outcome else { panic!("{reason}") };
        assert_eq!(denial.reason, reason);
        assert!(said.contains(&format!("SSL alert number {alert}")), "{reason}: {said}");
    }
}
