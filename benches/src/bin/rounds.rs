//! What a request notices of 1,000 hops beside it that prove themselves again
//! every 30 s, and what the session protocol holds in memory for a hop. Real
//! processes: three pairs of proxies, of which one has the hops.
//!
//! The pairs are asked in turn, one request each, so that the machine is the same
//! to all of them. Two of them are alike: their ratio says what this run can tell.
//! Everything is on the loopback interface, and over in three minutes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use countersign_benches::demo::{Demo, Process, field, free_address};

/// The hops beside.
const HOPS: usize = 1000;
/// The shortest interval that a policy may want.
const INTERVAL: u64 = 30;
/// How long it is measured: without hops, and when the rounds are under way.
const BEFORE: Duration = Duration::from_secs(15);
const WITH: Duration = Duration::from_secs(60);
/// The ratio of percentiles is that of blocks so long.
const BLOCK: Duration = Duration::from_secs(3);
/// Of so many requests one is on a new connection.
const NEW_ONE: usize = 8;

fn main() -> Result<()> {
    let workload = workload()?;
    let demo = Demo::start("rounds")?;
    let mesh = demo.read("mesh.yaml")?;
    let port = format!("ports: [{}", field(&mesh, "ports: [")?.trim_end_matches(']'));
    let mesh = mesh.replace(&port, &format!("{port}, {}", workload.port()));

    // What a hop holds without a session: TLS and HTTP/2.
    demo.write("l1.yaml", &mesh.replace("  peers:", "  level: L1\n  peers:"))?;
    demo.apply("l1.yaml")?;
    let plain = Pair::start(&demo, "plain", workload)?.memory()?;

    let continuous = format!("  continuous: {{ interval: {INTERVAL}s }}\n  peers:");
    demo.write("l2.yaml", &mesh.replace("  peers:", &continuous))?;
    demo.apply("l2.yaml")?;
    let busy = Pair::start(&demo, "busy", workload)?;
    let pairs = [&busy, &Pair::start(&demo, "idle", workload)?, &Pair::start(&demo, "same", workload)?];

    println!(
        "{:<40} {:>10} {:>9} {:>9} {:>9} {:>12} {:>12}",
        "requests in turn, us; ratios to the idle", "requests", "p50", "p99", "p50", "p99", "p99 alike"
    );
    Measurement::take(pairs, BEFORE)?.print("no hops beside");
    let (empty, opening) = (busy.resident()?, Instant::now());
    let _hops = busy.hops()?;
    let (opened, took) = (busy.resident()?, opening.elapsed());
    // The first rounds begin after four fifths of the interval.
    std::thread::sleep(Duration::from_secs(INTERVAL * 4 / 5).saturating_sub(took / 2));
    let (cpu, rounds) = (pairs.map(Pair::cpu), busy.rounds()?);
    let measured = Measurement::take(pairs, WITH)?;
    let rounds = [0, 1].map(|at| busy.rounds().map(|now| now[at] - rounds[at]));
    let spent = pairs.iter().zip(cpu).map(|(pair, before)| Ok((pair.cpu()? - before?).as_secs_f64()));
    let spent: Vec<f64> = spent.collect::<Result<_>>()?;
    measured.print(&format!("{HOPS} hops, a round in {INTERVAL} s each way"));

    let [by_client, by_server] = rounds;
    println!(
        "\n{HOPS} hops opened in {:.1} s. In {} s of requests the client's proxy accepted {} rounds, the server's {}.",
        took.as_secs_f64(),
        WITH.as_secs(),
        by_client?,
        by_server?
    );
    println!(
        "CPU time of the three pairs meanwhile: busy {:.2} s, idle {:.2} s, another idle {:.2} s.",
        spent[0], spent[1], spent[2]
    );
    println!(
        "\n{:<40} {:>12} {:>12} {:>14} {:>8}",
        "resident memory of one hop, bytes", "plain h2", "attested", "after rounds", "target"
    );
    let after = busy.resident()?;
    for (at, who) in ["client's proxy", "server's proxy"].into_iter().enumerate() {
        let one = |bytes: u64| bytes.saturating_sub(empty[at]) / HOPS as u64;
        println!(
            "{who:<40} {:>12} {:>12} {:>14} {:>8}",
            plain[at],
            one(opened[at]),
            one(after[at]),
            plain[at] + (8 << 10)
        );
    }
    Ok(())
}

/// A workload that says what it hears.
fn workload() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    listener.set_nonblocking(true)?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            loop {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                socket.set_nodelay(true).expect("an option");
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
    });
    Ok(address)
}

/// Two proxies, and a connection through both.
struct Pair {
    client: Process,
    server: Process,
    entrance: String,
}

