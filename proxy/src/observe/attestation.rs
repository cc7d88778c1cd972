//! What is measured about proofs: those of peers and our own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_quoting::{Event, Measuring, Moving, Platform, Quoting, Source, Stats, Subject};
use countersign_ratls::peer::Role;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use tokio::time::Instant;

use super::metrics::direction;
use super::names as n;

/// From a cached appraisal on one host to a device that takes its time.
const GATE: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const QUOTE: &[f64] = &[0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// The goal is a second for ten thousand hops.
const ENFORCEMENT: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The metrics of proofs.
#[derive(Clone, Debug)]
pub struct Attestation {
    rounds: IntCounterVec,
    drained: IntCounterVec,
    gate: HistogramVec,
    enforcement: Histogram,
    /// [`n::OLDEST_VERDICT`].
    pub oldest: IntGauge,
    /// [`n::UNTRACKED`].
    pub untracked: IntGauge,
    /// [`n::HOPS_UNTRACKED`].
    pub hops_untracked: IntGauge,
    queue: IntGauge,
    /// What the queue has counted is added to these.
    unserved: IntCounterVec,
    hangs: IntCounter,
    counting: Arc<Mutex<()>>,
    quotes: IntCounterVec,
    quote_seconds: Histogram,
    batch: Histogram,
}

impl Attestation {
    /// All of them, at zero, in `registry`.
    ///
    /// # Errors
    /// When two have the same name or a name is not valid: a defect.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        fn known<C: Collector + Clone + 'static>(
            registry: &Registry,
            metric: Result<C, prometheus::Error>,
        ) -> Result<C, prometheus::Error> {
            let metric = metric?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::new(name, help).buckets(buckets.to_vec())
        };
        Ok(Self {
            rounds: known(
                registry,
                IntCounterVec::new(
                    Opts::new(n::ROUNDS, "Rounds in which a peer proved itself to us, or did not."),
                    &[n::DIRECTION, n::RESULT, n::REASON],
                ),
            )?,
            drained: known(
                registry,
                IntCounterVec::new(Opts::new(n::DRAINED, "Live hops that began to drain."), &[n::CAUSE]),
            )?,
            gate: known(
                registry,
                HistogramVec::new(
                    histogram(
                        n::GATE,
                        "From the end of the TLS handshake until both sides have consented.",
                        GATE,
                    ),
                    &[n::DIRECTION, n::ALPN],
                ),
            )?,
            enforcement: known(
                registry,
                Histogram::with_opts(histogram(
                    n::ENFORCEMENT,
                    "From the arrival of a configuration at this proxy until every live hop that it affects was \
                     judged again.",
                    ENFORCEMENT,
                )),
            )?,
            oldest: known(
                registry,
                IntGauge::new(
                    n::OLDEST_VERDICT,
                    "How long ago the challenge was made that the oldest proof answers.",
                ),
            )?,
            untracked: known(
                registry,
                IntGauge::new(
                    n::UNTRACKED,
                    "Connections that carry streams and that revocation does not know. Always 0.",
                ),
            )?,
            hops_untracked: known(
                registry,
                IntGauge::new(
                    n::HOPS_UNTRACKED,
                    "Hops that a change of what they rest on would not find. Always 0.",
                ),
            )?,
            queue: known(registry, IntGauge::new(n::QUOTE_QUEUE, "Requests for quotes that wait."))?,
            unserved: known(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        n::QUOTE_UNSERVED,
                        "Requests for quotes that were given up before the device was asked.",
                    ),
                    &[n::CAUSE],
                ),
            )?,
            hangs: known(
                registry,
                IntCounter::new(n::QUOTE_HANGS, "How often the quoting device did not answer."),
            )?,
            counting: Arc::default(),
            quotes: known(
                registry,
                IntCounterVec::new(
                    Opts::new(n::QUOTES, "Quotes that were made, or failed."),
                    &[n::PURPOSE, n::RESULT],
                ),
            )?,
            quote_seconds: known(
                registry,
                Histogram::with_opts(histogram(n::QUOTE_SECONDS, "How long a quote takes.", QUOTE)),
            )?,
            batch: known(
                registry,
                Histogram::with_opts(histogram(n::QUOTE_BATCH, "Sessions that one quote speaks of.", BATCH)),
            )?,
        })
    }

    /// A round of a peer in this role ended.
    pub fn round(&self, role: Role, result: &str, reason: &str) {
        self.rounds.with_label_values(&[direction(role), result, reason]).inc();
    }

    /// A live hop began to drain.
    pub fn drained(&self, cause: &str) {
        self.drained.with_label_values(&[cause]).inc();
    }

    /// Both sides of a hop over this protocol have consented.
    pub fn gate(&self, role: Role, alpn: &str, took: Duration) {
        self.gate.with_label_values(&[direction(role), alpn]).observe(took.as_secs_f64());
    }

    /// What the queue of the quoting device says of itself.
    pub fn queue(&self, stats: &Stats) {
        self.queue.set(i64::try_from(stats.waiting).unwrap_or(i64::MAX));
        // One at a time, so that nothing is added twice.
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let raise = |counter: &IntCounter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        raise(&self.hangs, stats.hangs);
        for (cause, count) in
            [("refused", stats.refused), ("late", stats.late), ("withdrawn", stats.withdrawn)]
        {
            raise(&self.unserved.with_label_values(&[cause]), count);
        }
    }

    /// A configuration is in force.
    pub fn enforced(&self, took: Duration) {
        self.enforcement.observe(took.as_secs_f64());
    }

    fn quoted(&self, subject: &Subject, success: bool, took: Duration) {
        let result = if success { "success" } else { "failure" };
        self.quotes.with_label_values(&[subject.purpose(), result]).inc();
        if success {
            self.quote_seconds.observe(took.as_secs_f64());
        }
        if let (Subject::Sessions(_), Ok(size)) = (subject, u32::try_from(subject.len())) {
            self.batch.observe(size.into());
        }
    }

    /// A sample of everything that has labels.
    #[cfg(test)]
    pub(super) fn sample(&self) {
        self.round(Role::Client, "accept", "none");
        self.drained("timeout");
        self.queue(&Stats::default());
        self.gate(Role::Client, "ratls-h2/1", Duration::ZERO);
        self.quotes.with_label_values(&["session", "success"]).inc();
    }
}

