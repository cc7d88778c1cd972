//! Connections of workloads that say where they want to go.

use std::io;
use std::time::Duration;

use countersign_config::Target;
use countersign_evidence::{Denial, Finding, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Refusal;
use crate::context::Context;
use crate::explicit::{Negotiation, Step};

/// Bytes that are looked at together.
const PIECE: usize = 1 << 10;
/// How long a workload may take to read a refusal and to close, and how much of
/// what it has sent meanwhile is thrown away.
const FAREWELL: Duration = Duration::from_secs(1);
const LEFTOVERS: u64 = 64 << 10;

/// Where the workload wants to go, and in which words to answer.
pub(super) async fn ask(socket: &mut TcpStream, ctx: &Context) -> Result<(Target, Negotiation), Refusal> {
    let limit = ctx.limits.handshake_timeout;
    match timeout(limit, asked(socket)).await {
        Ok(asked) => asked,
        Err(_) => {
            let denial = Finding::new(Reason::Timeout, "request", format!("one in {limit:?}"), "none");
            Err(Denial::from(denial).into())
        }
    }
}

async fn asked(socket: &mut TcpStream) -> Result<(Target, Negotiation), Refusal> {
    let mut negotiation = Negotiation::default();
    let mut piece = [0; PIECE];
    loop {
        // What is behind the request stays in the socket, for whoever forwards it.
        let seen = socket.peek(&mut piece).await.map_err(|e| gone(&e))?;
        if seen == 0 {
            return Err(gone(&io::ErrorKind::UnexpectedEof.into()));
        }
        let (taken, step) = negotiation.feed(piece.get(..seen).unwrap_or_default());
        socket.read_exact(piece.get_mut(..taken).unwrap_or_default()).await.map_err(|e| gone(&e))?;
        match step {
            Step::More => {}
            Step::Say(answer) => socket.write_all(&answer).await.map_err(|e| gone(&e))?,
            Step::Asked(target) => return Ok((target, negotiation)),
            Step::Refused { answer, denial } => return Err(Refusal { denial, answer: Some(answer) }),
        }
    }
}

fn gone(error: &io::Error) -> Refusal {
    let expected = "a request to connect";
    Denial::from(Finding::new(Reason::BadRequest, "workload", expected, error.to_string())).into()
}

/// Says `answer` and ends the connection, in order, so that it is read.
pub(super) async fn refuse(mut socket: TcpStream, answer: &[u8]) {
    let farewell = async {
        socket.write_all(answer).await?;
        socket.shutdown().await?;
        let mut rest = socket.take(LEFTOVERS);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Whoever does not listen will not know.
    let _ = timeout(FAREWELL, farewell).await;
}
