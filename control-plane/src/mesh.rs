//! The Mesh service: one session for each proxy, driven by what arrives from it,
//! by new cuts, and by time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use countersign_wire::proto::mesh_server::Mesh;
use countersign_wire::server::{Heard, Peer, ProtocolError, Session};
use countersign_wire::{proto, refusal};
use futures_util::Stream;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::{Caller, Class};
use crate::clock::Clock;
use crate::cut::Cut;
use crate::metrics::Metrics;
use crate::status::{Name, Proxies, news};
use crate::watchers::{RENEW_AFTER, Watchers, What, Wish};

/// A proxy must say Hello within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A proxy that is no longer admitted must take the generation that says so within this time.
const GOODBYE_WITHIN: Duration = Duration::from_secs(10);

/// For how many ticks, of a second, a connection may outlive the one that follows it.
const OVERTAKEN_FOR: u32 = 10;

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cuts: watch::Receiver<Arc<Cut>>,
    pub(crate) tick: watch::Receiver<u64>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) shutdown: CancellationToken,
}

/// The Mesh service.
#[derive(Clone, Debug)]
pub(crate) struct MeshService(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Mesh for MeshService {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<proto::ControlMessage, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = Caller::of(&request, &[Class::Workload])?;
        let driver = Driver {
            session: Session::new(),
            caller,
            inbound: request.into_inner(),
            cuts: self.0.cuts.clone(),
            tick: self.0.tick.clone(),
            watching: self.0.watchers.count(),
            wishes: self.0.watchers.wishes(),
            asked: None,
            overtaken: 0,
            told_of_namesake: false,
            ahead: None,
            entry: None,
            leaving: None,
            shared: Arc::clone(&self.0),
        };
        let stream = futures_util::stream::unfold(Some(driver), |driver| async {
            let mut driver = driver?;
            match driver.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(driver))),
                Ok(None) => None,
                // The status is the last thing that the proxy hears.
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// One stream. Lives as long as the connection reads it.
struct Driver {
    session: Session,
    caller: Caller,
    inbound: Streaming<proto::ProxyMessage>,
    cuts: watch::Receiver<Arc<Cut>>,
    tick: watch::Receiver<u64>,
    /// How many watch what hops prove, and when this proxy was asked to tell.
    watching: watch::Receiver<usize>,
    wishes: broadcast::Receiver<Arc<Wish>>,
    asked: Option<Instant>,
    /// For how many ticks another connection of this name has counted.
    overtaken: u32,
    told_of_namesake: bool,
    /// The generation by which the proxy is ahead of us, as far as that was said.
    ahead: Option<u64>,
    entry: Option<(Name, u64)>,
    /// Why the proxy is no longer admitted, and when we stop waiting for it.
    leaving: Option<(Status, Instant)>,
    shared: Arc<Shared>,
}

impl Driver {
    /// The next message to the proxy; `None` when it is gone.
    async fn next(&mut self) -> Result<Option<proto::ControlMessage>, Status> {
        if self.entry.is_none() {
            let hello = tokio::time::timeout(HELLO_WITHIN, self.inbound.message())
                .await
                .map_err(|_| refusal::with_reason(Reason::Timeout, "no Hello within 10 s"))??;
            let Some(hello) = hello else { return Ok(None) };
            self.heard(hello)?;
            self.catch_up();
            self.ask_to_tell();
        }
        loop {
            if let Some(message) = self.session.poll() {
                self.report();
                return Ok(Some(message));
            }
            self.report();
            if let Some((status, _)) = self.leaving.take_if(|_| self.session.is_up_to_date()) {
                return Err(status);
            }
            let until = self.leaving.as_ref().map(|(_, until)| *until);
            let shutdown = self.shared.shutdown.clone();
            tokio::select! {
                // First of all: what the others wait for ends with it.
                biased;
                () = shutdown.cancelled() => {
                    return Err(refusal::with_reason(Reason::Draining, "the control plane shuts down"));
                }
                changed = self.cuts.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    self.catch_up();
                }
                () = expiry(until) => {
                    return Err(self.leaving.take().map_or_else(gone, |(status, _)| status));
                }
                changed = self.tick.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    if self.caller.admission().valid_until < self.shared.clock.seconds() {
                        self.judge_again()?;
                    }
                    self.ask_to_tell();
                    self.look_for_namesakes();
                }
                changed = self.watching.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    self.ask_to_tell();
                }
                wish = self.wishes.recv() => {
                    // An error says that some were missed.
                    if let Ok(wish) = wish && wish.proxies.contains(self.proxy()) {
                        self.grant(&wish.what);
                    }
                }
                message = self.inbound.message() => match message? {
                    Some(message) => self.heard(message)?,
                    None => return Ok(None),
                },
            }
        }
    }

    fn heard(&mut self, message: proto::ProxyMessage) -> Result<(), Status> {
        let heard = self.session.feed(message).map_err(|e| self.broken(&e))?;
        match heard {
            Heard::Hello(peer) => self.hello(peer)?,
            Heard::Acked(generation) => {
                let rejected = self.session.status().rejected.len();
                tracing::info!(proxy = self.proxy(), generation, rejected, "acknowledged");
                for (entry, (_, reason)) in &self.session.status().rejected {
                    tracing::warn!(proxy = self.proxy(), entry, reason, "rejected by the proxy");
                }
            }
            Heard::InUse(generation) => {
                let cut = Arc::clone(&self.cuts.borrow());
                if cut.snapshot.generation() == generation
                    && let Some((name, _)) = &self.entry
                    && let Some(took) = self.shared.proxies.converged(name, generation, cut.at)
                {
                    self.shared.metrics.converged(took);
                }
            }
            Heard::Attested(attestation) => {
                if let Some((name, connection)) = &self.entry
                    && attestation.with_refusals
                {
                    self.shared.proxies.told(name, *connection, &attestation.refusals);
                }
                self.tell(true, Some(attestation));
            }
        }
        Ok(())
    }

    /// Who speaks for a workload must be that workload.
    fn hello(&mut self, peer: Peer) -> Result<(), Status> {
        let own = self.caller.id().map_or("", |id| id.as_str());
        let view = Arc::clone(&self.cuts.borrow().view);
        let named = view.workload(&peer.workload).map_or("no WorkloadIdentity", |id| id.as_str());
        if named != own {
            let field = format!("hello.workload {}", peer.workload);
            return Err(refuse(Finding::new(Reason::IdentityMismatch, field, own, named).into()));
        }
        let admission = Arc::clone(self.caller.admission());
        let (address, now) = (self.caller.address(), self.shared.clock.seconds());
        tracing::info!(
            proxy = peer.proxy, id = own, workload = peer.workload, generation = peer.generation,
            software = peer.software, %address, "proxy connected"
        );
        self.entry = self.shared.proxies.connected(peer, admission, address, now);
        if self.entry.is_none() {
            return Err(refusal::with_reason(Reason::Overloaded, "too many proxies are known"));
        }
        self.tell(true, None);
        Ok(())
    }

    /// Asks for what hops prove while somebody watches, again and again.
    fn ask_to_tell(&mut self) {
        if *self.watching.borrow_and_update() == 0 {
            self.asked = None;
        } else if self.asked.is_none_or(|asked| asked.elapsed() >= RENEW_AFTER) {
            self.session.watch(Watchers::question(self.shared.proxies.connected_now()));
            self.asked = Some(Instant::now());
        }
    }

    fn grant(&mut self, wish: &What) {
        match wish {
            What::Prove(peer) => self.session.attest(proto::Attest { peer: peer.clone() }),
            // Where somebody watches anyhow, the question goes on in place of his.
            What::Tell(once) if self.asked.is_some() => {
                let lasting = Watchers::question(self.shared.proxies.connected_now());
                let (hops, refusals) = (once.hops.max(lasting.hops), once.refusals);
                self.session.watch(proto::Watch { hops, refusals, ..lasting });
            }
            What::Tell(once) => self.session.watch(*once),
        }
    }

    /// Tells those who watch.
    fn tell(&self, connected: bool, attestation: Option<proto::Attestation>) {
        if let Some(peer) = self.session.peer() {
            let now = self.shared.clock.seconds();
            self.shared.watchers.tell(news(peer, connected, attestation, now), Instant::now());
        }
    }

    /// The policy may have changed, or time passed: is the proxy still who it was?
    fn judge_again(&self) -> Result<(), Status> {
        let view = Arc::clone(&self.cuts.borrow().view);
        let presented = self.caller.admission().presented.clone();
        let denial = view.judge_workload(presented, self.shared.clock.now()).err();
        if let Some((name, connection)) = &self.entry {
            self.shared.proxies.judged(name, *connection, denial.as_ref());
        }
        match denial {
            None => Ok(()),
            Some(denial) => {
                tracing::warn!(proxy = self.proxy(), %denial, "the proxy is no longer admitted");
                Err(refuse(denial))
            }
        }
    }

    /// Offers what is current. A proxy that it no longer admits gets it all the
    /// same, as the last thing: it is what makes the proxy cut its own hops,
    /// some of which may lead to peers that have lost their stream as well.
    fn catch_up(&mut self) {
        self.offer();
        let since = self.leaving.take().map(|(_, until)| until);
        let until = since.unwrap_or_else(|| Instant::now() + GOODBYE_WITHIN);
        self.leaving = self.judge_again().err().map(|status| (status, until));
    }

    fn offer(&mut self) {
        let snapshot = Arc::clone(&self.cuts.borrow_and_update().snapshot);
        self.session.offer(snapshot);
    }

    /// A connection that another one of its name has overtaken ends in a moment,
    /// unless two proxies have one name: then both stay, and one is not seen.
    fn look_for_namesakes(&mut self) {
        let Some((name, _)) =
            self.entry.as_ref().filter(|(name, n)| self.shared.proxies.is_overtaken(name, *n))
        else {
            return;
        };
        self.overtaken = self.overtaken.saturating_add(1);
        if self.overtaken < OVERTAKEN_FOR {
            return;
        }
        self.shared.proxies.namesakes(name, std::time::Instant::now());
        if !std::mem::replace(&mut self.told_of_namesake, true) {
            tracing::warn!(
                proxy = self.proxy(), address = %self.caller.address(),
                "another proxy is connected under the same name and SPIFFE ID, and only that one is shown: \
                 give each a `name` of its own"
            );
        }
    }

    /// A proxy that is ahead takes nothing from us until somebody has acted.
    fn note_ahead(&mut self) {
        let ahead = self.session.status().ahead;
        if std::mem::replace(&mut self.ahead, ahead) == ahead {
            return;
        }
        let Some(seen) = ahead else { return };
        let ours = self.cuts.borrow().snapshot.generation();
        tracing::warn!(
            proxy = self.proxy(),
            seen,
            ours,
            "the proxy is ahead: it has seen this generation, or another content of it, and takes nothing \
             older; if a backup was restored: curl -X POST \
             'http://ADMIN_ADDRESS/raise_generation?above={seen}'"
        );
    }

    fn report(&mut self) {
        self.note_ahead();
        if let Some((name, connection)) = &self.entry {
            let now = self.shared.clock.seconds();
            self.shared.proxies.heard(name, *connection, self.session.status(), now);
        }
    }

    fn proxy(&self) -> &str {
        self.session.peer().map_or("", |peer| peer.proxy.as_str())
    }

    fn broken(&self, error: &ProtocolError) -> Status {
        tracing::warn!(proxy = self.proxy(), address = %self.caller.address(), %error, "protocol error");
        refusal::with_reason(Reason::BadRequest, error.to_string())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some((name, connection)) = &self.entry {
            let now = self.shared.clock.seconds();
            if self.shared.proxies.gone(name, *connection, now) {
                self.tell(false, None);
            }
            tracing::info!(proxy = self.proxy(), "proxy disconnected");
        }
    }
}

async fn expiry(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn gone() -> Status {
    refusal::with_reason(Reason::Internal, "the proxy was to leave and nobody knows why")
}

#[allow(clippy::needless_pass_by_value, reason = "callers have no other use for it")]
fn refuse(denial: Denial) -> Status {
    refusal::status(&denial)
}
