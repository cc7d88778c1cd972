//! First stage: a connection was accepted. Nothing is known about its peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::Reason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::context::Context;

/// How long to wait after the system refused to accept (out of descriptors).
const PAUSE: Duration = Duration::from_millis(50);

/// A connection within its limit.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) permit: OwnedSemaphorePermit,
    // Only this module makes one.
    _private: (),
}

/// Accepts the next connection that is within `limit`; those beyond it are
/// refused at once, which costs an attacker more than us.
pub(crate) async fn accept(
    listener: &TcpListener,
    limit: &Arc<Semaphore>,
    direction: &'static str,
    ctx: &Context,
) -> Accepted {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, direction, "cannot accept a connection");
                ctx.metrics.refused(direction, Reason::Overloaded);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(limit).try_acquire_owned() else {
            if let Some(line) = ctx.throttle.line(ctx.clock.seconds()) {
                tracing::warn!(%peer, direction, line.suppressed, "connection refused: too many are open");
            }
            ctx.metrics.refused(direction, Reason::Overloaded);
            countersign_net::abort(socket);
            continue;
        };
        if let Err(error) = countersign_net::tune(&socket) {
            tracing::debug!(%error, %peer, "the connection ended before it began");
            continue;
        }
        return Accepted { socket, peer, permit, _private: () };
    }
}
