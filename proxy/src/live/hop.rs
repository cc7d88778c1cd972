//! One hop: an RA-TLS connection, what is believed about its peer, the streams on it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use countersign_config::View;
use countersign_evidence::{Denial, Dependencies, Finding, Reason};
use countersign_net::Abort;
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Judge, Role};
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use super::cut::{Cause, Cut};
use super::index::Basis;
use super::lock;
use super::stream::{Carries, Stream};
use crate::context::{Context, authorize};
use crate::gate::{Framing, Outlet};
use crate::observe::explain::Explanation;
use crate::observe::metrics::{HopSeries, Metrics};
use crate::observe::refused::{Peer, Stage};
use crate::session::Session;

/// No hop lives longer, whatever the certificates say (3-attestation, A24).
const LONGEST: u64 = 24 * 3600;

/// One hop: an RA-TLS connection with an admitted peer.
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
    /// The metrics.
    pub series: HopSeries,
    /// The switch.
    pub cut: Cut,
    /// What it speaks behind the gate.
    pub framing: Framing,
    /// The session protocol; `None` on a hop over plain `h2` (L0, L1).
    pub(crate) session: Option<Session>,
    judge: Arc<dyn Judge>,
    admission: ArcSwap<Admission>,
    /// The edition of the last view that was seen to uphold what was decided.
    upheld_by: AtomicU64,
    /// The last second at which our own side of it holds.
    own_until: AtomicU64,
    /// The last second at which it is young enough for new streams of ours.
    prime_until: AtomicU64,
    abort: Abort,
    /// Where the bytes of streams leave.
    pub(crate) outlet: Arc<Outlet>,
    /// It has passed the gate.
    pub(super) passed: AtomicBool,
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    next_stream: AtomicU64,
    /// The last stream of a hop that is cut has ended.
    emptied: Notify,
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
    pub framing: Framing,
    pub session: Option<Session>,
}

impl Hop {
    pub(super) fn new(id: u64, new: NewHop, now: u64, metrics: &Metrics) -> Self {
        let peer = new.admission.presented.id.as_ref().map_or("unknown", SpiffeId::as_str);
        let hop = Self {
            id,
            role: new.role,
            address: new.address,
            opened: now,
            series: metrics.hop(new.me.as_str(), peer, new.role),
            me: new.me,
            cut: Cut::new(),
            framing: new.framing,
            session: new.session,
            judge: new.judge,
            admission: ArcSwap::new(new.admission),
            upheld_by: AtomicU64::new(0),
            own_until: AtomicU64::new(0),
            prime_until: AtomicU64::new(0),
            abort: new.abort,
            outlet: Arc::default(),
            passed: AtomicBool::new(false),
            streams: Mutex::new(HashMap::new()),
            next_stream: AtomicU64::new(0),
            emptied: Notify::new(),
        };
        hop.own_until(new.own_until, now);
        hop
    }

