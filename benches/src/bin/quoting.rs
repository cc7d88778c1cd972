//! A server with 1,000 hops that re-attest every 30 s, the shortest interval
//! there is: how often its device is asked, and how long a new hop waits.
//!
//! Clock time with an emulated device that takes 40 ms or 1 s for a quote, as
//! devices do. `certs/quoting/tests/load.rs` holds the same in simulated time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use countersign_attester::emulated::{TdxSpec, Vendor};
use countersign_attester::{Attester, Error, Produced};
use countersign_evidence::claims::Tee;
use countersign_quoting::{Local, Options, Quoter, Stats, Urgency};
use countersign_ratls::binding::SessionCore;
use tokio::task::JoinSet;
use tokio::time::sleep;

const HOPS: u64 = 1000;
const PEERS: u64 = 50;
const INTERVAL: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(15);
/// New hops come one after the other, on average at this distance.
const NEWCOMER_EVERY: Duration = Duration::from_millis(150);

#[tokio::main]
async fn main() -> Result<()> {
    let vendor = Vendor::generate(countersign_benches::fixture::now(), Duration::from_secs(86_400))?;
    println!(
        "{HOPS} hops of {PEERS} peers, one round each in {} s\n{:<34} {:>7} {:>9} {:>9} {:>9} {:>16}",
        INTERVAL.as_secs(),
        "quoting time, new hops",
        "quotes",
        "a second",
        "most in 1",
        "batch",
        "late or refused"
    );
    let mut runs = JoinSet::new();
    for (order, (millis, newcomers)) in
        [(40, false), (1000, false), (40, true), (1000, true)].into_iter().enumerate()
    {
        let quoting_time = Duration::from_millis(millis);
        let spec = TdxSpec { quoting_latency: quoting_time, ..TdxSpec::default() };
        let device = Arc::new(Watched { device: vendor.tdx(spec)?, starts: Mutex::default() });
        runs.spawn(async move { (order, quoting_time, serve(device, newcomers).await) });
    }
    let mut runs = runs.join_all().await;
    runs.sort_by_key(|(order, ..)| *order);
    for (_, quoting_time, run) in &runs {
        run.quotes(*quoting_time);
    }
    println!(
        "\n{:<34} {:>7} {:>9} {:>9} {:>9}",
        "a new hop waits, in quoting times", "hops", "p50", "p99", "most"
    );
    for (_, quoting_time, run) in &runs {
        run.waits(*quoting_time);
    }
    Ok(())
}

/// What a run was like.
struct Run {
    stats: Stats,
    starts: Vec<Instant>,
    took: Duration,
    waits: Vec<Duration>,
}

impl Run {
    fn quotes(&self, quoting_time: Duration) {
        let newcomers =
            if self.waits.is_empty() { "none".to_owned() } else { format!("{}", self.waits.len()) };
        let within = |first: &Instant| {
            self.starts.iter().filter(|at| *at >= first && **at < *first + Duration::from_secs(1)).count()
        };
        let quotes = self.stats.batch_quotes;
        println!(
            "{:<34} {:>7} {:>9.2} {:>9} {:>9.1} {:>16}",
            format!("{quoting_time:?}, {newcomers}"),
            quotes,
            quotes as f64 / self.took.as_secs_f64(),
            self.starts.iter().map(within).max().unwrap_or(0),
            self.stats.sessions as f64 / quotes as f64,
            self.stats.late + self.stats.refused + self.stats.failures,
        );
    }

    fn waits(&self, quoting_time: Duration) {
        if self.waits.is_empty() {
            return;
        }
        let at = |percent: usize| {
            self.waits[(self.waits.len() - 1) * percent / 100].as_secs_f64() / quoting_time.as_secs_f64()
        };
        println!(
            "{:<34} {:>7} {:>9.2} {:>9.2} {:>9.2}",
            format!("{quoting_time:?}"),
            self.waits.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}

async fn serve(device: Arc<Watched>, newcomers: bool) -> Run {
    let (quoter, task) = Quoter::new(Arc::new(Local::new(Arc::clone(&device) as _)), Options::default());
    let task = tokio::spawn(task.run());
    let start = Instant::now();
    let mut hops: JoinSet<()> = (0..HOPS).map(|n| round(quoter.clone(), n)).collect();
    let mut waits = match newcomers {
        true => arrive(&quoter).await,
        false => Vec::new(),
    };
    while let Some(ended) = hops.join_next().await {
        ended.expect("a round");
    }
    waits.sort_unstable();
    let took = start.elapsed();
    task.abort();
    let starts = device.starts.lock().expect("no panic").clone();
    Run { stats: quoter.stats(), starts, took, waits }
}

/// A hop that is asked for evidence once in the interval.
async fn round(quoter: Quoter, n: u64) {
    sleep(INTERVAL.mul_f64(share(n))).await;
    let by = Instant::now() + DEADLINE;
    quoter.session(core(n), n % PEERS, Urgency::Round { by }).await.expect("a quote");
}

/// New hops for as long as the interval; how long each waited.
async fn arrive(quoter: &Quoter) -> Vec<Duration> {
    let (end, mut n) = (Instant::now() + INTERVAL, HOPS);
    let mut opening = JoinSet::new();
    while Instant::now() < end {
        n += 1;
        // Exponential, so that some come together.
        sleep(NEWCOMER_EVERY.mul_f64(-(1.0 - share(n)).ln())).await;
        let quoter = quoter.clone();
        opening.spawn(async move {
            let start = Instant::now();
            quoter.session(core(n), n, Urgency::NewHop).await.expect("a quote");
            start.elapsed()
        });
    }
    opening.join_all().await
}

fn core(n: u64) -> SessionCore {
    let mut bytes = [0x5e; 64];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    SessionCore::from_bytes(bytes)
}

/// From 0 to 1, the same in each run (SplitMix64).
fn share(n: u64) -> f64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A device, and when it was asked.
#[derive(Debug)]
struct Watched {
    device: Arc<dyn Attester>,
    starts: Mutex<Vec<Instant>>,
}

impl Attester for Watched {
    fn tee(&self) -> Tee {
        self.device.tee()
    }
    fn driver(&self) -> &'static str {
        self.device.driver()
    }
    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        self.starts.lock().expect("no panic").push(Instant::now());
        self.device.evidence(report_data)
    }
}
