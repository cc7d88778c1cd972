//! After a failure to reach a destination nobody tries again for a moment, longer each
//! time: those who come meanwhile are told why.

use std::time::Duration;

use countersign_evidence::Denial;
use tokio::time::Instant;

/// After a failure, the first and the longest time without another attempt.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Whether to try again.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    last: Option<Failure>,
    failures: u32,
}

#[derive(Debug)]
struct Failure {
    denial: Denial,
    until: Instant,
    generation: u64,
}

impl Pause {
    /// Why nobody tries at `now`. Another configuration may see it with other eyes.
    pub(crate) fn refusal(&self, now: Instant, generation: u64) -> Option<Denial> {
        let pausing = self.last.as_ref().filter(|last| now < last.until && last.generation == generation);
        pausing.map(|last| last.denial.clone())
    }

    /// An attempt failed. Those that were under way at once are one.
    pub(crate) fn failed(&mut self, denial: Denial, now: Instant, generation: u64) {
        if self.refusal(now, generation).is_some() {
            return;
        }
        let pause = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.last = Some(Failure { denial, until: now + pause, generation });
    }

    /// An attempt succeeded.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::{Finding, Reason};

    #[test]
    fn pauses_get_longer_up_to_a_limit_and_end_with_a_success() {
        let denial: Denial = Finding::new(Reason::ConnectFailed, "", "", "").into();
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        assert_eq!(pause.refusal(now, 1), None);
        for length in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            pause.failed(denial.clone(), now, 1);
            // One that was begun before.
            pause.failed(denial.clone(), now, 1);
            let end = now + Duration::from_millis(length);
            assert!(pause.refusal(end - Duration::from_millis(1), 1).is_some(), "{length}");
            assert_eq!(pause.refusal(end - Duration::from_millis(1), 2), None, "{length}");
            assert_eq!(pause.refusal(end, 1), None, "{length}");
            now = end;
        }
        pause.end();
        pause.failed(denial, now, 1);
        assert_eq!(pause.refusal(now + FIRST, 1), None);
    }
}
