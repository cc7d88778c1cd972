//! Second stage: the RA-TLS handshake. The peer has proved a key, and the judge
//! has admitted it under the view of that moment.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign_evidence::{Denial, Finding, Reason};
use countersign_net::{Abort, Severable};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::{Admission, Role};
use countersign_ratls::tls::{ALPN_TCP, Agreed, Connector, HandshakeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::{client, server};

use crate::context::{Context, Credentials};
use crate::gate;
use crate::listener::Accepted;

/// A connection whose handshake is complete.
#[derive(Debug)]
pub(crate) struct Handshaken<S> {
    pub(crate) stream: S,
    pub(crate) role: Role,
    pub(crate) admission: Arc<Admission>,
    pub(crate) agreed: Agreed,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) address: SocketAddr,
    pub(crate) abort: Abort,
    /// Counts connections that come in and have not passed the gate.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    // Only this module makes one.
    _private: (),
}

/// The server's side, with our current credentials, in bounded time.
pub(crate) async fn accept(
    accepted: Accepted,
    ctx: &Context,
) -> Result<Handshaken<server::TlsStream<Severable>>, Denial> {
    let Accepted { socket, peer, permit, .. } = accepted;
    let abort = Abort::default();
    accept_over(Severable::new(socket, abort.clone()), abort, peer, Some(permit), ctx).await
}

/// The server's side over a transport that ends with `abort`.
pub(crate) async fn accept_over<S>(
    transport: S,
    abort: Abort,
    address: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
    ctx: &Context,
) -> Result<Handshaken<server::TlsStream<S>>, Denial>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let credentials = ctx.credentials()?;
    let acceptor = credentials.acceptor.offering(gate::answered(&credentials, ctx));
    let handshake = acceptor.accept(transport);
    let done = timeout(ctx.limits.handshake_timeout, handshake).await.map_err(|_| too_slow(ctx))?;
    let done = done.map_err(|error| denial(error, Role::Client, ctx))?;
    Ok(Handshaken {
        stream: done.stream,
        role: Role::Client,
        admission: done.admission,
        agreed: done.agreed,
        credentials,
        address,
        abort,
        permit,
        _private: (),
    })
}

/// The client's side: nobody but `to` is accepted.
pub(crate) async fn connect(
    socket: TcpStream,
    address: SocketAddr,
    to: &SpiffeId,
    credentials: Arc<Credentials>,
    ctx: &Context,
) -> Result<Handshaken<client::TlsStream<Severable>>, Denial> {
    let abort = Abort::default();
    connect_over(Severable::new(socket, abort.clone()), abort, address, to, credentials, ctx).await
}

/// The same, for a dedicated hop and nothing else: `no-application-protocol` where
/// the peer does not speak it.
pub(crate) async fn connect_dedicated(
    socket: TcpStream,
    address: SocketAddr,
    to: &SpiffeId,
    credentials: Arc<Credentials>,
    ctx: &Context,
) -> Result<Handshaken<client::TlsStream<Severable>>, Denial> {
    let abort = Abort::default();
    let transport = Severable::new(socket, abort.clone());
    let connector = credentials.connector(to, &[ALPN_TCP])?;
    shake(connector, transport, abort, address, credentials, ctx).await
}

/// The client's side over a transport that ends with `abort`.
pub(crate) async fn connect_over<S>(
    transport: S,
    abort: Abort,
    address: SocketAddr,
    to: &SpiffeId,
    credentials: Arc<Credentials>,
    ctx: &Context,
) -> Result<Handshaken<client::TlsStream<S>>, Denial>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connector = credentials.connector(to, gate::protocols(&credentials, ctx))?;
    shake(connector, transport, abort, address, credentials, ctx).await
}

async fn shake<S>(
    connector: Connector,
    transport: S,
    abort: Abort,
    address: SocketAddr,
    credentials: Arc<Credentials>,
    ctx: &Context,
) -> Result<Handshaken<client::TlsStream<S>>, Denial>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = connector.connect(transport);
    let done = timeout(ctx.limits.handshake_timeout, handshake).await.map_err(|_| too_slow(ctx))?;
    let done = done.map_err(|error| denial(error, Role::Server, ctx))?;
    Ok(Handshaken {
        stream: done.stream,
        role: Role::Server,
        admission: done.admission,
        agreed: done.agreed,
        credentials,
        address,
        abort,
        permit: None,
        _private: (),
    })
}

fn too_slow(ctx: &Context) -> Denial {
    let limit = format!("at most {:?}", ctx.limits.handshake_timeout);
    Finding::new(Reason::Timeout, "handshake", limit, "longer").into()
}

/// What a failed handshake with a peer in `role` amounts to. Our own refusals are counted.
fn denial(error: HandshakeError, role: Role, ctx: &Context) -> Denial {
    match error {
        HandshakeError::Denied(denial) => {
            ctx.metrics.denied(&denial, role);
            denial
        }
        HandshakeError::Tls { finding } => finding.into(),
        HandshakeError::Io(error) => {
            Finding::new(Reason::TlsFailure, "handshake", "a complete handshake", error.to_string()).into()
        }
    }
}
