//! Every hop that is open, and the streams on it: what revocation works on.
//!
//! A verdict is registered first, with what it rests on, and checked against the
//! current view afterwards; a new view is installed first, and the hops that it
//! affects are looked at again afterwards. So whichever comes first, no hop
//! escapes a decision that was taken after it.

mod cut;
mod hop;
mod index;
mod stream;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_config::{Changes, View};
use countersign_ratls::peer::Role;
use prometheus::IntGauge;

pub use cut::{Cause, Cut, draining};
pub use hop::Hop;
pub(crate) use hop::NewHop;
pub use stream::{Carries, Request, Stream};

use self::index::Index;
use crate::context::Context;
use crate::observe::metrics::Metrics;

/// The registry of hops.
#[derive(Debug, Default)]
pub struct Live {
    inner: Mutex<Inner>,
    next: AtomicU64,
    /// Hops that have passed the gate, counted where they do.
    open: AtomicU64,
    /// Streams that are permitted, wherever they are.
    flowing: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    hops: HashMap<u64, Arc<Hop>>,
    index: Index,
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
        self.hop.passed.store(true, Ordering::Release);
        self.live.open.fetch_add(1, Ordering::AcqRel);
        self.gauge = Some(gauge);
    }

    /// Registers a stream to `port`. It must be authorized afterwards, not before.
    pub(crate) fn open_stream(&self, port: u16, carries: Carries) -> Arc<Stream> {
        let stream = self.hop.open_stream(port, carries);
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
        if let Some(gauge) = &self.gauge {
            gauge.dec();
            self.live.open.fetch_sub(1, Ordering::AcqRel);
        }
        let mut inner = lock(&self.live.inner);
        inner.hops.remove(&self.hop.id);
        inner.index.remove(self.hop.id);
    }
}

impl Live {
    pub(crate) fn register(self: &Arc<Self>, new: NewHop, ctx: &Context) -> Registered {
        self.add(new, ctx.clock.seconds(), &ctx.metrics)
    }

