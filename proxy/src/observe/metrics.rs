//! Counters and gauges in a registry of their own.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use countersign_evidence::{Collateral, Denial, Verdict};
use countersign_ratls::peer::{Admission, Role};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::attestation::Attestation;
use super::names as n;
use super::requests::{RequestSeries, Requests};

/// At most so many principals get series of their own; the rest share `other`.
const PRINCIPALS: usize = 1024;
/// At most so many policies in mode `Audit` do.
const AUDITORS: usize = 256;
/// Seconds: from a verdict that was remembered to one for which everything was verified.
const APPRAISALS: [f64; 10] = [1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.05, 0.25];

/// Every metric of a proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    opened: IntCounterVec,
    closed: IntCounterVec,
    failed: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    verdicts: IntCounterVec,
    revoked: IntCounterVec,
    refused: IntCounterVec,
    rejected: IntCounterVec,
    stream_ends: IntCounterVec,
    refreshes: IntCounterVec,
    audited: IntCounterVec,
    hops: IntGaugeVec,
    requests: Requests,
    appraisals: HistogramVec,
    collateral: IntGaugeVec,
    /// Those of proofs.
    pub attestation: Attestation,
    /// [`n::GENERATION`].
    pub generation: IntGauge,
    /// [`n::LAST_APPLIED`].
    pub last_applied: IntGauge,
    /// [`n::IDENTITY_EXPIRATION`].
    pub identity_expiration: IntGauge,
    /// [`n::IDENTITY_REFRESH`].
    pub identity_refresh: IntGauge,
    /// [`n::SYNCED`].
    pub synced: IntGauge,
    principals: Mutex<HashSet<String>>,
    auditors: Mutex<HashSet<String>>,
}

/// The series of one hop, resolved once.
#[derive(Clone, Debug)]
pub struct HopSeries {
    labels: [String; 5],
    opened: IntCounter,
    closed: IntCounterVec,
    /// Bytes from the called workload to the caller.
    pub sent: IntCounter,
    /// Bytes from the caller to the called workload.
    pub received: IntCounter,
}

impl HopSeries {
    /// A stream was opened.
    pub fn open(&self) {
        self.opened.inc();
    }

