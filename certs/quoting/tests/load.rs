//! A server with a thousand hops, in simulated time: how often its device is
//! asked, and how long a new hop waits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

mod support;

use std::time::Duration;

use countersign_quoting::{Quoter, Stats, Urgency};
use support::{Device, check, core, quoter};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

const HOPS: u32 = 1000;
/// The shortest interval that a policy can ask for: the most work.
const INTERVAL: Duration = Duration::from_secs(30);
const ROUNDS: u32 = 4;
/// What a challenge allows by default.
const DEADLINE: Duration = Duration::from_secs(15);

/// Numbers that look random and are the same in each run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A hop that is asked for evidence at each interval, give or take a fifth.
async fn hop(quoter: Quoter, n: u32) {
    let mut dice = Dice(u64::from(n));
    sleep(INTERVAL.mul_f64(dice.share())).await;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let by = (started + DEADLINE).into_std();
        let quoted = quoter.session(core(n), u64::from(n % 50), Urgency::Round { by }).await.unwrap();
        check(&core(n), &quoted);
        assert!(started.elapsed() < DEADLINE);
        sleep(INTERVAL.mul_f64(0.8 + 0.4 * dice.share())).await;
    }
}

/// Hops that open, one after the other; how long each waited.
async fn newcomers(quoter: Quoter, every: Duration) -> Vec<Duration> {
    let mut dice = Dice(0x0c0f_fee0);
    let mut opening = JoinSet::new();
    let mut at = Instant::now();
    let end = at + INTERVAL * (ROUNDS - 1);
    let mut n = HOPS;
    while at < end {
        // Exponential, so that some come together.
        at += every.mul_f64(-(1.0 - dice.share()).ln());
        sleep_until(at).await;
        n += 1;
        let (quoter, n) = (quoter.clone(), n);
        opening.spawn(async move {
            let started = Instant::now();
            let quoted = quoter.session(core(n), u64::from(n), Urgency::NewHop).await.unwrap();
            check(&core(n), &quoted);
            started.elapsed()
        });
    }
    let mut waits = opening.join_all().await;
    waits.sort_unstable();
    waits
}

/// The most quotes that started within any second.
fn busiest_second(device: &Device) -> usize {
    let starts: Vec<Instant> = device.made().iter().map(|made| made.at).collect();
    let within = |first: &Instant| {
        starts.iter().filter(|at| *at >= first && **at < *first + Duration::from_secs(1)).count()
    };
    starts.iter().map(within).max().unwrap_or(0)
}

async fn serve(quoting_time: Duration, newcomer_every: Option<Duration>) -> (Stats, usize, Vec<Duration>) {
    let device = Device::new(quoting_time);
    let quoter = quoter(&device);
    let mut hops: JoinSet<()> = (0..HOPS).map(|n| hop(quoter.clone(), n)).collect();
    let waits = match newcomer_every {
        Some(every) => newcomers(quoter.clone(), every).await,
        None => Vec::new(),
    };
    while let Some(ended) = hops.join_next().await {
        ended.unwrap();
    }
    (quoter.stats(), busiest_second(&device), waits)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_hops_re_attest_in_each_interval_with_two_quotes_a_second() {
    for quoting_time in [Duration::from_millis(40), Duration::from_secs(1)] {
        let (stats, busiest, _) = serve(quoting_time, None).await;
        assert_eq!(stats.sessions, u64::from(HOPS * ROUNDS));
        assert_eq!((stats.late, stats.refused, stats.failures), (0, 0, 0));
        assert!(busiest <= 2, "{busiest} quotes in a second of {quoting_time:?} each");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_hop_waits_less_than_two_quoting_times_beside_them() {
    for quoting_time in [Duration::from_millis(40), Duration::from_secs(1)] {
        for every in [Duration::from_secs(5), Duration::from_secs(1), Duration::from_millis(50)] {
            let (stats, _, waits) = serve(quoting_time, Some(every)).await;
            assert_eq!((stats.late, stats.refused, stats.failures), (0, 0, 0));
            let p99 = waits[waits.len() * 99 / 100];
            assert!(p99 < 2 * quoting_time, "{p99:?} of {} at {quoting_time:?}, {every:?}", waits.len());
        }
    }
}