    /// The peer's SPIFFE ID, or a placeholder for a peer that has none.
    #[must_use]
    pub fn peer(&self) -> String {
        self.admission().presented.id.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string)
    }

    /// What is believed about the peer at this moment, by its certificate.
    #[must_use]
    pub fn admission(&self) -> Arc<Admission> {
        self.admission.load_full()
    }

    /// The last second at which the hop holds without looking again.
    #[must_use]
    pub fn until(&self) -> u64 {
        let certificates = self.admission.load().valid_until.min(self.own_until.load(Ordering::Relaxed));
        self.proof().map_or(certificates, |proof| certificates.min(proof.valid_until))
    }

    /// Our own side holds until this second.
    pub(crate) fn own_until(&self, second: u64, now: u64) {
        let until = second.min(self.opened.saturating_add(LONGEST));
        self.own_until.store(until, Ordering::Relaxed);
        self.renewed(now);
    }

    /// A certificate of either side was renewed: the hop is young again.
    fn renewed(&self, now: u64) {
        let ends = self.admission.load().valid_until.min(self.own_until.load(Ordering::Relaxed));
        self.prime_until.store(now.saturating_add(ends.saturating_sub(now) / 4 * 3), Ordering::Relaxed);
    }

    /// Whether new streams of ours belong here: a hop is cut when its certificates
    /// end, and its streams with it.
    #[must_use]
    pub fn in_its_prime(&self, now: u64) -> bool {
        now <= self.prime_until.load(Ordering::Relaxed)
    }

    /// The peer has another certificate, which was judged.
    pub(crate) fn readmitted(&self, admission: Arc<Admission>, ctx: &Context) {
        self.admission.store(admission);
        self.kept(ctx);
        self.renewed(ctx.clock.seconds());
    }

    /// Judges a chain that the peer presents on this hop.
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        ctx: &Context,
    ) -> Result<Arc<Admission>, Denial> {
        ctx.clock.check()?;
        self.judge.judge(chain, self.role, ctx.clock.now())
    }

    /// The peer's admission under the current view at this moment, judged again
    /// if the view does not uphold what is at hand, or that has lapsed.
    ///
    /// # Errors
    /// The denial; the hop is cut then.
    pub fn current(&self, ctx: &Context) -> Result<Arc<Admission>, Denial> {
        if let Some(cause) = self.cut.cause() {
            return Err(cause.denial());
        }
        let in_time = ctx.clock.seconds() <= self.until() && ctx.clock.check().is_ok();
        if in_time && self.is_upheld(&ctx.view.load()) {
            return Ok(self.admission());
        }
        self.rejudge(ctx)?;
        Ok(self.admission())
    }

    /// Whether this view would decide as was decided about the peer.
    fn is_upheld(&self, view: &View) -> bool {
        if self.upheld_by.load(Ordering::Acquire) == view.edition() {
            return true;
        }
        let upheld = self.upholds(view, &self.admission().dependencies)
            && self.proof().is_none_or(|proof| self.upholds(view, &proof.dependencies));
        if upheld {
            self.upheld_by.store(view.edition(), Ordering::Release);
        }
        upheld
    }

    /// Whether a verdict that was reached while `view` was current, and is kept by
    /// now, is that of the current view.
    pub(crate) fn still_holds(&self, view: &Arc<View>, dependencies: &Dependencies, ctx: &Context) -> bool {
        let current = ctx.view.load();
        Arc::ptr_eq(view, &current) || self.upholds(&current, dependencies)
    }

    /// Whether this view would come to a verdict about the peer that rests on this.
    fn upholds(&self, view: &View, dependencies: &Dependencies) -> bool {
        let admission = self.admission.load();
        let peer = admission.presented.id.as_ref();
        peer.is_some_and(|peer| view.upholds(dependencies, &self.me, peer))
    }

    /// What the verdict about the peer rests on.
    pub(super) fn basis(&self) -> Basis {
        let admission = self.admission.load();
        Basis {
            me: self.me.clone(),
            peer: admission.presented.id.clone(),
            certificate: admission.dependencies.clone(),
            proof: self.proof().map(|proof| proof.dependencies.clone()),
        }
    }

    /// As a defect would keep a verdict: nobody hears of it.
    #[cfg(test)]
    pub(super) fn keep_silently(&self, admission: Arc<Admission>) {
        self.admission.store(admission);
    }

    /// A verdict was kept: makes it known to the index. The caller looks then
    /// whether the current view upholds it.
    pub(crate) fn kept(&self, ctx: &Context) {
        self.upheld_by.store(0, Ordering::Release);
        ctx.live.track(self);
    }

    /// As [`Hop::current`], and new streams may be opened.
    ///
    /// # Errors
    /// The denial; the hop may go on for the streams that it has.
    pub(crate) fn accepting(&self, ctx: &Context) -> Result<Arc<Admission>, Denial> {
        let admission = self.current(ctx)?;
        match self.session.as_ref().is_none_or(|session| session.usable(ctx)) {
            true => Ok(admission),
            false => Err(closed_to_streams()),
        }
    }

    /// Judges the peer again by what is current: its certificate, then the level
    /// of the connection, then what it proved on it.
    fn rejudge(&self, ctx: &Context) -> Result<(), Denial> {
        let now = ctx.clock.seconds();
        let (lapsed, own_until) = (now > self.until(), self.own_until.load(Ordering::Relaxed));
        if now > own_until {
            let (expected, presented) = (format!("until {own_until}"), now.to_string());
            let finding = Finding::new(Reason::SvidExpired, "our own side", expected, presented);
            return Err(self.fell(finding.into(), lapsed, ctx));
        }
        match (self.judged_again(ctx), &self.session) {
            (Ok(()), _) => Ok(()),
            (Err(denial), Some(session)) => {
                let cause = if lapsed { Cause::Expired } else { Cause::Verdict };
                self.weigh(session, denial, cause, ctx)
            }
            (Err(denial), None) => Err(self.fell(denial, lapsed, ctx)),
        }
    }

    /// Tells of what policies that are only recorded would have refused.
    pub(crate) fn audited(&self, denials: &[Denial], ctx: &Context) {
        for denial in denials {
            ctx.metrics.audited(denial, self.role);
            if let Some(line) = ctx.audits.line(ctx.clock.seconds()) {
                tracing::info!(
                    target: "audit", hop = self.id, reason = %denial.reason, line.suppressed,
                    "a policy in mode Audit would refuse this peer\n{}", self.explained(denial)
                );
            }
        }
    }

    /// Judges until the verdict that is kept is that of the current view.
    fn judged_again(&self, ctx: &Context) -> Result<(), Denial> {
        loop {
            let (view, last) = (ctx.view.load_full(), self.admission());
            let judged = ctx.clock.check();
            let judged = judged.and_then(|()| self.judge.judge_again(&last, self.role, ctx.clock.now()));
            if !Arc::ptr_eq(&self.admission(), &last) {
                // The peer has another certificate by now.
                continue;
            }
            let admission = judged?;
            let kept = self.admission.compare_and_swap(&last, Arc::clone(&admission));
            if !Arc::ptr_eq(&kept, &last) {
                continue;
            }
            self.kept(ctx);
            self.audited(&admission.audited, ctx);
            self.reattest(&admission, ctx)?;
            if Arc::ptr_eq(&view, &ctx.view.load()) {
                self.upheld_by.store(view.edition(), Ordering::Release);
                return Ok(());
            }
        }
    }

    /// A hop on which the peer cannot be told: cut.
    fn fell(&self, denial: Denial, lapsed: bool, ctx: &Context) -> Denial {
        if self.cut.cause().is_none() {
            ctx.metrics.denied(&denial, self.role);
        }
        let cause = if lapsed { Cause::Expired(denial.clone()) } else { Cause::Verdict(denial.clone()) };
        self.note_refusal(&denial, false, ctx);
        self.sever(&cause, &ctx.metrics);
        denial
    }

    /// Takes down why the hop ends. It is logged where it ends.
    pub(crate) fn note_refusal(&self, denial: &Denial, by_peer: bool, ctx: &Context) {
        let admission = self.admission();
        let id = admission.presented.id.as_ref();
        let peer = match id.filter(|_| by_peer) {
            Some(id) => Peer::refusing(self.role, id, Stage::Hop),
            None => Peer::proved(self.role, id, Stage::Hop),
        };
        let _ = ctx.refused(peer, denial);
    }

    /// Ends the hop: every stream with its socket at once, and the TLS connection
    /// by a reset, before which the peer may still be told why.
    pub fn sever(&self, cause: &Cause, metrics: &Metrics) {
        self.outlet.shut();
        let tells = self.session.as_ref().is_some_and(Session::is_attached) && cause.is_told();
        // Bytes of applications that wait in our memory stand before any last word.
        if !tells || self.abort.is_full() {
            self.abort.set();
        }
        if !self.cut.throw(cause.clone()) {
            return;
        }
        metrics.revoked(cause.label());
        let streams = self.streams();
        for stream in &streams {
            stream.cut.throw(cause.clone());
        }
        tracing::warn!(
            hop = self.id, peer.address = %self.address, cause = cause.label(), streams = streams.len(),
            "live hop cut\n{}", self.explained(&cause.denial())
        );
    }

    /// Whether bytes of applications may wait in our memory, already encrypted.
    pub(crate) fn is_full(&self) -> bool {
        self.abort.is_full()
    }

    /// Ends the connection, whatever was still to be said.
    pub(crate) fn hang_up(&self) {
        self.abort.set();
    }

    /// Whether the hop is cut, and its connection still there to say why.
    pub(crate) fn has_last_words(&self) -> bool {
        self.cut.cause().is_some() && !self.abort.is_set()
    }

    /// Resolves when the hop, which is cut, has no streams any more.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if lock(&self.streams).is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Ends a hop that was not open yet. Its connection may still say why.
    pub(crate) fn refuse(&self, cause: Cause) {
        self.cut.throw(cause);
    }

    /// Caller and called, for logs.
    #[must_use]
    pub fn ends<'a>(&'a self, peer: &'a str) -> (&'a str, &'a str) {
        match self.role {
            Role::Client => (peer, self.me.as_str()),
            Role::Server => (self.me.as_str(), peer),
        }
    }

    /// A denial on this hop, in the form in which every place shows it.
    pub(crate) fn explained(&self, denial: &Denial) -> String {
        let peer = self.peer();
        let (source, destination) = self.ends(&peer);
        Explanation { source, destination, denial }.to_string()
    }

    /// A number that stands for the peer, whatever its key.
    pub(crate) fn peer_number(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.peer().hash(&mut hasher);
        hasher.finish()
    }

    /// Resolves when the hop begins to drain; over plain `h2` it never does.
    pub(crate) async fn drain_begins(&self) {
        match &self.session {
            Some(session) => session.drain_begins().await,
            None => std::future::pending().await,
        }
    }

    /// Registers a stream to `port`.
    pub(super) fn open_stream(&self, port: u16, carries: Carries) -> Arc<Stream> {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream::new(id, port, carries, self.cut.child()));
        lock(&self.streams).insert(stream.id, Arc::clone(&stream));
        // A hop that was cut in between has not seen this stream.
        if let Some(cause) = self.cut.cause() {
            stream.cut.throw(cause.clone());
        }
        stream
    }

    pub(super) fn close_stream(&self, id: u64) {
        let mut streams = lock(&self.streams);
        streams.remove(&id);
        if streams.is_empty() && self.cut.cause().is_some() {
            self.emptied.notify_waiters();
        }
    }

    /// Whether more than one stream is open.
    pub(crate) fn has_several_streams(&self) -> bool {
        lock(&self.streams).len() > 1
    }

    /// The streams that are open.
    #[must_use]
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).values().cloned().collect()
    }

    /// Whether no stream is open.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.streams).is_empty()
    }

    /// Asks the policies of calls again, for a peer that is known by another certificate.
    pub(crate) fn authorize_again(&self, peer: &Admission, ctx: &Context) {
        if self.role != Role::Client {
            return;
        }
        self.authorize_streams(&ctx.view.load(), peer, &ctx.metrics);
    }

    /// Cuts the streams, and the requests on the others, that `view` does not allow.
    pub(super) fn authorize_streams(&self, view: &View, peer: &Admission, metrics: &Metrics) {
        for stream in self.streams() {
            if let Err(denial) = authorize(view, peer, &self.me, &stream, None) {
                self.sever_stream(&stream, &denial, metrics);
                continue;
            }
            for request in stream.requests() {
                if let Err(denial) = authorize(view, peer, &self.me, &stream, Some(&request.facts))
                    && request.sever(&denial)
                {
                    metrics.revoked("authorization");
                    tracing::warn!(
                        hop = self.id,
                        stream = stream.id,
                        port = stream.port,
                        cause = "authorization",
                        "live request cut\n{}",
                        self.explained(&denial)
                    );
                }
            }
        }
    }

    /// Cuts one stream.
    pub(super) fn sever_stream(&self, stream: &Stream, denial: &Denial, metrics: &Metrics) {
        let cause = Cause::Authorization(denial.clone());
        let label = cause.label();
        if !stream.cut.throw(cause) {
            return;
        }
        metrics.revoked(label);
        tracing::warn!(
            hop = self.id,
            stream = stream.id,
            port = stream.port,
            cause = label,
            "live stream cut\n{}",
            self.explained(denial)
        );
    }
}

/// Why a hop that lives takes no new stream. The caller tries another one.
fn closed_to_streams() -> Denial {
    let presented = "one that drains, or whose peer is to prove itself first";
    Finding::new(Reason::Draining, "hop", "a hop that takes new streams", presented).into()
}
