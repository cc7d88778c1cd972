//! From a bootstrap file to a proxy whose sockets are bound, and its life from
//! there to the end.

mod listeners;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_config::bootstrap::{Inbound, Limits, ProxyBootstrap};
use countersign_config::{Inputs, View};
use countersign_evidence::collateral::Marks;
use countersign_quoting::{Health, Options, Quoter, QuotingTask, Source};
use countersign_ratls::session::SecureRandom;
use countersign_ratls::throttle::Throttle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use self::listeners::{ANY, LOCALHOST, leads_to_us, listen, listen_twice, local, own_listeners, ways};
use crate::agent::{Agent, AgentError, Applied, Compiler, TICK};
use crate::clock::Clock;
use crate::context::Context;
use crate::drain::Drain;
use crate::gate::Crowd;
use crate::live::Live;
use crate::observe::attestation::Measured;
use crate::observe::metrics::Metrics;
use crate::observe::refused::Refused;
use crate::ops::{self, LogLevel};
use crate::outbound::Way;
use crate::pools::Pools;
use crate::readiness::{Need, Readiness};
use crate::{inbound, outbound, plaintext};

/// File descriptors that are not for connections: listeners, files, the control plane.
const RESERVED: u64 = 128;
/// How often a proxy that is not ready says so in its log.
const REMINDER: Duration = Duration::from_secs(15);
/// Ticks between two looks at whether our own evidence still verifies.
const SELF_CHECK: u32 = 60;

/// Why a proxy cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A listener.
    #[error("cannot listen on {address} ({purpose}): {source}")]
    Listen {
        /// What it is for.
        purpose: String,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The admin port shows and does what no other host may see or do.
    #[error("admin: {0} is not an address of this host alone; use 127.0.0.1 or [::1]")]
    AdminExposed(SocketAddr),
    /// A port of the workload is one of our own.
    #[error("inbound: port {0} is one of this proxy's own listeners, not the workload's")]
    Loop(u16),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Metrics that contradict each other: a defect.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Where a proxy listens. Ports that were asked for as 0 are real here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where hops arrive.
    pub inbound: Option<SocketAddr>,
    /// Where workloads connect, in the order of the bootstrap file.
    pub outbound: Vec<SocketAddr>,
    /// Where captured connections of the workload arrive.
    pub captured: Vec<SocketAddr>,
    /// Where captured connections to the workload arrive.
    pub plaintext: Vec<SocketAddr>,
    /// Where workloads say where they want to go.
    pub explicit: Option<SocketAddr>,
    /// Localhost only.
    pub admin: SocketAddr,
    /// Prometheus.
    pub metrics: SocketAddr,
    /// Readiness and liveness.
    pub readiness: SocketAddr,
}

