//! Time that stands still until a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_evidence::UnixTime;
use countersign_ratls::session::Moment;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;

/// When every test begins, seconds since the epoch.
pub const START: u64 = 1_800_000_000;
/// Seconds of a day.
pub const DAY: u64 = 86_400;

/// A clock that moves when it is told to. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    wall: AtomicU64,
    /// Never goes back, whoever sets the other one.
    monotonic: watch::Sender<Duration>,
}

impl Default for Clock {
    fn default() -> Self {
        let (wall, monotonic) = (AtomicU64::new(START), watch::Sender::new(Duration::ZERO));
        Self(Arc::new(Hands { wall, monotonic }))
    }
}

impl Clock {
    /// Seconds since the epoch.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.0.wall.load(Ordering::SeqCst)
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.seconds()))
    }

    /// Now, by both clocks.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { monotonic: *self.0.monotonic.borrow(), unix: self.seconds() }
    }

    /// Moves it on.
    pub fn advance(&self, seconds: u64) {
        self.0.wall.fetch_add(seconds, Ordering::SeqCst);
        self.0.monotonic.send_modify(|now| *now += Duration::from_secs(seconds));
    }

    /// Moves the wall clock back, as somebody who controls a machine's clock can.
    pub fn set_back(&self, seconds: u64) {
        self.0.wall.fetch_sub(seconds, Ordering::SeqCst);
    }

    /// For whatever asks for the time.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::new(self.clone())
    }

    /// For a proxy.
    #[must_use]
    pub fn of_a_proxy(&self) -> countersign_proxy::Clock {
        countersign_proxy::Clock::by_hand(self.provider(), self.0.monotonic.subscribe())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}
