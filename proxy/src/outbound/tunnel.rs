//! A CONNECT on a hop, and what the peer said to it.

use std::net::SocketAddr;

use bytes::Bytes;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Role;
use h2::{RecvStream, SendStream};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::time::timeout;

use crate::context::Context;
use crate::hop::REASON_HEADER;
use crate::live::{Carries, Cause, draining};
use crate::observe::refused::{Peer, Stage};
use crate::policy::Permitted;
use crate::pool::{Lease, Pool};
use crate::{hop, policy, route};

/// One connection of the workload to one port of one peer's workload.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The identity that must answer.
    pub(crate) to: &'a SpiffeId,
    /// `host:port` of its proxy.
    pub(crate) address: &'a str,
    /// The port of its workload.
    pub(crate) port: u16,
    /// Who calls.
    pub(crate) peer: SocketAddr,
    /// Where it was accepted.
    pub(crate) local: SocketAddr,
}

/// A stream that the peer has accepted.
pub(crate) struct Tunnel {
    pub(crate) permitted: Permitted,
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
    pub(crate) lease: Lease,
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

/// Opens a stream on a hop of `pool`, which is that of the call's destination.
pub(super) async fn open(call: &Call<'_>, pool: &Pool, ctx: &Context) -> Result<Tunnel, Denial> {
    let request = connect_request(call)?;
    let first = pool.lease(ctx).await?;
    match tunnel(first, request.clone(), call, ctx).await {
        Ok(tunnel) => Ok(tunnel),
        Err(Failure::Final(denial)) => Err(denial),
        // Nothing of the application was sent, so that trying again is safe.
        Err(Failure::Hop(_)) => {
            let second = pool.lease(ctx).await?;
            tunnel(second, request, call, ctx).await.map_err(|failure| match failure {
                Failure::Hop(denial) | Failure::Final(denial) => denial,
            })
        }
    }
}

async fn tunnel(
    lease: Lease,
    request: Request<()>,
    call: &Call<'_>,
    ctx: &Context,
) -> Result<Tunnel, Failure> {
    let permitted =
        policy::permit(lease.hop(), call.port, Carries::Bytes, ctx).map_err(|denial| lease.unfit(denial))?;
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
        answered = timeout(limit, connect) => answered.map_err(|_| Failure::Final(no_answer(call)))??,
    };
    if response.status() != StatusCode::OK {
        let denial = refusal(&response, call);
        // The peer logs it, and we the record of the stream.
        let _ = ctx.refused(Peer::refusing(Role::Server, call.to, Stage::Stream), &denial);
        return Err(Failure::Final(denial));
    }
    Ok(Tunnel { permitted, send, recv: response.into_body(), lease })
}

fn connect_request(call: &Call<'_>) -> Result<Request<()>, Denial> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = route::authority(call.address, call.port)?;
    // RFC 7239, section 4: addresses with a port are quoted.
    if let Ok(value) = HeaderValue::try_from(format!("for=\"{}\";by=\"{}\"", call.peer, call.local)) {
        request.headers_mut().insert("forwarded", value);
    }
    Ok(request)
}

/// What the peer said, in terms of the one reason table.
fn refusal<B>(response: &http::Response<B>, call: &Call<'_>) -> Denial {
    let code = response.headers().get(REASON_HEADER).and_then(|v| v.to_str().ok());
    let reason = code.and_then(Reason::from_code).unwrap_or(Reason::ConnectFailed);
    let said = format!("{}{}", response.status().as_u16(), code.map(|c| format!(" {c}")).unwrap_or_default());
    Finding::new(reason, format!("answer of {} for port {}", call.to, call.port), "200", said).into()
}

fn no_answer(call: &Call<'_>) -> Denial {
    Finding::new(Reason::Timeout, format!("answer of {}", call.to), "one in time", "none").into()
}
