//! The one clock of a proxy, so that tests can simulate time.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;

/// The longest that nobody looks at the time: a machine that slept, or whose
/// time was corrected, is noticed that soon.
const GLANCE: Duration = Duration::from_secs(10);

/// What time it is, for everything that decides.
#[derive(Clone, Debug)]
pub struct Clock {
    provider: Arc<dyn TimeProvider>,
    moved: Option<watch::Receiver<u64>>,
}

impl Clock {
    /// By `provider`.
    #[must_use]
    pub fn new(provider: Arc<dyn TimeProvider>) -> Self {
        Self { provider, moved: None }
    }

    /// By `provider`, whose time jumps when `moved` changes: whoever waits for a
    /// time looks again then.
    #[must_use]
    pub fn by_hand(provider: Arc<dyn TimeProvider>, moved: watch::Receiver<u64>) -> Self {
        Self { provider, moved: Some(moved) }
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

    /// Resolves at `second` (since the epoch), or up to a second later.
    pub async fn until(&self, second: u64) {
        let mut moved = self.moved.clone();
        loop {
            if let Some(moved) = &mut moved {
                // Before the look at the time: a jump in between is not missed.
                moved.mark_unchanged();
            }
            let left = Duration::from_secs(second.saturating_sub(self.seconds()));
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(GLANCE)) => {}
                () = jump(moved.as_mut()) => {}
            }
        }
    }

    /// The provider, for TLS.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.provider)
    }
}

async fn jump(moved: Option<&mut watch::Receiver<u64>>) {
    match moved {
        Some(moved) if moved.changed().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Hand(watch::Sender<u64>);

    impl TimeProvider for Hand {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(*self.0.borrow())))
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_time_is_woken_when_the_hand_moves_past_it() {
        let hand = Arc::new(Hand(watch::Sender::new(1000)));
        let clock = Clock::by_hand(Arc::clone(&hand) as _, hand.0.subscribe());
        clock.until(1000).await;
        let waiting = tokio::spawn(async move { clock.until(1_000_000).await });
        tokio::task::yield_now().await;
        hand.0.send_replace(999_999);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hand.0.send_replace(1_000_001);
        waiting.await.unwrap();
    }
}
