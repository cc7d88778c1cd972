//! Connections of the workload that leave for one destination: a hop from the
//! pool, a CONNECT on it, the bytes. No byte of the application leaves before
//! the peer was judged and has accepted the stream.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_config::bootstrap::Outbound;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::Role;
use h2::{RecvStream, SendStream};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::context::Context;
use crate::hop::REASON_HEADER;
use crate::listener::{self, Accepted};
use crate::live::{Cause, draining};
use crate::observe::access::Record;
use crate::policy::Permitted;
use crate::pool::{Lease, Pool};
use crate::{forward, hop, policy, route};

/// Serves one static mapping until a drain has ended.
pub(crate) async fn serve(listener: TcpListener, mapping: Arc<Outbound>, pool: Pool, ctx: Arc<Context>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.beginning() => break,
            Some(ended) = tasks.join_next() => reap(&ended, &ctx),
            accepted = listener::accept(&listener, &ctx.connections, "outbound", &ctx) => {
                tasks.spawn(one_connection(accepted, Arc::clone(&mapping), pool.clone(), Arc::clone(&ctx)));
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

async fn one_connection(accepted: Accepted, mapping: Arc<Outbound>, pool: Pool, ctx: Arc<Context>) {
    let Accepted { socket, peer, permit: _permit, .. } = accepted;
    let me = ctx.credentials.borrow().as_ref().map_or_else(|| "unknown".to_owned(), |c| c.me.to_string());
    let mut record = Record::new(Role::Server, peer, me, mapping.to.to_string(), &ctx.metrics);
    record.port(mapping.port);
    let opened = tokio::select! {
        biased;
        () = ctx.drain.forced() => Err(draining()),
        opened = open(&socket, peer, &mapping, &pool, &ctx) => opened,
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

/// A stream that the peer has accepted.
struct Tunnel {
    permitted: Permitted,
    send: SendStream<Bytes>,
    recv: RecvStream,
    lease: Lease,
}

/// Why there is no stream.
enum Failure {
    /// The hop ended under us before the peer saw the request: another may do.
    Hop(Denial),
    /// The peer, or we, said no.
    Final(Denial),
}

impl Lease {
    /// The hop does not take the stream: nobody else need try.
    fn unfit(&self, denial: Denial) -> Failure {
        self.spend();
        Failure::Hop(denial)
    }
}

async fn open(
    socket: &TcpStream,
    peer: SocketAddr,
    mapping: &Outbound,
    pool: &Pool,
    ctx: &Context,
) -> Result<Tunnel, Denial> {
    let local = socket.local_addr().unwrap_or(mapping.listen);
    let request = connect_request(mapping, peer, local)?;
    let first = pool.lease(ctx).await?;
    match tunnel(first, request.clone(), mapping, ctx).await {
        Ok(tunnel) => Ok(tunnel),
        Err(Failure::Final(denial)) => Err(denial),
        // Nothing of the application was sent, so that trying again is safe.
        Err(Failure::Hop(_)) => {
            let second = pool.lease(ctx).await?;
            tunnel(second, request, mapping, ctx).await.map_err(|failure| match failure {
                Failure::Hop(denial) | Failure::Final(denial) => denial,
            })
        }
    }
}

async fn tunnel(
    lease: Lease,
    request: Request<()>,
    mapping: &Outbound,
    ctx: &Context,
) -> Result<Tunnel, Failure> {
    let permitted = policy::permit(lease.hop(), mapping.port, ctx).map_err(|denial| lease.unfit(denial))?;
    let connect = async {
        let mut sender = lease.request().ready().await.map_err(|e| lease.unfit(hop::broken(&e)))?;
        let (response, send) =
            sender.send_request(request, false).map_err(|e| lease.unfit(hop::broken(&e)))?;
        let response = response.await.map_err(|error| {
            let denial = hop::broken(&error);
            let unseen = error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM);
            if unseen { lease.unfit(denial) } else { Failure::Final(denial) }
        })?;
        Ok((response, send))
    };
    // The peer itself takes up to its own connect timeout to reach its workload.
    let limit = ctx.limits.connect_timeout.saturating_mul(2);
    let cut = &permitted.stream.cut;
    let (response, send) = tokio::select! {
        biased;
        () = cut.cancelled() => return Err(Failure::Final(cut.cause().map_or_else(draining, Cause::denial))),
        answered = timeout(limit, connect) => answered.map_err(|_| Failure::Final(no_answer(mapping)))??,
    };
    if response.status() != StatusCode::OK {
        return Err(Failure::Final(refusal(&response, mapping)));
    }
    Ok(Tunnel { permitted, send, recv: response.into_body(), lease })
}

fn connect_request(mapping: &Outbound, peer: SocketAddr, local: SocketAddr) -> Result<Request<()>, Denial> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = route::authority(&mapping.address, mapping.port)?;
    // RFC 7239, section 4: addresses with a port are quoted.
    if let Ok(value) = HeaderValue::try_from(format!("for=\"{peer}\";by=\"{local}\"")) {
        request.headers_mut().insert("forwarded", value);
    }
    Ok(request)
}

/// What the peer said, in terms of the one reason table.
fn refusal<B>(response: &http::Response<B>, mapping: &Outbound) -> Denial {
    let code = response.headers().get(REASON_HEADER).and_then(|v| v.to_str().ok());
    let reason = code.and_then(Reason::from_code).unwrap_or(Reason::ConnectFailed);
    let said = format!("{}{}", response.status().as_u16(), code.map(|c| format!(" {c}")).unwrap_or_default());
    Finding::new(reason, format!("answer of {} for port {}", mapping.to, mapping.port), "200", said).into()
}

fn no_answer(mapping: &Outbound) -> Denial {
    Finding::new(Reason::Timeout, format!("answer of {}", mapping.to), "one in time", "none").into()
}
