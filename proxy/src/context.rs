//! What every stage of the data path shares.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_attester::Produced;
use countersign_config::bootstrap::Limits;
use countersign_config::{RequestFacts, View};
use countersign_evidence::{Denial, Finding, Reason};
use countersign_quoting::Quoter;
use countersign_ratls::identity::Identity;
use countersign_ratls::peer::{Admission, Judge};
use countersign_ratls::session::Random;
use countersign_ratls::throttle::{Say, Throttle};
use countersign_ratls::tls::{ALPN_MESH, Acceptor, Connector, Profile};
use countersign_ratls::{IdPattern, SpiffeId};
use prometheus::IntGauge;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::agent::Applied;
use crate::clock::Clock;
use crate::drain::Drain;
use crate::gate::Crowd;
use crate::live::{Carries, Live, Stream};
use crate::observe::metrics::Metrics;
use crate::observe::refused::{Peer, Refused};
use crate::readiness::{Need, Readiness};
use crate::verdict::Witness;

/// Whom we are to peers, and who judges them for us. Immutable; a renewal makes a new one.
#[derive(Debug)]
pub struct Credentials {
    /// Our certificate chain and key.
    pub identity: Arc<Identity>,
    /// Our SPIFFE ID.
    pub me: SpiffeId,
    /// The judge of hops.
    pub judge: Arc<dyn Judge>,
    /// Accepts hops.
    pub acceptor: Acceptor,
    connector: Connector,
}

impl Credentials {
    /// From an identity and a judge, whose refusals are taken down.
    ///
    /// # Errors
    /// When the identity has no SPIFFE ID or its key cannot be used.
    pub fn new(identity: Identity, judge: Arc<dyn Judge>, ctx: &Context) -> Result<Self, Finding> {
        let Some(me) = identity.id.clone() else {
            return Err(Finding::new(Reason::SvidInvalid, "our certificate", "a SPIFFE ID", "none"));
        };
        let profile =
            Profile { alpn: vec![ALPN_MESH.to_vec()], require_pq: false, clock: ctx.clock.provider() };
        let witness = Witness::new(Arc::clone(&judge), me.clone(), Arc::clone(&ctx.refused));
        let witness: Arc<dyn Judge> = Arc::new(witness);
        let acceptor = Acceptor::new(&identity, Arc::clone(&witness), &profile)?;
        // Those to peers are made from it: it knows nobody but us.
        let connector = Connector::new(&identity, witness, IdPattern::parse(me.as_str())?, &profile)?;
        Ok(Self { identity: Arc::new(identity), me, judge, acceptor, connector })
    }

    /// Opens hops to `destination` and nobody else, over one of these protocols.
    ///
    /// # Errors
    /// When the identity's key cannot be used.
    pub fn connector(&self, destination: &SpiffeId, alpn: &[&[u8]]) -> Result<Connector, Finding> {
        self.connector.towards(IdPattern::parse(destination.as_str())?, alpn)
    }
}

/// What every stage of the data path shares.
#[derive(Debug)]
pub struct Context {
    /// What time it is.
    pub clock: Clock,
    /// The current view.
    pub view: Arc<ArcSwap<View>>,
    /// Our current credentials; `None` until the control plane has issued some.
    pub credentials: watch::Sender<Option<Arc<Credentials>>>,
    /// Every hop, from before its gate.
    pub live: Arc<Live>,
    /// Who stands before the gate.
    pub crowd: Crowd,
    /// Where nonces come from.
    pub random: Arc<dyn Random>,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// What is missing.
    pub readiness: Readiness,
    /// The limits of the bootstrap file.
    pub limits: Limits,
    /// Connections of workloads, in both directions: each holds a descriptor.
    pub connections: Arc<Semaphore>,
    /// The addresses on which we listen ourselves.
    pub own: Vec<SocketAddr>,
    /// Whom we refused lately, and who refused us.
    pub refused: Arc<Refused>,
    /// What strangers may make us log.
    pub throttle: Throttle,
    /// What peers with a certificate that was admitted may make us log by not
    /// proving themselves.
    pub unproven: Throttle,
    /// What admitted peers may make us log by asking for what they do not get.
    pub refusals: Throttle,
    /// What policies that are only recorded may make us log.
    pub audits: Throttle,
    /// Where we are on the way to the end.
    pub drain: Drain,
    /// The way to quotes, for keys and for hops.
    pub quoter: Quoter,
    /// The evidence in our certificate.
    pub evidence: ArcSwapOption<Produced>,
    /// What the view was made from.
    pub applied: ArcSwap<Applied>,
}

impl Context {
    /// Our credentials, for whatever begins now.
    ///
    /// # Errors
    /// `not-ready` while there are none, `clock-behind` while nobody can say what is valid.
    pub fn credentials(&self) -> Result<Arc<Credentials>, Denial> {
        self.clock.check()?;
        self.credentials.borrow().clone().ok_or_else(not_ready)
    }

