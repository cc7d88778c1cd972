//! Hops that begin here: one keeper for each destination dials, counts, backs
//! off and lets go. Callers lease streams.
//!
//! A keeper is a task with a bounded queue, so that concurrent callers share
//! one dial without a lock that is held while it takes place.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_net::Severable;
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Role;
use countersign_ratls::throttle::Say;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::client;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::context::{Context, Credentials};
use crate::live::{Cause, draining};
use crate::observe::refused::{Echo, Peer, Stage};
use crate::pause::Pause;
use crate::session::drive;
use crate::verdict::Appraised;
use crate::{gate, gather, handshake, hop, rounds, route, verdict};

/// Callers that wait for one dial.
const WAITING: usize = 1024;
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
/// How often unused hops are looked for: so often, or as often as one can become idle.
const SWEEP: Duration = Duration::from_secs(5);
const SHORTEST_SWEEP: Duration = Duration::from_millis(10);

/// A destination: who must answer, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub to: SpiffeId,
    pub address: String,
}

/// A hop in the pool.
#[derive(Debug)]
struct Pooled {
    appraised: Appraised,
    credentials: Arc<Credentials>,
    request: SendRequest<Bytes>,
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// Somebody found that it takes no more streams.
    spent: AtomicBool,
    /// Without a pool and without leases a hop ends.
    _used: DropGuard,
}

impl Pooled {
    /// Whether new streams belong here: the peer holds and the hop takes them
    /// now, and both will live a while yet.
    fn is_fit(&self, credentials: &Arc<Credentials>, ctx: &Context) -> bool {
        // A hop with a session takes our new certificate; one over plain h2 ends with the old.
        let ours = self.appraised.session.is_some() || Arc::ptr_eq(&self.credentials, credentials);
        ours && !self.spent.load(Ordering::Acquire)
            && self.appraised.in_its_prime(ctx.clock.seconds())
            && self.appraised.accepting(ctx).is_ok()
    }
}

/// The right to open one stream on a hop.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Pooled>);

impl Lease {
    pub(crate) fn hop(&self) -> &Appraised {
        &self.0.appraised
    }

    pub(crate) fn request(&self) -> SendRequest<Bytes> {
        self.0.request.clone()
    }

    /// The hop takes no more streams, whatever it says of itself.
    pub(crate) fn spend(&self) {
        self.0.spent.store(true, Ordering::Release);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

type Answer = oneshot::Sender<Result<Lease, Denial>>;

/// Asks the keeper of one destination.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    hops: Arc<Mutex<Vec<Arc<Pooled>>>>,
    keeper: mpsc::Sender<Answer>,
}

impl Pool {
    /// A pool, and its keeper, which somebody must run.
    pub(crate) fn new(destination: Destination, ctx: Arc<Context>) -> (Self, Keeper) {
        let (keeper, requests) = mpsc::channel(WAITING);
        let pool = Self { hops: Arc::new(Mutex::new(Vec::new())), keeper };
        let hops = Arc::clone(&pool.hops);
        (
            pool,
            Keeper {
                destination,
                ctx,
                hops,
                requests,
                drivers: JoinSet::new(),
                pause: Pause::default(),
                told: Echo::default(),
            },
        )
    }

