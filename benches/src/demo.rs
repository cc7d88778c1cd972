//! The demonstration as a mesh to measure: `countersign demo --keep`, in
//! release binaries, with more proxies if a benchmark wants some.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A mesh that runs, until it is dropped.
#[derive(Debug)]
pub struct Demo {
    child: Child,
    bin: PathBuf,
    dir: PathBuf,
    entrance: String,
}

impl Demo {
    /// Starts it, from the binaries next to this one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(name: &str) -> Result<Self> {
        let bin = std::env::current_exe()?.parent().context("a directory")?.to_owned();
        let dir = std::env::temp_dir().join(format!("countersign-{name}-{}", std::process::id()));
        let countersign = bin.join("countersign");
        let mut child = Command::new(&countersign)
            .args(["demo", "--keep", "--dir"])
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} (make build)", countersign.display()))?;
        let out = child.stdout.take().context("a pipe")?;
        let ready =
            BufReader::new(out).lines().map_while(Result::ok).any(|line| line.contains("until Ctrl-C"));
        ensure!(ready, "the demonstration ended early");
        let mut demo = Self { child, bin, dir, entrance: String::new() };
        demo.entrance = field(&demo.read("audit-proxy.yaml")?, "listen: ")?;
        Ok(demo)
    }

    /// A file of its directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: &str) -> Result<String> {
        std::fs::read_to_string(self.dir.join(file)).with_context(|| file.to_owned())
    }

    /// Writes a file into its directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        std::fs::write(self.dir.join(file), text).with_context(|| file.to_owned())
    }

    /// `countersign apply -f FILE`, as an operator does.
    ///
    /// # Errors
    /// When it is refused.
    pub fn apply(&self, file: &str) -> Result<()> {
        let output = Command::new(self.bin.join("countersign"))
            .args(["apply", "-f"])
            .arg(self.dir.join(file))
            .arg("--context")
            .arg(self.dir.join("control-plane/operator.yaml"))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A connection through the hop that has carried a line.
    ///
    /// # Errors
    /// When there is none within 10 s.
    pub fn connection(&self) -> Result<TcpStream> {
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

    /// What the sidecars hold in memory, a line each.
    ///
    /// # Errors
    /// When nobody knows.
    pub fn memory(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(command) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let ours =
                command.contains("countersign-proxy ") && command.contains(&*self.dir.to_string_lossy());
            let Some(name) = command.rsplit('/').next().filter(|_| ours) else { continue };
            let status = std::fs::read_to_string(entry.path().join("status"))?;
            let [resident, anonymous] = ["VmRSS:", "RssAnon:"].map(|key| {
                status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim().to_owned()
            });
            lines.push(format!("{name}: resident {resident}, of that anonymous {anonymous}"));
        }
        Ok(lines)
    }

    /// Starts a proxy from `NAME.yaml`, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in 20 s.
    pub fn proxy(&self, name: &str) -> Result<Process> {
        let file = format!("{name}.yaml");
        let log = std::fs::File::create(self.dir.join(format!("{name}.log")))?;
        let child = Command::new(self.bin.join("countersign-proxy"))
            .arg("--config")
            .arg(self.dir.join(&file))
            .args(["--log", "warn"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let bootstrap = self.read(&file)?;
        let [readiness, metrics] = [field(&bootstrap, "readiness: ")?, field(&bootstrap, "metrics: ")?];
        let process = Process { child, metrics };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !get(&readiness, "/healthz/ready").is_ok_and(|answer| answer.contains(" 200 ")) {
            let log = self.dir.join(format!("{name}.log"));
            ensure!(Instant::now() < deadline, "not ready: {}", std::fs::read_to_string(log)?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(process)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // SIGTERM lets the demonstration end its children.
        end(&mut self.child, Signal::TERM);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A process, until it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    metrics: String,
}

impl Process {
    /// Its resident memory, bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Its CPU time so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Result<Duration> {
        // proc_pid_stat(5): behind the name, fields 14 and 15 are ticks, 100 a second.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(") ").context("stat")?;
        let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The sum of all series of this metric whose line contains `label`.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let text = get(&self.metrics, "/metrics")?;
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child, Signal::KILL);
    }
}

fn end(child: &mut Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
    let _ = child.wait();
}

/// A free address on the loopback interface.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// The value of the first field of this name.
///
/// # Errors
/// When there is none.
pub fn field(yaml: &str, name: &str) -> Result<String> {
    let value = yaml.split_once(name).with_context(|| name.to_owned())?.1;
    Ok(value.lines().next().unwrap_or_default().trim().to_owned())
}

fn get(address: &str, path: &str) -> Result<String> {
    let mut io = TcpStream::connect(address)?;
    io.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(io, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    io.read_to_string(&mut answer)?;
    Ok(answer)
}