    fn add(self: &Arc<Self>, new: NewHop, now: u64, metrics: &Metrics) -> Registered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let hop = Arc::new(Hop::new(id, new, now, metrics));
        lock(&self.inner).hops.insert(hop.id, Arc::clone(&hop));
        self.track(&hop);
        Registered { hop, live: Arc::clone(self), gauge: None }
    }

    /// Takes down what a hop rests on by now. Whoever keeps a verdict on a hop
    /// calls this, and looks afterwards whether the current view upholds it.
    pub(crate) fn track(&self, hop: &Hop) {
        let mut inner = lock(&self.inner);
        if inner.hops.contains_key(&hop.id) {
            // Read under the lock: the last to come writes the last that is kept.
            inner.index.set(hop.id, hop.basis());
        }
    }

    /// How many hops are open.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.inner).hops.len()
    }

    /// Whether no hop is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every hop that is open, oldest first.
    #[must_use]
    pub fn hops(&self) -> Vec<Arc<Hop>> {
        let mut hops: Vec<_> = lock(&self.inner).hops.values().cloned().collect();
        hops.sort_unstable_by_key(|hop| hop.id);
        hops
    }

    /// Looks again at the hops that `changes` affect, under the current view, which
    /// was installed before, and at the streams and requests of callers, on all
    /// cores. Returns how many hops were judged again and how many were cut.
    pub fn reappraise(&self, changes: &Changes<'_>, ctx: &Context, view: &View) -> (usize, usize) {
        let (mut affected, calls) = {
            let inner = lock(&self.inner);
            let find = |ids: BTreeSet<u64>| -> Vec<Arc<Hop>> {
                ids.iter().filter_map(|id| inner.hops.get(id).cloned()).collect()
            };
            let affected = inner.index.affected(changes);
            let calls = inner.index.calls(changes).difference(&affected).copied().collect();
            (find(affected), find(calls))
        };
        let review = |hop: &Hop| {
            if hop.role == Role::Client && hop.cut.cause().is_none() {
                hop.authorize_streams(view, &hop.admission(), &ctx.metrics);
            }
        };
        // What costs nothing comes first, then the hops on which bytes flow.
        calls.iter().for_each(|hop| review(hop));
        affected.sort_by_cached_key(|hop| hop.is_idle());
        let cut = AtomicUsize::new(0);
        sweep::each(&affected, |hop| match hop.current(ctx) {
            // What a peer proved can decide about its calls, too.
            Ok(_) => review(hop),
            Err(_) => _ = cut.fetch_add(1, Ordering::Relaxed),
        });
        (affected.len(), cut.into_inner())
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

    /// How many hops live that a new view would not find: open and not
    /// registered, or registered by something else than what they rest on.
    /// Anything but 0 is a defect.
    #[must_use]
    pub fn hops_untracked(&self) -> u64 {
        let sample = || {
            let open = self.open.load(Ordering::Acquire);
            let inner = lock(&self.inner);
            // Hops that stand before the gate must not hide those that are lost.
            let passed = inner.hops.values().filter(|hop| hop.passed.load(Ordering::Acquire)).count();
            let lost = open.saturating_sub(passed as u64);
            let stale = inner.hops.values().filter(|hop| !inner.index.says(hop.id, &hop.basis())).count();
            lost + stale as u64
        };
        // Between a verdict and its registration there is a moment.
        (0..4).map(|_| sample()).find(|count| *count == 0).unwrap_or_else(sample)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Framing;
    use countersign_evidence::Denial;
    use countersign_evidence::UnixTime;
    use countersign_net::Abort;
    use countersign_ratls::SpiffeId;
    use countersign_ratls::peer::{Admission, Judge, Presented};
    use rustls_pki_types::CertificateDer;

    #[derive(Debug)]
    struct Nobody;

    impl Judge for Nobody {
        fn judge(&self, _: &[CertificateDer<'_>], _: Role, _: UnixTime) -> Result<Arc<Admission>, Denial> {
            Err(draining())
        }
    }

    fn admission(name: &str) -> Arc<Admission> {
        let presented = Presented {
            chain: Vec::new(),
            id: SpiffeId::parse(&format!("spiffe://prod.example/{name}")).ok(),
            digest: [0; 32],
            spki_sha256: [0; 32],
            not_before: 0,
            not_after: 1,
            self_signed: false,
            evidence: None,
        };
        Arc::new(Admission::without_evidence(presented, 1, 1))
    }

    fn new_hop() -> NewHop {
        NewHop {
            role: Role::Client,
            me: SpiffeId::parse("spiffe://prod.example/me").unwrap(),
            address: ([127, 0, 0, 1], 1).into(),
            own_until: 1,
            judge: Arc::new(Nobody),
            admission: admission("peer"),
            abort: Abort::default(),
            framing: Framing::Plain,
            session: None,
        }
    }

    #[test]
    fn a_hop_that_no_change_would_find_is_counted() {
        let (live, metrics) = (Arc::new(Live::default()), Metrics::new().unwrap());
        let mut hops: Vec<_> = (0..3).map(|_| live.add(new_hop(), 0, &metrics)).collect();
        hops.iter_mut().for_each(|hop| hop.opened(&metrics));
        let in_the_gate = live.add(new_hop(), 0, &metrics);
        assert_eq!((live.len(), live.hops_untracked()), (4, 0));
        // Rests on something else than the index says.
        hops[0].keep_silently(admission("another"));
        assert_eq!(live.hops_untracked(), 1);
        live.track(&hops[0].hop);
        assert_eq!(live.hops_untracked(), 0);
        // Not in the index; open and not even registered.
        lock(&live.inner).index.remove(hops[1].id);
        assert_eq!(live.hops_untracked(), 1);
        lock(&live.inner).hops.remove(&hops[2].id);
        assert_eq!(live.hops_untracked(), 2);
        hops.clear();
        drop(in_the_gate);
        assert_eq!((live.len(), live.hops_untracked()), (0, 0));
        assert!(lock(&live.inner).index.is_empty());
    }
}
