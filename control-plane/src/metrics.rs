//! Metrics. Names and labels are constants; labels are always present; what is
//! labelled comes from closed lists.

use std::time::Duration;

use countersign_evidence::Reason;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Proxies by state of their configuration.
pub const PROXIES: &str = "mesh_cp_proxies";
/// The generation that is handed out.
pub const GENERATION: &str = "mesh_policy_generation";
/// From a snapshot to its use by a proxy.
pub const CONVERGENCE: &str = "mesh_cp_convergence_seconds";
/// Certificate requests by outcome.
pub const ISSUANCE: &str = "mesh_cp_issuance_total";
/// Handshakes by outcome.
pub const HANDSHAKES: &str = "mesh_cp_handshakes_total";
/// Calls of operators by outcome.
pub const APPLY: &str = "mesh_cp_apply_total";
/// notAfter of the CA certificate.
pub const CA_EXPIRY: &str = "mesh_ca_cert_expiration_timestamp_seconds";
/// notAfter of our own SVID.
pub const IDENTITY_EXPIRY: &str = "mesh_identity_cert_expiration_timestamp_seconds";
/// Collateral that is used beyond its file.
pub const COLLATERAL_KEPT: &str = "mesh_cp_collateral_kept";
/// Version of this software, always 1.
pub const BUILD: &str = "mesh_cp_build_info";

/// `synced`, `stale`, `nacked`, `ahead`.
pub const STATE: &str = "state";
/// `issued`, `refused`; `accepted`, `refused`; `applied`, `unchanged`, `rejected`.
pub const OUTCOME: &str = "outcome";
/// A code of the table of reasons, or `none`.
pub const REASON: &str = "reason";
/// A version.
pub const VERSION: &str = "version";

/// The handles.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    proxies: IntGaugeVec,
    generation: IntGauge,
    convergence: Histogram,
    issuance: IntCounterVec,
    handshakes: IntCounterVec,
    apply: IntCounterVec,
    ca_expiry: Gauge,
    identity_expiry: Gauge,
    collateral_kept: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
        let convergence = HistogramOpts::new(CONVERGENCE, "Seconds from a snapshot to its use by a proxy");
        let build = IntGaugeVec::new(Opts::new(BUILD, "The version of this software"), &[VERSION])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let ours = Self {
            registry: Registry::new(),
            proxies: IntGaugeVec::new(Opts::new(PROXIES, "Proxies by state"), &[STATE])?,
            generation: IntGauge::new(GENERATION, "The generation that is handed out")?,
            convergence: Histogram::with_opts(convergence.buckets(buckets))?,
            issuance: counter(ISSUANCE, "Certificate requests", &[OUTCOME, REASON])?,
            handshakes: counter(HANDSHAKES, "TLS handshakes", &[OUTCOME, REASON])?,
            apply: counter(APPLY, "Changes by operators", &[OUTCOME])?,
            ca_expiry: Gauge::new(CA_EXPIRY, "When the CA certificate expires")?,
            identity_expiry: Gauge::new(IDENTITY_EXPIRY, "When our own SVID expires")?,
            collateral_kept: IntGauge::new(
                COLLATERAL_KEPT,
                "Pieces of collateral in use whose file is gone, damaged or older",
            )?,
        };
        ours.registry.register(Box::new(build))?;
        ours.registry.register(Box::new(ours.proxies.clone()))?;
        ours.registry.register(Box::new(ours.generation.clone()))?;
        ours.registry.register(Box::new(ours.convergence.clone()))?;
        ours.registry.register(Box::new(ours.issuance.clone()))?;
        ours.registry.register(Box::new(ours.handshakes.clone()))?;
        ours.registry.register(Box::new(ours.apply.clone()))?;
        ours.registry.register(Box::new(ours.ca_expiry.clone()))?;
        ours.registry.register(Box::new(ours.identity_expiry.clone()))?;
        ours.registry.register(Box::new(ours.collateral_kept.clone()))?;
        Ok(ours)
    }

    pub(crate) fn generation(&self, generation: u64) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    pub(crate) fn converged(&self, took: Duration) {
        self.convergence.observe(took.as_secs_f64());
    }

    pub(crate) fn issuance(&self, refused: Option<Reason>) {
        let outcome = if refused.is_none() { "issued" } else { "refused" };
        self.issuance.with_label_values(&[outcome, refused.map_or("none", Reason::code)]).inc();
    }

    pub(crate) fn handshake(&self, refused: Option<Reason>) {
        let outcome = if refused.is_none() { "accepted" } else { "refused" };
        self.handshakes.with_label_values(&[outcome, refused.map_or("none", Reason::code)]).inc();
    }

    pub(crate) fn applied(&self, outcome: &'static str) {
        self.apply.with_label_values(&[outcome]).inc();
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds since the epoch fit 52 bits")]
    pub(crate) fn ca_expiry(&self, not_after: u64) {
        self.ca_expiry.set(not_after as f64);
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds since the epoch fit 52 bits")]
    pub(crate) fn identity_expiry(&self, not_after: u64) {
        self.identity_expiry.set(not_after as f64);
    }

    pub(crate) fn collateral_kept(&self, count: usize) {
        self.collateral_kept.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn proxies(&self, state: &'static str, count: usize) {
        self.proxies.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The text exposition.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(error = %e, "cannot encode metrics");
        }
        text
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

#[cfg(test)]
#[path = "../../tests/shared/metrics_page.rs"]
mod page;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_is_that_of_the_code() {
        let metrics = Metrics::new().unwrap();
        metrics.issuance(None);
        metrics.handshake(None);
        metrics.applied("applied");
        metrics.proxies("synced", 1);
        let exposition = String::from_utf8(metrics.text()).unwrap();
        page::check("countersign-control-plane", &exposition, &page::declared(include_str!("metrics.rs")));
    }
}
