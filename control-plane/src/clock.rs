//! The one clock of the control plane, so that tests can simulate time.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Finding, Floor, UnixTime};
use rustls::time_provider::TimeProvider;

/// What time it is, for everything that decides.
#[derive(Clone, Debug)]
pub struct Clock {
    provider: Arc<dyn TimeProvider>,
    floor: Arc<Floor>,
}

impl Clock {
    /// By `provider`.
    #[must_use]
    pub fn new(provider: Arc<dyn TimeProvider>) -> Self {
        Self { provider, floor: Arc::default() }
    }

    /// Now. A clock that does not know the time says 1970, when nothing is valid yet.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.provider.current_time().unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::ZERO))
    }

    /// Now, in seconds since the epoch.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.now().as_secs()
    }

    /// A vendor signed at this second.
    pub(crate) fn signed(&self, second: u64) {
        self.floor.raise(second);
    }

    /// Whether it can be believed.
    ///
    /// # Errors
    /// `clock-behind`. Nobody is admitted and nothing is issued then.
    pub fn check(&self) -> Result<(), Finding> {
        self.floor.check(self.seconds())
    }

    /// The provider, for TLS.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.provider)
    }
}
