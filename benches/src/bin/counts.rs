//! One operation, once, for callgrind: `counts NAME`; without a name, the list.
//!
//! `scripts/bench` runs each of them with collection switched on inside
//! `counted_region` only, and compares the instructions with `limits.txt`.

use countersign_attester::Produced;
use countersign_benches::fixture::{Fixture, now};
use countersign_benches::hop::{Hop, Meter, Rounds};
use countersign_benches::peers::Peers;
use countersign_evidence::cache::Cache;
use countersign_ratls::peer::{Presented, Role};

/// Every operation that has a limit.
const NAMES: [&str; 10] = [
    "tdx-first-seen",
    "tdx-chain-cached",
    "sgx-chain-cached",
    "snp-vcek-cached",
    "peer-parse",
    "judge-fresh",
    "judge-cached",
    "handshake-cached",
    "gate-round0",
    "round",
];

/// What callgrind looks at.
#[inline(never)]
fn counted_region(operation: &mut dyn FnMut()) {
    operation();
}

/// Work that callgrind looks at.
struct Counted;

impl Meter for Counted {
    fn measure(&self, work: &mut dyn FnMut()) {
        counted_region(work);
    }
}

/// Work that it does not look at.
struct Idle;

impl Meter for Idle {
    fn measure(&self, work: &mut dyn FnMut()) {
        work();
    }
}

fn gate(peers: &Peers, rounds: Rounds, meter: &dyn Meter) -> Hop {
    let mut hop = Hop::new(peers, rounds, [meter; 2]);
    hop.open([meter; 2]);
    hop
}

/// Twice: lazy initialisation and caches belong to the first.
fn count(mut operation: impl FnMut()) {
    operation();
    counted_region(&mut operation);
}

fn main() -> anyhow::Result<()> {
    let Some(name) = std::env::args().nth(1) else {
        NAMES.iter().for_each(|name| println!("{name}"));
        return Ok(());
    };
    match name.as_str() {
        "tdx-first-seen" => {
            let fixture = Fixture::new()?;
            count(|| drop(fixture.verify(&fixture.tdx, Some(&Cache::new(4)))));
        }
        "tdx-chain-cached" => cached(|fixture| &fixture.tdx)?,
        "sgx-chain-cached" => cached(|fixture| &fixture.sgx)?,
        "snp-vcek-cached" => cached(|fixture| &fixture.snp)?,
        "peer-parse" => {
            let peers = Peers::new()?;
            count(|| drop(Presented::parse(peers.client_chain())));
        }
        "judge-fresh" => judge(|peers| peers.forgetful())?,
        "judge-cached" => judge(|peers| peers.guards())?,
        "handshake-cached" => {
            let peers = Peers::new()?;
            let ends = peers.ends(peers.guards());
            count(|| peers.handshake(&ends));
        }
        // Both sides, in both directions.
        "gate-round0" => {
            let peers = Peers::new()?;
            gate(&peers, Rounds::Mutual, &Idle);
            gate(&peers, Rounds::Mutual, &Counted);
        }
        // Both sides of one direction.
        "round" => {
            let mut hop = gate(&Peers::new()?, Rounds::OfTheClient, &Idle);
            hop.next_round([&Idle; 2]);
            hop.next_round([&Counted; 2]);
        }
        other => anyhow::bail!("no operation is called {other}"),
    }
    Ok(())
}

fn cached(evidence: impl Fn(&Fixture) -> &Produced) -> anyhow::Result<()> {
    let (fixture, cache) = (Fixture::new()?, Cache::new(16));
    count(|| drop(fixture.verify(evidence(&fixture), Some(&cache))));
    Ok(())
}

type Judges = [std::sync::Arc<dyn countersign_ratls::Judge>; 2];

fn judge(judges: impl Fn(&Peers) -> Judges) -> anyhow::Result<()> {
    let peers = Peers::new()?;
    let [_, server] = judges(&peers);
    count(|| {
        server.judge(peers.client_chain(), Role::Client, now()).expect("admitted");
    });
    Ok(())
}
