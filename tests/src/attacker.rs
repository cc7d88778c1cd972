//! What an attacker brings: stolen keys, relayed evidence, TLS without manners.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_attester::Attester;
use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::AttestedRequest;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::session::{Side, WireReason};
use countersign_ratls::tls::{ALPN_MESH, Acceptor, Profile};
use countersign_ratls::{Authority, Identity, SpiffeId};
use http::{Method, Request, StatusCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::clock::Clock;
use crate::mesh::Mesh;
use crate::plane::request;
use crate::policy;
use crate::session::{Gate, Prover, Speaker};
use crate::wait::within;

/// Admits everybody: an attacker does not care.
#[derive(Debug)]
pub struct Anybody;

impl Judge for Anybody {
    fn judge(&self, chain: &[CertificateDer<'_>], _: Role, _: UnixTime) -> Result<Arc<Admission>, Denial> {
        let presented = Presented::parse(chain)?;
        Ok(Arc::new(Admission::without_evidence(presented, u64::MAX, 0)))
    }
}

/// A fresh key.
///
/// # Panics
/// When there is no randomness.
#[must_use]
pub fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

/// Evidence for `key` as a certificate carries it.
///
/// # Panics
/// When the attester fails.
#[must_use]
pub fn evidence(key: &PrivateKey, attester: &dyn Attester) -> Vec<u8> {
    AttestedRequest::parse(&request(key, attester, &[7; 32])).unwrap().cmw
}

impl Mesh {
    /// The CA of the trust domain, in the hands of whoever read its key file.
    ///
    /// # Panics
    /// When the control plane was never started.
    #[must_use]
    pub fn stolen_authority(&self) -> Authority {
        let key = std::fs::read_to_string(self.state().join("ca-key.pem")).unwrap();
        let certificate = std::fs::read(self.state().join("ca.pem")).unwrap();
        let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
        Authority::from_parts(certificate, PrivateKey::from_pem(&key).unwrap()).unwrap()
    }

    /// An SVID for `id` by the stolen CA, with this evidence or none.
    ///
    /// # Panics
    /// When it cannot be issued.
    #[must_use]
    pub fn forge(&self, id: &str, key: &PrivateKey, cmw: Option<&[u8]>) -> Identity {
        let (spki, id) = (key.spki(), SpiffeId::parse(id).unwrap());
        let leaf = Leaf { spki: &spki, id: &id, lifetime: 3600, cmw };
        Identity::new(self.stolen_authority().issue(&leaf, self.clock.now()).unwrap(), key).unwrap()
    }

    /// As [`Mesh::forge`] for a workload of the mesh, on a machine that the attacker has.
    #[must_use]
    pub fn forge_on(&self, workload: &str, attester: &dyn Attester) -> Identity {
        let key = key();
        self.forge(&policy::id(workload), &key, Some(&evidence(&key, attester)))
    }
}

/// How a peer answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A TLS alert.
    Alert(u8),
    /// The connection ended without a word.
    Closed(String),
    /// The session protocol ended, before or after the gate: whether by the peer, and why.
    Session(bool, WireReason),
    /// The answer to a CONNECT, with the reason header.
    Connect(StatusCode, String),
}

/// A TLS client without any of the mesh's rules.
#[derive(Clone, Debug)]
pub struct Raw {
    config: Arc<ClientConfig>,
    prover: Option<Prover>,
    clock: Clock,
}

/// What a raw client offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Certificate chain and signing key, which need not belong together.
    pub certificate: Option<(Vec<CertificateDer<'static>>, Arc<dyn rustls::sign::SigningKey>)>,
    /// Application protocols.
    pub alpn: Vec<Vec<u8>>,
    /// Who speaks at the gate; without one nothing is said there.
    pub prover: Option<Prover>,
}

impl Offer {
    /// The certificate of this identity, and nothing to prove it by.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let certificate = Some((identity.chain.clone(), Arc::clone(&identity.key)));
        Self { certificate, alpn: vec![ALPN_MESH.to_vec()], prover: None }
    }

    /// What a mesh peer with this identity on this machine offers.
    #[must_use]
    pub fn proving(identity: &Identity, attester: &Arc<dyn Attester>) -> Self {
        Self { prover: Some(Prover::new(identity, attester)), ..Self::of(identity) }
    }

    /// No certificate.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { certificate: None, alpn: vec![ALPN_MESH.to_vec()], prover: None }
    }
}

