//! When to renew: a scheduler without a clock.

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this second.
    WaitUntil(u64),
    /// Ask for a new identity now, then report with [`Rotation::renewed`] or [`Rotation::failed`].
    Renew,
}

/// The first and the longest pause after failures, in seconds.
const BACK_OFF: std::ops::RangeInclusive<u64> = 1..=60;

/// Renews at half life with jitter; backs off after failures; alarms early.
#[derive(Clone, Debug)]
pub struct Rotation {
    next: u64,
    /// Validity of the identity in use.
    validity: Option<(u64, u64)>,
    /// The pause after the next failure.
    back_off: u64,
}

impl Rotation {
    /// Without an identity yet: renews at once.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, validity: None, back_off: *BACK_OFF.start() }
    }

    /// What to do at `now` (seconds since the epoch).
    #[must_use]
    pub fn poll(&mut self, now: u64) -> Action {
        if now >= self.next { Action::Renew } else { Action::WaitUntil(self.next) }
    }

    /// A new identity is in use. `jitter` is a random number that spreads
    /// renewals over half life plus or minus a tenth of the lifetime.
    pub fn renewed(&mut self, not_before: u64, not_after: u64, jitter: u32) {
        let lifetime = not_after.saturating_sub(not_before);
        let early = lifetime / 2 - lifetime / 10;
        self.next = not_before.saturating_add(early).saturating_add(spread(lifetime / 5, jitter));
        self.validity = Some((not_before, not_after));
        self.back_off = *BACK_OFF.start();
    }

    /// The attempt failed. The pause doubles from 1 to 60 s, and `jitter`
    /// shortens it by up to a half; it never passes the expiry that is ahead.
    pub fn failed(&mut self, now: u64, jitter: u32) {
        let half = self.back_off / 2;
        let pause = self.back_off - half + spread(half, jitter);
        self.back_off = self.back_off.saturating_mul(2).min(*BACK_OFF.end());
        self.next = now.saturating_add(pause.max(1));
        if let Some((_, not_after)) = self.validity
            && now.saturating_add(1) < not_after
        {
            self.next = self.next.min(not_after - 1);
        }
    }

    /// Something else is wanted than what is in use: renews at `now`.
    pub fn expedite(&mut self, now: u64) {
        self.next = self.next.min(now);
    }

    /// Whether renewal has failed for so long that somebody should look: less
    /// than a quarter of the lifetime remains.
    #[must_use]
    pub fn alarm(&self, now: u64) -> bool {
        self.validity.is_some_and(|(not_before, not_after)| {
            let quarter = not_after.saturating_sub(not_before) / 4;
            not_after.saturating_sub(now) < quarter || now >= not_after
        })
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self::new()
    }
}

/// A share of `range`, from nothing to all of it.
fn spread(range: u64, jitter: u32) -> u64 {
    let share = u128::from(range) * u128::from(jitter) / u128::from(u32::MAX);
    u64::try_from(share).unwrap_or(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_identity_it_renews_at_once() {
        assert_eq!(Rotation::new().poll(0), Action::Renew);
        assert!(!Rotation::new().alarm(u64::MAX));
    }

    #[test]
    fn it_renews_at_half_life_give_or_take_a_tenth() {
        for (jitter, at) in [(0, 1400), (u32::MAX / 2, 1499), (u32::MAX, 1600)] {
            let mut rotation = Rotation::new();
            rotation.renewed(1000, 2000, jitter);
            assert_eq!(rotation.poll(at - 1), Action::WaitUntil(at));
            assert_eq!(rotation.poll(at), Action::Renew);
        }
    }

    #[test]
    fn it_renews_at_once_when_something_else_is_wanted_and_then_backs_off_as_always() {
        let mut rotation = Rotation::new();
        rotation.renewed(1000, 2000, 0);
        rotation.expedite(1100);
        assert_eq!(rotation.poll(1100), Action::Renew);
        rotation.failed(1100, u32::MAX);
        assert_eq!(rotation.poll(1100), Action::WaitUntil(1101));
        rotation.renewed(1101, 2101, 0);
        assert_eq!(rotation.poll(1101), Action::WaitUntil(1501));
    }

    #[test]
    fn pauses_double_to_a_minute_and_start_anew_after_success() {
        let mut rotation = Rotation::new();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            rotation.failed(100, u32::MAX);
            let Action::WaitUntil(next) = rotation.poll(100) else { panic!() };
            pauses.push(next - 100);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        rotation.failed(100, 0);
        assert_eq!(rotation.poll(100), Action::WaitUntil(130));
        rotation.renewed(100, 1100, 0);
        rotation.failed(600, u32::MAX);
        assert_eq!(rotation.poll(600), Action::WaitUntil(601));
    }

    #[test]
    fn the_last_attempt_comes_before_the_expiry() {
        let mut rotation = Rotation::new();
        rotation.renewed(0, 1000, 0);
        for _ in 0..10 {
            rotation.failed(980, u32::MAX);
        }
        assert_eq!(rotation.poll(980), Action::WaitUntil(999));
        rotation.failed(1000, u32::MAX);
        assert_eq!(rotation.poll(1000), Action::WaitUntil(1060));
    }

    #[test]
    fn it_alarms_when_less_than_a_quarter_remains() {
        let mut rotation = Rotation::new();
        rotation.renewed(0, 1000, 0);
        assert!(!rotation.alarm(750));
        assert!(rotation.alarm(751) && rotation.alarm(1000) && rotation.alarm(2000));
        rotation.renewed(700, 1700, 0);
        assert!(!rotation.alarm(751));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut rotation = Rotation::new();
        rotation.renewed(u64::MAX - 1, u64::MAX, u32::MAX);
        rotation.failed(u64::MAX - 1, u32::MAX);
        rotation.renewed(0, u64::MAX, u32::MAX);
        rotation.renewed(5, 0, u32::MAX);
        let _ = (rotation.poll(u64::MAX), rotation.alarm(u64::MAX));
    }
}
