//! The one clock of the control plane, so that tests can simulate time.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::UnixTime;
use rustls::time_provider::TimeProvider;

/// What time it is, for everything that decides.
#[derive(Clone, Debug)]
pub struct Clock(Arc<dyn TimeProvider>);

impl Clock {
    /// By `provider`.
    #[must_use]
    pub fn new(provider: Arc<dyn TimeProvider>) -> Self {
        Self(provider)
    }

    /// Now. A clock that does not know the time says 1970, when nothing is valid yet.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.0.current_time().unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::ZERO))
    }

    /// Now, in seconds since the epoch.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.now().as_secs()
    }

    /// The provider, for TLS.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.0)
    }
}
