//! A pool of hops for each destination, made when somebody asks for it and gone
//! when nobody used it for a while; and how each destination did lately.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use countersign_config::Endpoint;
use countersign_evidence::{Denial, Finding, Reason};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::balance::{self, Standing};
use crate::context::Context;
use crate::http::RetryBudget;
use crate::pool::{Destination, Keeper, Pool};

/// After a failure, for how long others are preferred, at first and at most.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// How often pools are looked for that nobody uses.
const SWEEP: Duration = Duration::from_secs(5);
/// Pools that wait to be run: each is run as soon as it is seen.
const NEW: usize = 1024;

/// Every pool.
#[derive(Debug)]
pub(crate) struct Pools {
    ctx: Arc<Context>,
    known: Mutex<HashMap<Destination, Arc<Known>>>,
    keepers: mpsc::Sender<Keeper>,
    random: RandomState,
    draws: AtomicU64,
    retries: RetryBudget,
}

/// A destination with a pool.
#[derive(Debug)]
struct Known {
    pool: Pool,
    streams: AtomicUsize,
    last: Mutex<Last>,
}

/// What happened last.
#[derive(Debug)]
struct Last {
    used: Instant,
    failures: u32,
    ejected_until: Option<Instant>,
}

/// Somebody uses a destination: it counts as a stream, and the pool stays.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Known>);

impl Pools {
    /// No pools, and what runs those that will be, which somebody must run.
    pub(crate) fn new(ctx: Arc<Context>) -> (Arc<Self>, Nursery) {
        let (keepers, new) = mpsc::channel(NEW);
        let pools = Arc::new(Self {
            ctx: Arc::clone(&ctx),
            known: Mutex::default(),
            keepers,
            random: RandomState::new(),
            draws: AtomicU64::new(0),
            retries: RetryBudget::default(),
        });
        let nursery = Nursery { pools: Arc::downgrade(&pools), new, ctx };
        (pools, nursery)
    }

    /// The pool of a destination, for a stream.
    pub(crate) fn of(&self, destination: &Destination) -> Result<InUse, Denial> {
        let mut known = self.lock();
        if let Some(found) = known.get(destination) {
            return Ok(InUse::new(found));
        }
        // A pool without a hop is of no use.
        let most = self.ctx.limits.hops;
        if known.len() >= most {
            release_idle(&mut known, Duration::ZERO);
        }
        let full = || {
            Denial::from(Finding::new(Reason::Overloaded, "destinations", format!("at most {most}"), "more"))
        };
        if known.len() >= most {
            return Err(full());
        }
        let (pool, keeper) = Pool::new(destination.clone(), Arc::clone(&self.ctx));
        self.keepers.try_send(keeper).map_err(|_| full())?;
        let last = Last { used: Instant::now(), failures: 0, ejected_until: None };
        let made = Arc::new(Known { pool, streams: AtomicUsize::new(0), last: Mutex::new(last) });
        let used = InUse::new(&made);
        known.insert(destination.clone(), made);
        Ok(used)
    }

    /// Which endpoint takes the next connection; none of those that were `tried`.
    pub(crate) fn choose(&self, endpoints: &[Endpoint], tried: &[usize]) -> Option<usize> {
        let weight = |i: usize| if tried.contains(&i) { 0 } else { endpoints.get(i).map_or(0, |e| e.weight) };
        let now = Instant::now();
        let standing = |i: usize| endpoints.get(i).map_or_else(Standing::default, |e| self.standing(e, now));
        balance::choose(endpoints.len(), weight, standing, || self.draw())
    }

    /// A number that nobody can predict, without a system call.
    pub(crate) fn draw(&self) -> u64 {
        self.random.hash_one(self.draws.fetch_add(1, Ordering::Relaxed))
    }

    /// How many requests may be made again.
    pub(crate) const fn retries(&self) -> &RetryBudget {
        &self.retries
    }

    fn standing(&self, endpoint: &Endpoint, now: Instant) -> Standing {
        let destination = Destination { to: endpoint.id.clone(), address: endpoint.address.clone() };
        self.lock().get(&destination).map_or_else(Standing::default, |known| Standing {
            streams: known.streams.load(Ordering::Acquire),
            ejected: known.last().ejected_until.is_some_and(|until| now < until),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    /// Under the lock of all pools, so that none goes that somebody is about to use.
    fn new(known: &Arc<Known>) -> Self {
        known.streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(known))
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// It took a stream.
    pub(crate) fn works(&self) {
        let mut last = self.0.last();
        (last.failures, last.ejected_until) = (0, None);
    }

    /// It did not: others are preferred for a while, longer each time.
    pub(crate) fn failed(&self) {
        let mut last = self.0.last();
        let pause = FIRST_EJECTION.saturating_mul(1 << last.failures.min(10)).min(LONGEST_EJECTION);
        last.failures = last.failures.saturating_add(1);
        last.ejected_until = Some(Instant::now() + pause);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.last().used = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lets go of pools without hops that nobody has used for so long.
fn release_idle(known: &mut HashMap<Destination, Arc<Known>>, after: Duration) {
    known.retain(|_, known| {
        let used = known.streams.load(Ordering::Acquire) > 0 || !known.pool.is_empty();
        used || known.last().used.elapsed() < after
    });
}

/// Runs the pools.
#[derive(Debug)]
pub(crate) struct Nursery {
    pools: Weak<Pools>,
    new: mpsc::Receiver<Keeper>,
    ctx: Arc<Context>,
}

impl Nursery {
    /// Runs until nobody can ask for a pool any more and every pool has ended.
    pub(crate) async fn run(mut self) {
        let mut keepers = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                biased;
                new = self.new.recv() => match new {
                    Some(keeper) => drop(keepers.spawn(keeper.run())),
                    None => break,
                },
                Some(ended) = keepers.join_next() => self.reap(&ended),
                _ = sweep.tick() => if let Some(pools) = self.pools.upgrade() {
                    // Until then it is remembered who failed.
                    release_idle(&mut pools.lock(), LONGEST_EJECTION);
                },
            }
        }
        while let Some(ended) = keepers.join_next().await {
            self.reap(&ended);
        }
    }

    fn reap(&self, ended: &Result<(), tokio::task::JoinError>) {
        if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
            self.ctx.task_lost("pool");
        }
    }
}
