//! A server proxy with many live hops, for measuring what a change costs it.
//!
//! Both ends are real: handshake, gate with evidence for the session in both
//! directions, the registry and its index. Only the transport is memory, since a
//! process has too few descriptors, and nobody speaks HTTP/2 on the hops.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use countersign_attester::Attester;
use countersign_attester::emulated::{CollateralSpec, TdxSpec, Vendor};
use countersign_config::bootstrap::{AttesterChoice, ControlPlaneRef, HttpLimits, Limits, ProxyBootstrap};
use countersign_config::{Guard, Inputs, View, parse};
use countersign_evidence::collateral::{Item, Marks};
use countersign_proxy::context::{Context, Credentials};
use countersign_proxy::drain::Drain;
use countersign_proxy::held::Held;
use countersign_proxy::{Clock, build};
use countersign_quoting::Local;
use countersign_ratls::{Authority, Bundle, SpiffeId, TrustDomain};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use crate::fixture::now;
use crate::peers::{Still, attested};

const DOMAIN: &str = "bench.example";
const SERVER: &str = "spiffe://bench.example/ns/a/sa/server";
/// Handshakes at a time: all of them are to one key, which may stand no more often
/// before the gate of its callers.
const AT_ONCE: usize = 16;

/// How many hops there are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// All of them, each of a peer with an identity of its own.
    pub hops: usize,
    /// Those of which one more policy speaks.
    pub few: usize,
}

/// What one change did, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Enforced {
    /// From the installation of the view until every hop that it affects was judged again.
    pub judged: Duration,
    /// From the same moment until the end of every hop that it cut was observed.
    pub observed: Duration,
    /// Hops that were cut.
    pub cut: usize,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A policy of another namespace.
    Elsewhere,
    /// The release that the few must run.
    Few,
    /// A revocation list that names a machine that nobody here runs on.
    RevocationList,
    /// The release that everybody must run.
    All,
}

struct Proxy {
    ctx: Arc<Context>,
    drain: Drain,
    task: JoinHandle<()>,
    state: PathBuf,
}

/// The server's proxy with its hops.
pub struct Mesh {
    size: Size,
    vendor: Vendor,
    bundle: Bundle,
    collateral: Vec<Item>,
    server: Proxy,
    client: Proxy,
    ended: Arc<AtomicUsize>,
    ending: Arc<Notify>,
    hops: JoinSet<()>,
    generation: u64,
}

impl Mesh {
    /// Opens all hops.
    ///
    /// # Errors
    /// When a step of the set-up fails.
    pub async fn open(size: Size) -> Result<Self> {
        let vendor = Vendor::generate(now(), Duration::from_secs(86_400 * 30))?;
        let trust_domain = TrustDomain::parse(DOMAIN)?;
        let authority = Authority::create(&trust_domain, 86_400, now())?;
        let bundle = Bundle {
            trust_domain,
            x509_authorities: vec![authority.certificate.clone()],
            snapshot_keys: Vec::new(),
            sequence: 1,
            refresh_hint: None,
        };
        let collateral = vendor.collateral(now())?;
        let machine = vendor.tdx(TdxSpec::default())?;
        let server = Proxy::start("server", Arc::clone(&machine) as Arc<dyn Attester>, &bundle)?;
        let client = Proxy::start("client", machine, &bundle)?;
        let mut mesh = Self {
            size,
            vendor,
            bundle,
            collateral,
            server,
            client,
            ended: Arc::default(),
            ending: Arc::default(),
            hops: JoinSet::new(),
            generation: 1,
        };
        let view = mesh.view(None)?;
        mesh.server.ctx.install(&view);
        mesh.client.ctx.install(&view);
        mesh.connect(&authority).await?;
        ensure!(mesh.server.ctx.live.len() == size.hops, "{} hops", mesh.server.ctx.live.len());
        ensure!(mesh.server.ctx.live.hops_untracked() == 0, "hops that no change would find");
        Ok(mesh)
    }

