//! Every hop that is open, and the streams on it: what revocation works on.
//!
//! A hop is registered first and checked against the current view afterwards,
//! and a new view is installed first and the registry swept afterwards. So
//! whichever comes first, no hop escapes a decision that was taken after it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use countersign_evidence::{Denial, Finding, Reason, UnixTime};
use countersign_net::Abort;
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Judge, Role};
use prometheus::IntGauge;
use tokio_util::sync::CancellationToken;

use crate::observe::explain::Explanation;
use crate::observe::metrics::{HopSeries, Metrics};

/// No hop lives longer, whatever the certificates say (3-attestation, A24).
const LONGEST: u64 = 24 * 3600;

/// Why a live hop or stream was cut.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The peer's verdict became a denial.
    Verdict(Denial),
    /// What the hop rests on ended: a certificate, collateral, reference values.
    Expired(Denial),
    /// No AuthorizationPolicy allows the stream any more.
    Authorization(Denial),
    /// The proxy ends.
    Drained,
}

impl Cause {
    /// The label of the metric.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Verdict(_) => "verdict",
            Self::Expired(_) => "expired",
            Self::Authorization(_) => "authorization",
            Self::Drained => "drained",
        }
    }

    /// The denial that it amounts to.
    #[must_use]
    pub fn denial(&self) -> Denial {
        match self {
            Self::Verdict(denial) | Self::Expired(denial) | Self::Authorization(denial) => denial.clone(),
            Self::Drained => draining(),
        }
    }
}

/// The denial of everything that comes while we shut down.
#[must_use]
pub fn draining() -> Denial {
    Finding::new(Reason::Draining, "proxy", "a proxy that accepts work", "shutting down").into()
}

/// A switch that is thrown once, with a cause.
#[derive(Debug)]
pub struct Cut {
    token: CancellationToken,
    cause: OnceLock<Cause>,
}

impl Cut {
    fn new(token: CancellationToken) -> Self {
        Self { token, cause: OnceLock::new() }
    }

    /// Resolves when it is thrown.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Why, once it is thrown.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.get()
    }

    /// Whether this call was the one that threw it.
    fn throw(&self, cause: Cause) -> bool {
        let first = self.cause.set(cause).is_ok();
        self.token.cancel();
        first
    }
}

/// One hop: an RA-TLS connection with an appraised peer.
#[derive(Debug)]
pub struct Hop {
    /// Unique in this process.
    pub id: u64,
    /// The side of the peer.
    pub role: Role,
    /// Whom we are to the peer.
    pub me: SpiffeId,
    /// Where the peer is.
    pub address: SocketAddr,
    /// When it was opened, seconds since the epoch.
    pub opened: u64,
    /// The last second at which our own side of it holds.
    pub own_until: u64,
    /// The metrics.
    pub series: HopSeries,
    /// The switch.
    pub cut: Cut,
    judge: Arc<dyn Judge>,
    admission: ArcSwap<Admission>,
    abort: Abort,
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    next_stream: AtomicU64,
}

/// One stream on a hop.
#[derive(Debug)]
pub struct Stream {
    /// Unique on its hop.
    pub id: u64,
    /// The port of the workload.
    pub port: u16,
    /// Bytes from the caller to the called workload.
    pub received: AtomicU64,
    /// Bytes from the called workload to the caller.
    pub sent: AtomicU64,
    /// The switch; thrown with that of the hop.
    pub cut: Cut,
}

