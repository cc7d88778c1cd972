//! The TLS profile (3-attestation section 2): the only place that builds rustls
//! configurations.
//!
//! TLS 1.3 only, hybrid key exchange first, no tickets, no resumption, no early
//! data, no half-RTT data, client authentication always, an application protocol
//! always. Whoever connects is judged in the handshake, every time: a resumed
//! session would skip the judge, so it does not exist here (A8).

mod verifier;

use std::sync::Arc;

use countersign_evidence::{Denial, Finding, Reason};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::compress::{CertCompressor, CompressionCache};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, CommonState, ConnectionCommon, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use zeroize::Zeroizing;

use crate::identity::Identity;
use crate::peer::{Admission, Judge, Role};
use crate::session::{EXPORTER_LABEL, Ekm};
use crate::spiffe::IdPattern;

use verifier::{Rules, Verifier};

/// HBONE: HTTP/2 CONNECT streams. What the certificates say is all that is known
/// about a peer here (L1).
pub const ALPN_H2: &[u8] = b"h2";
/// The protocol between proxies: both sides prove themselves for this very
/// session before HTTP/2 begins (3-attestation, section 4.1).
pub const ALPN_MESH: &[u8] = b"ratls-h2/1";
/// The same, and records of one single stream instead of HTTP/2 (docs/session.md).
pub const ALPN_TCP: &[u8] = b"ratls-tcp/1";

/// What both sides of a connection have in common.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The application protocols, most wanted first. Agreement is enforced.
    pub alpn: Vec<Vec<u8>>,
    /// Drop the classical key exchanges.
    pub require_pq: bool,
    /// The clock.
    pub clock: Arc<dyn TimeProvider>,
}

/// Accepts hops. Cheap to clone; a new identity makes a new one.
#[derive(Clone, Debug)]
pub struct Acceptor {
    side: Arc<Side>,
    alpn: Arc<[Vec<u8>]>,
}

/// Opens hops. Cheap to clone; a new identity makes a new one.
#[derive(Clone, Debug)]
pub struct Connector {
    side: Arc<Side>,
    config: ClientConfig,
}

/// What the connections of one side share.
#[derive(Debug)]
struct Side {
    rules: Arc<Rules>,
    profile: Profile,
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    compressors: Vec<&'static dyn CertCompressor>,
    compressed: Arc<CompressionCache>,
}

/// One handshake that was accepted: the stream, and who is there.
#[derive(Debug)]
pub struct Handshaken<S> {
    /// The encrypted stream.
    pub stream: S,
    /// The peer.
    pub admission: Arc<Admission>,
    /// What evidence for this very session is bound to.
    pub agreed: Agreed,
}

/// What both sides of one session know alike and nobody else does.
#[derive(Debug)]
pub struct Agreed {
    /// The application protocol.
    pub alpn: Vec<u8>,
    /// The exported keying material.
    pub ekm: Ekm,
    /// SHA-256 of our leaf's SubjectPublicKeyInfo.
    pub own_spki_sha256: [u8; 32],
    /// SHA-256 of the peer's, as it proved it in this handshake.
    pub peer_spki_sha256: [u8; 32],
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("{0}")]
    Denied(Denial),
    /// The peer refused us, or TLS itself failed.
    #[error("{finding}")]
    Tls {
        /// What is known about it (the alert of the peer, for example).
        finding: Finding,
    },
    /// The transport failed.
    #[error("transport: {0}")]
    Io(std::io::Error),
}

impl Side {
    fn new(
        identity: &Identity,
        judge: Arc<dyn Judge>,
        role: Role,
        expected: Option<IdPattern>,
        profile: &Profile,
    ) -> Result<Self, Finding> {
        if profile.alpn.is_empty() {
            return Err(no_protocol());
        }
        let provider = Arc::new(provider(profile.require_pq));
        let certified = CertifiedKey::new(identity.chain.clone(), Arc::clone(&identity.key));
        certified.keys_match().map_err(|error| unusable(&error))?;
        let rules = Arc::new(Rules {
            judge,
            role,
            own_spki_sha256: identity.spki_sha256,
            expected,
            algorithms: provider.signature_verification_algorithms,
        });
        Ok(Self {
            rules,
            profile: profile.clone(),
            provider,
            certified: Arc::new(SingleCertAndKey::from(certified)),
            compressors: compressors(identity),
            compressed: Arc::new(CompressionCache::default()),
        })
    }

