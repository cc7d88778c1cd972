//! Ratios that survive a noisy machine: subject and floor in turn, thread CPU time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How many pairs of batches.
const PAIRS: usize = 31;
/// How long one batch should take.
const BATCH: Duration = Duration::from_millis(8);

/// CPU time of this thread so far.
#[must_use]
pub fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("nanoseconds fit"))
}

fn batch(n: u32, f: &mut dyn FnMut()) -> Duration {
    let start = cpu();
    for _ in 0..n {
        f();
    }
    (cpu() - start) / n
}

/// Calls for about one batch.
fn calibrate(f: &mut dyn FnMut()) -> u32 {
    f();
    let once = batch(3, f).max(Duration::from_nanos(50));
    u32::try_from(BATCH.as_nanos() / once.as_nanos()).expect("fits").clamp(3, 100_000)
}

/// One operation against its floor.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// The least CPU time of one floor operation.
    pub floor: Duration,
    /// The least CPU time of one subject operation.
    pub subject: Duration,
    /// The median over pairs of subject / floor.
    pub median: f64,
}

/// Measures `subject` against `floor`, in turn.
pub fn compare(mut floor: impl FnMut(), mut subject: impl FnMut()) -> Ratio {
    let floor_calls = calibrate(&mut floor);
    let subject_calls = calibrate(&mut subject);
    let mut ratios = Vec::with_capacity(PAIRS);
    let (mut floor_min, mut subject_min) = (Duration::MAX, Duration::MAX);
    for _ in 0..PAIRS {
        let f = batch(floor_calls, &mut floor);
        let s = batch(subject_calls, &mut subject);
        floor_min = floor_min.min(f);
        subject_min = subject_min.min(s);
        ratios.push(s.as_secs_f64() / f.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    Ratio { floor: floor_min, subject: subject_min, median: ratios[PAIRS / 2] }
}

/// The least CPU time of one operation.
pub fn alone(mut subject: impl FnMut()) -> Duration {
    let calls = calibrate(&mut subject);
    (0..PAIRS).map(|_| batch(calls, &mut subject)).min().expect("at least one batch")
}

/// Prints the heading of a table of ratios.
pub fn heading() {
    println!("{:<44} {:>10} {:>10} {:>7} {:>7}", "operation", "floor us", "ours us", "ratio", "target");
}

/// Prints one line of it.
pub fn line(what: &str, ratio: &Ratio, target: f64) {
    println!(
        "{:<44} {:>10.1} {:>10.1} {:>7.2} {:>7.2}",
        what,
        ratio.floor.as_secs_f64() * 1e6,
        ratio.subject.as_secs_f64() * 1e6,
        ratio.median,
        target
    );
}
