//! From `countersign apply` to the live hop cut, with two real proxies: starts
//! the demonstration, then withdraws and approves the ledger's release in turn.
//!
//! Clock time, since this is what an operator waits for: from starting the CLI
//! to the end of a connection that a workload holds. Also prints what the idle
//! sidecars hold in memory.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// How many times the hop is cut.
const ROUNDS: usize = 100;

fn main() -> Result<()> {
    let bin = std::env::current_exe()?.parent().context("a directory")?.to_owned();
    let dir = std::env::temp_dir().join(format!("countersign-cut-{}", std::process::id()));
    let demo = Demo::start(&bin, &dir)?;
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

struct Demo {
    child: Child,
    countersign: PathBuf,
    dir: PathBuf,
    entrance: String,
}

impl Demo {
    fn start(bin: &Path, dir: &Path) -> Result<Self> {
        let countersign = bin.join("countersign");
        let mut child = Command::new(&countersign)
            .args(["demo", "--keep", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} (cargo build --profile bench --bins)", countersign.display()))?;
        let out = child.stdout.take().context("a pipe")?;
        let ready =
            BufReader::new(out).lines().map_while(Result::ok).any(|line| line.contains("until Ctrl-C"));
        ensure!(ready, "the demonstration ended early");
        let bootstrap = std::fs::read_to_string(dir.join("audit-proxy.yaml"))?;
        let entrance = bootstrap.split_once("listen: ").context("a listener")?.1;
        let entrance = entrance.lines().next().context("an address")?.trim().to_owned();
        // What is approved without the release that runs.
        let releases = std::fs::read_to_string(dir.join("ledger-releases.yaml"))?;
        let (head, rest) =
            releases.split_once("    - name: ledger v1.4.2").context("the release that runs")?;
        let (_, other) = rest.split_once("    - name:").context("another release")?;
        std::fs::write(dir.join("withdrawn.yaml"), format!("{head}    - name:{other}"))?;
        Ok(Self { child, countersign, dir: dir.to_owned(), entrance })
    }

    fn apply(&self, file: &str) -> Result<()> {
        let output = Command::new(&self.countersign)
            .args(["apply", "-f"])
            .arg(self.dir.join(file))
            .arg("--context")
            .arg(self.dir.join("control-plane/operator.yaml"))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A connection through the hop that has carried a line.
    fn connection(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let mut connection = TcpStream::connect(&self.entrance)?;
            connection.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut answer = [0; 1];
            if connection.write_all(b"entry\n").is_ok() && matches!(connection.read(&mut answer), Ok(1)) {
                return Ok(connection);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the hop did not come back within 10 s")
    }

    fn memory(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let ours =
                command.contains("countersign-proxy ") && command.contains(&*self.dir.to_string_lossy());
            let Some(name) = command.rsplit('/').next().filter(|_| ours) else { continue };
            let status = std::fs::read_to_string(entry.path().join("status"))?;
            let field = |key: &str| {
                status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim().to_owned()
            };
            lines.push(format!(
                "{name}: resident {}, of that anonymous {}",
                field("VmRSS:"),
                field("RssAnon:")
            ));
        }
        Ok(lines)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // SIGTERM lets the demonstration end its children.
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
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
