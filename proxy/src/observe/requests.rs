//! Requests: how many, how they ended, how long they took.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::names as n;

/// Milliseconds, as dashboards know them.
const DURATIONS: [f64; 14] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4];
/// The highest status of gRPC.
const GRPC_STATUSES: u16 = 16;

/// The metrics of requests.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// The status of the answer, 0 without one.
    pub status: u16,
    /// `-`, or the flag of the reason table.
    pub flags: &'static str,
    /// The status of gRPC, if that was spoken.
    pub grpc: Option<u16>,
}

/// The series of one stream, each resolved once.
#[derive(Debug)]
pub struct RequestSeries {
    all: Requests,
    ends: [String; 3],
    known: Mutex<HashMap<Ended, (IntCounter, Histogram)>>,
}

impl Requests {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labels = [
            n::REPORTER,
            n::SOURCE,
            n::DESTINATION,
            n::PROTOCOL,
            n::SECURITY,
            n::RESPONSE_CODE,
            n::FLAGS,
            n::GRPC_STATUS,
        ];
        let total = Opts::new(n::REQUESTS, "Requests, on ports with a declared protocol.");
        let total = IntCounterVec::new(total, &labels)?;
        let help = "From the head of a request until the end of its answer.";
        let duration = HistogramOpts::new(n::REQUEST_DURATION, help).buckets(DURATIONS.to_vec());
        let duration = HistogramVec::new(duration, &labels)?;
        registry.register(Box::new(total.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self { total, duration })
    }

    pub(super) fn of(&self, ends: [&str; 3]) -> RequestSeries {
        RequestSeries { all: self.clone(), ends: ends.map(str::to_owned), known: Mutex::default() }
    }
}

impl RequestSeries {
    /// A request has ended.
    pub fn ended(&self, ended: Ended, took: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, duration) = known.entry(ended).or_insert_with(|| self.resolve(ended));
        total.inc();
        duration.observe(took.as_secs_f64() * 1e3);
    }

    fn resolve(&self, ended: Ended) -> (IntCounter, Histogram) {
        let [reporter, source, destination] = &self.ends;
        let protocol = if ended.grpc.is_some() { "grpc" } else { "http" };
        // What a workload answers does not make series without end.
        let status = if (100..600).contains(&ended.status) { ended.status } else { 0 }.to_string();
        let grpc = match ended.grpc {
            Some(status @ ..=GRPC_STATUSES) => status.to_string(),
            Some(_) => "unknown".to_owned(),
            None => String::new(),
        };
        let labels =
            [reporter.as_str(), source, destination, protocol, "mutual_tls", &status, ended.flags, &grpc];
        (self.all.total.with_label_values(&labels), self.all.duration.with_label_values(&labels))
    }
}
