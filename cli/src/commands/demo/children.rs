//! The processes of the demonstration, and their end.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use crate::failure::{Failure, Result};

/// The pause between two looks at something that is not ready.
const POLL: Duration = Duration::from_millis(20);
/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of a log is shown when something went wrong.
const LOG_LINES: usize = 12;

/// A program that stands next to this one.
pub(super) fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| Failure::failed(format!("own executable: {e}")))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::failed(format!(
        "{} is missing: the demonstration starts it. Build it with `cargo build -p {name}` \
         (add --release for a release build), or put it next to {}",
        path.display(),
        own.display()
    )))
}

/// Ports of the loopback interface that nobody else is given while this lives. Their
/// sockets are bound and do not listen, so that only who asks for the very port, and
/// allows that the address is in use, gets it: our processes.
#[derive(Default)]
pub(super) struct Reserved(Vec<TcpSocket>);

impl Reserved {
    /// One more.
    pub(super) fn address(&mut self) -> Result<SocketAddr> {
        let reserve = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            Ok((socket.local_addr()?, socket))
        };
        let (address, socket) = reserve()
            .map_err(|e: std::io::Error| Failure::failed(format!("no free port on 127.0.0.1: {e}")))?;
        self.0.push(socket);
        Ok(address)
    }
}

/// The processes that were started, in the order of their start.
#[derive(Default)]
pub(super) struct Children(Vec<Running>);

struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Children {
    /// Starts a program; its output goes to a log. With `talks` its standard output comes back.
    pub(super) fn start(
        &mut self,
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
        talks: bool,
    ) -> Result<Option<ChildStdout>> {
        let named = |e: std::io::Error| Failure::failed(format!("{name} ({}): {e}", program.display()));
        let file = File::create(&log).map_err(named)?;
        let stdout = if talks { Stdio::piped() } else { file.try_clone().map_err(named)?.into() };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .env_remove("COUNTERSIGN_CONTEXT")
            .env("NO_COLOR", "1")
            .kill_on_drop(true)
            .spawn()
            .map_err(named)?;
        let pipe = child.stdout.take();
        self.0.push(Running { name, child, log });
        Ok(pipe)
    }

    /// Waits until everybody's readiness endpoint says yes.
    pub(super) async fn ready(&mut self, endpoint: SocketAddr, name: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut last = String::from("it does not listen yet");
        while Instant::now() < deadline {
            if let Some(failure) = self.ended() {
                return Err(failure);
            }
            match probe(endpoint).await {
                Ok(None) => return Ok(()),
                Ok(Some(missing)) => last = missing,
                Err(_) => {}
            }
            tokio::time::sleep(POLL).await;
        }
        let tail = self.0.iter().find(|r| r.name == name).map(|r| tail(&r.log)).unwrap_or_default();
        Err(Failure::failed(format!(
            "{name} is not ready after {} s: {}\n{tail}",
            limit.as_secs(),
            last.trim()
        )))
    }

    /// The failure of a process that ended by itself: none of them should.
    pub(super) fn ended(&mut self) -> Option<Failure> {
        self.0.iter_mut().find_map(|running| match running.child.try_wait() {
            Ok(Some(status)) => {
                Some(Failure::failed(format!("{} ended ({status})\n{}", running.name, tail(&running.log))))
            }
            _ => None,
        })
    }

    /// Asks all of them to end, the last started first, and kills who does not.
    pub(super) async fn stop(&mut self) {
        for running in self.0.iter().rev() {
            let id = running.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if let Some(id) = id {
                // Gone already is as good.
                let _ = kill_process(id, Signal::TERM);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        for running in self.0.iter_mut().rev() {
            if tokio::time::timeout_at(deadline, running.child.wait()).await.is_err() {
                let _ = running.child.kill().await;
            }
        }
        self.0.clear();
    }
}

/// Asks a readiness endpoint: `None` is yes, else what is missing.
async fn probe(endpoint: SocketAddr) -> std::io::Result<Option<String>> {
    let mut io = TcpStream::connect(endpoint).await?;
    io.write_all(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    let mut bounded = (&mut io).take(8192);
    let reading = bounded.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(1), reading)
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)??;
    let answer = String::from_utf8_lossy(&answer);
    if answer.split_whitespace().nth(1) == Some("200") {
        return Ok(None);
    }
    Ok(Some(answer.split_once("\r\n\r\n").map_or("no answer", |(_, body)| body).to_owned()))
}

fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(LOG_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