/// A proxy whose sockets are bound and which does nothing yet.
pub struct Bound {
    addresses: Addresses,
    ctx: Arc<Context>,
    agent: Agent,
    quoting: QuotingTask,
    source: Arc<dyn Source>,
    inbound: Option<(TcpListener, Arc<Inbound>)>,
    outbound: Vec<(TcpListener, Way)>,
    plaintext: Vec<TcpListener>,
    readiness: TcpListener,
    admin: TcpListener,
    metrics: TcpListener,
    level: Option<LogLevel>,
    drain_timeout: Duration,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Binds every socket and puts the stored snapshot to use. Must be called
/// inside a Tokio runtime. `level` changes the log filter on behalf of operators.
///
/// # Errors
/// When a socket cannot be bound, the state directory cannot be used, or the
/// bootstrap file contradicts itself.
pub fn build(
    bootstrap: &ProxyBootstrap,
    clock: Clock,
    source: Arc<dyn Source>,
    level: Option<LogLevel>,
) -> Result<Bound, BuildError> {
    if !bootstrap.admin.ip().is_loopback() {
        return Err(BuildError::AdminExposed(bootstrap.admin));
    }
    let admin = listen("admin", bootstrap.admin)?;
    let metrics = listen("metrics", bootstrap.metrics)?;
    let readiness = listen("readiness", bootstrap.readiness)?;
    let inbound = match &bootstrap.inbound {
        Some(inbound) => Some((listen("inbound", inbound.listen)?, Arc::new(inbound.clone()))),
        None => None,
    };
    let mappings = bootstrap
        .outbound
        .iter()
        .map(|o| Ok((listen(&format!("outbound to {}", o.to), o.listen)?, o)))
        .collect::<Result<Vec<_>, BuildError>>()?;
    let (captured, plaintext) = match &bootstrap.capture {
        Some(capture) => (
            listen_twice("captured outbound", LOCALHOST, capture.outbound)?,
            listen_twice("captured inbound", ANY, capture.inbound)?,
        ),
        None => (Vec::new(), Vec::new()),
    };
    let explicit = bootstrap.explicit.map(|address| listen("explicit", address)).transpose()?;
    let addresses = Addresses {
        inbound: inbound.as_ref().map(|(listener, _)| local("inbound", listener)).transpose()?,
        outbound: mappings
            .iter()
            .map(|(listener, _)| local("outbound", listener))
            .collect::<Result<_, _>>()?,
        captured: captured.iter().map(|l| local("captured outbound", l)).collect::<Result<_, _>>()?,
        plaintext: plaintext.iter().map(|l| local("captured inbound", l)).collect::<Result<_, _>>()?,
        explicit: explicit.as_ref().map(|listener| local("explicit", listener)).transpose()?,
        admin: local("admin", &admin)?,
        metrics: local("metrics", &metrics)?,
        readiness: local("readiness", &readiness)?,
    };
    let own = own_listeners(&addresses);
    if let Some((_, inbound)) = &inbound
        && let Some(port) = inbound.ports.iter().find(|p| leads_to_us(inbound, p.port, &own))
    {
        return Err(BuildError::Loop(port.port));
    }
    let counted = Arc::new(Metrics::new()?);
    let source = Measured::source(source, counted.attestation.clone());
    let (quoter, quoting) = Quoter::new(Arc::clone(&source), queue(&bootstrap.limits));
    let ctx = Arc::new(context(bootstrap, clock, own, quoter, counted));
    let mappings = ways(mappings, &ctx);
    let captured = captured.into_iter().map(|listener| (listener, Way::Captured));
    let explicit = explicit.map(|listener| (listener, Way::Explicit));
    let outbound = mappings.into_iter().chain(captured).chain(explicit).collect();
    let agent = Agent::new(bootstrap, &ctx)?;
    let drain_timeout = bootstrap.drain_timeout;
    Ok(Bound {
        addresses,
        ctx,
        agent,
        quoting,
        source,
        inbound,
        outbound,
        plaintext,
        readiness,
        admin,
        metrics,
        level,
        drain_timeout,
    })
}

/// Room in the queue for quotes. When something is measured on this machine, the
/// peers of all hops ask at once, and one peer may be at the other end of all of
/// them: each hop has a place, since one that finds none ends.
fn queue(limits: &Limits) -> Options {
    let least = Options::default();
    Options {
        // As many hops may come in as go out.
        sessions: limits.hops.saturating_mul(2).max(least.sessions),
        sessions_per_peer: limits.hops.max(least.sessions_per_peer),
        ..least
    }
}

fn context(
    bootstrap: &ProxyBootstrap,
    clock: Clock,
    own: Vec<SocketAddr>,
    quoter: Quoter,
    metrics: Arc<Metrics>,
) -> Context {
    let nothing =
        Inputs { generation: 0, resources: Vec::new(), bundles: Vec::new(), collateral: Vec::new() };
    let view = View::build(nothing, &mut Marks::default(), clock.now()).view;
    let view = Arc::new(ArcSwap::from_pointee(view));
    // A connection has two sockets at most: the workload's, and a share of a hop.
    let drain = Drain::default();
    let connections = countersign_net::descriptors().saturating_sub(RESERVED) / 2;
    Context {
        clock,
        refused: Arc::new(Refused::new(Arc::clone(&view))),
        view,
        credentials: watch::Sender::new(None),
        live: Arc::new(Live::default()),
        crowd: Crowd::default(),
        random: SecureRandom::shared(),
        metrics,
        readiness: Readiness::new(drain.clone()),
        limits: bootstrap.limits.clone(),
        connections: Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(usize::MAX >> 4))),
        own,
        throttle: Throttle::default(),
        unproven: Throttle::default(),
        refusals: Throttle::default(),
        audits: Throttle::default(),
        drain,
        quoter,
        evidence: ArcSwapOption::empty(),
        applied: ArcSwap::from_pointee(Applied::default()),
    }
}