    /// Takes down that a peer was refused, or refused us. Answers what to log of it.
    pub(crate) fn refused(&self, peer: Peer<'_>, denial: &Denial) -> Say {
        self.refused.note(peer, denial, self.clock.seconds())
    }

    /// Every metric, those included that are only known when somebody asks.
    ///
    /// # Errors
    /// As [`Metrics::render`].
    pub fn sampled(&self) -> Result<Vec<u8>, prometheus::Error> {
        let metrics = &self.metrics.attestation;
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        metrics.queue(&self.quoter.stats());
        set(&metrics.oldest, self.live.oldest_proof(self.clock.monotonic()).as_secs());
        set(&metrics.untracked, self.live.untracked());
        set(&metrics.hops_untracked, self.live.hops_untracked());
        self.metrics.render()
    }

    /// A task ended by a panic: the proxy is not ready any more, for good.
    pub fn task_lost(&self, name: &str) {
        tracing::error!(task = name, "a task panicked; this proxy is not ready until it is restarted");
        self.readiness.miss(Need::Tasks, format!("{name} panicked; restart the proxy"));
    }

    /// Whether the time can be believed: without it nobody is judged.
    pub(crate) fn check_clock(&self) {
        match self.clock.check() {
            Ok(()) => self.readiness.have(Need::Clock),
            Err(denial) => self.readiness.miss(Need::Clock, denial.to_string()),
        }
    }

    /// Whether peers that have the same view as we could verify our own evidence.
    pub fn check_own_evidence(&self) {
        let view = self.view.load();
        if view.generation == 0 {
            return;
        }
        let Some(evidence) = self.evidence.load_full() else {
            let why = "not checked yet: whether peers could verify our evidence shows when we have some";
            return self.readiness.miss(Need::Collateral, why);
        };
        match view.verify(evidence.media_type, &evidence.value, self.clock.now()) {
            Ok(_) => self.readiness.have(Need::Collateral),
            Err(denial) => self.readiness.miss(Need::Collateral, format!("our own evidence: {denial}")),
        }
    }

    /// Puts a certificate to use: new hops begin with it, and live ones change to it.
    pub fn present(&self, credentials: &Arc<Credentials>) {
        self.credentials.send_replace(Some(Arc::clone(credentials)));
        for hop in self.live.hops() {
            if hop.me == credentials.me {
                hop.renew(&credentials.identity, self);
            }
        }
    }

    /// The measured state of this machine moved: every peer is asked to look again.
    pub fn state_changed(&self) {
        for hop in self.live.hops() {
            hop.state_changed(self);
        }
    }

    /// Puts a view to use: installs it, then looks again at the live hops that it affects.
    pub fn install(&self, view: &Arc<View>) {
        self.install_since(view, Instant::now());
    }

    /// The same for what arrived at `since`.
    pub(crate) fn install_since(&self, view: &Arc<View>, since: Instant) {
        let generation = view.generation;
        let previous = self.view.swap(Arc::clone(view));
        let changes = view.changes_since(&previous);
        let (looked, cut) = self.live.reappraise(&changes, self, view);
        let elapsed = since.elapsed();
        self.metrics.attestation.enforced(elapsed);
        self.metrics.collateral(&view.collateral);
        self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.metrics.last_applied.set(i64::try_from(self.clock.seconds()).unwrap_or(i64::MAX));
        tracing::info!(
            generation,
            hops = self.live.len(),
            judged = looked,
            cut,
            ?elapsed,
            "configuration in use"
        );
    }
}

/// Whether `view` lets `peer` have `stream` of `me`, or make a request on it. The rule
/// that decided.
///
/// # Errors
/// `authorization-denied` with the rule that decided.
pub fn authorize(
    view: &View,
    peer: &Admission,
    me: &SpiffeId,
    stream: &Stream,
    request: Option<&RequestFacts<'_>>,
) -> Result<String, Denial> {
    let port = stream.port;
    let decision = match (request, stream.carries) {
        (Some(request), _) => view.authorize_request(peer, me, port, request),
        (None, Carries::Requests) => view.authorize_http(peer, me, port),
        (None, Carries::Bytes) => view.authorize(peer, me, port),
    };
    for policy in &decision.audited {
        tracing::info!(target: "audit", policy, port, peer = peer.presented.id.as_ref().map(tracing::field::display), "audited call");
    }
    if decision.allowed {
        return Ok(decision.rule);
    }
    let asked = match request {
        None => format!("port {port}"),
        Some(request) => format!("{} {}", request.method(), request.path().unwrap_or("an ambiguous path")),
    };
    Err(Finding::new(
        Reason::AuthorizationDenied,
        asked,
        "a call that an AuthorizationPolicy allows",
        decision.rule,
    )
    .into())
}

fn not_ready() -> Denial {
    Finding::new(Reason::NotReady, "our certificate", "one that the control plane issued", "none yet").into()
}
