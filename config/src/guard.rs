//! The judge of hops: the current view, with a cache of verdicts in front.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use countersign_evidence::{Denial, Fingerprint, UnixTime};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use quick_cache::DefaultHashBuilder;
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;

use crate::view::View;

/// How long a refusal is remembered, in seconds: long enough to take the cost
/// out of a peer that tries again and again, too short for anybody to wait for.
const REFUSAL_LIFETIME: u64 = 5;
/// Chains above this size are not kept with a refusal.
const MAX_REFUSED_CHAIN: usize = 64 << 10;

/// How many refusals are remembered. They have a cache of their own, so that
/// strangers cannot push out the verdicts of peers.
const REFUSALS: usize = 256;

/// Judges hops for one workload by whatever view is current.
///
/// A verdict is remembered for the exact bytes of a chain under one view: its
/// resources, bundles, collateral and generation. It never outlives what it was
/// derived from, and is not used at a time before it was made.
#[derive(Debug)]
pub struct Guard {
    me: SpiffeId,
    view: Arc<ArcSwap<View>>,
    admitted: Cache<Key, Remembered<Arc<Admission>>>,
    refused: Cache<Key, Remembered<Arc<Refusal>>>,
    hasher: DefaultHashBuilder,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The hash is of a key that is drawn at random, and equality is decided by the
/// bytes: a collision costs a verification and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    chain: u64,
    role: Role,
    generation: u64,
    view: Fingerprint,
}

#[derive(Clone, Debug)]
struct Remembered<T> {
    made: u64,
    until: u64,
    what: T,
}

#[derive(Debug)]
struct Refusal {
    chain: Vec<CertificateDer<'static>>,
    denial: Denial,
}

impl Guard {
    /// A guard with a verdict cache of at most `entries`.
    #[must_use]
    pub fn new(me: SpiffeId, view: Arc<ArcSwap<View>>, entries: usize) -> Self {
        Self {
            me,
            view,
            admitted: Cache::new(entries),
            refused: Cache::new(REFUSALS.min(entries)),
            hasher: DefaultHashBuilder::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The current view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// How often a verdict was remembered, and how often it had to be made.
    #[must_use]
    pub fn cache_use(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn key(&self, chain: &[CertificateDer<'_>], role: Role, view: &View) -> Key {
        let mut hasher = self.hasher.build_hasher();
        for certificate in chain {
            hasher.write_usize(certificate.len());
            hasher.write(certificate);
        }
        Key { chain: hasher.finish(), role, generation: view.generation, view: *view.id() }
    }

    fn remembered(
        &self,
        key: &Key,
        chain: &[CertificateDer<'_>],
        second: u64,
    ) -> Option<Result<Arc<Admission>, Denial>> {
        if let Some(known) = self.admitted.get(key).filter(|known| known.holds_at(second))
            && known.what.presented.chain == chain
        {
            return Some(Ok(known.what));
        }
        let known = self.refused.get(key).filter(|known| known.holds_at(second))?;
        (known.what.chain == chain).then(|| Err(known.what.denial.clone()))
    }

    fn remember(
        &self,
        key: Key,
        chain: &[CertificateDer<'_>],
        made: u64,
        judged: &Result<Arc<Admission>, Denial>,
    ) {
        match judged {
            Ok(admission) => {
                let until = admission.valid_until;
                self.admitted.insert(key, Remembered { made, until, what: Arc::clone(admission) });
            }
            Err(denial) if chain.iter().map(|c| c.len()).sum::<usize>() <= MAX_REFUSED_CHAIN => {
                let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
                let what = Arc::new(Refusal { chain, denial: denial.clone() });
                let until = made.saturating_add(REFUSAL_LIFETIME);
                self.refused.insert(key, Remembered { made, until, what });
            }
            Err(_) => {}
        }
    }

    /// The verdict about a chain under the current view: as it is remembered, or as `judge` makes it.
    fn verdict(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
        judge: impl FnOnce(&View) -> Result<Admission, Denial>,
    ) -> Result<Arc<Admission>, Denial> {
        let view = self.view.load();
        let key = self.key(chain, role, &view);
        if let Some(known) = self.remembered(&key, chain, now.as_secs()) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return known;
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let judged = judge(&view).map(Arc::new);
        self.remember(key, chain, now.as_secs(), &judged);
        judged
    }
}

impl<T> Remembered<T> {
    const fn holds_at(&self, second: u64) -> bool {
        self.made <= second && second <= self.until
    }
}

impl Judge for Guard {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        self.verdict(chain, role, now, |view| view.judge_hop(&self.me, Presented::parse(chain)?, now))
    }

    fn judge_again(&self, last: &Admission, role: Role, now: UnixTime) -> Result<Arc<Admission>, Denial> {
        let judge = |view: &View| view.rejudge_hop(&self.me, last, now);
        self.verdict(&last.presented.chain, role, now, judge)
    }
}