    /// The same, towards another peer. What is made once for an identity is shared.
    fn towards(&self, expected: IdPattern, alpn: &[&[u8]]) -> Self {
        let rules = Rules {
            judge: Arc::clone(&self.rules.judge),
            role: self.rules.role,
            own_spki_sha256: self.rules.own_spki_sha256,
            expected: Some(expected),
            algorithms: self.rules.algorithms,
        };
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Self {
            rules: Arc::new(rules),
            profile: Profile { alpn, ..self.profile.clone() },
            provider: Arc::clone(&self.provider),
            certified: Arc::clone(&self.certified),
            compressors: self.compressors.clone(),
            compressed: Arc::clone(&self.compressed),
        }
    }

    /// A configuration for one connection: its verifier keeps the decision.
    fn server_config(&self, verifier: &Arc<Verifier>, alpn: &[Vec<u8>]) -> Result<ServerConfig, Finding> {
        let clock = Arc::clone(&self.profile.clock);
        let mut config = ServerConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(Arc::clone(verifier) as _)
            .with_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols = alpn.to_vec();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // Both: a client may ask for tickets (RFC 9149) that would not be sent unasked.
        config.send_tls13_tickets = 0;
        config.max_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        config.cert_compressors.clone_from(&self.compressors);
        config.cert_compression_cache = Arc::clone(&self.compressed);
        Ok(config)
    }

    /// The configuration of a client, to which each connection sets its verifier.
    fn client_config(&self) -> Result<ClientConfig, Finding> {
        let clock = Arc::clone(&self.profile.clock);
        let nobody = Arc::new(Verifier::new(Arc::clone(&self.rules)));
        let mut config = ClientConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(nobody)
            .with_client_cert_resolver(Arc::clone(&self.certified) as _);
        config.alpn_protocols.clone_from(&self.profile.alpn);
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        config.cert_compressors.clone_from(&self.compressors);
        config.cert_compression_cache = Arc::clone(&self.compressed);
        Ok(config)
    }

    /// What the handshake must have come to, whatever TLS libraries default to:
    /// among it one of the protocols that were offered, which is the answer.
    fn confirm(connection: &CommonState, alpn: &[Vec<u8>]) -> Result<Vec<u8>, Finding> {
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            return Err(Finding::new(Reason::Resumed, "handshake", "a full handshake", "a resumed session"));
        }
        if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            let presented = format!("{:?}", connection.protocol_version());
            return Err(Finding::new(Reason::TlsFailure, "TLS version", "TLS 1.3", presented));
        }
        let agreed = connection.alpn_protocol();
        match agreed.and_then(|agreed| alpn.iter().find(|ours| *ours == agreed)) {
            Some(agreed) => Ok(agreed.clone()),
            None => {
                let presented = agreed.map_or_else(|| "none".to_owned(), printable);
                Err(no_application_protocol(alpn, presented))
            }
        }
    }

    /// The admission of a handshake that came to its end, and what it agreed on.
    fn conclude<D>(
        &self,
        connection: &ConnectionCommon<D>,
        alpn: &[Vec<u8>],
        verifier: &Verifier,
    ) -> Result<(Arc<Admission>, Agreed), Denial> {
        let alpn = Self::confirm(connection, alpn)?;
        let Some(decision) = verifier.decision() else {
            let expected = "a decision about the peer";
            return Err(Finding::new(Reason::Internal, "handshake", expected, "none").into());
        };
        let admission = decision?;
        let ekm =
            connection.export_keying_material(Zeroizing::new([0; 32]), EXPORTER_LABEL, Some(&[])).map_err(
                |error| Finding::new(Reason::Internal, "exporter", "keying material", error.to_string()),
            )?;
        let agreed = Agreed {
            alpn,
            ekm: Ekm::new(ekm),
            own_spki_sha256: self.rules.own_spki_sha256,
            peer_spki_sha256: admission.presented.spki_sha256,
        };
        Ok((admission, agreed))
    }
}

impl Acceptor {
    /// For `identity`, with `judge` deciding about clients.
    ///
    /// # Errors
    /// When the identity's key cannot be used.
    pub fn new(identity: &Identity, judge: Arc<dyn Judge>, profile: &Profile) -> Result<Self, Finding> {
        let side = Arc::new(Side::new(identity, judge, Role::Client, None, profile)?);
        side.server_config(&Arc::new(Verifier::new(Arc::clone(&side.rules))), &profile.alpn)?;
        Ok(Self { side, alpn: profile.alpn.as_slice().into() })
    }

