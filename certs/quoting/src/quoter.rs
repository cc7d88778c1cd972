//! The handle by which everybody in a process gets quotes, and the task that is
//! alone with the device.

mod task;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use countersign_attester::Produced;
use countersign_ratls::binding::{ReportData, SessionCore};
use countersign_ratls::merkle::Node;
use tokio::sync::{Notify, oneshot, watch};

pub use self::task::QuotingTask;
use crate::error::QuoteError;
use crate::schedule::{Class, Options, Schedule, Ticket, Urgency};
use crate::source::{Platform, Source};
use crate::stats::{Health, Stats};
use crate::subject::Subject;

/// Where a binder is in the tree that was quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The index of the leaf.
    pub index: u64,
    /// How many leaves there are.
    pub size: u64,
    /// The siblings, from the leaf to the root.
    pub path: Vec<Node>,
}

/// Evidence for a session.
#[derive(Clone, Debug)]
pub struct Quoted {
    /// The evidence; shared with the other sessions of its batch.
    pub evidence: Arc<Produced>,
    /// The binder, `B`.
    pub binder: ReportData,
    /// The proof; `None` when the evidence is over the binder itself.
    pub proof: Option<Proof>,
}

type Reply<T> = oneshot::Sender<Result<T, QuoteError>>;

/// What waits.
#[derive(Debug)]
enum Job {
    Solo(Arc<Subject>, Reply<Arc<Produced>>),
    Session(SessionCore, Reply<Quoted>),
}

impl Job {
    /// Who does not wait any more does not mind.
    fn fail(self, error: QuoteError) {
        match self {
            Self::Solo(_, reply) => drop(reply.send(Err(error))),
            Self::Session(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

#[derive(Debug)]
struct State {
    schedule: Schedule<Job>,
    stats: Stats,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something was queued.
    queued: Notify,
    health: watch::Sender<Health>,
    platform: Platform,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By tokio's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The way to quotes. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Quoter(Arc<Shared>);

impl Quoter {
    /// A queue in front of `source`, and the task that must run for it to move.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, options: Options) -> (Self, QuotingTask) {
        let patience = options.patience;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                schedule: Schedule::new(options),
                stats: Stats::default(),
                ended: false,
            }),
            queued: Notify::new(),
            health: watch::Sender::new(Health::Untried),
            platform: source.platform(),
        });
        (Self(Arc::clone(&shared)), QuotingTask::new(shared, source, patience))
    }

    /// Evidence over a key, for a certificate or a request; `context` are the
    /// bytes of the key context.
    ///
    /// # Errors
    /// When `context` is none, the queue is full, or the device fails.
    pub async fn key(&self, context: &[u8]) -> Result<Arc<Produced>, QuoteError> {
        self.alone(Subject::key(context)?, 0).await
    }

    /// Evidence over `subject` alone, in turn with what else `asker` and others
    /// ask for.
    ///
    /// # Errors
    /// When the queue is full, or the device fails.
    pub async fn alone(&self, subject: Subject, asker: u64) -> Result<Arc<Produced>, QuoteError> {
        self.submit(asker, Class::Solo, |reply| Job::Solo(Arc::new(subject), reply)).await
    }

    /// Evidence over a session, under one quote with the sessions that wait at
    /// the same time. `peer` stands for the other end: peers are served in turn.
    /// Whoever drops the future has given up his place.
    ///
    /// # Errors
    /// When the queue is full, the deadline passes, or the device fails.
    pub async fn session(
        &self,
        core: SessionCore,
        peer: u64,
        urgency: Urgency,
    ) -> Result<Quoted, QuoteError> {
        self.submit(peer, Class::Session(urgency), |reply| Job::Session(core, reply)).await
    }

    /// As [`Quoter::session`], under a quote of its own, for a peer that verifies
    /// no batches. Such quotes have a share of the device that they cannot exceed.
    ///
    /// # Errors
    /// As [`Quoter::session`].
    pub async fn session_alone(
        &self,
        core: SessionCore,
        peer: u64,
        urgency: Urgency,
    ) -> Result<Quoted, QuoteError> {
        let subject = Arc::new(Subject::sessions(vec![core.clone()])?);
        let evidence = self.submit(peer, Class::Alone(urgency), |reply| Job::Solo(subject, reply)).await?;
        Ok(Quoted { evidence, binder: core.binder(&[]), proof: None })
    }

    /// What quotes.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.0.platform
    }

    /// What happened so far, and what waits.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let now = now();
        let state = self.0.state();
        let mut stats = state.stats.clone();
        stats.waiting = state.schedule.len();
        stats.oldest_wait = state
            .schedule
            .oldest()
            .map_or_else(Default::default, |since| now.saturating_duration_since(since));
        stats.last_quoting_time = state.schedule.quoting_time();
        stats.health = self.0.health.borrow().clone();
        stats
    }

    /// How the device does, and each change of it.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    async fn submit<T>(
        &self,
        peer: u64,
        class: Class,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> Result<T, QuoteError> {
        let (reply, answer) = oneshot::channel();
        let place = self.queue(peer, class, job(reply))?;
        let answer = answer.await;
        place.left();
        answer.unwrap_or(Err(QuoteError::Ended))
    }

    fn queue(&self, peer: u64, class: Class, job: Job) -> Result<Place<'_>, QuoteError> {
        let now = now();
        let mut state = self.0.state();
        if state.ended {
            return Err(QuoteError::Ended);
        }
        let pushed = state.schedule.push(now, peer, class, job);
        let ticket = pushed.inspect_err(|_| state.stats.refused += 1)?;
        drop(state);
        self.0.queued.notify_one();
        Ok(Place { shared: &self.0, ticket: Some(ticket) })
    }
}

/// A place in the queue, which is given up when the future that holds it is dropped.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Option<Ticket>,
}

impl Place<'_> {
    /// The request does not wait any more.
    fn left(mut self) {
        self.ticket = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.shared.state();
        if state.schedule.withdraw(ticket).is_some() {
            state.stats.withdrawn += 1;
        }
    }
}
