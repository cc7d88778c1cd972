//! Log lines that strangers can cause: so many in a second, and a count of the
//! rest. Metrics count everything; a log that anybody can fill hides the attack
//! that it should show.

use std::sync::{Mutex, PoisonError};

/// Lines in one second.
const LINES: u32 = 20;

/// Lets at most 20 lines of a kind pass in a second.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    second: u64,
    written: u32,
    suppressed: u64,
}

/// Leave to write one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many lines were not written since the last one that was, if any.
    pub suppressed: Option<u64>,
}

impl Throttle {
    /// Whether a line may be written at `now` (seconds since the epoch).
    pub fn line(&self, now: u64) -> Option<Line> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.second != now {
            window.second = now;
            window.written = 0;
        }
        if window.written == LINES {
            window.suppressed = window.suppressed.saturating_add(1);
            return None;
        }
        window.written += 1;
        let suppressed = std::mem::take(&mut window.suppressed);
        Some(Line { suppressed: (suppressed > 0).then_some(suppressed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_limit_and_the_next_line_says_how_much_is_missing() {
        let throttle = Throttle::default();
        let written = (0..1000).filter_map(|_| throttle.line(7)).collect::<Vec<_>>();
        assert_eq!(written.len(), 20);
        assert!(written.iter().all(|line| line.suppressed.is_none()));
        assert_eq!(throttle.line(8), Some(Line { suppressed: Some(980) }));
        assert_eq!(throttle.line(8), Some(Line { suppressed: None }));
        // A clock that is set back opens a new second, no more.
        assert_eq!((0..1000).filter_map(|_| throttle.line(7)).count(), 20);
    }
}
