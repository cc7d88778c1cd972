//! A control plane, operators and workloads in one process: emulated platforms,
//! a clock that stands still, real TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_attester::Attester;
use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_config::bootstrap::{AttesterChoice, ControlPlaneBootstrap};
use countersign_control_plane::{Addresses, Handle, Options, build};
use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::csr::Pending;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::tls::{Connector, HandshakeError, Profile};
use countersign_ratls::{Bundle, IdPattern, Identity, SpiffeId, TrustDomain};
use countersign_wire::client::{Event, Subscription, Watch};
use countersign_wire::proto::identity_client::IdentityClient;
use countersign_wire::proto::mesh_client::MeshClient;
use countersign_wire::proto::operator_client::OperatorClient;
use countersign_wire::{ALPN, Snapshot, proto};
use hyper_util::rt::TokioIo;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub(crate) const START: u64 = 1_800_000_000;
pub(crate) const DOMAIN: &str = "demo.example";

/// A clock that moves when it is told to.
#[derive(Debug)]
pub(crate) struct Simulated(AtomicU64);

impl Simulated {
    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
}

impl TimeProvider for Simulated {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

/// Accepts the control plane by its SVID.
#[derive(Debug)]
struct ByBundle(Bundle);

impl Judge for ByBundle {
    fn judge(&self, chain: &[CertificateDer<'_>], _: Role, now: UnixTime) -> Result<Arc<Admission>, Denial> {
        let presented = Presented::parse(chain)?;
        let valid_until = self.0.validate(&presented, now)?;
        Ok(Arc::new(Admission::without_evidence(presented, valid_until, 0)))
    }
}

/// What survives a restart of the control plane.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) vendor: Vendor,
    pub(crate) clock: Arc<Simulated>,
    /// The control plane's own ID.
    pub(crate) id: &'static str,
}

/// A running control plane.
pub(crate) struct Plane {
    pub(crate) addresses: Addresses,
    pub(crate) handle: Handle,
    pub(crate) bundle: Bundle,
    clock: Arc<Simulated>,
    id: &'static str,
    state: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), countersign_control_plane::Error>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(Simulated(AtomicU64::new(START)));
        let vendor = Vendor::generate(clock.now(), Duration::from_secs(400 * 86_400)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let collateral = directory.path().join("collateral");
        std::fs::create_dir(&collateral).unwrap();
        for (i, item) in vendor.collateral(clock.now()).unwrap().into_iter().enumerate() {
            std::fs::write(collateral.join(format!("{i:02}")), item.bytes).unwrap();
        }
        Self { directory, vendor, clock, id: "spiffe://demo.example/countersign/control-plane" }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) async fn start(&self) -> Plane {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = ControlPlaneBootstrap {
            trust_domain: TrustDomain::parse(DOMAIN).unwrap(),
            id: SpiffeId::parse(self.id).unwrap(),
            listen: any,
            state_dir: self.state(),
            attester: AttesterChoice::Device,
            collateral_dir: self.directory.path().join("collateral"),
            attestation: None,
            admin: any,
            metrics: any,
            readiness: any,
        };
        let attester: Arc<dyn Attester> = self.vendor.tdx(TdxSpec::default()).unwrap();
        let options = Options { clock: Some(self.clock.clone()), attester: Some(attester) };
        let bound = build(config, options).await.unwrap();
        let (addresses, handle) = (bound.addresses(), bound.handle());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.run(async {
            let _ = stopped.await;
        }));
        let json = std::fs::read(self.state().join("bundle.json")).unwrap();
        let bundle = Bundle::parse(TrustDomain::parse(DOMAIN).unwrap(), &json).unwrap();
        let (clock, id, state) = (self.clock.clone(), self.id, self.state());
        Plane { addresses, handle, bundle, clock, id, state, stop, task }
    }

    /// The resources of the demonstration, with this world's root.
    pub(crate) fn resources(&self) -> String {
        resources(&self.vendor.intel_root().to_string())
    }
}

pub(crate) fn resources(root: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: TrustDomain\nmetadata: {{ name: demo.example }}\n\
         spec: {{ svid: {{ lifetime: 10m }} }}\n---\n\
         apiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
         metadata: {{ name: demo, namespace: demo }}\nspec:\n  anyOf:\n    - tdx:\n        \
         emulatedRoots: [\"{root}\"]\n        measurements: {{ fromReferenceValues: demo }}\n---\n\
         {}---\n{}---\n{}",
        reference_values("d0"),
        identity("client"),
        identity("server"),
    )
}

/// Reference values that accept one MRTD, given by its repeated byte.
pub(crate) fn reference_values(byte: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: ReferenceValues\n\
         metadata: {{ name: demo, namespace: demo }}\nspec:\n  tdx:\n    - name: emulated guest\n      \
         mrTd: \"{}\"\n",
        byte.repeat(48)
    )
}

fn identity(name: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: WorkloadIdentity\n\
         metadata: {{ name: {name}, namespace: demo }}\nspec:\n  spiffeId: spiffe://demo.example/{name}\n  \
         attestation: {{ policy: demo }}\n"
    )
}