impl Bound {
    /// Where the proxy listens.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The handle by which the proxy is ended: gracefully, or at once.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.ctx.drain.clone()
    }

    /// What the stages share; for tests and tools in the same process.
    #[must_use]
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.ctx)
    }

    /// Runs until `shutdown` resolves (or an operator asks for the end), and
    /// the drain that follows has ended.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let ctx = Arc::clone(&self.ctx);
        let drain_timeout = self.drain_timeout;
        let (mut data, mut rest, admin) = self.start();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                () = ctx.drain.beginning() => break,
                () = data.watch(&ctx) => {}
                () = rest.watch(&ctx) => {}
            }
        }
        ctx.drain.begin();
        tracing::info!(hops = ctx.live.len(), timeout = ?drain_timeout, "draining");
        tokio::select! {
            biased;
            () = data.all(&ctx) => tracing::info!("everything finished"),
            () = ctx.drain.forced() => {}
            () = tokio::time::sleep(drain_timeout) => tracing::warn!("drain timeout; cutting what is left"),
        }
        ctx.drain.force();
        ctx.live.sever_all(&ctx.metrics);
        data.all(&ctx).await;
        rest.all(&ctx).await;
        if let Some(admin) = admin {
            // An error is a panic there, which ends nothing else any more.
            let _ = admin.await;
        }
    }

    /// Starts every task.
    fn start(self) -> (Tasks, Tasks, Option<oneshot::Receiver<()>>) {
        let ctx = self.ctx;
        let mut data = Tasks::default();
        let mut rest = Tasks::default();
        if !self.outbound.is_empty() {
            let (pools, nursery) = Pools::new(Arc::clone(&ctx));
            data.spawn("pools", nursery.run());
            for (listener, way) in self.outbound {
                data.spawn("outbound", outbound::serve(listener, way, Arc::clone(&pools), Arc::clone(&ctx)));
            }
        }
        for listener in self.plaintext {
            data.spawn("plaintext", plaintext::refuse(listener, Arc::clone(&ctx)));
        }
        if let Some((listener, config)) = self.inbound {
            data.spawn("inbound", inbound::serve(listener, config, Arc::clone(&ctx)));
        }
        rest.spawn("readiness", ops::readiness(self.readiness, Arc::clone(&ctx)));
        rest.spawn("quoting", quoting(self.quoting, Arc::clone(&ctx)));
        rest.spawn("events", events(self.source, Arc::clone(&ctx)));
        rest.spawn("identity", self.agent.identity.run());
        rest.spawn("configuration", self.agent.subscription.run());
        rest.spawn("clock", clockwork(self.agent.compiler, Arc::clone(&ctx)));
        ctx.readiness.have(Need::Sockets);
        let admin = match ops::spawn(self.admin, self.metrics, self.level, Arc::clone(&ctx)) {
            Ok(ended) => Some(ended),
            Err(error) => {
                tracing::error!(%error, "no admin and no metrics");
                ctx.readiness.miss(Need::Tasks, "admin and metrics could not be started");
                None
            }
        };
        (data, rest, admin)
    }
}

