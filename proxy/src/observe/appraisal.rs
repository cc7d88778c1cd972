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
}

impl Judge for Timed {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        let begun = Instant::now();
        let judged = self.inner.judge(chain, role, now);
        self.metrics.judged(role, judged.is_ok(), begun.elapsed());
        judged
    }
}