impl Hop {
    /// The peer's SPIFFE ID, or a placeholder for a peer that has none.
    #[must_use]
    pub fn peer(&self) -> String {
        self.admission().presented.id.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string)
    }

    /// What is believed about the peer at this moment.
    #[must_use]
    pub fn admission(&self) -> Arc<Admission> {
        self.admission.load_full()
    }

    /// The last second at which the hop holds without looking again.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.admission.load().valid_until.min(self.own_until)
    }

    /// The peer's admission under `generation` at `now`, judged again if what
    /// is at hand is from another generation or has lapsed.
    ///
    /// # Errors
    /// The denial; the hop is cut then.
    pub fn current(
        &self,
        generation: u64,
        now: UnixTime,
        metrics: &Metrics,
    ) -> Result<Arc<Admission>, Denial> {
        if let Some(cause) = self.cut.cause() {
            return Err(cause.denial());
        }
        let admission = self.admission();
        if admission.generation == generation && now.as_secs() <= self.until() {
            return Ok(admission);
        }
        self.rejudge(now, metrics)
    }

    /// Judges the peer again by what is current, and cuts the hop if it does not hold.
    fn rejudge(&self, now: UnixTime, metrics: &Metrics) -> Result<Arc<Admission>, Denial> {
        let before = self.admission();
        let lapsed = now.as_secs() > self.until();
        let verdict = if now.as_secs() > self.own_until {
            let presented = now.as_secs().to_string();
            Err(Finding::new(
                Reason::SvidExpired,
                "our own side",
                format!("until {}", self.own_until),
                presented,
            )
            .into())
        } else {
            self.judge.judge(&before.presented.chain, self.role, now)
        };
        match verdict {
            Ok(admission) => {
                self.admission.store(Arc::clone(&admission));
                Ok(admission)
            }
            Err(denial) => {
                let cause =
                    if lapsed { Cause::Expired(denial.clone()) } else { Cause::Verdict(denial.clone()) };
                metrics.denied(&denial, self.role);
                self.sever(&cause, metrics);
                Err(denial)
            }
        }
    }

    /// Ends the hop at once: the TLS connection by a reset, and every stream
    /// with its socket.
    pub fn sever(&self, cause: &Cause, metrics: &Metrics) {
        self.abort.set();
        let label = cause.label();
        if !self.cut.throw(cause.clone()) {
            return;
        }
        metrics.revoked(label);
        let streams: Vec<_> = lock(&self.streams).values().cloned().collect();
        for stream in &streams {
            stream.cut.throw(cause.clone());
        }
        let peer = self.peer();
        let (source, destination) = self.ends(&peer);
        tracing::warn!(
            hop = self.id, peer.address = %self.address, cause = label, streams = streams.len(),
            "live hop cut\n{}", Explanation { source, destination, denial: &cause.denial() }
        );
    }

    /// Caller and called, for logs.
    #[must_use]
    pub fn ends<'a>(&'a self, peer: &'a str) -> (&'a str, &'a str) {
        match self.role {
            Role::Client => (peer, self.me.as_str()),
            Role::Server => (self.me.as_str(), peer),
        }
    }

    /// Registers a stream to `port`. It must be authorized afterwards, not before.
    pub(crate) fn open_stream(&self, port: u16) -> Arc<Stream> {
        let stream = Arc::new(Stream {
            id: self.next_stream.fetch_add(1, Ordering::Relaxed),
            port,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            cut: Cut::new(self.cut.token.child_token()),
        });
        lock(&self.streams).insert(stream.id, Arc::clone(&stream));
        // A hop that was cut in between has not seen this stream.
        if let Some(cause) = self.cut.cause() {
            stream.cut.throw(cause.clone());
        }
        stream
    }

    pub(crate) fn close_stream(&self, id: u64) {
        lock(&self.streams).remove(&id);
    }

    /// The streams that are open.
    #[must_use]
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).values().cloned().collect()
    }

    /// Cuts one stream.
    pub(crate) fn sever_stream(&self, stream: &Stream, denial: &Denial, metrics: &Metrics) {
        let cause = Cause::Authorization(denial.clone());
        let label = cause.label();
        if !stream.cut.throw(cause) {
            return;
        }
        metrics.revoked(label);
        let peer = self.peer();
        let (source, destination) = self.ends(&peer);
        tracing::warn!(
            hop = self.id,
            stream = stream.id,
            port = stream.port,
            cause = label,
            "live stream cut\n{}",
            Explanation { source, destination, denial }
        );
    }
}