impl Plane {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// A connection as `identity`.
    pub(crate) async fn connect(&self, identity: &Identity) -> Result<Channel, HandshakeError> {
        let profile = Profile { alpn: vec![ALPN.to_vec()], require_pq: false, clock: self.clock.clone() };
        let judge = Arc::new(ByBundle(self.bundle.clone()));
        let expected = IdPattern::parse(self.id).unwrap();
        let connector = Connector::new(identity, judge, expected, &profile).unwrap();
        let socket = TcpStream::connect(self.addresses.server).await.map_err(HandshakeError::Io)?;
        let mut stream = Some(connector.connect(socket).await?.stream);
        let once = tower::service_fn(move |_: http::Uri| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("used")) }
        });
        let endpoint = Endpoint::from_static("http://control-plane");
        endpoint.connect_with_connector(once).await.map_err(|e| HandshakeError::Io(std::io::Error::other(e)))
    }

    /// A connection with a certificate that says nothing.
    pub(crate) async fn bootstrap(&self) -> Channel {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        self.connect(&Identity::bootstrap(&key, self.clock.now()).unwrap()).await.unwrap()
    }

    pub(crate) async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.connect(&operator_identity(&self.state)).await.unwrap())
    }

    /// Applies and returns the generation.
    pub(crate) async fn apply(&self, text: &str) -> u64 {
        let response = apply(&mut self.operator().await, text).await;
        assert!(response.problems.iter().all(|p| p.severity != "error"), "{:?}", response.problems);
        response.generation
    }

    /// An identity for `workload`, by attestation.
    pub(crate) async fn enrol(&self, attester: &dyn Attester, workload: &str) -> Result<Identity, Status> {
        enrol(self.bootstrap().await, attester, workload).await
    }

    /// An HTTP/1.1 exchange with one of the plain ports.
    pub(crate) async fn http(&self, address: SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

pub(crate) async fn apply(operator: &mut OperatorClient<Channel>, text: &str) -> proto::ApplyResponse {
    let files = vec![proto::File { name: "demo.yaml".into(), text: text.into() }];
    operator.apply(proto::ApplyRequest { files, dry_run: false }).await.unwrap().into_inner()
}

pub(crate) async fn challenge(client: &mut IdentityClient<Channel>) -> Vec<u8> {
    client.challenge(proto::ChallengeRequest {}).await.unwrap().into_inner().nonce.to_vec()
}

/// A certificate request for `key` with evidence over `challenge`.
pub(crate) fn request(key: &PrivateKey, attester: &dyn Attester, challenge: &[u8]) -> Vec<u8> {
    let pending = Pending::new(key, challenge).unwrap();
    let evidence = attester.evidence(&pending.report_data).unwrap();
    pending.finish(key, evidence.media_type, &evidence.value).unwrap()
}

pub(crate) async fn enrol(
    channel: Channel,
    attester: &dyn Attester,
    workload: &str,
) -> Result<Identity, Status> {
    let mut client = IdentityClient::new(channel);
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let csr = request(&key, attester, &challenge(&mut client).await);
    let asked = proto::IssueRequest { workload: workload.into(), csr: csr.into() };
    let issued = client.issue(asked).await?.into_inner();
    let chain = issued.chain.iter().map(|c| CertificateDer::from(c.to_vec())).collect();
    Ok(Identity::new(chain, &key).unwrap())
}

/// The operator's identity from `operator.yaml`, read as the CLI does.
pub(crate) fn operator_identity(state: &Path) -> Identity {
    let text = std::fs::read_to_string(state.join("operator.yaml")).unwrap();
    let context: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let chain = CertificateDer::pem_slice_iter(context["certificate"].as_str().unwrap().as_bytes());
    let key = PrivateKey::from_pem(context["key"].as_str().unwrap()).unwrap();
    Identity::new(chain.map(Result::unwrap).collect(), &key).unwrap()
}

/// A proxy's end of the delta stream.
pub(crate) struct Proxy {
    pub(crate) subscription: Subscription,
    pub(crate) sent: mpsc::Sender<proto::ProxyMessage>,
    pub(crate) stream: Streaming<proto::ControlMessage>,
    /// Names of entries that arrived over this stream.
    pub(crate) arrived: Vec<String>,
    /// What was asked for, of what hops prove.
    pub(crate) watched: Vec<Watch>,
    /// Of whom proofs were asked for.
    pub(crate) asked: Vec<String>,
}

impl Proxy {
    pub(crate) async fn open(
        channel: Channel,
        mut subscription: Subscription,
        workload: &str,
    ) -> Result<Self, Status> {
        let (sent, messages) = mpsc::channel(8);
        sent.send(subscription.hello("sidecar", workload, "test")).await.unwrap();
        let mut client = MeshClient::new(channel).max_decoding_message_size(countersign_wire::MAX_MESSAGE);
        let stream = client.subscribe(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { subscription, sent, stream, arrived: Vec::new(), watched: Vec::new(), asked: Vec::new() })
    }

    /// The next snapshot, not answered yet.
    pub(crate) async fn next(&mut self) -> Result<Arc<Snapshot>, Status> {
        loop {
            let message = self.stream.message().await?.expect("the stream goes on");
            if let Some(proto::control_message::Message::Update(update)) = &message.message {
                self.arrived.extend(update.upserts.iter().map(|entry| entry.name.clone()));
            }
            match self.subscription.feed(message).unwrap() {
                Some(Event::Snapshot(snapshot) | Event::Current(snapshot)) => return Ok(snapshot),
                Some(Event::Watch(watch)) => self.watched.push(watch),
                Some(Event::Attest { peer }) => self.asked.push(peer),
                None => {}
            }
        }
    }

    pub(crate) async fn ack(&mut self, rejected: &[(String, String)]) {
        self.sent.send(self.subscription.ack(rejected).unwrap()).await.unwrap();
    }

    pub(crate) async fn in_use(&self, generation: u64) {
        self.in_use_with(generation, 1).await;
    }

    pub(crate) async fn in_use_with(&self, generation: u64, hops: u64) {
        self.sent.send(Subscription::in_use(generation, hops, 0)).await.unwrap();
    }
}
