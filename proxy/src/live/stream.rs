//! One stream on a hop, and the requests on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use countersign_config::RequestFacts;
use countersign_evidence::Denial;

use super::cut::{Cause, Cut};
use super::lock;

/// One stream on a hop.
#[derive(Debug)]
pub struct Stream {
    /// Unique on its hop.
    pub id: u64,
    /// The port of the workload.
    pub port: u16,
    /// What passes over it.
    pub carries: Carries,
    /// Bytes from the caller to the called workload.
    pub received: AtomicU64,
    /// Bytes from the called workload to the caller.
    pub sent: AtomicU64,
    /// The switch; thrown with that of the hop.
    pub cut: Cut,
    requests: Mutex<HashMap<u64, Arc<Request>>>,
    next_request: AtomicU64,
}

/// What passes over a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Bytes, which nobody looks at.
    Bytes,
    /// Requests, each of which is decided about by itself.
    Requests,
}

/// One request that is under way.
#[derive(Debug)]
pub struct Request {
    id: u64,
    /// What it asks for.
    pub facts: RequestFacts<'static>,
    /// The switch; thrown with that of the stream.
    pub cut: Cut,
}

impl Stream {
    pub(super) fn new(id: u64, port: u16, carries: Carries, cut: Cut) -> Self {
        Self {
            id,
            port,
            carries,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            cut,
            requests: Mutex::default(),
            next_request: AtomicU64::new(0),
        }
    }

    /// Registers a request. It must be authorized afterwards, not before.
    pub(crate) fn begin(&self, facts: RequestFacts<'static>) -> Arc<Request> {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let request = Arc::new(Request { id, facts, cut: self.cut.child() });
        lock(&self.requests).insert(id, Arc::clone(&request));
        request
    }

    /// The request is over.
    pub(crate) fn finish(&self, request: &Request) {
        lock(&self.requests).remove(&request.id);
    }

    /// The requests that are under way.
    #[must_use]
    pub fn requests(&self) -> Vec<Arc<Request>> {
        lock(&self.requests).values().cloned().collect()
    }
}

impl Request {
    /// Whether this call was the one that cut it.
    pub(super) fn sever(&self, denial: &Denial) -> bool {
        self.cut.throw(Cause::Authorization(denial.clone()))
    }
}
