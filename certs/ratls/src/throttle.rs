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

/// Between two lines about the same thing that goes on, seconds.
const AGAIN_EVERY: u64 = 10;
/// After so many seconds it is told in full once more: a log has an end.
const IN_FULL_EVERY: u64 = 600;

/// What to write of something that may be the same as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// All of it.
    InFull,
    /// That it went on.
    Again {
        /// How often since the last line.
        times: u64,
        /// The seconds since the last line.
        seconds: u64,
    },
    /// Nothing: the next line counts it.
    Nothing,
}

/// Tells a thing that happens again and again once in full, and then every ten
/// seconds how often it happened. Whoever is refused retries, and the same
/// explanation a hundred times hides every other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeats {
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    in_full: u64,
    last: u64,
    unsaid: u64,
}

impl Repeats {
    /// It happened at `now` (seconds since the epoch), the same as the last time or not.
    pub fn say(&mut self, same: bool, now: u64) -> Say {
        let known =
            self.told.as_mut().filter(|told| same && now < told.in_full.saturating_add(IN_FULL_EVERY));
        let Some(told) = known else {
            self.told = Some(Told { in_full: now, last: now, unsaid: 0 });
            return Say::InFull;
        };
        told.unsaid = told.unsaid.saturating_add(1);
        let seconds = now.saturating_sub(told.last);
        if seconds < AGAIN_EVERY {
            return Say::Nothing;
        }
        told.last = now;
        Say::Again { times: std::mem::take(&mut told.unsaid), seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_a_count_and_another_thing_is_told() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.say(false, 100), Say::InFull);
        assert!((100..110).all(|now| repeats.say(true, now) == Say::Nothing));
        assert_eq!(repeats.say(true, 112), Say::Again { times: 11, seconds: 12 });
        assert_eq!(repeats.say(true, 113), Say::Nothing);
        assert_eq!(repeats.say(false, 114), Say::InFull, "another");
        assert_eq!(repeats.say(true, 200), Say::Again { times: 1, seconds: 86 });
        // A clock that is set back says nothing for a while; a long time is told anew.
        assert_eq!(repeats.say(true, 50), Say::Nothing);
        assert_eq!(repeats.say(true, 714), Say::InFull);
    }

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
