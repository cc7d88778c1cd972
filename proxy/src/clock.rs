//! The one clock of a proxy, so that tests can simulate time.
//!
//! It tells two times. Certificates end by the wall clock; timers run on the
//! monotonic one, which nobody can set back to let a verdict live longer (A16).

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Denial, Floor, UnixTime};
use countersign_ratls::session::Moment;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;
use tokio::time::Instant;

/// What time it is, for everything that decides.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: Arc<dyn TimeProvider>,
    monotonic: Monotonic,
    floor: Arc<Floor>,
}

#[derive(Clone, Debug)]
enum Monotonic {
    /// The machine's, since this moment.
    Since(Instant),
    /// Somebody's who moves it by hand.
    Hand(watch::Receiver<Duration>),
}

impl Clock {
    /// Wall time by `provider`, and the machine's monotonic clock.
    #[must_use]
    pub fn new(provider: Arc<dyn TimeProvider>) -> Self {
        Self { wall: provider, monotonic: Monotonic::Since(Instant::now()), floor: Arc::default() }
    }

    /// Wall time by `provider`, and a monotonic clock that moves by hand.
    #[must_use]
    pub fn by_hand(provider: Arc<dyn TimeProvider>, hand: watch::Receiver<Duration>) -> Self {
        Self { wall: provider, monotonic: Monotonic::Hand(hand), floor: Arc::default() }
    }

    /// Now. A clock that does not know the time says 1970, when nothing is valid yet.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.wall.current_time().unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::ZERO))
    }

    /// Now, in seconds since the epoch.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.now().as_secs()
    }

    /// What the wall clock may not be behind.
    pub(crate) fn floor(&self) -> &Floor {
        &self.floor
    }

    /// Whether the wall clock can be believed.
    ///
    /// # Errors
    /// `clock-behind`. Nothing that depends on the time may be decided then.
    pub fn check(&self) -> Result<(), Denial> {
        Ok(self.floor.check(self.seconds())?)
    }

    /// Now, since a fixed point that has no meaning; it never goes back.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.monotonic {
            Monotonic::Since(start) => start.elapsed(),
            Monotonic::Hand(hand) => *hand.borrow(),
        }
    }

    /// Now, by both clocks.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { monotonic: self.monotonic(), unix: self.seconds() }
    }

    /// Resolves at `time` on the monotonic clock.
    pub async fn until(&self, time: Duration) {
        match &self.monotonic {
            Monotonic::Since(start) => match start.checked_add(time) {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            },
            Monotonic::Hand(hand) => {
                let mut hand = hand.clone();
                if hand.wait_for(|now| *now >= time).await.is_err() {
                    // Nobody moves it any more.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// The provider, for TLS.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TimeProvider> {
        Arc::clone(&self.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::time_provider::DefaultTimeProvider;

    #[tokio::test]
    async fn who_waits_for_a_time_is_woken_when_the_hand_moves_past_it() {
        let hand = watch::Sender::new(Duration::from_secs(5));
        let clock = Clock::by_hand(Arc::new(DefaultTimeProvider), hand.subscribe());
        clock.until(Duration::from_secs(5)).await;
        let waiting = tokio::spawn(async move { clock.until(Duration::from_secs(60)).await });
        tokio::task::yield_now().await;
        hand.send_replace(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hand.send_replace(Duration::from_secs(61));
        waiting.await.unwrap();
    }
}