    async fn connect(&mut self, authority: &Authority) -> Result<()> {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let server = SpiffeId::parse(SERVER)?;
        let own = self.vendor.tdx(TdxSpec::default())?;
        let (identity, _) = attested(authority, own.as_ref(), SERVER)?;
        let ctx = &self.server.ctx;
        let guard = Guard::new(server.clone(), Arc::clone(&ctx.view), 1024);
        ctx.credentials.send_replace(Some(Arc::new(Credentials::new(identity, Arc::new(guard), ctx)?)));
        let mut opening = JoinSet::new();
        for n in 0..self.size.hops {
            let id = peer(n, self.size);
            let (identity, _) = attested(authority, own.as_ref(), &id)?;
            let (near, far) = (Arc::clone(&self.server.ctx), Arc::clone(&self.client.ctx));
            let guard = Guard::new(SpiffeId::parse(&id)?, Arc::clone(&far.view), 1);
            let credentials = Arc::new(Credentials::new(identity, Arc::new(guard), &far)?);
            let (server, turn) = (server.clone(), Arc::clone(&turns).acquire_owned().await?);
            opening.spawn(async move {
                let (a, b) = tokio::io::duplex(16 << 10);
                let address = SocketAddr::from(([127, 0, 0, 1], 1));
                let (inbound, outbound) = tokio::join!(
                    Held::accept(a, address, &near),
                    Held::connect(b, address, &server, credentials, &far)
                );
                drop(turn);
                Ok::<_, anyhow::Error>((
                    inbound.map_err(|denial| anyhow!("{denial}"))?,
                    outbound.map_err(|denial| anyhow!("{denial}"))?,
                ))
            });
        }
        while let Some(opened) = opening.join_next().await {
            // The peer's end is not what is measured.
            let (hop, _) = opened??;
            let (ended, ending) = (Arc::clone(&self.ended), Arc::clone(&self.ending));
            self.hops.spawn(async move {
                hop.cut().await;
                ended.fetch_add(1, Ordering::AcqRel);
                ending.notify_one();
            });
        }
        Ok(())
    }

    /// Lets the server's configuration change, and waits until `cut` hops have ended by it.
    ///
    /// # Errors
    /// When the view cannot be made, or other hops end than should.
    pub async fn enforce(&mut self, change: Change, cut: usize) -> Result<Enforced> {
        self.generation += 1;
        let view = self.view(Some(change))?;
        let before = self.ended.load(Ordering::Acquire);
        let start = Instant::now();
        self.server.ctx.install(&view);
        let judged = start.elapsed();
        while self.ended.load(Ordering::Acquire) < before + cut {
            self.ending.notified().await;
        }
        let observed = start.elapsed();
        // Whoever was cut as well has ended by now, or would be here to see.
        tokio::task::yield_now().await;
        let alive = self.server.ctx.live.hops().iter().filter(|hop| hop.cut.cause().is_none()).count();
        ensure!(self.size.hops - alive == before + cut, "{alive} hops are left");
        ensure!(self.server.ctx.live.hops_untracked() == 0, "hops that no change would find");
        Ok(Enforced { judged, observed, cut })
    }

    fn view(&mut self, change: Option<Change>) -> Result<Arc<View>> {
        if change == Some(Change::RevocationList) {
            let mut other = TdxSpec::default();
            other.platform.ppid = [9; 16];
            let serial = self.vendor.tdx(other)?.pck_serial().clone();
            let spec =
                CollateralSpec { crl_number: 2, revoked_pck: vec![serial], ..CollateralSpec::default() };
            self.collateral = self.vendor.collateral_with(&spec, now())?;
        }
        let text = resources(&self.vendor, self.size, change);
        // As many files as it takes: one has a limit.
        let documents: Vec<_> = text.split("---\n").filter(|document| !document.is_empty()).collect();
        let mut resources = Vec::new();
        for file in documents.chunks(1000) {
            let parsed = parse("bench.yaml", &file.join("---\n"));
            resources.extend(parsed.map_err(|problems| anyhow!("{problems:?}"))?);
        }
        let inputs = Inputs {
            generation: self.generation,
            resources: resources.into_iter().map(Arc::new).collect(),
            bundles: vec![self.bundle.clone()],
            collateral: self.collateral.clone(),
        };
        let current = self.server.ctx.view.load();
        let built = View::build_after(&current, inputs, &mut Marks::default(), now());
        ensure!(built.rejected.is_empty() && built.refused_collateral.is_empty(), "{:?}", built.rejected);
        Ok(Arc::new(built.view))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.hops.abort_all();
        for proxy in [&self.server, &self.client] {
            proxy.drain.force();
            proxy.task.abort();
            let _ = std::fs::remove_dir_all(&proxy.state);
        }
    }
}

