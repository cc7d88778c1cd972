//! Every hop that is open, and the streams on it: what revocation works on.
//!
//! A hop is registered first and checked against the current view afterwards,
//! and a new view is installed first and the registry swept afterwards. So
//! whichever comes first, no hop escapes a decision that was taken after it.

mod cut;
mod hop;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_evidence::Denial;
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Role};
use prometheus::IntGauge;

pub use cut::{Cause, Cut, draining};
pub(crate) use hop::NewHop;
pub use hop::{Hop, Stream};

use crate::context::Context;
use crate::observe::metrics::Metrics;

/// The registry of hops.
#[derive(Debug, Default)]
pub struct Live {
    hops: Mutex<HashMap<u64, Arc<Hop>>>,
    next: AtomicU64,
    /// Streams that are permitted, wherever they are.
    flowing: AtomicU64,
}

/// A hop in the registry, until it is dropped.
#[derive(Debug)]
pub struct Registered {
    hop: Arc<Hop>,
    live: Arc<Live>,
    gauge: Option<IntGauge>,
}

impl Registered {
    /// The hop has passed the gate: it counts.
    pub(crate) fn opened(&mut self, metrics: &Metrics) {
        let gauge = metrics.hops(self.hop.role);
        gauge.inc();
        self.gauge = Some(gauge);
    }

    /// Registers a stream to `port`. It must be authorized afterwards, not before.
    pub(crate) fn open_stream(&self, port: u16) -> Arc<Stream> {
        let stream = self.hop.open_stream(port);
        self.live.flowing.fetch_add(1, Ordering::AcqRel);
        stream
    }

    /// The stream carries nothing any more.
    pub(crate) fn close_stream(&self, id: u64) {
        self.live.flowing.fetch_sub(1, Ordering::AcqRel);
        self.hop.close_stream(id);
    }
}

impl std::ops::Deref for Registered {
    type Target = Hop;
    fn deref(&self) -> &Hop {
        &self.hop
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.live.hops).remove(&self.hop.id);
        if let Some(gauge) = &self.gauge {
            gauge.dec();
        }
    }
}

impl Live {
    pub(crate) fn register(self: &Arc<Self>, new: NewHop, ctx: &Context) -> Registered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let hop = Arc::new(Hop::new(id, new, ctx.clock.seconds(), &ctx.metrics));
        lock(&self.hops).insert(hop.id, Arc::clone(&hop));
        Registered { hop, live: Arc::clone(self), gauge: None }
    }

    /// How many hops are open.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.hops).len()
    }

    /// Whether no hop is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every hop that is open, oldest first.
    #[must_use]
    pub fn hops(&self) -> Vec<Arc<Hop>> {
        let mut hops: Vec<_> = lock(&self.hops).values().cloned().collect();
        hops.sort_unstable_by_key(|hop| hop.id);
        hops
    }

    /// Looks at every hop again under the current view, which was installed
    /// before. `authorize` answers for the streams of callers. Returns how many
    /// hops were looked at and how many were cut.
    pub fn reappraise(
        &self,
        ctx: &Context,
        authorize: &dyn Fn(&Admission, &SpiffeId, u16) -> Result<(), Denial>,
    ) -> (usize, usize) {
        let hops = self.hops();
        let mut cut = 0;
        for hop in &hops {
            let Ok(admission) = hop.current(ctx) else {
                cut += 1;
                continue;
            };
            if hop.role == Role::Client {
                for stream in hop.streams() {
                    if let Err(denial) = authorize(&admission, &hop.me, stream.port) {
                        hop.sever_stream(&stream, &denial, &ctx.metrics);
                    }
                }
            }
        }
        (hops.len(), cut)
    }

    /// Looks again at hops whose time is up, at all while nobody knows the time, and
    /// at what is due in their sessions.
    pub fn expire(&self, ctx: &Context) {
        let (now, behind) = (ctx.clock.seconds(), ctx.clock.check().is_err());
        for hop in self.hops() {
            if (behind || now > hop.until()) && hop.cut.cause().is_none() {
                // A denial has cut the hop and said so.
                let _ = hop.current(ctx);
            }
            hop.keep_time(ctx);
        }
    }

    /// How long ago the challenge was made that the oldest proof of a peer answers.
    #[must_use]
    pub fn oldest_proof(&self, now: Duration) -> Duration {
        let hops = self.hops();
        let since = hops.iter().filter_map(|hop| hop.session.as_ref()?.state().peer.since).min();
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// How many streams carry bytes that no hop in here answers for. Anything but
    /// 0 is a defect: nobody could cut them.
    #[must_use]
    pub fn untracked(&self) -> u64 {
        // A stream that opens or closes in between is counted once: whatever is
        // a defect is so every time.
        let sample = || {
            let tracked = self.hops().iter().map(|hop| hop.streams().len() as u64).sum();
            self.flowing.load(Ordering::Acquire).saturating_sub(tracked)
        };
        (0..4).map(|_| sample()).min().unwrap_or_default()
    }

    /// Cuts everything.
    pub fn sever_all(&self, metrics: &Metrics) {
        for hop in self.hops() {
            hop.sever(&Cause::Drained, metrics);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
