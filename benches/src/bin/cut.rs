//! From `countersign apply` to the live hop cut, with two real proxies: starts
//! the demonstration, then withdraws and approves the ledger's release in turn.
//!
//! Clock time, since this is what an operator waits for: from starting the CLI
//! to the end of a connection that a workload holds. Also prints what the idle
//! sidecars hold in memory.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use countersign_benches::demo::Demo;

/// How many times the hop is cut.
const ROUNDS: usize = 100;

fn main() -> Result<()> {
    let demo = Demo::start("cut")?;
    withdraw(&demo)?;
    for line in demo.memory()? {
        println!("{line}");
    }
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let mut connection = demo.connection()?;
        let start = Instant::now();
        demo.apply("withdrawn.yaml")?;
        wait_for_the_end(&mut connection)?;
        times.push(start.elapsed());
        demo.apply("ledger-releases.yaml")?;
    }
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "apply to cut over {ROUNDS} rounds: p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms",
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

/// Writes what is approved without the release that runs.
fn withdraw(demo: &Demo) -> Result<()> {
    let releases = demo.read("ledger-releases.yaml")?;
    let (head, rest) = releases.split_once("    - name: ledger v1.4.2").context("the release that runs")?;
    let (_, other) = rest.split_once("    - name:").context("another release")?;
    demo.write("withdrawn.yaml", &format!("{head}    - name:{other}"))
}

fn wait_for_the_end(connection: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => bail!("not cut within 5 s"),
            Err(_) => return Ok(()),
        }
    }
}