    /// Whether there is no hop.
    pub(crate) fn is_empty(&self) -> bool {
        self.hops.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Leases a stream on a hop whose peer holds now. The caller bounds the time.
    pub(crate) async fn lease(&self, ctx: &Context) -> Result<Lease, Denial> {
        if let Some(lease) = take(&self.hops, ctx) {
            return Ok(lease);
        }
        let (answer, leased) = oneshot::channel();
        self.keeper.try_send(answer).map_err(|_| {
            Denial::from(Finding::new(
                Reason::Overloaded,
                "callers that wait",
                format!("at most {WAITING}"),
                "more",
            ))
        })?;
        leased.await.unwrap_or_else(|_| Err(draining()))
    }
}

/// Takes a stream of the first hop that is fit for new ones.
fn take(hops: &Mutex<Vec<Arc<Pooled>>>, ctx: &Context) -> Option<Lease> {
    let credentials = ctx.credentials.borrow().clone()?;
    let limit = usize::try_from(ctx.limits.streams_per_hop).unwrap_or(usize::MAX);
    // Asked first, since it costs nothing: a thousand of them may be full.
    let is_full = |hop: &Pooled| hop.streams.load(Ordering::Acquire) >= limit;
    let free: Vec<_> = {
        let hops = hops.lock().unwrap_or_else(PoisonError::into_inner);
        hops.iter().filter(|hop| !is_full(hop)).cloned().collect()
    };
    free.into_iter().find_map(|hop| {
        if !hop.is_fit(&credentials, ctx) {
            return None;
        }
        // One stream is for the rounds.
        let rounds = usize::from(hop.appraised.session.is_some());
        let room = limit.min(hop.request.current_max_send_streams().saturating_sub(rounds));
        let taken =
            hop.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < room).then_some(n + 1));
        taken.ok().map(|_| Lease(hop))
    })
}

/// Dials for one destination.
#[derive(Debug)]
pub(crate) struct Keeper {
    destination: Destination,
    ctx: Arc<Context>,
    hops: Arc<Mutex<Vec<Arc<Pooled>>>>,
    requests: mpsc::Receiver<Answer>,
    drivers: JoinSet<u64>,
    pause: Pause,
    /// What was said of there being no hop.
    told: Echo,
}

type Dialled = Result<(Pooled, Driver), Denial>;
type Connection = h2::client::Connection<gate::Rest<client::TlsStream<Severable>>, Bytes>;
type Dial = Pin<Box<dyn Future<Output = Dialled> + Send>>;

impl Keeper {
    /// Runs until nobody can ask any more and every hop has ended.
    pub(crate) async fn run(mut self) {
        let mut waiting = VecDeque::new();
        let mut dial: Option<Dial> = None;
        let mut sweep = tokio::time::interval(self.ctx.limits.idle_timeout.clamp(SHORTEST_SWEEP, SWEEP));
        let drain = self.ctx.drain.clone();
        let (mut open, mut forced) = (true, false);
        while open || dial.is_some() || !self.drivers.is_empty() {
            tokio::select! {
                () = drain.forced(), if !forced => {
                    // Hops are cut, and their drivers end; a dial has no hop yet.
                    (open, forced, dial) = (false, true, None);
                    self.requests.close();
                    refuse_all(&mut waiting, &draining());
                }
                request = self.requests.recv(), if open => match request {
                    Some(answer) => waiting.push_back(answer),
                    None => {
                        open = false;
                        self.lock().clear();
                    }
                },
                dialled = finished(&mut dial) => {
                    dial = None;
                    self.dialled(dialled, &mut waiting);
                }
                Some(ended) = self.drivers.join_next(), if !self.drivers.is_empty() => self.hop_ended(&ended),
                _ = sweep.tick() => self.release_idle(),
            }
            self.serve(&mut waiting);
            if !waiting.is_empty() && dial.is_none() {
                dial = self.may_dial(&mut waiting);
            }
        }
    }

    /// Gives out what streams there are.
    fn serve(&self, waiting: &mut VecDeque<Answer>) {
        waiting.retain(|answer| !answer.is_closed());
        while !waiting.is_empty() {
            let Some(lease) = take(&self.hops, &self.ctx) else { return };
            if let Some(answer) = waiting.pop_front() {
                // A caller that went away gives the lease back by dropping it.
                let _ = answer.send(Ok(lease));
            }
        }
    }

    /// Starts a dial, or tells those who wait why there is none.
    fn may_dial(&self, waiting: &mut VecDeque<Answer>) -> Option<Dial> {
        let generation = self.ctx.view.load().generation;
        let refusal = if let Some(denial) = self.pause.refusal(Instant::now(), generation) {
            denial
        } else if self.lock().len() >= self.ctx.limits.hops {
            Finding::new(Reason::Overloaded, "hops", format!("at most {}", self.ctx.limits.hops), "more")
                .into()
        } else {
            return Some(Box::pin(dial(self.destination.clone(), Arc::clone(&self.ctx))));
        };
        refuse_all(waiting, &refusal);
        None
    }

