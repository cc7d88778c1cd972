//! How long it takes to judge a peer.

use std::sync::Arc;

use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::peer::{Admission, Judge, Role};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::observe::metrics::Metrics;

/// A judge with a stopwatch.
#[derive(Debug)]
pub(crate) struct Timed {
    inner: Arc<dyn Judge>,
    metrics: Arc<Metrics>,
}

impl Timed {
    pub(crate) fn new(inner: Arc<dyn Judge>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    fn timed(
        &self,
        role: Role,
        judge: impl FnOnce() -> Result<Arc<Admission>, Denial>,
    ) -> Result<Arc<Admission>, Denial> {
        let begun = Instant::now();
        let judged = judge();
        self.metrics.judged(role, judged.is_ok(), begun.elapsed());
        judged
    }
}

impl Judge for Timed {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        self.timed(role, || self.inner.judge(chain, role, now))
    }

    fn judge_again(&self, last: &Admission, role: Role, now: UnixTime) -> Result<Arc<Admission>, Denial> {
        self.timed(role, || self.inner.judge_again(last, role, now))
    }
}
