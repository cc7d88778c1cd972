//! What the queue and the device did, as numbers for metrics.

use std::time::Duration;

/// The upper bounds of the batch sizes that are counted apart.
pub const BATCH_BUCKETS: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// How the device does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It was not asked yet.
    #[default]
    Untried,
    /// The last quote succeeded.
    Good,
    /// The last quote failed.
    Failing(String),
    /// It has not answered for so long that nobody waits for it any more. It is
    /// asked again when it does answer.
    Hung,
}

impl Health {
    /// Whether quotes can be expected.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Untried | Self::Good)
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untried => f.write_str("not asked yet"),
            Self::Good => f.write_str("quotes"),
            Self::Failing(why) => write!(f, "failed: {why}"),
            Self::Hung => f.write_str("does not answer"),
        }
    }
}

/// Counters since the start, and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Quotes made for one key, or for one asker alone.
    pub solo_quotes: u64,
    /// Quotes made for sessions.
    pub batch_quotes: u64,
    /// Sessions that these were for.
    pub sessions: u64,
    /// How many batches were at most as large as the bucket of [`BATCH_BUCKETS`]
    /// and larger than the one before it.
    pub batch_sizes: [u64; BATCH_BUCKETS.len()],
    /// Quotes that failed.
    pub failures: u64,
    /// Times that the device hung.
    pub hangs: u64,
    /// Requests that were refused because the queue was full or the device hung.
    pub refused: u64,
    /// Requests whose deadline passed while they waited.
    pub late: u64,
    /// Requests that were withdrawn while they waited.
    pub withdrawn: u64,
    /// How long the last quote took that succeeded.
    pub last_quoting_time: Option<Duration>,
    /// How many requests wait.
    pub waiting: usize,
    /// For how long the oldest of them has waited.
    pub oldest_wait: Duration,
    /// How the device does.
    pub health: Health,
}

impl Stats {
    pub(crate) fn batch(&mut self, size: usize) {
        self.batch_quotes += 1;
        self.sessions += size as u64;
        let bucket = BATCH_BUCKETS.iter().position(|most| size <= *most);
        if let Some(count) = bucket.and_then(|bucket| self.batch_sizes.get_mut(bucket)) {
            *count += 1;
        }
    }
}