impl Raw {
    /// A client with a session cache, which resumes and sends early data wherever it can.
    ///
    /// # Panics
    /// When rustls refuses the configuration.
    #[must_use]
    pub fn new(offer: Offer, clock: &Clock) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), clock.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Blind(provider)));
        let mut config = match offer.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let certified = rustls::sign::CertifiedKey::new(chain, key);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = offer.alpn;
        config.enable_early_data = true;
        Self { config: Arc::new(config), prover: offer.prover, clock: clock.clone() }
    }

    /// One connection: a CONNECT for `port`. The kind of handshake, if there was
    /// one on our side, and the answer.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(&self, address: SocketAddr, port: u16) -> (Option<HandshakeKind>, Answer) {
        let stream = match self.handshake(address).await {
            Ok(stream) => stream,
            Err(error) => return (None, alert(&error)),
        };
        let kind = stream.get_ref().1.handshake_kind();
        (kind, within("an answer to CONNECT", self.ask(stream, port, "")).await)
    }

    /// One connection whose CONNECT has `padding` as a header.
    ///
    /// # Panics
    /// When nobody listens, or there is no handshake.
    pub async fn connect_with(&self, address: SocketAddr, port: u16, padding: &str) -> Answer {
        let stream = self.handshake(address).await.unwrap();
        within("an answer to CONNECT", self.ask(stream, port, padding)).await
    }

    /// Goes through the gate, if there is one, and asks.
    async fn ask(&self, mut stream: Tls, port: u16, padding: &str) -> Answer {
        let mesh = stream.get_ref().1.alpn_protocol() == Some(ALPN_MESH);
        let Some(prover) = self.prover.as_ref().filter(|_| mesh) else {
            // The server speaks first, or refuses: an alert that is not read before
            // something is written to a closed connection can be lost.
            let mut stream = BufReader::new(stream);
            return match stream.fill_buf().await {
                Err(error) => alert(&error),
                Ok([]) => Answer::Closed("in order".to_owned()),
                Ok(_) => ask(stream, port, padding, false).await,
            };
        };
        let mut speaker = Speaker::new(prover, Side::Client, stream.get_ref().1, &self.clock);
        match speaker.gate(&mut stream).await {
            Gate::Open(rest) => {
                let (read, write) = tokio::io::split(stream);
                let read = std::io::Cursor::new(rest).chain(read);
                ask(tokio::io::join(read, write), port, padding, true).await
            }
            Gate::Cut(cut) => Answer::Session(cut.by_peer, cut.wire),
            Gate::Ended(error) => alert(&error),
        }
    }

    /// Completes a handshake, says nothing, and returns when the server hangs up.
    ///
    /// # Panics
    /// When there is no handshake, or the server stays.
    pub async fn stay_silent(&self, address: SocketAddr) {
        let mut stream = self.handshake(address).await.unwrap();
        // However it ends.
        let _ = within("the end of a silent client", stream.read_to_end(&mut Vec::new())).await;
    }

    /// A connection, up to the end of the handshake.
    ///
    /// # Errors
    /// When there is none.
    pub async fn handshake(&self, address: SocketAddr) -> std::io::Result<Tls> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let connector = TlsConnector::from(Arc::clone(&self.config));
        within("a TLS handshake", connector.connect(name, socket)).await
    }
}

/// A TLS connection of a client.
pub type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// The channel for rounds: stream 1 of a hop behind a gate.
#[must_use]
pub fn attest_request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "https://peer/.well-known/ratls-mesh/attest".parse().unwrap();
    let kind = "application/vnd.countersign.ratls-mesh-frames".parse().unwrap();
    request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    request
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    port: u16,
    padding: &str,
    with_rounds: bool,
) -> Answer {
    let (mut sender, mut connection) = match h2::client::handshake(stream).await {
        Ok(both) => both,
        Err(error) => return h2_error(error),
    };
    let asking = async {
        let _rounds = match with_rounds {
            true => Some(sender.send_request(attest_request(), false)?),
            false => None,
        };
        sender = sender.ready().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = format!("ledger:{port}").parse().unwrap();
        if !padding.is_empty() {
            request.headers_mut().insert("padding", padding.parse().unwrap());
        }
        let (response, _stream) = sender.send_request(request, false)?;
        let response = response.await?;
        let reason = response.headers().get("countersign-reason").map(|v| v.to_str().unwrap().to_owned());
        Ok::<_, h2::Error>(Answer::Connect(response.status(), reason.unwrap_or_default()))
    };
    tokio::pin!(asking);
    // The connection knows the alert; the request only that it is gone.
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        answer = &mut asking => match answer {
            Ok(answer) => return answer,
            Err(_) => connection.await,
        },
    };
    ended.map_or_else(h2_error, |()| Answer::Closed("in order".to_owned()))
}

fn h2_error(error: h2::Error) -> Answer {
    let text = error.to_string();
    // h2 keeps the text of an I/O error, not the error.
    match text.rsplit_once("received fatal alert: ").and_then(|(_, name)| alert_by(name)) {
        Some(number) => Answer::Alert(number),
        None => Answer::Closed(text),
    }
}

fn alert_by(name: &str) -> Option<u8> {
    (0..=u8::MAX).find(|number| format!("{:?}", rustls::AlertDescription::from(*number)) == name)
}

fn alert(error: &std::io::Error) -> Answer {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => Answer::Alert(u8::from(*alert)),
        _ => Answer::Closed(error.to_string()),
    }
}

/// Believes every server.
#[derive(Debug)]
struct Blind(Arc<CryptoProvider>);

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A server that pretends to be somebody.
#[derive(Debug)]
pub struct Impostor {
    /// Where it listens.
    pub address: SocketAddr,
    seen: mpsc::Receiver<Result<Vec<u8>, String>>,
}

impl Impostor {
    /// With `identity`, and a welcome for everybody.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(identity: &Identity, clock: &Clock, alpn: &[u8]) -> Self {
        let profile = Profile { alpn: vec![alpn.to_vec()], require_pq: false, clock: clock.provider() };
        let acceptor = Acceptor::new(identity, Arc::new(Anybody), &profile).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, seen) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let outcome = match acceptor.accept(socket).await {
                    Err(error) => Err(error.to_string()),
                    Ok(mut shaken) => {
                        let mut heard = Vec::new();
                        // However it ends: what counts is what was said before.
                        let _ = shaken.stream.read_to_end(&mut heard).await;
                        Ok(heard)
                    }
                };
                if report.send(outcome).await.is_err() {
                    return;
                }
            }
        });
        Self { address, seen }
    }

    /// What the next visitor said: the refusal of the handshake, or every byte after it.
    ///
    /// # Errors
    /// The refusal.
    ///
    /// # Panics
    /// When nobody comes.
    pub async fn visitor(&mut self) -> Result<Vec<u8>, String> {
        within("a visitor of the impostor", self.seen.recv()).await.unwrap()
    }
}
