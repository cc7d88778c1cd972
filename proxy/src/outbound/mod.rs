//! Connections of the workload that leave: where to is known from the listener,
//! from the rules that captured them, or from what the workload says. Then a hop
//! from a pool, a CONNECT on it, the bytes. No byte of the application leaves
//! before the peer was judged and has accepted the stream.

mod captured;
mod explicit;
mod service;
mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_config::Target;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Role;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) use self::service::{another_may_do, find, reach};
pub(crate) use self::tunnel::{Call, Tunnel};
use crate::context::Context;
use crate::explicit::Negotiation;
use crate::listener::{self, Accepted};
use crate::live::draining;
use crate::observe::access::Record;
use crate::opaque::{Carried, Dialer};
use crate::pool::Destination;
use crate::pools::{InUse, Pools};
use crate::{forward, http};

/// How a listener learns where a connection goes.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// A static mapping: always to one destination.
    Mapping(Arc<Mapping>),
    /// Captured: to where it was going.
    Captured,
    /// The workload says it, by SOCKS5 or HTTP CONNECT.
    Explicit,
}

/// A static mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) destination: Destination,
    pub(crate) port: u16,
    /// Where each connection has a hop of its own.
    pub(crate) dedicated: Option<Arc<Dialer>>,
}

impl Mapping {
    /// The call of one connection.
    fn call(&self, from: From, record: &mut Record) -> Call<'_> {
        let Destination { to, address } = &self.destination;
        record.destination(to.to_string());
        record.port(self.port);
        from.call(to, address, self.port)
    }
}

/// Serves one listener until a drain has ended.
pub(crate) async fn serve(listener: TcpListener, way: Way, pools: Arc<Pools>, ctx: Arc<Context>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.beginning() => break,
            Some(ended) = tasks.join_next() => reap(&ended, &ctx),
            accepted = listener::accept(&listener, &ctx.connections, "outbound", &ctx) => {
                tasks.spawn(one_connection(accepted, way.clone(), Arc::clone(&pools), Arc::clone(&ctx)));
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

/// Both ends of a connection of the workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl From {
    fn call<'a>(self, to: &'a SpiffeId, address: &'a str, port: u16) -> Call<'a> {
        Call { to, address, port, peer: self.peer, local: self.local }
    }
}

/// A stream, and the destination that it counts for.
pub(crate) struct Reached {
    pub(crate) tunnel: Tunnel,
    pub(crate) in_use: InUse,
}

/// Where a connection of the workload leads.
enum Opened {
    /// To one peer, with all of its bytes.
    Bytes(Box<Reached>),
    /// To a Service with routes, which say so of each request.
    Requests(Target),
}

/// Why there is none, and what the workload is told in its own protocol: without
/// one it sees a reset.
struct Refusal {
    denial: Denial,
    answer: Option<Vec<u8>>,
}

impl std::convert::From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self { denial, answer: None }
    }
}

async fn one_connection(accepted: Accepted, way: Way, pools: Arc<Pools>, ctx: Arc<Context>) {
    let Accepted { mut socket, peer, permit: _permit, .. } = accepted;
    let me = ctx.credentials.borrow().as_ref().map_or_else(|| "unknown".to_owned(), |c| c.me.to_string());
    let mut record = Record::new(Role::Server, peer, me.clone(), "unknown".to_owned(), &ctx.metrics);
    let from = From { peer, local: socket.local_addr().unwrap_or(peer) };
    if let Way::Mapping(mapping) = &way
        && let Some(dialer) = &mapping.dedicated
    {
        let call = mapping.call(from, &mut record);
        // On the heap: most connections share hops.
        match Box::pin(dialer.carry(socket, &call, &mut record, &ctx)).await {
            Carried::Done(result) => return record.finish(result),
            Carried::NotSpoken(back) => socket = back,
        }
    }
    let opened = tokio::select! {
        biased;
        () = ctx.drain.forced() => Err(draining().into()),
        opened = open(&mut socket, from, &way, &mut record, &pools, &ctx) => opened,
    };
    let result = match opened {
        Ok(Opened::Bytes(reached)) => {
            let Reached { tunnel: Tunnel { permitted, send, recv, lease: _lease }, in_use: _in_use } =
                *reached;
            record.permitted(&permitted);
            forward::run(&permitted, socket, send, recv).await
        }
        Ok(Opened::Requests(target)) => {
            record.of_requests();
            Box::pin(http::serve_routed(socket, target, from, me, &pools, &ctx)).await
        }
        Err(Refusal { denial, answer }) => {
            match answer {
                Some(answer) if !answer.is_empty() => explicit::refuse(socket, &answer).await,
                _ => countersign_net::abort(socket),
            }
            Err(denial)
        }
    };
    record.finish(result);
}

/// Finds out where it goes, and gets there.
async fn open(
    socket: &mut TcpStream,
    from: From,
    way: &Way,
    record: &mut Record,
    pools: &Pools,
    ctx: &Context,
) -> Result<Opened, Refusal> {
    match way {
        Way::Mapping(mapping) => Ok(static_mapping(mapping, from, record, pools, ctx).await?),
        Way::Captured => {
            let target = captured::target(socket, ctx)?;
            Ok(service::open(&target, from, record, pools, ctx).await?)
        }
        Way::Explicit => {
            let (target, negotiation) = explicit::ask(socket, ctx).await?;
            let reached = service::open(&target, from, record, pools, ctx).await;
            granted(socket, &negotiation, reached).await
        }
    }
}

async fn static_mapping(
    mapping: &Mapping,
    from: From,
    record: &mut Record,
    pools: &Pools,
    ctx: &Context,
) -> Result<Opened, Denial> {
    let call = mapping.call(from, record);
    let in_use = pools.of(&mapping.destination)?;
    let tunnel = tunnel::open(&call, in_use.pool(), ctx).await?;
    Ok(Opened::Bytes(Box::new(Reached { tunnel, in_use })))
}

/// Tells the workload what became of its request.
async fn granted(
    socket: &mut TcpStream,
    negotiation: &Negotiation,
    reached: Result<Opened, Denial>,
) -> Result<Opened, Refusal> {
    match reached {
        Ok(reached) => {
            socket.write_all(&negotiation.granted()).await.map_err(|error| {
                Denial::from(Finding::new(
                    Reason::ConnectFailed,
                    "workload",
                    "a connection",
                    error.to_string(),
                ))
            })?;
            Ok(reached)
        }
        Err(denial) => {
            let answer = Some(negotiation.refused(denial.reason));
            Err(Refusal { denial, answer })
        }
    }
}
