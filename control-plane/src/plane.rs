//! The whole, put together: what starts, in which order, and how it ends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use countersign_attester::Attester;
use countersign_config::bootstrap::ControlPlaneBootstrap;
use countersign_quoting::{Local, Quoter, QuotingTask, Source};
use countersign_ratls::throttle::Throttle;
use hyper::body::Incoming;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::admit::Admission;
use crate::authority::{self, Keys, Ours};
use crate::caller::Doorkeeper;
use crate::clock::Clock;
use crate::collateral::Directory;
use crate::cut::{self, Cut, Cutter};
use crate::error::Error;
use crate::issue::{IdentityService, Issuer};
use crate::keep::Keep;
use crate::mesh::{self, MeshService};
use crate::metrics::Metrics;
use crate::operator::{self, OperatorService};
use crate::own::{self, Own, Renewer};
use crate::pin::ATTESTATION;
use crate::platforms::Platforms;
use crate::ready::{AUTHORITY, PROCESS, Ready, SNAPSHOT};
use crate::resources::{PREFIX, Resources};
use crate::status::Proxies;
use crate::store::{Embedded, Store};
use crate::watchers::Watchers;
use crate::{files, http, serve};

/// How often time is looked at: renewals, expiries, the collateral directory.
const TICK: Duration = Duration::from_secs(1);
/// How long streams may take to end at a shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Connections between handshake and server.
const ACCEPTED: usize = 16;

/// What is not in the bootstrap file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The clock; the system's when not given.
    pub clock: Option<Arc<dyn TimeProvider>>,
    /// The attester, instead of the one that the file names.
    pub attester: Option<Arc<dyn Attester>>,
}

/// Where the control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The TLS port.
    pub server: SocketAddr,
    /// Admin, localhost only.
    pub admin: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
}

/// A control plane whose sockets are bound and whose keys exist.
#[derive(Debug)]
pub struct Bound {
    addresses: Addresses,
    listeners: Listeners,
    parts: Parts,
    quoting: QuotingTask,
}

#[derive(Debug)]
struct Listeners {
    server: TcpListener,
    admin: TcpListener,
    metrics: TcpListener,
    readiness: TcpListener,
}

#[derive(Debug)]
struct Parts {
    cutter: Cutter,
    cuts: watch::Sender<Arc<Cut>>,
    changed: watch::Receiver<u64>,
    tick: watch::Sender<u64>,
    renewer: Arc<Renewer>,
    own: watch::Sender<Option<Own>>,
    issuer: Arc<Issuer>,
    operator: Arc<operator::Shared>,
    keep: Keep,
}

/// For whoever runs a control plane in the same process.
#[derive(Clone, Debug)]
pub struct Handle {
    tick: watch::Sender<u64>,
    operator: Arc<operator::Shared>,
}

impl Handle {
    /// Looks at the clock and the collateral directory now, not at the next second.
    pub fn tick(&self) {
        self.tick.send_modify(|tick| *tick += 1);
    }

    /// What is missing for readiness, `name: why`; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.operator.ready.report()
    }

    /// As the Operator service's Status.
    #[must_use]
    pub fn status(&self) -> countersign_wire::proto::StatusResponse {
        self.operator.status()
    }
}

/// Opens the store, makes or reads the keys, cuts the first snapshot, binds the
/// sockets and writes the files that proxies and operators start from.
///
/// # Errors
/// When one of these fails; nothing runs then.
pub async fn build(config: ControlPlaneBootstrap, options: Options) -> Result<Bound, Error> {
    let listeners = Listeners {
        server: bind(config.listen).await?,
        admin: bind(config.admin).await?,
        metrics: bind(config.metrics).await?,
        readiness: bind(config.readiness).await?,
    };
    let local = |listener: &TcpListener| listener.local_addr().map_err(Error::io("local address"));
    let addresses = Addresses {
        server: local(&listeners.server)?,
        admin: local(&listeners.admin)?,
        metrics: local(&listeners.metrics)?,
        readiness: local(&listeners.readiness)?,
    };
    let source: Arc<dyn Source> = match options.attester {
        Some(attester) => Arc::new(Local::new(attester)),
        None => own::open(&config.attester, &config.state_dir).await?,
    };
    let (quoter, quoting) = Quoter::new(source, Default::default());
    let clock = Clock::new(options.clock.unwrap_or_else(|| Arc::new(DefaultTimeProvider)));
    let parts = tokio::task::spawn_blocking(move || Parts::open(&config, clock, quoter, addresses.server))
        .await
        .map_err(|e| Error::Task(format!("start: {e}")))??;
    Ok(Bound { addresses, listeners, parts, quoting })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(Error::io(format!("listen on {address}")))
}

