//! The stream of configuration: verified, compiled, put to use, acknowledged.

use std::sync::Arc;
use std::time::Duration;

use countersign_config::Resource;
use countersign_evidence::reason::Fault;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::Bundle;
use countersign_ratls::throttle::Say;
use countersign_wire::client::{Event, Subscription};
use countersign_wire::convert::Converter;
use countersign_wire::proto::mesh_client::MeshClient;
use countersign_wire::proto::{ControlMessage, ProxyMessage};
use countersign_wire::{EntryName, MAX_MESSAGE, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::compile::Compiler;
use super::control::{Connected, Control};
use super::report::Watched;
use super::store::Store;
use super::successor::{Connecting, Successor};
use super::{TICK, jitter};
use crate::context::Context;
use crate::observe::refused::Echo;
use crate::readiness::Need;

/// Between two attempts, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long to listen for the reason of an end.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Messages of ours that are not sent yet.
const QUEUE: usize = 16;

/// What is in use, for the admin page.
#[derive(Debug, Default)]
pub struct Applied {
    /// The resources that were read.
    pub resources: Vec<Arc<Resource>>,
    /// Entries that are not used, by name, with the reason.
    pub rejected: Vec<(String, String)>,
}

/// Keeps the configuration current.
pub(crate) struct SubscriptionAgent {
    ctx: Arc<Context>,
    control: Arc<Control>,
    store: Store,
    bundle: watch::Sender<Arc<Bundle>>,
    subscription: Subscription,
    converter: Converter,
    compiler: Arc<Compiler>,
    proxy: String,
    workload: String,
    reported: Option<(u64, u64, u64)>,
}

impl SubscriptionAgent {
    /// Puts the stored snapshot to use, if there is one.
    pub(crate) fn new(
        ctx: Arc<Context>,
        (control, compiler): (Arc<Control>, Arc<Compiler>),
        store: Store,
        bundle: watch::Sender<Arc<Bundle>>,
        (proxy, workload): (String, String),
        ports: &[u16],
    ) -> Self {
        let trusted = Arc::clone(&bundle.borrow());
        let last = store.snapshot(&trusted).map(Arc::new);
        let mut subscription = Subscription::new((*trusted).clone(), last.clone());
        subscription.offers(ports);
        let converter = Converter::new();
        let mut agent = Self {
            ctx,
            control,
            store,
            bundle,
            subscription,
            converter,
            compiler,
            proxy,
            workload,
            reported: None,
        };
        if let Some(snapshot) = last {
            tracing::info!(generation = snapshot.generation(), "going on with the stored snapshot");
            agent.apply(&snapshot, Instant::now());
        }
        agent
    }

    /// Runs until a drain begins.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        let mut told = Echo::default();
        let mut credentials = self.ctx.credentials.subscribe();
        loop {
            tokio::select! {
                biased;
                () = self.ctx.drain.forced() => return,
                // The sender lives in the context, which we hold.
                _ = credentials.wait_for(Option::is_some) => {}
            }
            let before = self.subscription.current().map(|s| s.generation());
            let ended = self.connections().await;
            self.ctx.metrics.synced.set(0);
            let Err(denial) = ended else { return };
            self.ctx.metrics.stream_ended(denial.reason);
            if self.subscription.current().map(|s| s.generation()) != before {
                failures = 0;
            }
            let (address, reason) = (self.control.address(), denial.reason);
            match told.say(&denial, self.ctx.clock.seconds()) {
                Say::InFull => tracing::warn!(address, %reason, %denial, "no stream of configuration"),
                Say::Again { times, seconds } => tracing::warn!(
                    address, %reason, "no stream of configuration, again {times} times in {seconds} s"
                ),
                Say::Nothing => {}
            }
            if self.subscription.current().is_none() {
                let address = self.control.address();
                let why = format!("waiting for the control plane at {address}; last attempt: {denial}");
                self.ctx.readiness.miss(Need::Snapshot, why);
            }
            let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(11)).min(LONGEST_PAUSE);
            failures = failures.saturating_add(1);
            // Between half and all of it, so that proxies do not return in step.
            let share = f64::from(jitter()) / f64::from(u32::MAX);
            tokio::select! {
                biased;
                () = self.ctx.drain.forced() => return,
                () = tokio::time::sleep(pause.mul_f64(0.5 + share / 2.0)) => {}
            }
        }
    }

    /// Connections, each followed by the next before it ends. `Ok` only when we end ourselves.
    async fn connections(&mut self) -> Result<(), Denial> {
        let identity = self.ctx.credentials()?.identity.clone();
        let mut connected = self.control.connect(&identity, &self.ctx).await?;
        while let Some(next) = self.connection(connected).await? {
            tracing::debug!("the stream of configuration goes on over a new connection");
            connected = next;
        }
        Ok(())
    }

    /// One connection. Returns the next one; `None` when we end ourselves.
    async fn connection(&mut self, connected: Connected) -> Result<Option<Connected>, Denial> {
        let Connected { channel, until, heard } = connected;
        let mut client = MeshClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let hello = self.subscription.hello(&self.proxy, &self.workload, env!("CARGO_PKG_VERSION"));
        send(&outgoing, hello)?;
        let limit = self.ctx.limits.connect_timeout;
        let mut incoming = tokio::time::timeout(limit, client.subscribe(ReceiverStream::new(queue)))
            .await
            .map_err(|_| lost("no answer to Hello"))?
            .map_err(|status| self.control.why(&heard, self.refused(&status), &self.ctx))?
            .into_inner();
        self.reported = None;
        self.ctx.metrics.synced.set(1);
        let ended = self.stream(&mut incoming, &outgoing, until).await;
        let ended = match ended {
            Err(denial) if denial.reason == Reason::ConnectFailed => {
                Err(self.last_word(&mut incoming, denial).await)
            }
            other => other,
        };
        ended.map_err(|denial| self.control.why(&heard, denial, &self.ctx))
    }

    /// Why the stream ended, if the control plane has said so: what we could not
    /// send any more must not hide it.
    async fn last_word(&self, incoming: &mut Streaming<ControlMessage>, otherwise: Denial) -> Denial {
        let said = async {
            loop {
                match incoming.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(self.refused(&status)),
                }
            }
        };
        tokio::time::timeout(LAST_WORD, said).await.ok().flatten().unwrap_or(otherwise)
    }

    async fn stream(
        &mut self,
        incoming: &mut Streaming<ControlMessage>,
        outgoing: &mpsc::Sender<ProxyMessage>,
        until: u64,
    ) -> Result<Option<Connected>, Denial> {
        let mut tick = tokio::time::interval(TICK);
        let mut successor = Successor::new(self.ctx.clock.moment(), until, jitter());
        let mut watched = Watched::default();
        loop {
            if let Some(told) = watched.due(Instant::now(), &self.ctx) {
                // Whoever watches can do without this one, if there is no room for it.
                let _ = outgoing.try_send(told);
            }
            let due = successor.due();
            let message = tokio::select! {
                biased;
                () = self.ctx.drain.forced() => return Ok(None),
                message = incoming.message() => message,
                next = successor.connected() => {
                    match next {
                        Ok(next) if next.until > until => return Ok(Some(next)),
                        // Neither side has another certificate yet.
                        Ok(_) => {}
                        Err(denial) => tracing::info!(
                            address = self.control.address(), reason = %denial.reason, %denial,
                            "no new connection to the control plane yet; the one that is there goes on"
                        ),
                    }
                    successor.later(self.ctx.clock.moment(), until, jitter());
                    continue;
                }
                () = reached(due, &self.ctx) => {
                    successor.begin(self.connecting(), self.ctx.clock.moment(), until);
                    continue;
                }
                _ = tick.tick() => {
                    if self.ctx.clock.seconds() > until {
                        return Err(lost("the certificates of the connection have ended"));
                    }
                    self.report(outgoing)?;
                    continue;
                }
            };
            let arrived = Instant::now();
            let message = message.map_err(|status| self.refused(&status))?;
            let message = message.ok_or_else(|| lost("the control plane closed the stream"))?;
            let event = self.subscription.feed(message);
            if let Ok(Some(Event::Snapshot(_) | Event::Current(_))) = &event {
                self.ctx.readiness.have(Need::Admission);
                self.control.answered();
            }
            match event {
                Ok(None) => {}
                Ok(Some(Event::Snapshot(snapshot))) => {
                    let rejected = self.apply(&snapshot, arrived);
                    let told = self.answer(&rejected, outgoing);
                    // It is in use, whether or not the stream has broken meanwhile:
                    // a restart goes on with nothing older.
                    self.keep(snapshot).await;
                    told?;
                }
                Ok(Some(Event::Current(_))) => {
                    let rejected = self.ctx.applied.load().rejected.clone();
                    self.answer(&rejected, outgoing)?;
                }
                Ok(Some(Event::Watch(watch))) => watched.asked(watch, Instant::now()),
                Ok(Some(Event::Attest { peer })) => {
                    self.attest(&peer);
                    watched.hasten(Instant::now());
                }
                Err(error) => {
                    self.ctx.metrics.rejected("snapshot");
                    return Err(error.finding().into());
                }
            }
        }
    }

    /// Tells the control plane what was made of a generation.
    fn answer(
        &mut self,
        rejected: &[(String, String)],
        outgoing: &mpsc::Sender<ProxyMessage>,
    ) -> Result<(), Denial> {
        if let Some(ack) = self.subscription.ack(rejected) {
            send(outgoing, ack)?;
        }
        self.report(outgoing)
    }

    /// An operator wants proofs now, of this peer or, if none is named, of all.
    fn attest(&self, peer: &str) {
        let hops = self.ctx.live.hops();
        let wanted = hops.iter().filter(|hop| peer.is_empty() || hop.peer() == peer);
        let asked = wanted.filter(|hop| hop.ask(&self.ctx).is_ok()).count();
        tracing::info!(peer, asked, "an operator asks for proofs");
    }

    /// A connection by what is current now.
    fn connecting(&self) -> Option<Connecting> {
        let identity = self.ctx.credentials().ok()?.identity.clone();
        let (control, ctx) = (Arc::clone(&self.control), Arc::clone(&self.ctx));
        Some(Box::pin(async move { control.connect(&identity, &ctx).await }))
    }

    /// What a status of the control plane means. If it is that we are not admitted,
    /// no peer will have us either.
    fn refused(&self, status: &tonic::Status) -> Denial {
        let denial = super::denial(status);
        let refused = countersign_wire::refusal::reason(status)
            .is_some_and(|reason| reason.fault() == Fault::Peer && !reason.retry_can_help());
        if refused {
            let address = self.control.address();
            let why = format!("the control plane at {address} does not admit us: {denial}");
            self.ctx.readiness.miss(Need::Admission, why);
        }
        denial
    }

    /// Compiles a snapshot that arrived at `since` and puts it to use. Returns the
    /// entries that are not used.
    fn apply(&mut self, snapshot: &Snapshot, since: Instant) -> Vec<(String, String)> {
        let converted = self.converter.convert(snapshot);
        let mut rejected = converted.rejected;
        let resources = converted.inputs.resources.clone();
        let collateral = converted.inputs.collateral.clone();
        self.trust(&converted.inputs.bundles);
        let unused = self.compiler.apply(converted.inputs, since, &self.ctx);
        let resources_unused = unused.resources.into_iter();
        rejected.extend(resources_unused.map(|(key, reason)| (EntryName::Resource(key).to_string(), reason)));
        rejected.extend(
            unused
                .collateral
                .into_iter()
                .map(|(name, finding)| (EntryName::Collateral(name).to_string(), finding.to_string())),
        );
        for (name, reason) in &rejected {
            tracing::warn!(entry = name, reason, generation = snapshot.generation(), "entry not used");
            self.ctx.metrics.rejected(kind(name));
        }
        self.control.refresh(&self.bundle.borrow(), &collateral, &self.compiler.marks(), &self.ctx);
        self.ctx.applied.store(Arc::new(Applied { resources, rejected: rejected.clone() }));
        self.ctx.readiness.have(Need::Snapshot);
        self.ctx.check_own_evidence();
        rejected
    }

    /// A bundle of our own trust domain that came with a snapshot replaces the
    /// one before, unless it is older.
    fn trust(&mut self, bundles: &[Bundle]) {
        let current = Arc::clone(&self.bundle.borrow());
        let newer =
            bundles.iter().find(|b| b.trust_domain == current.trust_domain && b.sequence > current.sequence);
        if let Some(bundle) = newer {
            self.subscription.trust(bundle.clone());
            self.bundle.send_replace(Arc::new(bundle.clone()));
        }
    }

    /// Tells the control plane what is in use, when that has changed.
    fn report(&mut self, outgoing: &mpsc::Sender<ProxyMessage>) -> Result<(), Denial> {
        let generation = self.ctx.view.load().generation;
        let hops = self.ctx.live.len() as u64;
        let until = self.ctx.credentials.borrow().as_ref().map_or(0, |c| c.identity.not_after);
        let now = Some((generation, hops, until));
        if self.reported != now {
            send(outgoing, Subscription::in_use(generation, hops, until))?;
            self.reported = now;
        }
        Ok(())
    }

    /// After the snapshot is in use: the disk must not delay a revocation.
    async fn keep(&self, snapshot: Arc<Snapshot>) {
        let (store, marks) = (self.store.clone(), self.compiler.marks());
        let collateral = self.control.unsaved();
        let kept = tokio::task::spawn_blocking(move || {
            if let Some(items) = collateral {
                store.keep_collateral(&items)?;
            }
            store.keep(&snapshot, &marks)
        });
        let kept = kept.await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the snapshot is in use but could not be stored"),
            Err(_) => self.ctx.task_lost("store"),
        }
    }
}

fn send(outgoing: &mpsc::Sender<ProxyMessage>, message: ProxyMessage) -> Result<(), Denial> {
    outgoing.try_send(message).map_err(|_| lost("the control plane does not read"))
}

async fn reached(time: Option<Duration>, ctx: &Context) {
    match time {
        Some(time) => ctx.clock.until(time).await,
        None => std::future::pending().await,
    }
}

fn lost(why: &str) -> Denial {
    Finding::new(Reason::ConnectFailed, "stream of configuration", "one that stays", why).into()
}

/// The label of an entry: the kind of a resource, else the form.
fn kind(name: &str) -> &'static str {
    match EntryName::parse(name) {
        Some(EntryName::Resource(key)) => key.kind.name(),
        Some(EntryName::Collateral(_)) => "Collateral",
        Some(EntryName::Bundle(_)) => "Bundle",
        None => "unknown",
    }
}
