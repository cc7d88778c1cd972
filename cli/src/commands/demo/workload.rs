//! The two workloads of the demonstration. They know nothing of the mesh: one
//! answers lines, the other keeps one connection and sends a line every 100 ms.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::failure::{Failure, Result};
use crate::output::Output;

/// The pause between two lines, and between two attempts to connect.
const PACE: Duration = Duration::from_millis(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line.
const LINE: u64 = 4096;

/// A workload of the demonstration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Role {
    /// Answers every line
    Ledger {
        /// Where it listens
        listen: SocketAddr,
    },
    /// Sends a line every 100 ms over one connection, and tells what happens
    Audit {
        /// Its proxy's outbound listener
        connect: SocketAddr,
    },
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let runtime = super::super::runtime()?;
    match args.role {
        Role::Ledger { listen } => runtime.block_on(ledger(listen)),
        Role::Audit { connect } => runtime.block_on(audit(connect, out)),
    }
}

async fn ledger(listen: SocketAddr) -> Result {
    let listener = TcpListener::bind(listen).await.map_err(|e| Failure::failed(format!("{listen}: {e}")))?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((io, _)) = accepted {
                    connections.spawn(answer(io));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut io: TcpStream) -> std::io::Result<()> {
    let (reader, mut writer) = io.split();
    let mut lines = BufReader::new(reader);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut lines).take_line(&mut line).await? == 0 {
            return Ok(());
        }
        writer.write_all(format!("ledger has booked {line}").as_bytes()).await?;
    }
}

/// A line of at most [`LINE`] bytes.
trait TakeLine {
    async fn take_line(self, line: &mut String) -> std::io::Result<usize>;
}

impl<R: tokio::io::AsyncBufRead + Unpin> TakeLine for &mut R {
    async fn take_line(self, line: &mut String) -> std::io::Result<usize> {
        tokio::io::AsyncReadExt::take(self, LINE).read_line(line).await
    }
}

/// Runs until it is killed: connect, talk until the hop is cut, connect again.
async fn audit(connect: SocketAddr, out: &mut Output) -> Result {
    let mut sent = 0_u64;
    let mut told_refused = false;
    loop {
        if let Ok(io) = TcpStream::connect(connect).await {
            let before = sent;
            let why = talk(io, &mut sent, out).await.err().map_or("closed".to_owned(), |e| e.to_string());
            if sent > before {
                out.json_line(&json!({ "event": "cut", "after": sent - before, "why": why }));
                told_refused = false;
            } else if !told_refused {
                out.json_line(&json!({ "event": "refused", "why": why }));
                told_refused = true;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn talk(mut io: TcpStream, sent: &mut u64, out: &mut Output) -> std::io::Result<()> {
    io.set_nodelay(true)?;
    let (reader, mut writer) = io.split();
    let mut lines = BufReader::new(reader);
    let mut answer = String::new();
    let mut first = true;
    loop {
        writer.write_all(format!("entry {}\n", *sent + 1).as_bytes()).await?;
        answer.clear();
        let read = tokio::time::timeout(PATIENCE, (&mut lines).take_line(&mut answer)).await;
        if read.map_err(|_| std::io::ErrorKind::TimedOut)?? == 0 {
            return Ok(());
        }
        *sent += 1;
        if first {
            out.json_line(&json!({ "event": "answered", "text": answer.trim_end() }));
            first = false;
        }
        if sent.is_multiple_of(10) {
            out.json_line(&json!({ "event": "booked", "text": format!("{sent} entries so far") }));
        }
        // A cut is seen at once, not only with the next line.
        match tokio::time::timeout(PACE, lines.fill_buf()).await {
            Err(_) => {}
            Ok(more) => {
                if more?.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}
