//! The real control plane, and its real clients.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_attester::Attester;
use countersign_attester::emulated::TdxSpec;
use countersign_config::bootstrap::{AttesterChoice, ControlPlaneBootstrap};
use countersign_control_plane::{Addresses, Error, Handle, Options, build};
use countersign_ratls::csr::Pending;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::tls::{Connector, HandshakeError, Profile};
use countersign_ratls::{Bundle, IdPattern, Identity, SpiffeId, TrustDomain};
use countersign_wire::proto::identity_client::IdentityClient;
use countersign_wire::proto::operator_client::OperatorClient;
use countersign_wire::{ALPN, proto};
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::attacker::Anybody;
use crate::clock::Clock;
use crate::policy::DOMAIN;
use crate::wait::within;

/// The control plane's SPIFFE ID.
pub const ID: &str = "spiffe://demo.example/countersign/control-plane";
/// Each byte of the control plane's MRTD.
pub const MEASUREMENT: u8 = 0xc0;

/// A running control plane.
#[derive(Debug)]
pub struct Plane {
    /// Where it listens.
    pub addresses: Addresses,
    /// Its status, from within.
    pub handle: Handle,
    /// The trust domain's bundle.
    pub bundle: Bundle,
    clock: Clock,
    state: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Plane {
    /// Starts one on the state in `state`, on the platform that `attester` quotes for.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(state: &Path, collateral: &Path, clock: &Clock, attester: Arc<dyn Attester>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let config = ControlPlaneBootstrap {
            trust_domain: domain.clone(),
            id: SpiffeId::parse(ID).unwrap(),
            listen: any,
            state_dir: state.to_owned(),
            attester: AttesterChoice::Device,
            collateral_dir: collateral.to_owned(),
            attestation: None,
            admin: any,
            metrics: any,
            readiness: any,
        };
        let options = Options { clock: Some(clock.provider()), attester: Some(attester) };
        let bound = build(config, options).await.unwrap();
        let (addresses, handle) = (bound.addresses(), bound.handle());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.run(async {
            let _ = stopped.await;
        }));
        let bundle = Bundle::parse(domain, &std::fs::read(state.join("bundle.json")).unwrap()).unwrap();
        Self { addresses, handle, bundle, clock: clock.clone(), state: state.to_owned(), stop, task }
    }

    /// The platform of an honest control plane.
    #[must_use]
    pub fn platform() -> TdxSpec {
        TdxSpec { mr_td: [MEASUREMENT; 48], ..TdxSpec::default() }
    }

    /// Ends it and frees its store.
    ///
    /// # Panics
    /// When it ends with an error.
    pub async fn stop(self) {
        // It may have ended by itself; then the task says why.
        let _ = self.stop.send(());
        within("the end of the control plane", self.task).await.unwrap().unwrap();
    }

    /// A connection as `identity`.
    ///
    /// # Errors
    /// When either side refuses the other in the handshake.
    pub async fn connect(&self, identity: &Identity) -> Result<Channel, HandshakeError> {
        let profile = Profile { alpn: vec![ALPN.to_vec()], require_pq: false, clock: self.clock.provider() };
        let expected = IdPattern::parse(ID).unwrap();
        let connector = Connector::new(identity, Arc::new(Anybody), expected, &profile).unwrap();
        let socket = TcpStream::connect(self.addresses.server).await.map_err(HandshakeError::Io)?;
        let stream = within("a handshake with the control plane", connector.connect(socket)).await?.stream;
        let mut stream = Some(TokioIo::new(stream));
        let once = tower::service_fn(move |_: http::Uri| {
            std::future::ready(stream.take().ok_or_else(|| std::io::Error::other("used")))
        });
        let endpoint = Endpoint::from_static("http://control-plane");
        endpoint.connect_with_connector(once).await.map_err(|e| HandshakeError::Io(std::io::Error::other(e)))
    }

    /// A connection with a certificate that says nothing.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn bootstrap(&self) -> Channel {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        self.connect(&Identity::bootstrap(&key, self.clock.now()).unwrap()).await.unwrap()
    }

    /// The operator's identity from `operator.yaml`, read as the CLI does.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn operator_identity(&self) -> Identity {
        let text = std::fs::read_to_string(self.context()).unwrap();
        let context: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let chain = CertificateDer::pem_slice_iter(context["certificate"].as_str().unwrap().as_bytes());
        let key = PrivateKey::from_pem(context["key"].as_str().unwrap()).unwrap();
        Identity::new(chain.map(Result::unwrap).collect(), &key).unwrap()
    }

    /// The operator's context, for the CLI.
    #[must_use]
    pub fn context(&self) -> PathBuf {
        self.state.join("operator.yaml")
    }

    /// The Operator service, as the operator.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.connect(&self.operator_identity()).await.unwrap())
    }

    /// What the control plane answers to `apply -f FILE`.
    ///
    /// # Panics
    /// When the call fails.
    pub async fn try_apply(&self, text: &str) -> proto::ApplyResponse {
        let files = vec![proto::File { name: "mesh.yaml".into(), text: text.into() }];
        let request = proto::ApplyRequest { files, dry_run: false };
        self.operator().await.apply(request).await.unwrap().into_inner()
    }

    /// Applies and returns the generation.
    ///
    /// # Panics
    /// When a document has an error.
    pub async fn apply(&self, text: &str) -> u64 {
        let response = self.try_apply(text).await;
        assert!(response.problems.iter().all(|p| p.severity != "error"), "{:?}", response.problems);
        response.generation
    }

    /// What `countersign status` shows.
    ///
    /// # Panics
    /// When the call fails.
    pub async fn status(&self) -> proto::StatusResponse {
        self.operator().await.status(proto::StatusRequest { refusals: false }).await.unwrap().into_inner()
    }

    /// An identity for `demo/NAME` by attestation, as a proxy gets it. The key
    /// is in the identity, so that a test can be the thief of it.
    ///
    /// # Errors
    /// The refusal of the control plane.
    pub async fn enrol(&self, attester: &dyn Attester, name: &str) -> Result<Identity, Status> {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        self.enrol_key(&key, attester, name).await
    }

    /// As [`Plane::enrol`], with a key that the test knows.
    ///
    /// # Errors
    /// The refusal of the control plane.
    ///
    /// # Panics
    /// When the attester fails.
    pub async fn enrol_key(
        &self,
        key: &PrivateKey,
        attester: &dyn Attester,
        name: &str,
    ) -> Result<Identity, Status> {
        let mut client = IdentityClient::new(self.bootstrap().await);
        let challenge = client.challenge(proto::ChallengeRequest {}).await?.into_inner();
        let csr = request(key, attester, &challenge.nonce);
        let asked = proto::IssueRequest { workload: format!("demo/{name}"), csr: csr.into() };
        let issued = client.issue(asked).await?.into_inner();
        let chain = issued.chain.iter().map(|c| CertificateDer::from(c.to_vec())).collect();
        Ok(Identity::new(chain, key).unwrap())
    }
}

/// A certificate request for `key` with evidence over `challenge`.
///
/// # Panics
/// When the attester fails.
#[must_use]
pub fn request(key: &PrivateKey, attester: &dyn Attester, challenge: &[u8]) -> Vec<u8> {
    let pending = Pending::new(key, challenge).unwrap();
    let evidence = attester.evidence(&pending.report_data).unwrap();
    pending.finish(key, evidence.media_type, &evidence.value).unwrap()
}