    /// The same, with other application protocols. Nobody gets in by none.
    #[must_use]
    pub fn offering(&self, alpn: &[&[u8]]) -> Self {
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Self { side: Arc::clone(&self.side), alpn }
    }

    /// Runs the server side of a handshake. Cancel-safe by dropping; the caller bounds the time.
    ///
    /// # Errors
    /// When the peer is refused, refuses us, or the transport fails.
    pub async fn accept<S>(
        &self,
        io: S,
    ) -> Result<Handshaken<tokio_rustls::server::TlsStream<S>>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io)
            .await
            .map_err(HandshakeError::from_io)?;
        if let Err(finding) = self.check_alpn(&hello.client_hello()) {
            // rustls goes on with a peer that offers no protocol at all. Nothing
            // is encrypted yet, so the alert can be written here. Best effort:
            // the refusal stands, whether or not it arrives.
            let _ = hello.io.write_all(&NO_APPLICATION_PROTOCOL_ALERT).await;
            let _ = hello.io.flush().await;
            return Err(HandshakeError::Denied(finding.into()));
        }
        let verifier = Arc::new(Verifier::new(Arc::clone(&self.side.rules)));
        let config = self
            .side
            .server_config(&verifier, &self.alpn)
            .map_err(|finding| HandshakeError::Tls { finding })?;
        let stream = hello
            .into_stream(Arc::new(config))
            .await
            .map_err(|error| HandshakeError::from_handshake(error, &verifier))?;
        let concluded = self.side.conclude(stream.get_ref().1, &self.alpn, &verifier);
        let (admission, agreed) = concluded.map_err(HandshakeError::Denied)?;
        Ok(Handshaken { stream, admission, agreed })
    }

    fn check_alpn(&self, hello: &rustls::server::ClientHello<'_>) -> Result<(), Finding> {
        let Some(mut offered) = hello.alpn() else {
            return Err(no_application_protocol(&self.alpn, "none".to_owned()));
        };
        match offered.any(|theirs| self.alpn.iter().any(|ours| ours == theirs)) {
            true => Ok(()),
            false => Err(no_application_protocol(&self.alpn, "others".to_owned())),
        }
    }
}

fn no_protocol() -> Finding {
    Finding::new(Reason::Internal, "ALPN", "at least one protocol", "none")
}

fn no_application_protocol(ours: &[Vec<u8>], presented: String) -> Finding {
    let ours: Vec<_> = ours.iter().map(printable).collect();
    Finding::new(Reason::NoApplicationProtocol, "ALPN", ours.join(", "), presented)
}

/// A record of type alert, version 1.2 as RFC 8446 section 5.1 wants it,
/// with two bytes: fatal, `no_application_protocol`.
const NO_APPLICATION_PROTOCOL_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

impl Connector {
    /// For `identity`, with `judge` deciding about the server, which must be one of `expected`.
    ///
    /// # Errors
    /// When the identity's key cannot be used.
    pub fn new(
        identity: &Identity,
        judge: Arc<dyn Judge>,
        expected: IdPattern,
        profile: &Profile,
    ) -> Result<Self, Finding> {
        let side = Arc::new(Side::new(identity, judge, Role::Server, Some(expected), profile)?);
        let config = side.client_config()?;
        Ok(Self { side, config })
    }

    /// The same, for another server, which must be one of `expected`, over other
    /// application protocols. Costs little: our certificates are compressed once.
    ///
    /// # Errors
    /// When there is no protocol.
    pub fn towards(&self, expected: IdPattern, alpn: &[&[u8]]) -> Result<Self, Finding> {
        if alpn.is_empty() {
            return Err(no_protocol());
        }
        let side = Arc::new(self.side.towards(expected, alpn));
        let config = side.client_config()?;
        Ok(Self { side, config })
    }