    fn dialled(&mut self, dialled: Dialled, waiting: &mut VecDeque<Answer>) {
        match dialled {
            Ok((pooled, driver)) => {
                self.pause.end();
                self.told.forget();
                // Whoever waited longest has this hop even if it is not fit for
                // others, so that each dial serves somebody.
                let pooled = Arc::new(pooled);
                let lease = Lease(Arc::clone(&pooled));
                self.lock().push(pooled);
                let hop = driver.hop.clone();
                let run = driver.run(Arc::clone(&self.hops));
                self.drivers.spawn(gather::after_others(run, move || hop.has_several_streams()));
                if let Some(answer) = waiting.pop_front() {
                    let _ = answer.send(Ok(lease));
                }
            }
            Err(denial) => {
                self.no_hop(&denial);
                refuse_all(waiting, &denial);
                self.pause.failed(denial, Instant::now(), self.ctx.view.load().generation);
            }
        }
    }

    /// Says why there is no hop, and of the same reason again how often.
    fn no_hop(&mut self, denial: &Denial) {
        match self.told.say(denial, self.ctx.clock.seconds()) {
            Say::Nothing => {}
            Say::Again { times, seconds } => tracing::warn!(
                destination = %self.destination.to, address = self.destination.address,
                reason = %denial.reason, "no hop again, {times} times in {seconds} s"
            ),
            Say::InFull => tracing::warn!(
                destination = %self.destination.to, address = self.destination.address,
                reason = %denial.reason, %denial, "no hop"
            ),
        }
    }

    fn hop_ended(&mut self, ended: &Result<u64, tokio::task::JoinError>) {
        match ended {
            Ok(id) => self.lock().retain(|hop| hop.appraised.id != *id),
            Err(error) if error.is_panic() => self.ctx.task_lost("outbound hop"),
            Err(_) => {}
        }
    }

