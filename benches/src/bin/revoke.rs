//! How long it takes until a change has ended every live hop that it affects,
//! with many hops on one server.
//!
//! Clock time from the installation of the new view, which is when a proxy has
//! verified and compiled what its control plane sent. Logs are written, to
//! nowhere.

use std::time::Instant;

use anyhow::{Context as _, Result};
use countersign_benches::revoke::{Change, Mesh, Size};

fn main() -> Result<()> {
    let hops = match std::env::args().nth(1) {
        Some(number) => number.parse().context("a number of hops")?,
        None => 10_000,
    };
    let size = Size { hops, few: 10.min(hops) };
    tracing_subscriber::fmt().with_writer(std::io::sink).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(size))
}

async fn measure(size: Size) -> Result<()> {
    let start = Instant::now();
    let mut mesh = Mesh::open(size).await?;
    println!("{} hops opened in {:.0} s", size.hops, start.elapsed().as_secs_f64());
    println!("{:<44} {:>8} {:>12} {:>12}", "change", "cut", "judged ms", "cut seen ms");
    for (name, change, cut) in [
        ("a policy of another namespace", Change::Elsewhere, 0),
        ("the release of ten peers", Change::Few, size.few),
        ("a CRL that names another machine", Change::RevocationList, 0),
        ("the release of all peers", Change::All, size.hops - size.few),
    ] {
        let enforced = mesh.enforce(change, cut).await?;
        println!(
            "{name:<44} {:>8} {:>12.2} {:>12.2}",
            enforced.cut,
            enforced.judged.as_secs_f64() * 1e3,
            enforced.observed.as_secs_f64() * 1e3
        );
    }
    Ok(())
}