    /// Runs the client side of a handshake. Cancel-safe by dropping; the caller bounds the time.
    ///
    /// In TLS 1.3 a client is done before the server has judged it: a refusal
    /// of the server arrives with the first read, see [`peer_refusal`].
    ///
    /// # Errors
    /// When the peer is refused, refuses us, or the transport fails.
    pub async fn connect<S>(
        &self,
        io: S,
    ) -> Result<Handshaken<tokio_rustls::client::TlsStream<S>>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = Arc::new(Verifier::new(Arc::clone(&self.side.rules)));
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>);
        // rustls wants a name; it is neither sent (no SNI) nor checked (IDs are).
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, io)
            .await
            .map_err(|error| HandshakeError::from_handshake(error, &verifier))?;
        let concluded = self.side.conclude(stream.get_ref().1, &self.side.profile.alpn, &verifier);
        let (admission, agreed) = concluded.map_err(HandshakeError::Denied)?;
        Ok(Handshaken { stream, admission, agreed })
    }
}

impl HandshakeError {
    /// The exact denial, when the verifier decided; TLS shows an alert only.
    fn from_handshake(error: std::io::Error, verifier: &Verifier) -> Self {
        match verifier.decision() {
            Some(Err(denial)) => Self::Denied(denial),
            _ => Self::from_io(error),
        }
    }

    fn from_io(error: std::io::Error) -> Self {
        let Some(tls) = tls_error(&error) else { return Self::Io(error) };
        match tls {
            rustls::Error::NoCertificatesPresented => {
                let finding =
                    Finding::new(Reason::CertificateRequired, "certificate chain", "a leaf", "nothing");
                Self::Denied(finding.into())
            }
            other => Self::Tls { finding: describe(other) },
        }
    }
}

/// What an error of reading or writing an established stream says, when it is
/// an error of TLS: the alert with which the peer refused us, for example.
#[must_use]
pub fn peer_refusal(error: &std::io::Error) -> Option<Finding> {
    tls_error(error).map(describe)
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn describe(error: &rustls::Error) -> Finding {
    let rustls::Error::AlertReceived(alert) = error else {
        return Finding::new(
            Reason::TlsFailure,
            "TLS handshake",
            "TLS 1.3 by the mesh's profile",
            error.to_string(),
        );
    };
    let number = u8::from(*alert);
    let meaning = match number {
        40 => "handshake_failure: it is not ready to decide, or found no common parameters",
        42 => "bad_certificate: our certificate or evidence is malformed or does not verify",
        43 => "unsupported_certificate: it does not accept our form of evidence",
        44 => "certificate_revoked: a certificate or our platform's TCB is revoked",
        45 => "certificate_expired: our certificate or evidence is too old",
        48 => "unknown_ca: our certificate or evidence ends in a root that it does not trust",
        49 => "access_denied: its policy does not admit us",
        70 => "protocol_version: it does not speak TLS 1.3",
        80 => "internal_error: it failed",
        116 => "certificate_required: it wants a certificate",
        120 => "no_application_protocol: it does not speak our protocol",
        _ => "see RFC 8446 section 6",
    };
    let presented = format!("the peer refuses us with alert {number}, {meaning}");
    // Those that speak of who we are, and not of how TLS went; and the one after which
    // another protocol may do.
    let reason = match number {
        42..=46 | 48 | 49 | 116 => Reason::PeerRefused,
        120 => Reason::NoApplicationProtocol,
        _ => Reason::TlsFailure,
    };
    Finding::new(reason, "TLS handshake", "the peer's consent", presented)
}

/// Key exchanges in the order of section 2.1.
fn provider(require_pq: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
    if !require_pq {
        provider.kx_groups.extend([kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1]);
    }
    provider
}

/// A chain of this size fits into the first flight without compression.
const SMALL_CHAIN: usize = 1200;

/// zlib only: for a chain of 5 kB inflating takes 15 us of every handshake and
/// saves 2.3 kB of it; compression itself is done once per identity. brotli would
/// save 0.3 kB more, take 33 us, and make the program a megabyte larger.
fn compressors(identity: &Identity) -> Vec<&'static dyn CertCompressor> {
    let bytes: usize = identity.chain.iter().map(|certificate| certificate.len()).sum();
    match bytes {
        ..=SMALL_CHAIN => Vec::new(),
        _ => vec![rustls::compress::ZLIB_COMPRESSOR],
    }
}

fn printable(protocol: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(protocol.as_ref()).into_owned()
}

fn unusable(error: &rustls::Error) -> Finding {
    Finding::new(Reason::Internal, "TLS configuration", "a usable identity", error.to_string())
}
