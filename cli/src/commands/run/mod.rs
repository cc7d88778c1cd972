//! `countersign run`: a process whose only way out is the proxy.
//!
//! It runs in a network namespace of its own, which has a loopback interface and
//! nothing else. There a listener takes its connections and hands them, over a Unix
//! socket, to this process, which hands them to the proxy's explicit listener.
//! Neither needs root: the namespace belongs to a user namespace of the caller.

mod confined;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::confined::Args as ConfinedArgs;
pub(crate) use self::confined::run as run_confined;
use super::runtime;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// What `countersign run` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  countersign run -- curl http://ledger.payments/\n  countersign run --proxy 127.0.0.1:15081 -- ./app --verbose"
)]
pub(crate) struct Args {
    /// The explicit listener of the proxy (`explicit.listen`)
    #[arg(long, default_value = "127.0.0.1:15080", value_name = "ADDRESS")]
    proxy: SocketAddr,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, _: &mut Output) -> Result {
    runtime()?.block_on(outside(args))
}

async fn outside(args: &Args) -> Result {
    // Said at once, not by each connection of the command.
    TcpStream::connect(args.proxy).await.map_err(|e| {
        let what = "does the proxy run, with `explicit` in its bootstrap file?";
        Failure::unreachable(format!("{}: {e}; {what}", args.proxy))
    })?;
    let directory = Directory::new()?;
    let socket = directory.0.join("proxy");
    let listener =
        UnixListener::bind(&socket).map_err(|e| Failure::failed(format!("{}: {e}", socket.display())))?;
    let mut child = unshared(&socket, &args.command)?;
    let proxy = args.proxy;
    let handing = async {
        loop {
            // Out of descriptors, for example: the next may do.
            let Ok((near, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            tokio::spawn(async move {
                if let Ok(far) = TcpStream::connect(proxy).await {
                    joined(near, far).await;
                }
            });
        }
    };
    tokio::select! {
        ended = waited(&mut child) => ended.map(|status| Outcome::Of(code(status))),
        () = handing => Ok(Outcome::Denied),
    }
}

/// The command in a network namespace of its own, through this program.
fn unshared(socket: &Path, command: &[OsString]) -> Result<Child> {
    let own = std::env::current_exe().map_err(|e| Failure::failed(format!("own executable: {e}")))?;
    let namespaces = ["--user", "--map-current-user", "--keep-caps", "--net", "--kill-child=SIGTERM", "--"];
    Command::new("unshare")
        .args(namespaces)
        .arg(own)
        .args([OsStr::new("run-confined"), OsStr::new("--socket")])
        .arg(socket)
        .arg("--")
        .args(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::failed(format!("unshare: {e}; it is part of util-linux")))
}

/// Waits for the end of a child. What we are asked to do it is asked to do: an
/// interrupt of the terminal reaches it by itself.
async fn waited(child: &mut Child) -> Result<ExitStatus> {
    let cannot = |e: std::io::Error| Failure::failed(format!("wait for the command: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map_err(cannot),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {
                let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                if let Some(id) = id {
                    // Gone already is as good.
                    let _ = kill_process(id, Signal::TERM);
                }
            }
        }
    }
}

/// As shells say how a command ended.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Hands bytes both ways until both ends are done.
async fn joined(mut near: impl AsyncRead + AsyncWrite + Unpin, mut far: impl AsyncRead + AsyncWrite + Unpin) {
    // Each end sees by its own socket that the other is gone.
    let _ = copy_bidirectional(&mut near, &mut far).await;
}

/// A directory of our own, which goes with this.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("countersign-run-{}", std::process::id()));
        // One that is there already belongs to somebody else.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is empty but for a dead socket.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