/// Owns the quoting device until the last hop is gone: rounds go on during a drain.
async fn quoting(task: QuotingTask, ctx: Arc<Context>) {
    let mut health = ctx.quoter.health();
    let report = async {
        // A single failure shows in what it was for; a device that hangs concerns everything.
        while health.changed().await.is_ok() {
            match &*health.borrow_and_update() {
                Health::Good => ctx.readiness.have(Need::Evidence),
                hung @ Health::Hung => {
                    let driver = ctx.quoter.platform().driver;
                    ctx.readiness.miss(Need::Evidence, format!("{driver}: {hung}"));
                }
                Health::Untried | Health::Failing(_) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = ctx.drain.forced() => {}
        () = task.run() => {}
        () = report => {}
    }
}

/// Tells peers when something was measured on this machine.
async fn events(source: Arc<dyn Source>, ctx: Arc<Context>) {
    let mut known = 0;
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.forced() => return,
            count = source.moved(known) => {
                known = count;
                tracing::info!(events = count, "something was measured on this machine");
                ctx.state_changed();
            }
        }
    }
}

/// What must happen because time passes: hops expire, collateral ends or comes into use.
async fn clockwork(compiler: Arc<Compiler>, ctx: Arc<Context>) {
    let mut tick = tokio::time::interval(TICK);
    let mut reminder = tokio::time::interval(REMINDER);
    let mut ticks = 0_u32;
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.forced() => return,
            _ = tick.tick() => {
                ctx.check_clock();
                compiler.renew(&ctx);
                ctx.live.expire(&ctx);
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(SELF_CHECK) {
                    ctx.check_own_evidence();
                }
            }
            _ = reminder.tick() => {
                if !ctx.readiness.is_ready() {
                    tracing::warn!("not ready\n{}", ctx.readiness.report().trim_end());
                }
            }
        }
    }
}

/// Tasks with names and an owner.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits until a task ends, which none should do before a drain.
    async fn watch(&mut self, ctx: &Context) {
        match self.set.join_next_with_id().await {
            Some(ended) => self.ended(&ended, ctx),
            None => std::future::pending().await,
        }
    }

    async fn all(&mut self, ctx: &Context) {
        while let Some(ended) = self.set.join_next_with_id().await {
            self.ended(&ended, ctx);
        }
    }

    fn ended(&mut self, ended: &Result<(Id, ()), JoinError>, ctx: &Context) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or("task");
        if ended.is_err() || !ctx.drain.begun() {
            ctx.task_lost(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_config::bootstrap::HttpLimits;
    use countersign_quoting::{Class, Schedule, Urgency};

    #[test]
    fn every_hop_has_a_place_in_the_queue_even_if_all_are_of_one_peer() {
        let limits = Limits { hops: 3000, ..limits() };
        let mut schedule = Schedule::new(queue(&limits));
        let now = std::time::Instant::now();
        let round = Class::Session(Urgency::Round { by: now + Duration::from_secs(15) });
        for hop in 0..3000 {
            schedule.push(now, 1, round, hop).unwrap();
        }
        schedule.push(now, 2, round, 3000).unwrap();
    }

    #[test]
    fn a_small_proxy_has_room_for_a_crowd_of_new_hops() {
        let small = queue(&Limits { hops: 1, ..limits() });
        assert_eq!((small.sessions, small.sessions_per_peer), (4096, 1024));
    }

    fn limits() -> Limits {
        const TIME: Duration = Duration::from_secs(10);
        Limits {
            handshakes_in_progress: 64,
            hops: 64,
            streams_per_hop: 100,
            handshake_timeout: TIME,
            gate_timeout: TIME,
            connect_timeout: TIME,
            idle_timeout: TIME,
            http: HttpLimits::default(),
        }
    }
}
