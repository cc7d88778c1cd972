//! When to renew: a scheduler without a clock.

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this second.
    WaitUntil(u64),
    /// Ask for a new identity now, then report with [`Rotation::renewed`] or [`Rotation::failed`].
    Renew,
}

/// Renews at half life with jitter; backs off after failures; alarms early.
#[derive(Clone, Debug)]
pub struct Rotation {
    next: u64,
}

impl Rotation {
    /// Without an identity yet: renews at once.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0 }
    }
    /// What to do at `now` (seconds since the epoch).
    #[must_use]
    pub fn poll(&mut self, now: u64) -> Action {
        let _ = (now, self.next);
        todo!()
    }
    /// A new identity is in use. `jitter` is a random number that spreads renewals.
    pub fn renewed(&mut self, not_before: u64, not_after: u64, jitter: u32) {
        let _ = (not_before, not_after, jitter);
        todo!()
    }
    /// The attempt failed.
    pub fn failed(&mut self, now: u64, jitter: u32) {
        let _ = (now, jitter);
        todo!()
    }
    /// Whether renewal has failed for so long that somebody should look.
    #[must_use]
    pub fn alarm(&self, now: u64) -> bool {
        let _ = now;
        todo!()
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self::new()
    }
}