impl Parts {
    fn open(
        config: &ControlPlaneBootstrap,
        clock: Clock,
        quoter: Quoter,
        server: SocketAddr,
    ) -> Result<Self, Error> {
        let state = &config.state_dir;
        files::make_directory(state).map_err(Error::io(format!("make {}", state.display())))?;
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&state.join("store.redb"))?);
        let changed = store.watch(PREFIX);
        let keep = Keep::new(Arc::clone(&store));
        let ready = Arc::new(Ready::new());
        let metrics = Arc::new(Metrics::new().map_err(|e| Error::io("metrics")(io::Error::other(e)))?);

        let keys = Arc::new(Keys::open(state, &config.trust_domain, clock.now())?);
        metrics.ca_expiry(keys.not_after);
        ready.done(AUTHORITY);

        let resources = Arc::new(Resources::new(Arc::clone(&store)));
        let directory = Directory::new(config.collateral_dir.clone());
        let (k, r) = (Arc::clone(&keys), Arc::clone(&resources));
        let mut cutter = Cutter::new(k, keep.clone(), r, directory, clock.clone())?;
        let first = cutter.cut()?;
        let generation = first.snapshot.generation();
        metrics.generation(generation);
        cut::alarm(None, &first, &metrics);
        ready.done(SNAPSHOT);
        tracing::info!(generation, entries = first.snapshot.entries().len(), "cut the first snapshot");
        let (cuts, seen) = watch::channel(first);

        let platforms = Arc::new(Platforms::new(Arc::clone(&store)));
        let issuer = Arc::new(Issuer {
            keys: Arc::clone(&keys),
            keep: keep.clone(),
            cuts: seen.clone(),
            clock: clock.clone(),
            own: config.id.clone(),
            metrics: Arc::clone(&metrics),
            count: 0.into(),
            throttle: Throttle::default(),
            platforms: Arc::clone(&platforms),
        });
        let proxies: Arc<Proxies> = Arc::default();
        let judge = Arc::new(Doorkeeper {
            bundle: keys.bundle.clone(),
            cuts: seen.clone(),
            proxies: Arc::clone(&proxies),
        });
        let pinned = config.attestation.is_none().then(|| state.join(ATTESTATION));
        let attestation = config.attestation.clone().unwrap_or_else(|| state.join(ATTESTATION));
        let renewer = Arc::new(Renewer {
            id: config.id.clone(),
            quoter,
            pinned,
            issuer: Arc::clone(&issuer),
            judge,
            clock: clock.clone(),
        });
        let ours = Ours {
            server: &reachable(server),
            id: &config.id,
            attestation: &attestation,
            collateral: &config.collateral_dir,
        };
        authority::hand_out(&keys, state, &ours, clock.now())?;
        let (domain, own) = (config.trust_domain.clone(), config.id.clone());
        let admission = Admission::new(domain, own, store, Arc::clone(&resources));
        let operator = Arc::new(operator::Shared {
            admission: Arc::new(admission),
            resources,
            platforms,
            cuts: seen,
            proxies,
            keys,
            ready,
            metrics,
            clock,
            watchers: Arc::new(Watchers::new()),
        });
        let (own, tick) = (watch::channel(None).0, watch::channel(0).0);
        Ok(Self { cutter, cuts, changed, tick, renewer, own, issuer, operator, keep })
    }
}

