//! The session protocol on one hop: what the machine of `ratls-mesh/1` asks for,
//! this proxy answers from what it has: the current view, the judge of hops, quotes.
//!
//! The machine is behind a lock, so that whoever learns something that ends a
//! hop (a new view, a clock) ends it there and then; a task of the hop
//! ([`drive`](drive::drive)) moves the bytes. No lock is held while anybody waits.

pub(crate) mod carrier;
pub(crate) mod drive;
mod proof;
pub(crate) mod terms;
pub(crate) mod window;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Buf, BytesMut};
use countersign_config::view::session::SessionAdmission;
use countersign_evidence::{Denial, Reason};
use countersign_quoting::Quoted as Quote;
use countersign_ratls::Identity;
use countersign_ratls::session::{
    Action, Channel, Cut, Demands, Drain, Ending, Endpoint, Moment, Offer, Proof, QuoteRequest, Quoted,
    Random, State, WireReason,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::window::Window;
use crate::context::Context;
use crate::live::{Cause, Hop};

/// How often an operator may have one peer prove itself: quotes are scarce.
const ASK_SPACING: Duration = Duration::from_secs(10);
/// What may wait to be written. An honest peer reads; this is some of the largest frames.
const MAX_WAITING: usize = 1 << 20;

/// The session of one hop.
#[derive(Debug)]
pub(crate) struct Session {
    inner: Mutex<Inner>,
    /// What the peer proved last.
    proof: ArcSwapOption<SessionAdmission>,
    draining: OnceLock<Draining>,
    drain: CancellationToken,
    /// The channel for the rounds is there, and with it a way to say things.
    attached: AtomicBool,
    /// There is something to write, to quote or to wait for that was not there before.
    wake: Notify,
    /// Who may send on the connection.
    pub(crate) window: Window,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    demands: Arc<Demands>,
    out: BytesMut,
    quote: Option<QuoteRequest>,
    wait: Option<Duration>,
    open: bool,
    /// When an operator last asked for a proof.
    asked: Option<Duration>,
    /// What a cut is due to, while it is not a frame of the peer or its absence.
    cause: Option<fn(Denial) -> Cause>,
    /// Whether the verdict that comes back from the machine is one of ours, which
    /// was counted when it was made.
    counted: bool,
}

/// A hop on its way to its end.
#[derive(Clone, Debug)]
pub(crate) struct Draining {
    /// Why.
    pub denial: Denial,
    /// Whether the peer decided so.
    pub by_peer: bool,
    /// When it is cut, on the monotonic clock.
    pub until: Duration,
}

impl Session {
    /// A session that begins now, with its gate shut.
    ///
    /// # Errors
    /// As [`Endpoint::new`].
    pub(crate) fn new(
        channel: Channel,
        demands: Arc<Demands>,
        offer: Arc<Offer>,
        random: Arc<dyn Random>,
        now: Moment,
    ) -> Result<Self, Denial> {
        let endpoint = Endpoint::new(channel, Arc::clone(&demands), offer, random, now)?;
        let inner = Inner {
            endpoint,
            demands,
            out: BytesMut::new(),
            quote: None,
            wait: Some(now.monotonic),
            open: false,
            asked: None,
            cause: None,
            counted: false,
        };
        Ok(Self {
            inner: Mutex::new(inner),
            proof: ArcSwapOption::empty(),
            draining: OnceLock::new(),
            drain: CancellationToken::new(),
            attached: AtomicBool::new(false),
            wake: Notify::new(),
            window: Window::default(),
        })
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        self.lock().endpoint.state()
    }

    /// What our policy demands of the peer.
    pub(crate) fn demands(&self) -> Arc<Demands> {
        Arc::clone(&self.lock().demands)
    }

    /// Whether a new stream may be opened now.
    pub(crate) fn usable(&self, ctx: &Context) -> bool {
        self.lock().endpoint.usable(ctx.clock.moment())
    }

    /// Whether the peer can be told anything behind the gate.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    /// Why the hop drains, if it does.
    pub(crate) fn draining(&self) -> Option<&Draining> {
        self.draining.get()
    }

    /// Resolves when the hop begins to drain.
    pub(crate) async fn drain_begins(&self) {
        self.drain.cancelled().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the rest of the proxy tells the session of a hop. On a hop without one
/// nothing happens.
impl Hop {
    /// What the peer proved last on this very connection.
    #[must_use]
    pub fn proof(&self) -> Option<Arc<SessionAdmission>> {
        self.session.as_ref()?.proof.load_full()
    }

    /// Our certificate is another one now: tells the peer.
    pub(crate) fn renew(&self, identity: &Arc<Identity>, ctx: &Context) {
        self.tell(ctx, |endpoint, now| {
            if let Err(finding) = endpoint.renew(identity, now) {
                // The hop ends with the certificate that it has.
                tracing::error!(hop = self.id, %finding, "a live hop cannot take our new certificate");
            } else {
                self.own_until(identity.not_after, now.unix);
            }
        });
    }

    /// The measured state of this machine moved: asks the peer for a challenge.
    pub(crate) fn state_changed(&self, ctx: &Context) {
        self.tell(ctx, Endpoint::changed);
    }

    /// An operator wants the peer to prove itself now.
    ///
    /// # Errors
    /// Why it will not, for people.
    pub(crate) fn ask(&self, ctx: &Context) -> Result<(), &'static str> {
        let session = self.session.as_ref().ok_or("nothing is proved over h2 but by the certificate")?;
        let mut inner = session.lock();
        let now = ctx.clock.moment();
        if inner.asked.is_some_and(|asked| now.monotonic < asked.saturating_add(ASK_SPACING)) {
            return Err("it was asked less than 10 s ago");
        }
        if !inner.endpoint.ask(now) {
            return Err("it is not open, or its level asks for no proof of the connection");
        }
        inner.asked = Some(now.monotonic);
        self.pump(session, &mut inner, ctx);
        drop(inner);
        session.wake.notify_one();
        Ok(())
    }

    /// The hop is to end for a reason of ours.
    pub(crate) fn begin_drain(&self, denial: Denial, ctx: &Context) {
        self.tell(ctx, |endpoint, now| endpoint.drain(denial, now));
    }

    /// The peer, judged again without having been asked, still holds until this second.
    fn reviewed(&self, session: &Session, until: u64, ctx: &Context) -> Result<(), Denial> {
        self.step(session, ctx, |endpoint, now| endpoint.reviewed(Ok(until), now));
        session.wake.notify_one();
        self.cut.cause().map_or(Ok(()), |cause| Err(cause.denial()))
    }

    /// Rules that came later find what the peer proved last too old, and nothing
    /// else is wrong with it: it may prove itself anew, in bounded time.
    fn outdated(&self, session: &Session, denial: Denial, ctx: &Context) -> Result<(), Denial> {
        if session.state().peer.outdated {
            return Ok(());
        }
        tracing::info!(hop = self.id, "a proof is too old by now\n{}", self.explained(&denial));
        self.step(session, ctx, |endpoint, now| endpoint.reviewed(Err(denial), now));
        session.wake.notify_one();
        self.cut.cause().map_or(Ok(()), |cause| Err(cause.denial()))
    }

    /// The peer, judged again, does not hold: the matrix says how the hop ends.
    /// An error says that it is cut; what drains goes on for a while.
    pub(crate) fn weigh(
        &self,
        session: &Session,
        denial: Denial,
        cause: fn(Denial) -> Cause,
        ctx: &Context,
    ) -> Result<(), Denial> {
        // The policy that denies says what follows, and not the one before it.
        if let Some(demands) = self.demanded(ctx)
            && demands.level.is_session_bound() == session.demands().level.is_session_bound()
        {
            self.demand(session, demands, ctx);
        }
        let mut inner = session.lock();
        // On its way to its end, maybe because the peer said so: only a cut changes that.
        if session.draining().is_some() && !inner.endpoint.cuts_for(denial.reason) {
            return Ok(());
        }
        ctx.metrics.denied(&denial, self.role);
        (inner.cause, inner.counted) = (Some(cause), true);
        inner.endpoint.drain(denial, ctx.clock.moment());
        self.pump(session, &mut inner, ctx);
        (inner.cause, inner.counted) = (None, false);
        drop(inner);
        session.wake.notify_one();
        self.cut.cause().map_or(Ok(()), |cause| Err(cause.denial()))
    }

    /// What our policies demand of the peer now.
    fn demand(&self, session: &Session, demands: Arc<Demands>, ctx: &Context) {
        let mut inner = session.lock();
        if inner.demands == demands {
            return;
        }
        inner.demands = Arc::clone(&demands);
        inner.endpoint.demand(demands, ctx.clock.moment());
        self.pump(session, &mut inner, ctx);
        drop(inner);
        session.wake.notify_one();
    }

    /// The peer broke the rules of the channel, or there is none: the hop is cut.
    pub(crate) fn channel_failed(&self, denial: Denial, ctx: &Context) {
        if Ending::of(denial.reason) == Ending::Drain {
            let wire = WireReason::of(denial.reason);
            self.sever(&Cause::Session(denial, wire), &ctx.metrics);
            return self.tell(ctx, Endpoint::end);
        }
        self.begin_drain(denial, ctx);
    }

    /// The quote that the machine asked for, or why there is none.
    /// `log_from` is the entry from which the event log is wanted too.
    fn quoted(&self, session: &Session, quoted: Result<Quote, Denial>, log_from: Option<u64>, ctx: &Context) {
        self.step(session, ctx, |endpoint, now| match quoted {
            Ok(quote) => {
                let log = log_from.and_then(|entry| quote.evidence.event_log_from(entry));
                let log = log.as_ref().map(|(media_type, log)| (*media_type, log.as_slice()));
                endpoint.quoted(Ok(in_words(&quote, log)), now);
            }
            Err(denial) => endpoint.quoted(Err(denial), now),
        });
    }

    /// Does what is due and not done yet: a task of the hop that is kept from it
    /// does not put off a deadline.
    pub(crate) fn keep_time(&self, ctx: &Context) {
        let due = |session: &Session| session.wait().is_some_and(|at| at <= ctx.clock.monotonic());
        if self.session.as_ref().is_some_and(due) {
            self.tell(ctx, |_, _| {});
        }
    }

    /// From outside of the hop's own task, which is woken.
    fn tell(&self, ctx: &Context, what: impl FnOnce(&mut Endpoint, Moment)) {
        let Some(session) = &self.session else { return };
        self.step(session, ctx, what);
        session.wake.notify_one();
    }

    /// Lets the machine know something, and does what it says.
    fn step(&self, session: &Session, ctx: &Context, what: impl FnOnce(&mut Endpoint, Moment)) {
        let mut inner = session.lock();
        what(&mut inner.endpoint, ctx.clock.moment());
        self.pump(session, &mut inner, ctx);
    }

    /// Takes in bytes of the peer. What is left over afterwards is not for the
    /// session: it follows the peer's Open.
    fn receive(&self, session: &Session, bytes: &mut BytesMut, ctx: &Context) {
        let mut inner = session.lock();
        while !bytes.is_empty() {
            let before = inner.open;
            let taken = inner.endpoint.receive(bytes, ctx.clock.moment()).min(bytes.len());
            bytes.advance(taken);
            self.pump(session, &mut inner, ctx);
            if taken == 0 || before != inner.open {
                return;
            }
        }
    }

    /// Does what the machine asks for until there is nothing but to wait.
    fn pump(&self, session: &Session, inner: &mut Inner, ctx: &Context) {
        loop {
            let now = ctx.clock.moment();
            match inner.endpoint.poll(now) {
                Action::Send(bytes) => {
                    inner.out.extend_from_slice(&bytes);
                    if inner.out.len() > MAX_WAITING {
                        // The machine hears of it, so that it says no more.
                        inner.endpoint.end(now);
                        inner.out.clear();
                    }
                }
                Action::Quote(request) => inner.quote = Some(request),
                Action::Appraise(received) => {
                    let verdict = self.appraise(session, &received, ctx);
                    let refused = verdict.as_ref().err().map(|denial| denial.reason);
                    let retries = inner.endpoint.state().peer.retries;
                    inner.endpoint.appraised(verdict, ctx.clock.moment());
                    if let Some(reason) = refused {
                        let retried = inner.endpoint.state().peer.retries > retries;
                        let result = if retried { "retry" } else { "reject" };
                        ctx.metrics.attestation.round(self.role, result, reason.code());
                        inner.counted = !retried;
                    }
                }
                Action::Judge(chain) => match self.judge_renewed(&chain, ctx) {
                    Ok(admission) => {
                        inner.endpoint.judged(Ok(&admission.presented), ctx.clock.moment());
                        self.authorize_again(&admission, ctx);
                    }
                    Err(denial) => {
                        inner.counted = true;
                        inner.endpoint.judged(Err(denial), ctx.clock.moment());
                    }
                },
                Action::Open => inner.open = true,
                Action::Accepted(accepted) => {
                    ctx.metrics.attestation.round(self.role, "accept", "none");
                    tracing::debug!(hop = self.id, round = accepted.round, "the peer proved itself");
                }
                Action::Drain(drain) => self.drains(session, drain, ctx),
                Action::Cut(cut) => self.falls(session, inner, cut, ctx),
                Action::Wait(until) => {
                    inner.wait = until;
                    return;
                }
            }
        }
    }

    fn drains(&self, session: &Session, drain: Drain, ctx: &Context) {
        let Drain { denial, wire, by_peer, until, grace } = drain;
        if denial.reason == Reason::Timeout && !by_peer {
            ctx.metrics.attestation.round(self.role, "timeout", denial.reason.code());
        }
        let cause = if by_peer { "peer" } else { wire.code() };
        ctx.metrics.attestation.drained(cause);
        if wire != WireReason::Unavailable {
            // Whoever goes away refuses nobody.
            self.note_refusal(&denial, by_peer, ctx);
        }
        tracing::warn!(hop = self.id, cause, ?grace, "live hop drains\n{}", self.explained(&denial));
        // The machine says it once.
        let _ = session.draining.set(Draining { denial, by_peer, until });
        session.drain.cancel();
    }

    fn falls(&self, session: &Session, inner: &mut Inner, cut: Cut, ctx: &Context) {
        let Cut { denial, wire, by_peer, distrust } = cut;
        let counted = std::mem::take(&mut inner.counted);
        if distrust && !counted {
            // The machine has found out by itself.
            ctx.metrics.denied(&denial, self.role);
        }
        // A round that timed out when the hop began to drain was counted there.
        let timeout = denial.reason == Reason::Timeout && !by_peer && session.draining().is_none();
        if inner.endpoint.state().peer.in_round && (timeout || distrust && !counted) {
            let result = if timeout { "timeout" } else { "reject" };
            ctx.metrics.attestation.round(self.role, result, denial.reason.code());
        }
        // Before the gate it is taken down where the connection ends.
        if inner.open && wire != WireReason::Unavailable {
            self.note_refusal(&denial, by_peer, ctx);
        }
        if distrust {
            ctx.crowd.distrust(self.admission().presented.spki_sha256, &denial, ctx);
        }
        let cause = match inner.cause {
            Some(cause) => cause(denial),
            None if by_peer => Cause::Peer(denial),
            None => Cause::Session(denial, wire),
        };
        if inner.open {
            self.sever(&cause, &ctx.metrics);
        } else {
            // There is no stream yet, and the last frame says why.
            self.refuse(cause);
        }
    }
}

/// What the hop's own task tells its session.
impl Session {
    /// What to write, all of it.
    fn take_out(&self) -> BytesMut {
        std::mem::take(&mut self.lock().out)
    }

    /// Ends what has not begun: what there is to say of it waits to be written.
    pub(crate) fn turn_away(&self, denial: Denial, now: Moment) {
        let mut inner = self.lock();
        inner.endpoint.drain(denial, now);
        loop {
            match inner.endpoint.poll(now) {
                Action::Send(bytes) => inner.out.extend_from_slice(&bytes),
                Action::Cut(_) | Action::Wait(_) => return,
                _ => {}
            }
        }
    }

    fn take_quote(&self) -> Option<QuoteRequest> {
        self.lock().quote.take()
    }

    fn wait(&self) -> Option<Duration> {
        self.lock().wait
    }

    fn is_open(&self) -> bool {
        self.lock().open
    }
}

/// A quote, in the machine's words.
fn in_words<'a>(quote: &'a Quote, event_log: Option<(&'a str, &'a [u8])>) -> Quoted<'a> {
    let proof = quote.proof.as_ref();
    Quoted {
        media_type: quote.evidence.media_type,
        evidence: &quote.evidence.value,
        proof: proof.map(|proof| Proof { index: proof.index, size: proof.size, path: &proof.path }),
        event_log,
    }
}
