//! Time that stands still until a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_evidence::UnixTime;
use rustls::time_provider::TimeProvider;

/// When every test begins, seconds since the epoch.
pub const START: u64 = 1_800_000_000;
/// Seconds of a day.
pub const DAY: u64 = 86_400;

/// A clock that moves when it is told to. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock(Arc<AtomicU64>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(START)))
    }
}

impl Clock {
    /// Seconds since the epoch.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(self.seconds()))
    }

    /// Moves it on.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Moves it back, as somebody who controls a machine's clock can.
    pub fn set_back(&self, seconds: u64) {
        self.0.fetch_sub(seconds, Ordering::SeqCst);
    }

    /// For whatever asks for the time.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::new(self.clone())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}