    /// Lets go of hops that nobody used for a while, and of those that get no new streams.
    fn release_idle(&self) {
        let limit = self.ctx.limits.idle_timeout;
        let current = self.ctx.credentials.borrow().clone();
        self.lock().retain(|hop| {
            let idle = *hop.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            let fit = current.as_ref().is_some_and(|current| hop.is_fit(current, &self.ctx));
            let used = hop.streams.load(Ordering::Acquire) > 0;
            used || (fit && idle.elapsed() < limit)
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Pooled>>> {
        self.hops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn finished(dial: &mut Option<Dial>) -> Dialled {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

fn refuse_all(waiting: &mut VecDeque<Answer>, denial: &Denial) {
    for answer in waiting.drain(..) {
        // Whoever went away needs no answer.
        let _ = answer.send(Err(denial.clone()));
    }
}

/// Opens a hop. Every step is bounded in time.
async fn dial(destination: Destination, ctx: Arc<Context>) -> Dialled {
    let credentials = credentials(&ctx).await?;
    let (socket, address) = connect(&destination.address, &ctx).await?;
    let shaken = handshake::connect(socket, address, &destination.to, Arc::clone(&credentials), &ctx).await?;
    let attested = async { verdict::admit(gate::pass(shaken, &ctx).await?, &ctx) }.await;
    let (appraised, stream) = attested.inspect_err(|denial| {
        // Whoever keeps the destination logs it.
        let _ = ctx.refused(Peer::proved(Role::Server, Some(&destination.to), Stage::Gate), denial);
    })?;
    let limit = ctx.limits.handshake_timeout;
    let handshake = drive::meanwhile(&appraised, hop::client().handshake::<_, Bytes>(stream), &ctx);
    let done = timeout(limit, handshake).await.map_err(|_| late("HTTP/2", limit))?;
    let cut = || appraised.cut.cause().map_or_else(draining, Cause::denial);
    let (mut request, connection) = done.ok_or_else(cut)?.map_err(|error| hop::broken(&error))?;
    // Before anybody else can ask for anything.
    let asked = appraised.session.as_ref().map(|_| rounds::ask(&mut request)).transpose()?;
    let unused = CancellationToken::new();
    let pooled = Pooled {
        appraised: appraised.clone(),
        credentials,
        request,
        // The lease of whoever waited longest.
        streams: AtomicUsize::new(1),
        idle_since: Mutex::new(Instant::now()),
        spent: AtomicBool::new(false),
        _used: unused.clone().drop_guard(),
    };
    Ok((pooled, Driver { hop: appraised, connection, asked, unused, ctx }))
}

/// Keeps a hop going.
struct Driver {
    hop: Appraised,
    connection: Connection,
    asked: Option<rounds::Asked>,
    unused: CancellationToken,
    ctx: Arc<Context>,
}

impl Driver {
    /// Runs until the hop ends, is cut, or nobody needs it. Answers with its number.
    async fn run(self, hops: Arc<Mutex<Vec<Arc<Pooled>>>>) -> u64 {
        let Self { hop, mut connection, asked, unused, ctx } = self;
        let silence = hop::silence(connection.ping_pong());
        let channel = async {
            match (asked, &hop.session) {
                (Some(asked), Some(session)) => asked.answered(&session.window).await,
                _ => std::future::pending().await,
            }
        };
        // On the heap: nearly all of a driver's life is spent in the others.
        let mut rounds = Box::pin(rounds::run(&hop, channel, &ctx));
        tokio::pin!(silence);
        let (mut draining, mut said, mut over) = (false, None, false);
        loop {
            tokio::select! {
                biased;
                () = hop.cut.cancelled() => break,
                // Before anything that a peer can keep busy.
                channel = &mut rounds => {
                    said = Some(channel);
                    break;
                }
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(hop = hop.id, %error, "hop ended");
                        hop::hear_out(&error, rounds.as_mut()).await;
                    }
                    over = true;
                    break;
                }
                () = hop.drain_begins(), if !draining => {
                    draining = true;
                    hops.lock().unwrap_or_else(PoisonError::into_inner).retain(|pooled| pooled.appraised.id != hop.id);
                }
                () = unused.cancelled() => break,
                () = &mut silence => {
                    tracing::info!(hop = hop.id, "hop closed: the peer does not answer");
                    break;
                }
            }
        }
        if !over {
            let poll = |cx: &mut std::task::Context<'_>| Pin::new(&mut connection).poll(cx);
            hop::farewell(&hop, rounds.as_mut(), said, poll).await;
        }
        hop.id
    }
}

/// Our credentials; at start-up they may take a moment.
pub(crate) async fn credentials(ctx: &Context) -> Result<Arc<Credentials>, Denial> {
    let mut changes = ctx.credentials.subscribe();
    // Either way the answer is what there is by then.
    let _ = timeout(ctx.limits.connect_timeout, changes.wait_for(Option::is_some)).await;
    ctx.credentials()
}

/// Connects to the first address of the destination that answers.
pub(crate) async fn connect(destination: &str, ctx: &Context) -> Result<(TcpStream, SocketAddr), Denial> {
    let limit = ctx.limits.connect_timeout;
    let attempt = async {
        let mut last = String::from("the name has no address");
        let addresses = tokio::net::lookup_host(destination)
            .await
            .map_err(|e| unreachable_peer(destination, &e.to_string()))?;
        for address in addresses.take(ADDRESSES) {
            match countersign_net::connect(address).await {
                Ok(socket) => {
                    let local =
                        socket.local_addr().map_err(|e| unreachable_peer(destination, &e.to_string()))?;
                    if route::leads_back(local.ip(), address, &ctx.own) {
                        return Err(Finding::new(
                            Reason::SelfConnection,
                            "destination",
                            "another proxy",
                            address.to_string(),
                        )
                        .into());
                    }
                    return Ok((socket, address));
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(unreachable_peer(destination, &last))
    };
    timeout(limit, attempt).await.map_err(|_| late(destination, limit))?
}

fn unreachable_peer(destination: &str, why: &str) -> Denial {
    Finding::new(Reason::ConnectFailed, format!("proxy {destination}"), "a connection", why).into()
}

fn late(what: &str, limit: Duration) -> Denial {
    Finding::new(Reason::ConnectFailed, what, format!("an answer in {limit:?}"), "none").into()
}
