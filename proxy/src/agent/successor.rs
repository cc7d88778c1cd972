//! The connection that follows the one in use. What a connection rests on (our
//! certificate, the control plane's) ends while both sides have newer ones: it is
//! replaced before that, at a moment of our own choosing, and the one in use goes
//! on until the next is there.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use countersign_evidence::Denial;
use countersign_ratls::session::Moment;

use super::control::Connected;

/// Attempts are not closer than this.
const LEAST: Duration = Duration::from_secs(1);

/// A connection in the making.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Connected, Denial>> + Send>>;

/// The next connection, if it is time for one.
pub(super) struct Successor {
    /// When to begin, on the monotonic clock.
    at: Duration,
    connecting: Option<Connecting>,
}

impl Successor {
    /// For a connection that may be used until `until`.
    pub(super) fn new(now: Moment, until: u64, jitter: u32) -> Self {
        Self { at: due(now, until, jitter), connecting: None }
    }

    /// When to begin with the next connection, if that is not done yet.
    pub(super) fn due(&self) -> Option<Duration> {
        self.connecting.is_none().then_some(self.at)
    }

    /// Begins. Without anybody to connect as, it is time again in a while.
    pub(super) fn begin(&mut self, connecting: Option<Connecting>, now: Moment, until: u64) {
        self.at = due(now, until, 0);
        self.connecting = connecting;
    }

    /// The next connection, or why there is none. Waits for ever while none is begun.
    pub(super) async fn connected(&mut self) -> Result<Connected, Denial> {
        let Some(connecting) = &mut self.connecting else { return pending().await };
        let connected = connecting.await;
        self.connecting = None;
        connected
    }

    /// What came is no better, or nothing came: once more, later.
    pub(super) fn later(&mut self, now: Moment, until: u64, jitter: u32) {
        self.at = due(now, until, jitter);
    }
}

/// After 3/4 to 7/8 of the time that is left: certificates are renewed at half
/// of theirs, and proxies do not come in step.
fn due(now: Moment, until: u64, jitter: u32) -> Duration {
    let left = Duration::from_secs(until.saturating_sub(now.unix));
    let share = left / 8 * (jitter >> 16) / (1 << 16);
    now.monotonic.saturating_add((left / 4 * 3 + share).max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::{Finding, Reason};

    fn at(seconds: u64) -> Moment {
        Moment { monotonic: Duration::from_secs(seconds), unix: 1_800_000_000 + seconds }
    }

    #[test]
    fn the_next_connection_is_begun_well_before_the_end_and_not_by_all_at_once() {
        let until = 1_800_000_800;
        let due = |now, jitter| due(at(now), until, jitter).as_secs_f64();
        assert_eq!(due(0, 0), 600.0);
        assert!((699.0..700.0).contains(&due(0, u32::MAX)), "{}", due(0, u32::MAX));
        // However often nothing comes, the last attempts are a second apart.
        assert_eq!((due(799, 0), due(900, u32::MAX)), (800.0, 901.0));
    }

    #[tokio::test]
    async fn it_is_begun_once_and_again_later_when_nothing_comes() {
        let until = 1_800_000_800;
        let mut successor = Successor::new(at(0), until, 0);
        assert_eq!(successor.due(), Some(Duration::from_secs(600)));
        let fails = Box::pin(async { Err(Finding::new(Reason::ConnectFailed, "", "", "").into()) });
        successor.begin(Some(fails), at(600), until);
        assert_eq!(successor.due(), None);
        assert!(successor.connected().await.is_err());
        successor.later(at(601), until, 0);
        assert_eq!(successor.due(), Some(Duration::from_millis(750_250)));
        // Nobody to connect as.
        successor.begin(None, at(750), until);
        assert!(successor.due() > Some(Duration::from_secs(750)));
    }
}
