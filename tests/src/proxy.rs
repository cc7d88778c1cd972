//! Real proxies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_attester::Attester;
use countersign_attester::emulated::CollateralSpec;
use countersign_config::bootstrap::{
    AttesterChoice, ControlPlaneRef, Hop, HttpLimits, Inbound, Limits, Outbound, ProxyBootstrap,
};
use countersign_evidence::Reason;
use countersign_proxy::context::{Context, Credentials};
use countersign_proxy::drain::Drain;
use countersign_proxy::{Addresses, build};
use countersign_quoting::{Local, Source};
use countersign_ratls::SpiffeId;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::http::http;
use crate::mesh::{Mesh, Platform};
use crate::plane::{ID, MEASUREMENT};
use crate::policy;
use crate::wait::{eventually, within};

/// A proxy to be started. Starting it again under the same name is a restart:
/// the state directory stays.
#[derive(Debug)]
pub struct Sidecar<'a> {
    mesh: &'a Mesh,
    name: &'static str,
    source: Arc<dyn Source>,
    clock: Clock,
    measurement: u8,
    collateral: CollateralSpec,
    bootstrap: ProxyBootstrap,
}

impl<'a> Sidecar<'a> {
    pub(crate) fn new(mesh: &'a Mesh, name: &'static str) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let source = Arc::new(Local::new(Platform::default().attester(&mesh.vendor)));
        let clock = mesh.clock.clone();
        let bootstrap = ProxyBootstrap {
            name: name.to_owned(),
            workload: format!("demo/{name}"),
            bundle: bundle(mesh),
            state_dir: mesh.directory().join("proxies").join(name),
            attester: AttesterChoice::Device,
            control_plane: ControlPlaneRef {
                address: mesh.relay.address.to_string(),
                id: SpiffeId::parse(ID).unwrap(),
                attestation: Vec::new(),
                collateral: Vec::new(),
                collateral_dir: None,
            },
            inbound: None,
            outbound: Vec::new(),
            capture: None,
            explicit: None,
            admin: any,
            metrics: any,
            readiness: any,
            limits: Limits {
                handshakes_in_progress: 64,
                hops: 64,
                streams_per_hop: 100,
                handshake_timeout: Duration::from_secs(20),
                gate_timeout: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(20),
                idle_timeout: Duration::from_secs(300),
                http: HttpLimits::default(),
            },
            drain_timeout: Duration::from_secs(60),
        };
        let collateral = CollateralSpec::default();
        Self { mesh, name, source, clock, measurement: MEASUREMENT, collateral, bootstrap }
    }

    /// Beside one of the same name that runs: with a state directory of its own.
    #[must_use]
    pub fn beside(mut self) -> Self {
        self.bootstrap.state_dir.set_file_name(format!("{}-beside", self.name));
        self
    }

    /// On another machine than a default TDX guest.
    #[must_use]
    pub fn on(self, platform: &Platform) -> Self {
        let attester = platform.attester(&self.mesh.vendor);
        self.quoting_by(attester)
    }

    /// With any driver.
    #[must_use]
    pub fn quoting_by(self, attester: Arc<dyn Attester>) -> Self {
        self.asking(Arc::new(Local::new(attester)))
    }

    /// With quotes from somebody else, as from a broker.
    #[must_use]
    pub fn asking(mut self, source: Arc<dyn Source>) -> Self {
        self.source = source;
        self
    }

    /// With a clock of its own.
    #[must_use]
    pub fn by(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// With little patience for slow peers.
    #[must_use]
    pub fn hasty(mut self, patience: Duration) -> Self {
        self.bootstrap.limits.handshake_timeout = patience;
        self
    }

    /// With this collateral in its bootstrap, to verify the control plane by.
    #[must_use]
    pub fn knowing(mut self, collateral: &CollateralSpec) -> Self {
        self.collateral = collateral.clone();
        self
    }

    /// For a workload that listens on `ports` of this host.
    #[must_use]
    pub fn serving(mut self, ports: &[u16]) -> Self {
        self.bootstrap.inbound = Some(Inbound {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            workload: [127, 0, 0, 1].into(),
            ports: ports.iter().copied().map(Into::into).collect(),
        });
        self
    }

    /// With a mapped port that leads to `port` of `workload` behind the proxy at `address`.
    ///
    /// # Panics
    /// When the name is none.
    #[must_use]
    pub fn calling(mut self, workload: &str, address: SocketAddr, port: u16) -> Self {
        self.bootstrap.outbound.push(Outbound {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            to: SpiffeId::parse(&policy::id(workload)).unwrap(),
            address: address.to_string(),
            port,
            hop: Hop::Shared,
        });
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn start(mut self) -> Proxy {
        let vendor = &self.mesh.vendor;
        let text = policy::control_plane(vendor, self.measurement);
        self.bootstrap.control_plane.attestation =
            countersign_config::parse("control-plane.yaml", &text).unwrap_or_else(|p| panic!("{p:#?}"));
        self.bootstrap.control_plane.collateral =
            vendor.collateral_with(&self.collateral, self.clock.now()).unwrap();
        let clock = self.clock.of_a_proxy();
        let bound = build(&self.bootstrap, clock, self.source, None).unwrap();
        let (addresses, ctx, drain) = (bound.addresses().clone(), bound.context(), bound.drain());
        let task = tokio::spawn(bound.run(std::future::pending()));
        Proxy { name: self.name, addresses, ctx, drain, task }
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(self) -> Proxy {
        let proxy = self.start();
        proxy.ready().await;
        proxy
    }
}

/// The bundle that the control plane handed out; a proxy that was configured
/// before the first start of its control plane has one that knows nobody.
fn bundle(mesh: &Mesh) -> countersign_ratls::Bundle {
    let domain = countersign_ratls::TrustDomain::parse(policy::DOMAIN).unwrap();
    match std::fs::read(mesh.state().join("bundle.json")) {
        Ok(json) => countersign_ratls::Bundle::parse(domain, &json).unwrap(),
        Err(_) => countersign_ratls::Bundle {
            trust_domain: domain,
            x509_authorities: Vec::new(),
            snapshot_keys: Vec::new(),
            sequence: 0,
            refresh_hint: None,
        },
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    /// Its name.
    pub name: &'static str,
    /// Where it listens.
    pub addresses: Addresses,
    /// What its stages share.
    pub ctx: Arc<Context>,
    /// Its end.
    pub drain: Drain,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Where hops arrive.
    ///
    /// # Panics
    /// When it serves nobody.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        self.addresses.inbound.expect("a proxy that serves")
    }

    /// Where the workload connects to reach its first destination.
    #[must_use]
    pub fn outbound(&self) -> SocketAddr {
        self.addresses.outbound[0]
    }

    /// Waits until the readiness port says yes.
    pub async fn ready(&self) {
        eventually(&format!("readiness of {}", self.name), async || {
            match http(self.addresses.readiness, "GET /healthz/ready").await {
                (200, _) => Ok(()),
                (_, report) => Err(report),
            }
        })
        .await;
    }

    /// Waits until the readiness port says no for this reason, and returns the report.
    pub async fn waits_for(&self, why: &str) -> String {
        eventually(&format!("{} waits for {why}", self.name), async || {
            let (status, report) = http(self.addresses.readiness, "GET /healthz/ready").await;
            if status == 503 && report.contains(why) { Ok(report) } else { Err(report) }
        })
        .await
    }

    /// Waits until this generation decides.
    pub async fn uses(&self, generation: u64) {
        eventually(&format!("generation {generation} in use by {}", self.name), async || {
            let now = self.ctx.view.load().generation;
            if now == generation { Ok(()) } else { Err(now) }
        })
        .await;
    }

    /// Our certificate, as soon as there is one.
    ///
    /// # Panics
    /// When none comes.
    pub async fn credentials(&self) -> Arc<Credentials> {
        let mut changes = self.ctx.credentials.subscribe();
        let found = within("a certificate", changes.wait_for(Option::is_some)).await.unwrap().clone();
        found.expect("was waited for")
    }

    /// Everything that is counted.
    ///
    /// # Panics
    /// When it cannot be rendered.
    #[must_use]
    pub fn metrics(&self) -> String {
        String::from_utf8(self.ctx.metrics.render().unwrap()).unwrap()
    }

    /// The sum of all series of `name` whose labels contain all of `labels`.
    #[must_use]
    pub fn count(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics();
        let series = text.lines().filter(|line| line.starts_with(name));
        let series = series.filter(|line| labels.iter().all(|label| line.contains(label)));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What is known of each hop: `/attestation`, under `peers`.
    pub async fn hops(&self) -> Vec<serde_json::Value> {
        self.admin("/attestation").await["peers"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until nothing is due: certificate, challenges, answers.
    pub async fn settled(&self) {
        eventually(&format!("{} has done what is due", self.name), async || {
            let identity = Arc::clone(&self.credentials().await.identity);
            let (life, now) = (identity.not_after - identity.not_before, self.ctx.clock.seconds());
            if now > identity.not_before + life * 6 / 10 {
                return Err(format!("the certificate is of {}", identity.not_before));
            }
            for hop in self.hops().await {
                let session = &hop["session"];
                let waits = |direction: &str| session[direction]["inRound"] == true;
                if session["phase"] == "opening"
                    || waits("peer")
                    || waits("own")
                    || session["peer"]["nextChallenge"] == 0
                {
                    return Err(hop.to_string());
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until a live hop drains for this cause.
    pub async fn drains(&self, cause: &str) {
        let label = format!("cause=\"{cause}\"");
        eventually(&format!("{} drains a hop: {cause}", self.name), async || {
            let drained = self.count("mesh_connections_drained_total", &[&label]);
            if drained > 0.0 { Ok(()) } else { Err(self.metrics()) }
        })
        .await;
    }

    /// Waits until a live hop was cut for this cause.
    pub async fn cuts(&self, cause: &str) {
        let label = format!("cause=\"{cause}\"");
        eventually(&format!("{} cuts a hop: {cause}", self.name), async || {
            let cut = self.count("mesh_connections_revoked_total", &[&label]);
            if cut > 0.0 { Ok(()) } else { Err(self.metrics()) }
        })
        .await;
    }

    /// How often a peer was denied for this reason.
    #[must_use]
    pub fn denials(&self, reason: Reason) -> f64 {
        let label = format!("reason=\"{}\"", reason.code());
        self.count("mesh_attestation_verdicts_total", &["result=\"deny\"", &label])
    }

    /// How many handshakes ended with an admission.
    #[must_use]
    pub fn admissions(&self) -> f64 {
        self.count("mesh_attestation_verdicts_total", &["result=\"allow\""])
    }

    /// Waits until a peer was denied for this reason.
    pub async fn has_denied(&self, reason: Reason) {
        eventually(&format!("{} denies a peer: {reason}", self.name), async || {
            if self.denials(reason) > 0.0 { Ok(()) } else { Err(self.metrics()) }
        })
        .await;
    }

    /// Asks its admin port.
    ///
    /// # Panics
    /// When the answer is not JSON.
    pub async fn admin(&self, path: &str) -> serde_json::Value {
        let (status, body) = http(self.addresses.admin, &format!("GET {path}")).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Ends it at once.
    pub async fn end(self) {
        self.drain.force();
        self.ended().await;
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it panicked.
    pub async fn ended(self) {
        within("the end of a proxy", self.task).await.unwrap();
    }
}