    /// A stream was closed with this flag.
    pub fn close(&self, flags: &str) {
        let [a, b, c, d, e] = &self.labels;
        self.closed.with_label_values(&[a, b, c, d, e, flags]).inc();
    }
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// When two have the same name or a name is not valid: a defect.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let hop = [n::REPORTER, n::SOURCE, n::DESTINATION, n::PROTOCOL, n::SECURITY];
        let hop_end = [n::REPORTER, n::SOURCE, n::DESTINATION, n::PROTOCOL, n::SECURITY, n::FLAGS];
        let verdict = [n::TEE, n::EMULATED, n::RESULT, n::REASON, n::POLICY, n::DIRECTION];
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let seconds = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        gauges(n::BUILD, "What runs here.", &[n::VERSION])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Self {
            opened: counter(n::CONNECTIONS_OPENED, "Streams opened.", &hop)?,
            closed: counter(n::CONNECTIONS_CLOSED, "Streams closed.", &hop_end)?,
            failed: counter(n::CONNECTIONS_FAILED, "Connections that never became a stream.", &hop_end)?,
            sent: counter(n::SENT_BYTES, "Bytes from the called workload to the caller.", &hop)?,
            received: counter(n::RECEIVED_BYTES, "Bytes from the caller to the called workload.", &hop)?,
            verdicts: counter(n::VERDICTS, "Verdicts about peers.", &verdict)?,
            revoked: counter(n::REVOKED, "Live hops and streams that were cut.", &[n::CAUSE])?,
            refused: counter(
                n::REFUSED,
                "Connections refused before a handshake.",
                &[n::DIRECTION, n::REASON],
            )?,
            rejected: counter(n::REJECTED, "Resources that could not be used.", &[n::KIND])?,
            stream_ends: counter(
                n::STREAM_ENDS,
                "Streams of configuration that ended before another was there, and attempts that failed.",
                &[n::REASON],
            )?,
            refreshes: counter(n::IDENTITY_REFRESHES, "Certificate renewals.", &[n::OUTCOME])?,
            audited: counter(
                n::AUDIT_DENIALS,
                "Times that a policy in mode Audit would have refused a peer.",
                &[n::POLICY, n::REASON, n::DIRECTION],
            )?,
            attestation: Attestation::new(&registry)?,
            requests: Requests::new(&registry)?,
            hops: gauges(n::HOPS, "Hops that are open.", &[n::DIRECTION])?,
            appraisals: seconds(
                n::APPRAISAL,
                "How long it took to judge a peer.",
                &[n::DIRECTION, n::RESULT],
                &APPRAISALS,
            )?,
            collateral: gauges(
                n::COLLATERAL_EXPIRATION,
                "When the first piece of the collateral in use ends.",
                &[n::KIND],
            )?,
            generation: gauge(n::GENERATION, "Generation of the configuration in use.")?,
            last_applied: gauge(n::LAST_APPLIED, "When a configuration was last put to use.")?,
            identity_expiration: gauge(n::IDENTITY_EXPIRATION, "When our certificate ends.")?,
            identity_refresh: gauge(n::IDENTITY_REFRESH, "When our certificate was last renewed.")?,
            synced: gauge(n::SYNCED, "Whether the control plane's stream is up.")?,
            principals: Mutex::default(),
            auditors: Mutex::default(),
            registry,
        })
    }

    /// The series of a hop with this peer.
    #[must_use]
    pub fn hop(&self, me: &str, peer: &str, role: Role) -> HopSeries {
        let labels = self.labels(me, peer, role);
        HopSeries {
            opened: self.opened.with_label_values(&labels),
            closed: self.closed.clone(),
            sent: self.sent.with_label_values(&labels),
            received: self.received.with_label_values(&labels),
            labels: labels.map(str::to_owned),
        }
    }

    /// The series of requests on a hop with this peer.
    #[must_use]
    pub fn requests(&self, me: &str, peer: &str, role: Role) -> RequestSeries {
        let [reporter, source, destination, ..] = self.labels(me, peer, role);
        self.requests.of([reporter, source, destination])
    }

    /// A connection that never became a stream.
    pub fn failed(&self, me: &str, peer: &str, role: Role, flags: &str) {
        let [a, b, c, d, e] = self.labels(me, peer, role);
        self.failed.with_label_values(&[a, b, c, d, e, flags]).inc();
    }

    fn labels<'a>(&self, me: &'a str, peer: &'a str, role: Role) -> [&'a str; 5] {
        let peer = self.principal(peer);
        let (reporter, source, destination) = match role {
            Role::Client => ("destination", peer, me),
            Role::Server => ("source", me, peer),
        };
        [reporter, source, destination, "tcp", "mutual_tls"]
    }

    fn principal<'a>(&self, peer: &'a str) -> &'a str {
        bounded(&self.principals, PRINCIPALS, peer)
    }

    /// A policy that is only recorded would have refused a peer.
    pub fn audited(&self, denial: &Denial, role: Role) {
        let policy = policy_of(denial);
        let policy = bounded(&self.auditors, AUDITORS, &policy);
        self.audited.with_label_values(&[policy, denial.reason.code(), direction(role)]).inc();
    }

    /// A peer was admitted: one count for every policy that spoke of it.
    pub fn admitted(&self, admission: &Admission, role: Role) {
        let (tee, emulated) = tee_labels(admission);
        let count = |result: &str, reason: &str, policy: &str| {
            self.verdicts
                .with_label_values(&[tee.as_str(), emulated, result, reason, policy, direction(role)])
                .inc();
        };
        if admission.verdicts.is_empty() {
            count("allow", "none", "none");
        }
        for verdict in &admission.verdicts {
            // A policy in audit mode may deny a peer that is admitted all the same.
            let reason = verdict.denial().map_or("none", |d| d.reason.code());
            count(if verdict.allows() { "allow" } else { "deny" }, reason, &policy_label(verdict));
        }
    }

    /// A peer was refused.
    pub fn denied(&self, denial: &Denial, role: Role) {
        let policy = policy_of(denial);
        self.verdicts
            .with_label_values(&[
                "unknown",
                "unknown",
                "deny",
                denial.reason.code(),
                &policy,
                direction(role),
            ])
            .inc();
    }

    /// A peer was judged, in a handshake or again on a live hop.
    pub fn judged(&self, role: Role, admitted: bool, took: Duration) {
        let result = if admitted { "allow" } else { "deny" };
        self.appraisals.with_label_values(&[direction(role), result]).observe(took.as_secs_f64());
    }

    /// This collateral is in use now, and no other.
    pub fn collateral(&self, collateral: &Collateral) {
        self.collateral.reset();
        for (kind, until) in collateral.ends() {
            self.collateral.with_label_values(&[kind]).set(i64::try_from(until).unwrap_or(i64::MAX));
        }
    }

    /// A live hop or stream was cut.
    pub fn revoked(&self, cause: &str) {
        self.revoked.with_label_values(&[cause]).inc();
    }

    /// A connection was refused before a handshake.
    pub fn refused(&self, direction: &str, reason: countersign_evidence::Reason) {
        self.refused.with_label_values(&[direction, reason.code()]).inc();
    }

    /// A resource could not be used.
    pub fn rejected(&self, kind: &str) {
        self.rejected.with_label_values(&[kind]).inc();
    }

    /// There is no stream of configuration, and why.
    pub fn stream_ended(&self, reason: countersign_evidence::Reason) {
        self.stream_ends.with_label_values(&[reason.code()]).inc();
    }

    /// A renewal ended.
    pub fn refreshed(&self, success: bool) {
        self.refreshes.with_label_values(&[if success { "success" } else { "failure" }]).inc();
    }

    /// The gauge of open hops.
    #[must_use]
    pub fn hops(&self, role: Role) -> IntGauge {
        self.hops.with_label_values(&[direction(role)])
    }

    /// Everything in the Prometheus text format.
    ///
    /// # Errors
    /// When a family cannot be encoded: a defect.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