impl Proxy {
    /// A proxy that runs for the sake of its quotes and its clock. No control
    /// plane is there: what it knows is installed by hand.
    fn start(name: &str, machine: Arc<dyn Attester>, bundle: &Bundle) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let state = std::env::temp_dir().join(format!("countersign-revoke-{}-{name}", std::process::id()));
        let seconds = Duration::from_secs;
        let bootstrap = ProxyBootstrap {
            name: name.to_owned(),
            workload: format!("a/{name}"),
            bundle: bundle.clone(),
            state_dir: state.clone(),
            attester: AttesterChoice::Device,
            control_plane: ControlPlaneRef {
                // Nothing listens on port 1 of this host.
                address: "127.0.0.1:1".to_owned(),
                id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/countersign/control-plane"))?,
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
                handshakes_in_progress: AT_ONCE,
                hops: 1,
                streams_per_hop: 1,
                handshake_timeout: seconds(60),
                gate_timeout: seconds(60),
                connect_timeout: seconds(60),
                idle_timeout: seconds(300),
                http: HttpLimits::default(),
            },
            drain_timeout: seconds(1),
        };
        let bound = build(&bootstrap, Clock::new(Arc::new(Still)), Arc::new(Local::new(machine)), None)?;
        let (ctx, drain) = (bound.context(), bound.drain());
        let task = tokio::spawn(bound.run(std::future::pending()));
        Ok(Self { ctx, drain, task, state })
    }
}

/// The SPIFFE ID of a peer.
fn peer(n: usize, size: Size) -> String {
    let group = if n < size.few { "few" } else { "many" };
    format!("spiffe://{DOMAIN}/{group}/{n}")
}

fn resources(vendor: &Vendor, size: Size, change: Option<Change>) -> String {
    const HEAD: &str = "---\napiVersion: countersign.dev/v1alpha1\n";
    let release = hex(&TdxSpec::default().mr_td);
    let withdrawn = "00".repeat(48);
    let root = vendor.intel_root();
    let mut text = format!("{HEAD}kind: TrustDomain\nmetadata: {{ name: {DOMAIN} }}\nspec: {{}}\n");
    let mut policy = |namespace: &str, name: &str, peers: &str, gone: bool| {
        let mr_td = if gone { &withdrawn } else { &release };
        text += &format!(
            "{HEAD}kind: ReferenceValues\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
             spec: {{ tdx: [{{ name: guest, mrTd: \"{mr_td}\" }}] }}\n\
             {HEAD}kind: AttestationPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
             spec: {{ {peers}continuous: {{ interval: 15m }}, anyOf: [{{ tdx: {{ emulatedRoots: [\"{root}\"], \
             measurements: {{ fromReferenceValues: {name} }} }} }}] }}\n"
        );
    };
    policy("a", "all", "", change == Some(Change::All));
    let gone = matches!(change, Some(Change::Few | Change::RevocationList | Change::All));
    policy("a", "few", &format!("peers: [\"spiffe://{DOMAIN}/few/*\"], "), gone);
    policy("b", "other", "", change.is_some());
    let identities = (0..size.hops).map(|n| (format!("peer-{n}"), peer(n, size)));
    for (name, id) in identities.chain([("server".to_owned(), SERVER.to_owned())]) {
        text += &format!(
            "{HEAD}kind: WorkloadIdentity\nmetadata: {{ name: {name}, namespace: a }}\n\
             spec: {{ spiffeId: \"{id}\", attestation: {{ policy: all }} }}\n"
        );
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_ends_the_hops_that_it_affects_and_no_other() {
        let mut mesh = Mesh::open(Size { hops: 12, few: 3 }).await.unwrap();
        for (change, cut) in
            [(Change::Elsewhere, 0), (Change::Few, 3), (Change::RevocationList, 0), (Change::All, 9)]
        {
            assert_eq!(mesh.enforce(change, cut).await.unwrap().cut, cut, "{change:?}");
        }
    }
}
