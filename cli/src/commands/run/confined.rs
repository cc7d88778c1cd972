//! The inner half of `countersign run`: it starts in the network namespace of the
//! command, makes the one way out, and runs the command.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;

use super::{code, joined, waited};
use crate::commands::runtime;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Where the command finds its proxy: all ports of its namespace are free.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15080);
/// What the command shall not take for its proxy: requests in the absolute form,
/// which this names, are not what the listener speaks.
const OTHERS: [&str; 2] = ["HTTP_PROXY", "http_proxy"];

/// What `countersign run` says to its inner half.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The way to the outer half
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: Args, _: &mut Output) -> Result {
    // A new namespace has a loopback interface that is down.
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .output()
        .map_err(|e| Failure::failed(format!("ip: {e}; it is part of iproute2")))?;
    if !up.status.success() {
        let said = String::from_utf8_lossy(&up.stderr).trim().to_owned();
        return Err(Failure::failed(format!("ip link set lo up: {said}")));
    }
    // That was what the capabilities of this namespace were for.
    rustix::thread::clear_ambient_capability_set()
        .map_err(|e| Failure::failed(format!("give up capabilities: {e}")))?;
    runtime()?.block_on(inside(args))
}

async fn inside(args: Args) -> Result {
    let listener = TcpListener::bind(LISTEN)
        .await
        .map_err(|e| Failure::failed(format!("{LISTEN} in the namespace of the command: {e}")))?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::input("no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    for name in OTHERS {
        command.env_remove(name);
    }
    for name in ["ALL_PROXY", "all_proxy"] {
        command.env(name, format!("socks5h://{LISTEN}"));
    }
    for name in ["HTTPS_PROXY", "https_proxy"] {
        command.env(name, format!("http://{LISTEN}"));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        command.env(name, "localhost,127.0.0.1,::1");
    }
    let mut child =
        command.spawn().map_err(|e| Failure::input(format!("{}: {e}", program.to_string_lossy())))?;
    let socket = args.socket;
    let handing = async {
        loop {
            let Ok((near, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(far) = UnixStream::connect(&socket).await {
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
