//! A small mesh in one process: emulated platforms, a CA, a clock that stands
//! still, and proxies whose configuration the test installs itself.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod called;
pub mod caller;
pub mod device;
pub mod lines;
pub mod peer;
pub mod plane;
pub mod raw;
pub mod records;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_attester::Attester;
use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_config::bootstrap::{
    AttesterChoice, ControlPlaneRef, Hop, HttpLimits, Inbound, Limits, Outbound, ProxyBootstrap,
};
use countersign_config::{Guard, Inputs, Resource, View};
use countersign_evidence::UnixTime;
use countersign_evidence::collateral::{Item, Marks};
use countersign_proxy::context::{Context, Credentials};
use countersign_proxy::drain::Drain;
use countersign_proxy::{Addresses, Bound, Clock, build};
use countersign_quoting::{Local, Source};
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::{Authority, Bundle, Identity, SpiffeId, TrustDomain};
use countersign_wire::SnapshotKey;
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const NOW: u64 = 1_795_000_000;
pub const DAY: u64 = 86_400;
pub const WEB: &str = "spiffe://prod.example/ns/payments/sa/web";
pub const LEDGER: &str = "spiffe://prod.example/ns/payments/sa/ledger";

/// A clock that moves when it is told to.
#[derive(Debug)]
pub struct Simulated(watch::Sender<Duration>);

impl TimeProvider for Simulated {
    fn current_time(&self) -> Option<UnixTime> {
        Some(at(NOW + self.0.borrow().as_secs()))
    }
}

pub fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// What all proxies of a test share.
pub struct World {
    pub time: Arc<Simulated>,
    pub vendor: Vendor,
    pub authority: Authority,
    pub bundle: Bundle,
    pub snapshot_key: SnapshotKey,
    pub collateral: Vec<Item>,
    pub dir: tempfile::TempDir,
    /// What stands between the proxies and their platforms.
    pub device: fn(Arc<dyn Source>) -> Arc<dyn Source>,
}

impl World {
    pub fn new() -> Self {
        let now = at(NOW);
        let vendor = Vendor::generate(at(NOW - DAY), Duration::from_secs(1000 * DAY)).unwrap();
        let trust_domain = TrustDomain::parse("prod.example").unwrap();
        let authority = Authority::create(&trust_domain, 100 * DAY, now).unwrap();
        let snapshot_key = SnapshotKey::generate().unwrap();
        let bundle = Bundle {
            trust_domain,
            x509_authorities: vec![authority.certificate.clone()],
            snapshot_keys: vec![snapshot_key.public()],
            sequence: 1,
            refresh_hint: None,
        };
        let collateral = vendor.collateral(now).unwrap();
        let time = Arc::new(Simulated(watch::Sender::new(Duration::ZERO)));
        let dir = tempfile::tempdir().unwrap();
        let device = std::convert::identity;
        Self { time, vendor, authority, bundle, snapshot_key, collateral, dir, device }
    }

    pub fn clock(&self) -> Clock {
        Clock::by_hand(Arc::clone(&self.time) as _, self.time.0.subscribe())
    }

    pub fn advance(&self, seconds: u64) {
        self.time.0.send_modify(|now| *now += Duration::from_secs(seconds));
    }

    pub fn platform(&self, spec: TdxSpec) -> Arc<dyn Attester> {
        self.vendor.tdx(spec).unwrap()
    }

    /// A default platform, as a proxy uses it.
    pub fn source(&self) -> Arc<dyn Source> {
        (self.device)(Arc::new(Local::new(self.platform(TdxSpec::default()))))
    }

    /// An SVID with evidence, as the control plane would issue it.
    pub fn identity(&self, id: &str, platform: &dyn Attester) -> Identity {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let pending = Pending::new(&key, &[7; 32]).unwrap();
        let evidence = platform.evidence(&pending.report_data).unwrap();
        let csr = pending.finish(&key, evidence.media_type, &evidence.value).unwrap();
        let request = AttestedRequest::parse(&csr).unwrap();
        let id = SpiffeId::parse(id).unwrap();
        let leaf = Leaf { spki: &request.spki, id: &id, lifetime: 3600, cmw: Some(&request.cmw) };
        Identity::new(self.authority.issue(&leaf, at(NOW)).unwrap(), &key).unwrap()
    }

    /// The resources of the mesh, with what a test varies.
    pub fn resources(&self, policy: &Policy) -> Vec<Arc<Resource>> {
        self.resources_with(policy, "")
    }

    /// The same, with `more` in the policy that both have for their peers.
    pub fn resources_with(&self, policy: &Policy, more: &str) -> Vec<Arc<Resource>> {
        resources(&self.text(policy, more))
    }

