//! The floor under a clock (3-attestation, A16): a time that is certainly over,
//! because it is in these sources or somebody who is trusted has signed at it.
//!
//! Whoever sets a machine's clock back makes what expired valid again. Verified
//! signatures say that it cannot be earlier than when they were made, and no
//! clock is believed that does. Only times that somebody else signed raise the
//! floor, never the clock itself: one that was ahead by mistake would be refused
//! for ever after it was put right.
//!
//! Vendors sign by their own clocks. The CA of a mesh signs by one that can be
//! wrong together with everybody's in it: what it says counts no further than time
//! went on by a clock that nobody sets. A fleet that was ahead for a while goes on
//! when it is put right.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::finding::{Finding, timestamp};
use crate::reason::Reason;

/// 2026-11-01: these sources are not older. It is a constant of the sources and
/// not the time of the build, so that the same sources make the same program;
/// each release raises it.
const RELEASED: u64 = 1_793_491_200;

/// How far behind a clock may be: what an honest one that is set by hand is off.
const LEEWAY: u64 = 300;

/// The newest time, in seconds since the epoch, that is known to be over.
#[derive(Debug)]
pub struct Floor {
    second: AtomicU64,
    /// What our CA signed first, and when that was on the monotonic clock.
    first: OnceLock<(u64, Duration)>,
}

impl Default for Floor {
    fn default() -> Self {
        Self { second: AtomicU64::new(RELEASED), first: OnceLock::new() }
    }
}

impl Floor {
    /// Somebody signed at this second, and the signature was verified at a time
    /// at which it was not in the future.
    pub fn raise(&self, signed: u64) {
        self.second.fetch_max(signed, Ordering::Relaxed);
    }

    /// The same for what our own CA signed, at `monotonic` by a clock that nobody
    /// sets. From its first word to this one no more time has passed than that
    /// clock says, and the leeway. Returns the second that counts.
    pub fn raise_by_authority(&self, signed: u64, monotonic: Duration) -> u64 {
        let (first, then) = *self.first.get_or_init(|| (signed, monotonic));
        let passed = monotonic.saturating_sub(then).as_secs();
        let counts = signed.min(first.saturating_add(passed).saturating_add(LEEWAY));
        self.raise(counts);
        counts
    }

    /// The second that no clock may be behind.
    #[must_use]
    pub fn second(&self) -> u64 {
        self.second.load(Ordering::Relaxed)
    }

    /// Whether a clock that says `now` can be believed.
    ///
    /// # Errors
    /// `clock-behind`, when it is more than five minutes behind.
    pub fn check(&self, now: u64) -> Result<(), Finding> {
        let floor = self.second();
        if now.saturating_add(LEEWAY) >= floor {
            return Ok(());
        }
        let expected = format!("{} or later, when something was signed that was verified", timestamp(floor));
        Err(Finding::new(Reason::ClockBehind, "this machine's clock", expected, timestamp(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_five_minutes_behind_what_was_signed_and_no_more() {
        let floor = Floor::default();
        assert!(floor.check(RELEASED - LEEWAY).is_ok() && floor.check(u64::MAX).is_ok());
        for behind in [0, RELEASED - LEEWAY - 1] {
            assert_eq!(floor.check(behind).unwrap_err().reason, Reason::ClockBehind);
        }
        floor.raise(RELEASED + 1000);
        assert!(floor.check(RELEASED + 700).is_ok());
        let finding = floor.check(RELEASED + 699).unwrap_err();
        assert_eq!(
            finding.to_string(),
            "clock-behind: this machine's clock is 2026-11-01T00:11:39Z, accepted: \
             2026-11-01T00:16:40Z or later, when something was signed that was verified"
        );
    }

    #[test]
    fn a_mesh_that_was_ahead_together_is_not_locked_out() {
        let (floor, start) = (Floor::default(), RELEASED + 1000);
        let after = Duration::from_secs;
        // What came first counts, whenever that is: there is nothing to compare it with.
        assert_eq!(floor.raise_by_authority(start, after(50)), start);
        assert_eq!(floor.raise_by_authority(start + 900, after(950)), start + 900);
        // The clocks of CA and proxies are a year ahead, for two renewals.
        let year = 365 * 86_400;
        for (second, passed) in [(start + year + 1800, 1800), (start + year + 2700, 2700)] {
            assert_eq!(floor.raise_by_authority(second, after(50 + passed)), start + passed + LEEWAY);
        }
        assert!(floor.check(start + 2800).is_ok(), "put right, all goes on");
        assert_eq!(floor.raise_by_authority(start + 3600, after(3650)), start + 3600);
        assert!(floor.check(start + 3600 - LEEWAY - 1).is_err(), "and nobody sets it back");
        // Vendors have clocks of their own.
        floor.raise(start + year);
        assert!(floor.check(start + 3700).is_err());
    }

    #[test]
    fn what_was_signed_before_lowers_nothing() {
        let floor = Floor::default();
        floor.raise(RELEASED + 1000);
        floor.raise(RELEASED);
        assert_eq!(floor.second(), RELEASED + 1000);
    }
}
