//! Connections of the workload that leave for one destination: a hop from the
//! pool, a CONNECT on it, the bytes. No byte of the application leaves before
//! the peer was judged and has accepted the stream.

mod tunnel;

use std::sync::Arc;

use countersign_config::bootstrap::Outbound;
use countersign_ratls::peer::Role;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) use self::tunnel::Call;
use self::tunnel::Tunnel;
use crate::context::Context;
use crate::forward;
use crate::listener::{self, Accepted};
use crate::live::draining;
use crate::observe::access::Record;
use crate::opaque::{Carried, Dialer};
use crate::pool::Pool;

/// The ways to one destination.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    pub(crate) pool: Pool,
    /// Where each connection has a hop of its own.
    pub(crate) dedicated: Option<Arc<Dialer>>,
}

/// Serves one static mapping until a drain has ended.
pub(crate) async fn serve(listener: TcpListener, mapping: Arc<Outbound>, ways: Ways, ctx: Arc<Context>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.beginning() => break,
            Some(ended) = tasks.join_next() => reap(&ended, &ctx),
            accepted = listener::accept(&listener, &ctx.connections, "outbound", &ctx) => {
                tasks.spawn(one_connection(accepted, Arc::clone(&mapping), ways.clone(), Arc::clone(&ctx)));
            }
        }
    }
    drop(listener);
    while let Some(ended) = tasks.join_next().await {
        reap(&ended, &ctx);
    }
}

fn reap(ended: &Result<(), tokio::task::JoinError>, ctx: &Context) {
    if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
        ctx.task_lost("outbound connection");
    }
}

async fn one_connection(accepted: Accepted, mapping: Arc<Outbound>, ways: Ways, ctx: Arc<Context>) {
    let Accepted { mut socket, peer, permit: _permit, .. } = accepted;
    let me = ctx.credentials.borrow().as_ref().map_or_else(|| "unknown".to_owned(), |c| c.me.to_string());
    let mut record = Record::new(Role::Server, peer, me, mapping.to.to_string(), &ctx.metrics);
    record.port(mapping.port);
    let local = socket.local_addr().unwrap_or(mapping.listen);
    let call = Call { to: &mapping.to, address: &mapping.address, port: mapping.port, peer, local };
    if let Some(dialer) = &ways.dedicated {
        // On the heap: most connections share hops.
        match Box::pin(dialer.carry(socket, &call, &mut record, &ctx)).await {
            Carried::Done(result) => return record.finish(result),
            Carried::NotSpoken(back) => socket = back,
        }
    }
    let opened = tokio::select! {
        biased;
        () = ctx.drain.forced() => Err(draining()),
        opened = tunnel::open(&call, &ways.pool, &ctx) => opened,
    };
    let result = match opened {
        Ok(Tunnel { permitted, send, recv, lease: _lease }) => {
            record.permitted(&permitted);
            forward::run(&permitted, socket, send, recv).await
        }
        Err(denial) => {
            countersign_net::abort(socket);
            Err(denial)
        }
    };
    record.finish(result);
}