/// The direction of a hop with a peer in this role.
#[must_use]
pub const fn direction(role: Role) -> &'static str {
    match role {
        Role::Client => "inbound",
        Role::Server => "outbound",
    }
}

/// The labels `tee` and `emulated` of a peer.
#[must_use]
pub fn tee_labels(admission: &Admission) -> (String, &'static str) {
    admission.claims.as_ref().map_or_else(
        || ("none".to_owned(), "false"),
        |claims| (claims.tee.to_string(), if claims.emulated { "true" } else { "false" }),
    )
}

/// `name`, if it is one of the first so many; the rest share `other`.
fn bounded<'a>(known: &Mutex<HashSet<String>>, most: usize, name: &'a str) -> &'a str {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.contains(name) {
        return name;
    }
    if known.len() >= most {
        return "other";
    }
    known.insert(name.to_owned());
    name
}

fn policy_of(denial: &Denial) -> String {
    denial.policy.as_ref().map_or_else(|| "none".to_owned(), |p| format!("{}/{}", p.namespace, p.name))
}

fn policy_label(verdict: &Verdict) -> String {
    format!("{}/{}", verdict.policy.namespace, verdict.policy.name)
}

#[cfg(test)]
#[path = "../../../tests/shared/metrics_page.rs"]
mod page;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::requests::Ended;
    use countersign_evidence::{Finding, Reason};

    #[test]
    fn the_page_of_metrics_is_that_of_the_code() {
        let metrics = Metrics::new().unwrap();
        let hop = metrics.hop("spiffe://a/me", "spiffe://a/peer", Role::Client);
        hop.open();
        hop.close("-");
        metrics.failed("spiffe://a/me", "spiffe://a/peer", Role::Client, "CONNECT");
        metrics
            .requests("spiffe://a/me", "spiffe://a/peer", Role::Client)
            .ended(Ended { status: 200, flags: "-", grpc: None }, Duration::from_millis(1));
        metrics.judged(Role::Client, true, Duration::from_millis(1));
        metrics.collateral.with_label_values(&["crl"]).set(1);
        metrics.denied(&Finding::new(Reason::Internal, "", "", "").into(), Role::Client);
        metrics.revoked("verdict");
        metrics.refused("inbound", Reason::Overloaded);
        metrics.rejected("AttestationPolicy");
        metrics.stream_ended(Reason::Draining);
        metrics.refreshed(true);
        metrics.audited(&Finding::new(Reason::Internal, "", "", "").into(), Role::Client);
        metrics.hops(Role::Client).inc();
        metrics.attestation.sample();
        let exposition = String::from_utf8(metrics.render().unwrap()).unwrap();
        page::check("countersign-proxy", &exposition, &page::declared(include_str!("names.rs")));
    }

    #[test]
    fn principals_beyond_the_limit_share_a_series() {
        let metrics = Metrics::new().unwrap();
        for i in 0..PRINCIPALS {
            let peer = format!("spiffe://a/{i}");
            assert_eq!(metrics.principal(&peer), peer);
        }
        assert_eq!(metrics.principal("spiffe://a/one-more"), "other");
        assert_eq!(metrics.principal("spiffe://a/0"), "spiffe://a/0");
    }
}