/// What a hop is made from.
pub(crate) struct NewHop {
    pub role: Role,
    pub me: SpiffeId,
    pub address: SocketAddr,
    pub own_until: u64,
    pub judge: Arc<dyn Judge>,
    pub admission: Arc<Admission>,
    pub abort: Abort,
}

/// The registry of hops.
#[derive(Debug, Default)]
pub struct Live {
    hops: Mutex<HashMap<u64, Arc<Hop>>>,
    next: AtomicU64,
}

/// A hop in the registry, until it is dropped.
#[derive(Debug)]
pub struct Registered {
    hop: Arc<Hop>,
    live: Arc<Live>,
    gauge: IntGauge,
}

impl std::ops::Deref for Registered {
    type Target = Hop;
    fn deref(&self) -> &Hop {
        &self.hop
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.live.hops).remove(&self.hop.id);
        self.gauge.dec();
    }
}

impl Live {
    pub(crate) fn register(self: &Arc<Self>, new: NewHop, now: UnixTime, metrics: &Metrics) -> Registered {
        let peer = new.admission.presented.id.as_ref().map_or("unknown", SpiffeId::as_str);
        let hop = Arc::new(Hop {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            role: new.role,
            address: new.address,
            opened: now.as_secs(),
            own_until: new.own_until.min(now.as_secs().saturating_add(LONGEST)),
            series: metrics.hop(new.me.as_str(), peer, new.role),
            me: new.me,
            cut: Cut::new(CancellationToken::new()),
            judge: new.judge,
            admission: ArcSwap::new(new.admission),
            abort: new.abort,
            streams: Mutex::new(HashMap::new()),
            next_stream: AtomicU64::new(0),
        });
        lock(&self.hops).insert(hop.id, Arc::clone(&hop));
        let gauge = metrics.hops(hop.role);
        gauge.inc();
        Registered { hop, live: Arc::clone(self), gauge }
    }

    /// How many hops are open.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.hops).len()
    }

    /// Whether no hop is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every hop that is open, oldest first.
    #[must_use]
    pub fn hops(&self) -> Vec<Arc<Hop>> {
        let mut hops: Vec<_> = lock(&self.hops).values().cloned().collect();
        hops.sort_unstable_by_key(|hop| hop.id);
        hops
    }

    /// Looks at every hop again under the view of `generation`, which is
    /// installed already. `authorize` answers for the streams of callers.
    /// Returns how many hops were looked at and how many were cut.
    pub fn reappraise(
        &self,
        generation: u64,
        now: UnixTime,
        metrics: &Metrics,
        authorize: &dyn Fn(&Admission, &SpiffeId, u16) -> Result<(), Denial>,
    ) -> (usize, usize) {
        let hops = self.hops();
        let mut cut = 0;
        for hop in &hops {
            let Ok(admission) = hop.current(generation, now, metrics) else {
                cut += 1;
                continue;
            };
            if hop.role == Role::Client {
                for stream in hop.streams() {
                    if let Err(denial) = authorize(&admission, &hop.me, stream.port) {
                        hop.sever_stream(&stream, &denial, metrics);
                    }
                }
            }
        }
        (hops.len(), cut)
    }

    /// Looks again at hops whose time is up at `now`.
    pub fn expire(&self, now: UnixTime, metrics: &Metrics) {
        for hop in self.hops() {
            if now.as_secs() > hop.until() && hop.cut.cause().is_none() {
                // A denial has cut the hop and said so.
                let _ = hop.rejudge(now, metrics);
            }
        }
    }

    /// Cuts everything.
    pub fn sever_all(&self, metrics: &Metrics) {
        for hop in self.hops() {
            hop.sever(&Cause::Drained, metrics);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