impl Pair {
    fn start(demo: &Demo, name: &str, workload: SocketAddr) -> Result<Self> {
        let (inbound, entrance) = (free_address()?, free_address()?);
        let ledger = format!("ledger-{name}");
        let original = demo.read("ledger-proxy.yaml")?;
        let original = original
            .replace(&field(&original, "listen: ")?, &inbound.to_string())
            .replace(&field(&original, "ports: ")?, &format!("[{}]", workload.port()));
        demo.write(&format!("{ledger}.yaml"), &own(&original, "ledger", &ledger)?)?;
        let audit = format!("audit-{name}");
        let original = demo.read("audit-proxy.yaml")?;
        // In `outbound` the address is that of the ledger's proxy.
        let (head, outbound) = original.split_once("  outbound:").context("outbound")?;
        let outbound = outbound
            .replace(&field(outbound, "listen: ")?, &entrance.to_string())
            .replace(&field(outbound, "address: ")?, &inbound.to_string())
            .replace(&field(outbound, "port: ")?, &workload.port().to_string());
        // Each connection has a hop of its own.
        let limits = format!("  limits: {{ streamsPerHop: 1, hops: {} }}\n", HOPS + 100);
        let original = format!("{head}  outbound:{outbound}{limits}");
        demo.write(&format!("{audit}.yaml"), &own(&original, "audit", &audit)?)?;
        let (server, client) = (demo.proxy(&ledger)?, demo.proxy(&audit)?);
        let pair = Self { client, server, entrance: entrance.to_string() };
        pair.connect()?;
        Ok(pair)
    }

    /// A new connection, through which something has passed.
    fn connect(&self) -> Result<TcpStream> {
        let mut connection = TcpStream::connect(&self.entrance)?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        ask(&mut connection)?;
        Ok(connection)
    }

    /// Connections with a hop each.
    fn hops(&self) -> Result<Vec<TcpStream>> {
        (0..HOPS).map(|_| self.connect()).collect()
    }

    /// What one hop more holds in each proxy.
    fn memory(&self) -> Result<[u64; 2]> {
        let before = self.resident()?;
        let hops = self.hops()?;
        let after = self.resident()?;
        drop(hops);
        Ok([0, 1].map(|at| after[at].saturating_sub(before[at]) / HOPS as u64))
    }

    fn resident(&self) -> Result<[u64; 2]> {
        Ok([self.client.resident()?, self.server.resident()?])
    }

    fn cpu(&self) -> Result<Duration> {
        Ok(self.client.cpu()? + self.server.cpu()?)
    }

    /// Rounds that each proxy has accepted.
    fn rounds(&self) -> Result<[f64; 2]> {
        let accepted =
            |process: &Process| process.metric("mesh_attestation_rounds_total", "result=\"accept\"");
        Ok([accepted(&self.client)?, accepted(&self.server)?])
    }
}

/// A bootstrap under another name, with addresses of its own.
fn own(bootstrap: &str, name: &str, new: &str) -> Result<String> {
    let mut own = bootstrap
        .replace(&format!("name: {name}\n"), &format!("name: {new}\n"))
        .replace(&format!("stateDir: {name}-proxy"), &format!("stateDir: {new}-proxy"));
    for listener in ["admin: ", "metrics: ", "readiness: "] {
        own = own.replace(&field(&own, listener)?, &free_address()?.to_string());
    }
    Ok(own)
}

/// One request and its answer.
fn ask(connection: &mut TcpStream) -> Result<Duration> {
    let (request, mut answer) = ([b'?'; 128], [0; 128]);
    let start = Instant::now();
    connection.write_all(&request)?;
    connection.read_exact(&mut answer)?;
    Ok(start.elapsed())
}

/// Latencies of requests on an open connection, and of those with a connection
/// of their own: busy, idle, and another that is idle.
#[derive(Default)]
struct Samples([[Vec<Duration>; 3]; 2]);

/// Blocks of samples.
struct Measurement(Vec<Samples>);

impl Measurement {
    fn take(pairs: [&Pair; 3], time: Duration) -> Result<Self> {
        let mut connections = Vec::new();
        for pair in pairs {
            connections.push(pair.connect()?);
        }
        let (end, mut blocks, mut turn) = (Instant::now() + time, Vec::new(), 0);
        while Instant::now() < end {
            let (end, mut samples) = (Instant::now() + BLOCK, Samples::default());
            while Instant::now() < end {
                turn += 1;
                for at in 0..3 {
                    // Each is first as often as the others.
                    let at = (at + turn) % 3;
                    samples.0[0][at].push(ask(&mut connections[at])?);
                    if turn % NEW_ONE == 0 {
                        let start = Instant::now();
                        let connection = pairs[at].connect()?;
                        samples.0[1][at].push(start.elapsed());
                        drop(connection);
                    }
                }
            }
            blocks.push(samples);
        }
        Ok(Self(blocks))
    }

    fn print(&self, what: &str) {
        for (kind, name) in ["open connection", "new connection"].into_iter().enumerate() {
            let blocks = || self.0.iter().map(|block| &block.0[kind]);
            let all = |at: usize| blocks().flat_map(|block| block[at].iter().copied()).collect::<Vec<_>>();
            let ratio = |per_mille, subject: usize, floor: usize| {
                let ratios = blocks().map(|block| {
                    percentile(block[subject].clone(), per_mille)
                        / percentile(block[floor].clone(), per_mille)
                });
                median(ratios.collect())
            };
            println!(
                "{:<40} {:>10} {:>9.0} {:>9.0} {:>9.3} {:>12.3} {:>12.3}",
                format!("{what}: {name}"),
                all(0).len(),
                percentile(all(0), 500),
                percentile(all(0), 990),
                ratio(500, 0, 1),
                ratio(990, 0, 1),
                ratio(990, 2, 1),
            );
        }
    }
}

/// In microseconds.
fn percentile(mut times: Vec<Duration>, per_mille: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * per_mille / 1000].as_secs_f64() * 1e6
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