/// A source of quotes that is measured.
#[derive(Debug)]
pub(crate) struct Measured {
    inner: Arc<dyn Source>,
    metrics: Attestation,
}

impl Measured {
    pub(crate) fn source(inner: Arc<dyn Source>, metrics: Attestation) -> Arc<dyn Source> {
        Arc::new(Self { inner, metrics })
    }
}

impl Source for Measured {
    fn platform(&self) -> Platform {
        self.inner.platform()
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        Box::pin(async move {
            let started = Instant::now();
            let quoted = self.inner.quote(Arc::clone(&subject)).await;
            self.metrics.quoted(&subject, quoted.is_ok(), started.elapsed());
            quoted
        })
    }

    fn measure(&self, event: Event) -> Measuring<'_> {
        self.inner.measure(event)
    }

    fn moved(&self, known: u64) -> Moving<'_> {
        self.inner.moved(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_queue_counted_is_counted_once_however_often_somebody_asks() {
        let metrics = Attestation::new(&Registry::new()).unwrap();
        let stats = |late, hangs| Stats { late, hangs, refused: 7, waiting: 3, ..Stats::default() };
        for stats in [stats(2, 0), stats(2, 0), stats(5, 1)] {
            metrics.queue(&stats);
        }
        let unserved = |cause| metrics.unserved.with_label_values(&[cause]).get();
        assert_eq!((unserved("late"), unserved("refused"), unserved("withdrawn")), (5, 7, 0));
        assert_eq!((metrics.hangs.get(), metrics.queue.get()), (1, 3));
    }
}