/// The address by which the CLI on this machine reaches us.
fn reachable(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address.to_string()
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// For the same process.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { tick: self.parts.tick.clone(), operator: Arc::clone(&self.parts.operator) }
    }

    /// Runs until `shutdown`, then ends streams and closes.
    ///
    /// # Errors
    /// When a task of ours fails or ends early.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let ready = Arc::clone(&self.parts.operator.ready);
        let watchers = Arc::clone(&self.parts.operator.watchers);
        let (stop, quit) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = self.start(&stop, &quit);
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            () = quit.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => Err(name(ended)),
        };
        ready.missing(PROCESS, "shutting down");
        if let Err(error) = &outcome {
            tracing::error!(%error, "a task failed");
        }
        stop.cancel();
        watchers.close();
        let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("streams were still open after {} s", DRAIN.as_secs());
        }
        tasks.shutdown().await;
        tracing::info!("stopped");
        outcome
    }

    /// Every task has a name and an owner.
    fn start(
        self,
        stop: &CancellationToken,
        quit: &CancellationToken,
    ) -> JoinSet<(&'static str, Result<(), Error>)> {
        let Self { listeners, parts, quoting, .. } = self;
        let Parts { cutter, cuts, changed, tick, renewer, own, issuer, operator, keep } = parts;
        let proxies: Arc<Proxies> = Arc::clone(&operator.proxies);
        let both = (Arc::clone(&operator.ready), Arc::clone(&operator.metrics));
        let own_seen = own.subscribe();
        let mesh = MeshService(Arc::new(mesh::Shared {
            cuts: cuts.subscribe(),
            tick: tick.subscribe(),
            proxies,
            metrics: Arc::clone(&operator.metrics),
            clock: operator.clock.clone(),
            watchers: Arc::clone(&operator.watchers),
            shutdown: stop.clone(),
        }));
        let admin = Admin {
            operator: Arc::clone(&operator),
            issuer: Arc::clone(&issuer),
            own: own_seen.clone(),
            keep,
            tick: tick.clone(),
            quit: quit.clone(),
        };
        let (accepted, connections) = mpsc::channel(ACCEPTED);

        let mut tasks = JoinSet::new();
        let cutting = cut::keep_cutting(cutter, cuts, changed, tick.subscribe(), both.clone(), stop.clone());
        spawn(&mut tasks, "cut", cutting);
        spawn(&mut tasks, "quoting", keep_quoting(quoting, stop.clone()));
        spawn(&mut tasks, "identity", own::keep_renewing(renewer, own, tick.subscribe(), both, stop.clone()));
        let metrics = (Arc::clone(&operator.metrics), operator.clock.clone());
        spawn(
            &mut tasks,
            "accept",
            serve::accept(listeners.server, own_seen, metrics, accepted, stop.clone()),
        );
        let service = OperatorService(Arc::clone(&operator));
        spawn(
            &mut tasks,
            "serve",
            serve::serve(connections, IdentityService(issuer), mesh, service, stop.clone()),
        );
        let answer = move |request: &_| admin.answer(request);
        spawn(&mut tasks, "admin", http::serve(listeners.admin, answer, stop.clone()));
        let ours = Arc::clone(&operator);
        let answer = move |request: &Request<Incoming>| admin::metrics(&ours, request.uri().path());
        spawn(&mut tasks, "metrics", http::serve(listeners.metrics, answer, stop.clone()));
        let answer = move |request: &Request<Incoming>| admin::readiness(&operator, request.uri().path());
        spawn(&mut tasks, "readiness", http::serve(listeners.readiness, answer, stop.clone()));
        spawn(&mut tasks, "tick", keep_ticking(tick, stop.clone()));
        tasks
    }
}

/// Owns the quoting device until the end.
async fn keep_quoting(task: QuotingTask, stop: CancellationToken) -> Result<(), Error> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = task.run() => Ok(()),
    }
}

fn spawn(
    tasks: &mut JoinSet<(&'static str, Result<(), Error>)>,
    name: &'static str,
    task: impl Future<Output = Result<(), Error>> + Send + 'static,
) {
    tasks.spawn(async move { (name, task.await) });
}

fn name(ended: Result<(&'static str, Result<(), Error>), tokio::task::JoinError>) -> Error {
    match ended {
        Ok((_, Err(error))) => error,
        Ok((name, Ok(()))) => Error::Task(name.to_owned()),
        Err(panicked) => Error::Task(panicked.to_string()),
    }
}

async fn keep_ticking(tick: watch::Sender<u64>, stop: CancellationToken) -> Result<(), Error> {
    let mut seconds = tokio::time::interval(TICK);
    seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = seconds.tick() => tick.send_modify(|tick| *tick += 1),
        }
    }
}
