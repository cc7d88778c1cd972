//! What the session protocol costs one side in CPU time, over TLS, beyond the
//! quotes: from the end of the handshake to the open gate, and in one round.

use std::time::Duration;

use countersign_benches::hop::{Hop, Rounds, Stopwatch};
use countersign_benches::peers::Peers;

/// How many hops.
const HOPS: usize = 400;

fn main() -> anyhow::Result<()> {
    let peers = Peers::new()?;
    let [near, far] = [Stopwatch::default(), Stopwatch::default()];
    let mut gates = [Vec::new(), Vec::new()];
    let mut rounds = [Vec::new(), Vec::new()];
    for at in 0..HOPS {
        let mut hop = Hop::new(&peers, Rounds::Mutual, [&near, &far]);
        hop.open([&near, &far]);
        note(&mut gates, at, [&near, &far]);
        let mut hop = Hop::new(&peers, Rounds::OfTheClient, [&near, &far]);
        hop.open([&near, &far]);
        near.take();
        far.take();
        hop.next_round([&near, &far]);
        note(&mut rounds, at, [&near, &far]);
    }
    println!(
        "{:<44} {:>8} {:>8} {:>8} {:>8}",
        "CPU time of one side, quotes excepted (us)", "least", "median", "p99", "target"
    );
    let [client, server] = gates;
    line("gate, round 0 both ways, client", client, "1000");
    line("gate, round 0 both ways, server", server, "1000");
    let [prover, verifier] = rounds;
    line("round, the one who proves himself", prover, "");
    line("round, the one who asked", verifier, "");
    Ok(())
}

/// The first hop warms up.
fn note(times: &mut [Vec<Duration>; 2], at: usize, watches: [&Stopwatch; 2]) {
    for (times, watch) in times.iter_mut().zip(watches) {
        let spent = watch.take();
        if at > 0 {
            times.push(spent);
        }
    }
}

fn line(what: &str, mut times: Vec<Duration>, target: &str) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    println!("{what:<44} {:>8.0} {:>8.0} {:>8.0} {target:>8}", at(0), at(50), at(99));
}
