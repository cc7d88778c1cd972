//! The access log: one record for each stream, written when it ends, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_evidence::policy::Mode;
use countersign_evidence::{Denial, Reason};
use countersign_ratls::peer::{Admission, Role};
use tokio::time::Instant;

use crate::live::Stream;
use crate::observe::metrics::{HopSeries, Metrics, direction, tee_labels};
use crate::policy::Permitted;

/// A record in the making. Dropping it writes it.
#[derive(Debug)]
pub struct Record {
    /// The side of the peer.
    role: Role,
    metrics: Arc<Metrics>,
    client: SocketAddr,
    source: String,
    destination: String,
    port: u16,
    target: String,
    service: String,
    traceparent: String,
    started: Instant,
    peer: Option<Peer>,
    stream: Option<(Arc<Stream>, HopSeries)>,
    of_requests: bool,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// The task was dropped before it could say.
    Unfinished,
    Done,
    Refused(Denial),
}

/// What is said of a peer, wherever something is logged about it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) tee: String,
    pub(crate) emulated: &'static str,
    pub(crate) policy: String,
    pub(crate) verdict: String,
}

impl Peer {
    pub(crate) fn new(admission: &Admission) -> Self {
        let (tee, emulated) = tee_labels(admission);
        let deciding = admission.verdicts.iter().filter(|v| v.mode == Mode::Enforce);
        let policies: Vec<_> =
            deciding.map(|v| format!("{}/{}", v.policy.namespace, v.policy.name)).collect();
        Self { tee, emulated, policy: policies.join(","), verdict: verdict_digest(admission) }
    }
}

impl Record {
    /// A stream to or from a peer in this role, of which not much is known yet.
    #[must_use]
    pub fn new(
        role: Role,
        client: SocketAddr,
        source: String,
        destination: String,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            role,
            metrics: Arc::clone(metrics),
            client,
            source,
            destination,
            port: 0,
            target: String::new(),
            service: String::new(),
            traceparent: String::new(),
            started: Instant::now(),
            peer: None,
            stream: None,
            of_requests: false,
            outcome: Outcome::Unfinished,
        }
    }

    /// The trace that the caller belongs to (W3C Trace Context), if it is well-formed.
    pub fn trace(&mut self, traceparent: Option<&str>) {
        traceparent
            .filter(|trace| well_formed_trace(trace))
            .unwrap_or_default()
            .clone_into(&mut self.traceparent);
    }

    /// The port that was asked for.
    pub const fn port(&mut self, port: u16) {
        self.port = port;
    }

    /// What the workload wants to reach.
    pub fn target(&mut self, target: String) {
        self.target = target;
    }

    /// The Service that this is.
    pub fn service(&mut self, service: String) {
        self.service = service;
    }

    /// Who is called.
    pub fn destination(&mut self, id: String) {
        self.destination = id;
    }

    /// The peer behind the stream.
    pub fn peer(&mut self, admission: &Admission) {
        self.peer = Some(Peer::new(admission));
    }

    /// Its requests have lines of their own: it has one if it does not end in order.
    pub(crate) const fn of_requests(&mut self) {
        self.of_requests = true;
    }

    /// The stream flows now.
    pub(crate) fn permitted(&mut self, permitted: &Permitted) {
        self.port = permitted.stream.port;
        self.peer(&permitted.admission);
        let series = permitted.hop.series.clone();
        series.open();
        self.stream = Some((Arc::clone(&permitted.stream), series));
    }

    /// How it ended.
    pub fn finish(&mut self, result: Result<(), Denial>) {
        self.outcome = match result {
            Ok(()) => Outcome::Done,
            Err(denial) => Outcome::Refused(denial),
        };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let none =
            Peer { tee: "none".into(), emulated: "false", policy: String::new(), verdict: String::new() };
        let peer = self.peer.as_ref().unwrap_or(&none);
        let (flags, reason, detail) = match &self.outcome {
            Outcome::Done => ("-", "", String::new()),
            Outcome::Unfinished => (Reason::Draining.flag(), Reason::Draining.code(), "dropped".to_owned()),
            Outcome::Refused(denial) => (denial.reason.flag(), denial.reason.code(), denial.to_string()),
        };
        let (mut sent, mut received) = (0, 0);
        if let Some((stream, series)) = &self.stream {
            sent = stream.sent.load(Ordering::Relaxed);
            received = stream.received.load(Ordering::Relaxed);
            series.close(flags);
        } else if !self.of_requests {
            let (me, peer) = match self.role {
                Role::Client => (&self.destination, &self.source),
                Role::Server => (&self.source, &self.destination),
            };
            self.metrics.failed(me, peer, self.role, flags);
        }
        if self.of_requests && matches!(self.outcome, Outcome::Done) {
            return;
        }
        tracing::info!(
            target: "access",
            direction = direction(self.role),
            src.addr = %self.client,
            src.identity = self.source,
            dst.identity = self.destination,
            dst.port = self.port,
            dst.addr = self.target,
            dst.service = self.service,
            bytes_sent = sent,
            bytes_received = received,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            flags,
            reason,
            detail,
            peer.tee = peer.tee,
            peer.emulated = peer.emulated,
            peer.policy = peer.policy,
            peer.verdict = peer.verdict,
            traceparent = self.traceparent,
        );
    }
}

/// Whether this has the form of a `traceparent` (W3C Trace Context, section 3.2).
pub(crate) fn well_formed_trace(text: &str) -> bool {
    text.len() == 55 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// What names the verdicts about a peer in every log: the first half of the
/// SHA-256 of their JSON.
#[must_use]
pub fn verdict_digest(admission: &Admission) -> String {
    let json = serde_json::to_vec(&admission.verdicts).unwrap_or_default();
    let hash = digest(&SHA256, &json);
    hash.as_ref().first_chunk::<16>().map(hex::encode).unwrap_or_default()
}
