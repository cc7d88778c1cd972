//! One line and one count for each request, when it ends, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::Role;
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use tokio::time::Instant;

use super::headers::Stamp;
use super::request::Asked;
use super::way::Met;
use crate::live::Stream;
use crate::observe::access::Peer;
use crate::observe::metrics::direction;
use crate::observe::requests::{Ended, RequestSeries};
use crate::policy::PermittedRequest;

/// What the lines of all requests of a stream have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) role: Role,
    pub(super) client: SocketAddr,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) port: u16,
    /// The stream of the hop, once there is one.
    pub(super) stream: Option<Arc<Stream>>,
    pub(super) series: RequestSeries,
}

/// A line in the making. Dropping it writes it.
#[derive(Debug)]
pub(super) struct Line {
    common: Arc<Common>,
    method: Method,
    path: String,
    host: String,
    version: Version,
    grpc: bool,
    started: Instant,
    peer: Option<Arc<Peer>>,
    rule: String,
    traceparent: String,
    status: u16,
    grpc_status: Option<u16>,
    /// Bytes of the body of the request.
    pub(super) received: Arc<AtomicU64>,
    /// Bytes of the body of the answer.
    pub(super) sent: u64,
    /// Why the proxy of the called workload refused, as it says.
    said: Option<Reason>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Unfinished,
    Done,
    Refused(Denial),
}

impl Line {
    /// A request has come.
    pub(super) fn new(common: &Arc<Common>, head: &Parts) -> Self {
        Self {
            common: Arc::clone(common),
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            host: String::new(),
            version: head.version,
            grpc: is_grpc(&head.headers),
            started: Instant::now(),
            peer: None,
            rule: String::new(),
            traceparent: String::new(),
            status: 0,
            grpc_status: None,
            said: None,
            received: Arc::default(),
            sent: 0,
            outcome: Outcome::Unfinished,
        }
    }

    /// What came was no request, and is over.
    pub(super) fn unreadable(common: &Arc<Common>, status: u16, denial: Denial) {
        let (head, ()) = http::Request::new(()).into_parts();
        let mut line = Self::new(common, &head);
        line.path = String::new();
        line.status = status;
        line.outcome = Outcome::Refused(denial);
    }

    /// Whether gRPC is spoken, which has a way of its own to refuse.
    pub(super) const fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// It has one reading.
    pub(super) fn asked(&mut self, asked: &Asked) {
        self.host.clone_from(&asked.host);
    }

    /// It was made again, by this rule, of this peer.
    pub(super) fn routed(&mut self, rule: &str, met: Option<Met>) {
        rule.clone_into(&mut self.rule);
        if let Some(met) = met {
            self.common = met.common;
            self.peer = Some(met.peer);
        }
    }

    /// It goes on to the workload.
    pub(super) fn permitted(&mut self, permit: &PermittedRequest, stamp: &Stamp, headers: &HeaderMap) {
        self.peer = Some(Arc::clone(&stamp.peer));
        self.rule.clone_from(&permit.rule);
        let trace = headers.get("traceparent").and_then(|trace| trace.to_str().ok());
        trace.unwrap_or_default().clone_into(&mut self.traceparent);
    }

    /// The answer begins.
    pub(super) fn answered(&mut self, status: u16, headers: &HeaderMap) {
        self.status = status;
        self.trailers(headers);
    }

    /// The status of gRPC is in the trailers, or in the head of an answer without a body.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        self.grpc_status = status.or(self.grpc_status);
    }

    /// It was refused, or went wrong.
    pub(super) fn refused(&mut self, denial: &Denial) {
        self.outcome = Outcome::Refused(denial.clone());
    }

    /// The proxy of the called workload says that it refused.
    pub(super) fn refused_there(&mut self, reason: Reason) {
        self.said = Some(reason);
    }

    /// The answer is complete.
    pub(super) fn done(&mut self) {
        if matches!(self.outcome, Outcome::Unfinished) {
            self.outcome = Outcome::Done;
        }
    }
}

/// Whether a message is of gRPC.
fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(http::header::CONTENT_TYPE);
    media.is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

impl Drop for Line {
    fn drop(&mut self) {
        let common = &self.common;
        if matches!(self.outcome, Outcome::Unfinished) {
            let cause = common.stream.as_ref().and_then(|stream| stream.cut.cause());
            let denial = cause.map_or_else(broken_off, crate::live::Cause::denial);
            self.outcome = Outcome::Refused(denial);
        }
        let (flags, reason, detail) = match &self.outcome {
            Outcome::Refused(denial) => (denial.reason.flag(), denial.reason.code(), denial.to_string()),
            Outcome::Done | Outcome::Unfinished => match self.said {
                Some(reason) => {
                    (reason.flag(), reason.code(), "refused by the proxy that was called".to_owned())
                }
                None => ("-", "", String::new()),
            },
        };
        let grpc = self.grpc.then(|| self.grpc_status.unwrap_or(u16::MAX));
        let took = self.started.elapsed();
        common.series.ended(Ended { status: self.status, flags, grpc }, took);
        let peer = self.peer.as_deref();
        tracing::info!(
            target: "access",
            direction = direction(common.role),
            src.addr = %common.client,
            src.identity = common.source,
            dst.identity = common.destination,
            dst.port = common.port,
            method = %self.method,
            path = self.path,
            host = self.host,
            protocol = ?self.version,
            status = self.status,
            grpc.status = self.grpc_status,
            bytes_sent = self.sent,
            bytes_received = self.received.load(Ordering::Relaxed),
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            flags,
            reason,
            detail,
            rule = self.rule,
            peer.tee = peer.map_or("", |peer| &peer.tee),
            peer.emulated = peer.map_or("", |peer| peer.emulated),
            peer.policy = peer.map_or("", |peer| &peer.policy),
            peer.verdict = peer.map_or("", |peer| &peer.verdict),
            traceparent = self.traceparent,
        );
    }
}

fn broken_off() -> Denial {
    let presented = "the caller or the workload went away in the middle";
    Finding::new(Reason::ConnectFailed, "request", "a complete answer", presented).into()
}