    /// The documents of the mesh.
    pub fn text(&self, policy: &Policy, more: &str) -> String {
        let Policy { mr_td, ports, level } = policy;
        let (root, mr_td) = (self.vendor.intel_root(), hex::encode([*mr_td; 48]));
        format!(
            r#"
apiVersion: countersign.dev/v1alpha1
kind: TrustDomain
metadata: {{ name: prod.example }}
spec: {{}}
---
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata: {{ name: images, namespace: payments }}
spec:
  tdx:
    - {{ name: approved, mrTd: "{mr_td}" }}
---
apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: {{ name: peers, namespace: payments }}
spec:
  level: {level}
{more}
  anyOf:
    - tdx: {{ emulatedRoots: ["{root}"], measurements: {{ fromReferenceValues: images }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: web, namespace: payments }}
spec: {{ spiffeId: "{WEB}", labels: {{ app: web }}, attestation: {{ policy: peers }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadIdentity
metadata: {{ name: ledger, namespace: payments }}
spec: {{ spiffeId: "{LEDGER}", labels: {{ app: ledger }}, attestation: {{ policy: peers }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: ledger, namespace: payments }}
spec:
  selector: {{ matchLabels: {{ app: ledger }} }}
  rules:
    - from: [{{ principals: ["{WEB}"] }}]
      to: [{{ ports: {ports:?} }}]
"#
        )
    }

    pub fn view(&self, generation: u64, policy: &Policy) -> Arc<View> {
        self.view_with(generation, policy, "")
    }

    pub fn view_with(&self, generation: u64, policy: &Policy, more: &str) -> Arc<View> {
        self.view_of(generation, self.resources_with(policy, more), &self.collateral)
    }

    pub fn view_from(&self, generation: u64, text: &str) -> Arc<View> {
        self.view_of(generation, resources(text), &self.collateral)
    }

    pub fn view_of(&self, generation: u64, resources: Vec<Arc<Resource>>, collateral: &[Item]) -> Arc<View> {
        let inputs = Inputs {
            generation,
            resources,
            bundles: vec![self.bundle.clone()],
            collateral: collateral.to_vec(),
        };
        let built = View::build(inputs, &mut Marks::default(), self.clock().now());
        assert!(built.rejected.is_empty(), "{:?}", built.rejected);
        assert!(built.refused_collateral.is_empty(), "{:?}", built.refused_collateral);
        Arc::new(built.view)
    }

    pub fn bootstrap(&self, name: &str, inbound: Option<Inbound>, outbound: Vec<Outbound>) -> ProxyBootstrap {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        ProxyBootstrap {
            name: name.to_owned(),
            workload: format!("payments/{name}"),
            bundle: self.bundle.clone(),
            state_dir: self.dir.path().join(name),
            attester: AttesterChoice::Device,
            control_plane: ControlPlaneRef {
                // Nothing listens on port 1 of this host.
                address: "127.0.0.1:1".to_owned(),
                id: SpiffeId::parse("spiffe://prod.example/countersign/control-plane").unwrap(),
                attestation: Vec::new(),
                collateral: Vec::new(),
                collateral_dir: None,
            },
            inbound,
            outbound,
            capture: None,
            explicit: None,
            admin: any,
            metrics: any,
            readiness: any,
            limits: Limits {
                handshakes_in_progress: 64,
                hops: 64,
                streams_per_hop: 100,
                handshake_timeout: Duration::from_secs(10),
                gate_timeout: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(300),
                http: HttpLimits::default(),
            },
            drain_timeout: Duration::from_secs(30),
        }
    }

    pub fn bind(&self, bootstrap: &ProxyBootstrap) -> Bound {
        self.bind_on(bootstrap, self.source())
    }

    /// With any quoting device.
    pub fn bind_on(&self, bootstrap: &ProxyBootstrap, source: Arc<dyn Source>) -> Bound {
        build(bootstrap, self.clock(), source, None).unwrap()
    }

    /// A running proxy that has `identity` and decides by `view`.
    pub fn start(&self, bootstrap: &ProxyBootstrap, identity: Identity, view: &Arc<View>) -> Proxy {
        self.start_on(bootstrap, identity, view, self.source())
    }

    /// The same with any quoting device.
    pub fn start_on(
        &self,
        bootstrap: &ProxyBootstrap,
        identity: Identity,
        view: &Arc<View>,
        source: Arc<dyn Source>,
    ) -> Proxy {
        let bound = self.bind_on(bootstrap, source);
        let ctx = bound.context();
        ctx.install(view);
        let me = identity.id.clone().unwrap();
        let guard = Arc::new(Guard::new(me, Arc::clone(&ctx.view), 64));
        let credentials = Credentials::new(identity, guard, &ctx).unwrap();
        ctx.credentials.send_replace(Some(Arc::new(credentials)));
        Proxy::run(bound)
    }
}

/// Documents, parsed.
pub fn resources(text: &str) -> Vec<Arc<Resource>> {
    let parsed = countersign_config::parse("mesh.yaml", text);
    parsed.unwrap_or_else(|p| panic!("{p:#?}")).into_iter().map(Arc::new).collect()
}

/// What tests vary in the mesh's policies.
pub struct Policy {
    /// Each byte of the approved MRTD.
    pub mr_td: u8,
    /// The ports of the ledger that the web may call.
    pub ports: Vec<u16>,
    /// What both demand of each other.
    pub level: &'static str,
}

/// A proxy that runs.
pub struct Proxy {
    pub addresses: Addresses,
    pub ctx: Arc<Context>,
    pub drain: Drain,
    pub task: JoinHandle<()>,
}

impl Proxy {
    pub fn run(bound: Bound) -> Self {
        let (addresses, ctx, drain) = (bound.addresses().clone(), bound.context(), bound.drain());
        let task = tokio::spawn(bound.run(std::future::pending()));
        Self { addresses, ctx, drain, task }
    }

    pub fn inbound(&self) -> SocketAddr {
        self.addresses.inbound.unwrap()
    }

    pub fn metrics(&self) -> String {
        String::from_utf8(self.ctx.metrics.render().unwrap()).unwrap()
    }

    pub async fn end(self) {
        self.drain.force();
        self.task.await.unwrap();
    }
}

/// The ledger's workload: the test accepts its connections by hand.
pub async fn workload() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A socket on this port, or any, that does not listen: connections are refused,
/// and while it is there nobody gets the port but who asks for it by number.
fn bound(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    socket
}

/// web and ledger with their proxies, and the ledger's workload.
pub struct Pair {
    pub world: World,
    pub web: Proxy,
    pub ledger: Proxy,
    pub workload: TcpListener,
    pub port: u16,
    pub level: &'static str,
    /// Keeps the workload's port when nobody listens on it any more.
    _kept: TcpSocket,
}

impl Pair {
    pub async fn new() -> Self {
        Self::build(World::new(), |_| {}).await
    }

    /// Each connection on a hop of its own.
    pub async fn dedicated() -> Self {
        Self::build(World::new(), |bootstrap| {
            bootstrap.outbound.iter_mut().for_each(|mapping| mapping.hop = Hop::Dedicated);
        })
        .await
    }

    pub async fn build(world: World, change: impl Fn(&mut ProxyBootstrap)) -> Self {
        Self::at("L2", world, change).await
    }

    /// A pair that demands this level of each other.
    pub async fn at(level: &'static str, world: World, change: impl Fn(&mut ProxyBootstrap)) -> Self {
        let source = world.source();
        Self::with_source(level, world, change, source).await
    }

    /// The same, whose ledger is on this machine.
    pub async fn with_source(
        level: &'static str,
        world: World,
        change: impl Fn(&mut ProxyBootstrap),
        source: Arc<dyn Source>,
    ) -> Self {
        let kept = bound(0);
        let port = kept.local_addr().unwrap().port();
        let workload = bound(port).listen(1024).unwrap();
        let policy = Policy { mr_td: 0xd0, ports: vec![port], level };
        let view = world.view(1, &policy);
        let platform = world.platform(TdxSpec::default());
        let inbound = Inbound {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            workload: [127, 0, 0, 1].into(),
            ports: vec![port.into(), port.wrapping_add(1).max(1).into()],
        };
        let mut bootstrap = world.bootstrap("ledger", Some(inbound), Vec::new());
        change(&mut bootstrap);
        let ledger = world.start_on(&bootstrap, world.identity(LEDGER, &*platform), &view, source);
        let mapping = |port| Outbound {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            to: SpiffeId::parse(LEDGER).unwrap(),
            address: ledger.inbound().to_string(),
            port,
            hop: Hop::Shared,
        };
        let mut bootstrap =
            world.bootstrap("web", None, vec![mapping(port), mapping(port.wrapping_add(1).max(1))]);
        change(&mut bootstrap);
        let web = world.start(&bootstrap, world.identity(WEB, &*platform), &view);
        Self { world, web, ledger, workload, port, level, _kept: kept }
    }

    pub fn policy(&self) -> Policy {
        Policy { mr_td: 0xd0, ports: vec![self.port], level: self.level }
    }

    /// A connection of the web's application, and what the ledger's workload sees of it.
    pub async fn connect(&self) -> (TcpStream, TcpStream) {
        let mut app = TcpStream::connect(self.web.addresses.outbound[0]).await.unwrap();
        app.write_all(b"hello").await.unwrap();
        let (mut server, _) = self.workload.accept().await.unwrap();
        let mut hello = [0; 5];
        server.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        (app, server)
    }

    pub async fn end(self) {
        self.web.end().await;
        self.ledger.end().await;
    }
}

/// How long anything may take: far above what it takes, so that a slow machine
/// does not decide.
const DEADLINE: Duration = Duration::from_secs(60);

/// What `event` brings, which is `what`.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(DEADLINE, event).await else {
        panic!("{what}: not in {DEADLINE:?}")
    };
    value
}

/// Looks again and again, for what the product shows and does not announce.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let looking = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    within(what, looking).await;
}

/// Asserts that a connection is reset as soon as it is there, or even before we see that it is.
pub async fn assert_refused(address: SocketAddr) {
    match TcpStream::connect(address).await {
        Ok(mut socket) => assert_reset(&mut socket).await,
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// Asserts that a socket ended by a reset, not in order.
pub async fn assert_reset(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let error = socket.read_to_end(&mut rest).await.expect_err("an orderly end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A request of an operator, and the whole answer.
pub async fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}
