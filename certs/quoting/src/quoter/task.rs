//! The task: asks the schedule, calls the source, hands out what it made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_attester::Produced;
use countersign_ratls::binding::SessionCore;
use tokio::time::sleep_until;

use super::{Job, Proof, Quoted, Reply, Shared, now};
use crate::error::{QuoteError, SourceError};
use crate::schedule::Step;
use crate::source::{Quoting, Source};
use crate::stats::Health;
use crate::subject::Subject;

/// What must run for a [`super::Quoter`] to move. When it is dropped, everybody
/// who waits is told so.
#[derive(Debug)]
pub struct QuotingTask {
    shared: Arc<Shared>,
    source: Arc<dyn Source>,
    patience: Duration,
}

/// A quote in the making, and who waits for it.
struct Flight<'a> {
    quoting: Quoting<'a>,
    subject: Arc<Subject>,
    passengers: Passengers,
}

enum Passengers {
    One(Reply<Arc<Produced>>),
    Sessions(Vec<Reply<Quoted>>),
    /// Nobody waits any more: the device hung.
    Gone,
}

impl Passengers {
    fn fail(self, error: &QuoteError) {
        match self {
            Self::One(reply) => drop(reply.send(Err(error.clone()))),
            Self::Sessions(replies) => {
                replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
            }
            Self::Gone => {}
        }
    }

    fn board(self, subject: &Subject, produced: Produced) {
        let evidence = Arc::new(produced);
        match (self, subject) {
            (Self::One(reply), _) => drop(reply.send(Ok(evidence))),
            (Self::Sessions(replies), Subject::Sessions(batch)) => {
                let size = batch.binders().len() as u64;
                for (index, (reply, binder)) in replies.into_iter().zip(batch.binders()).enumerate() {
                    let proof = batch.proof(index).map(|path| Proof { index: index as u64, size, path });
                    let (evidence, binder) = (Arc::clone(&evidence), binder.clone());
                    let _ = reply.send(Ok(Quoted { evidence, binder, proof }));
                }
            }
            (Self::Sessions(_), Subject::Key(_)) | (Self::Gone, _) => {}
        }
    }
}

impl QuotingTask {
    pub(super) const fn new(shared: Arc<Shared>, source: Arc<dyn Source>, patience: Duration) -> Self {
        Self { shared, source, patience }
    }

    /// Quotes until it is dropped.
    pub async fn run(self) {
        let source = Arc::clone(&self.source);
        let mut flight: Option<Flight<'_>> = None;
        loop {
            let step = self.shared.state().schedule.poll(now());
            let wake = match step {
                Step::Solo(job) => {
                    flight = self.depart(source.as_ref(), vec![job]);
                    continue;
                }
                Step::Batch(jobs) => {
                    flight = self.depart(source.as_ref(), jobs);
                    continue;
                }
                Step::Late(jobs) => {
                    self.shared.state().stats.late += jobs.len() as u64;
                    jobs.into_iter().for_each(|job| job.fail(QuoteError::Late));
                    continue;
                }
                Step::Hung(jobs) => {
                    self.hung(flight.as_mut(), jobs);
                    continue;
                }
                Step::WaitUntil(time) => Some(time),
                Step::Wait => None,
            };
            tokio::select! {
                biased;
                outcome = landing(flight.as_mut()) => if let Some(landed) = flight.take() {
                    self.landed(landed, outcome);
                },
                () = self.shared.queued.notified() => {}
                () = alarm(wake) => {}
            }
        }
    }

    /// Starts a quote; `None` when there was nothing in it after all.
    fn depart<'a>(&self, source: &'a dyn Source, jobs: Vec<Job>) -> Option<Flight<'a>> {
        let mut cores: Vec<SessionCore> = Vec::with_capacity(jobs.len());
        let mut replies = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Solo(subject, reply) => {
                    let quoting = source.quote(Arc::clone(&subject));
                    return Some(Flight { quoting, subject, passengers: Passengers::One(reply) });
                }
                Job::Session(core, reply) => {
                    cores.push(core);
                    replies.push(reply);
                }
            }
        }
        let passengers = Passengers::Sessions(replies);
        match Subject::sessions(cores) {
            Ok(subject) => {
                let subject = Arc::new(subject);
                Some(Flight { quoting: source.quote(Arc::clone(&subject)), subject, passengers })
            }
            Err(finding) => {
                passengers.fail(&QuoteError::Malformed(finding));
                self.shared.state().schedule.finished(now(), false);
                None
            }
        }
    }

    fn landed(&self, flight: Flight<'_>, outcome: Result<Produced, SourceError>) {
        let Flight { subject, passengers, .. } = flight;
        {
            let mut state = self.shared.state();
            state.schedule.finished(now(), outcome.is_ok());
            match (&outcome, &*subject) {
                (Err(_), _) => state.stats.failures += 1,
                (Ok(_), Subject::Sessions(batch)) if !matches!(passengers, Passengers::One(_)) => {
                    state.stats.batch(batch.binders().len());
                }
                (Ok(_), _) => state.stats.solo_quotes += 1,
            }
        }
        match outcome {
            Ok(produced) => {
                self.report(Health::Good);
                passengers.board(&subject, produced);
            }
            Err(error) => {
                self.report(Health::Failing(error.to_string()));
                passengers.fail(&QuoteError::Source(error));
            }
        }
    }

    /// The call goes on, and with it the device stays taken: a second call on a
    /// device that hangs would only hang too.
    fn hung(&self, flight: Option<&mut Flight<'_>>, jobs: Vec<Job>) {
        self.shared.state().stats.hangs += 1;
        self.report(Health::Hung);
        let error = QuoteError::Hung(self.patience);
        if let Some(flight) = flight {
            std::mem::replace(&mut flight.passengers, Passengers::Gone).fail(&error);
        }
        jobs.into_iter().for_each(|job| job.fail(error.clone()));
    }

    /// Says what changed. A device that goes on failing says so once.
    fn report(&self, health: Health) {
        let driver = self.shared.platform.driver;
        self.shared.health.send_if_modified(|current| {
            let changed = std::mem::discriminant(current) != std::mem::discriminant(&health);
            if changed {
                match &health {
                    Health::Good => tracing::info!(driver, "the quoting device answers"),
                    Health::Failing(why) => tracing::warn!(driver, why, "the quoting device fails"),
                    Health::Hung => {
                        tracing::error!(driver, patience = ?self.patience, "the quoting device does not answer");
                    }
                    Health::Untried => {}
                }
            }
            let different = *current != health;
            *current = health;
            different
        });
    }
}

impl Drop for QuotingTask {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        let left = state.schedule.take_all();
        drop(state);
        left.into_iter().for_each(|job| job.fail(QuoteError::Ended));
    }
}

async fn landing(flight: Option<&mut Flight<'_>>) -> Result<Produced, SourceError> {
    match flight {
        Some(flight) => flight.quoting.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn alarm(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
