//! Connections from outside to the workload's own ports, which the rules of
//! countersign-init send here: nobody has proved anything on them.

use std::sync::Arc;

use countersign_evidence::Reason;
use tokio::net::TcpListener;

use crate::context::Context;
use crate::listener::{self, Accepted};

/// Refuses every one of them, counts it, and says what to do. No policy admits plaintext.
pub(crate) async fn refuse(listener: TcpListener, ctx: Arc<Context>) {
    const REASON: Reason = Reason::PlaintextRefused;
    loop {
        let Accepted { socket, peer, .. } = tokio::select! {
            biased;
            () = ctx.drain.beginning() => return,
            accepted = listener::accept(&listener, &ctx.connections, "inbound", &ctx) => accepted,
        };
        ctx.metrics.refused("inbound", REASON);
        if let Some(line) = ctx.throttle.line(ctx.clock.seconds()) {
            let port = countersign_net::original_destination(&socket).map_or(0, |address| address.port());
            tracing::warn!(
                %peer, port, reason = %REASON, remedy = REASON.remedy(), line.suppressed,
                "plaintext from outside refused"
            );
        }
        countersign_net::abort(socket);
    }
}
