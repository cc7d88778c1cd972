//! The one TLS port: accept, handshake, then gRPC over what was admitted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_evidence::Reason;
use countersign_ratls::throttle::Throttle;
use countersign_ratls::tls::HandshakeError;
use countersign_wire::MAX_MESSAGE;
use countersign_wire::proto::identity_server::IdentityServer;
use countersign_wire::proto::mesh_server::MeshServer;
use countersign_wire::proto::operator_server::OperatorServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::caller::{Caller, Class};
use crate::clock::Clock;
use crate::error::Error;
use crate::issue::IdentityService;
use crate::mesh::MeshService;
use crate::metrics::Metrics;
use crate::operator::OperatorService;
use crate::own::Own;

/// Handshakes in progress; more wait in the backlog of the socket.
const MAX_HANDSHAKES: usize = 64;
/// A handshake takes at most this long.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Connections in all.
const MAX_CONNECTIONS: usize = 4096;
/// Connections of callers without an SVID: anybody can open these.
const MAX_BOOTSTRAP: usize = 256;
/// A caller without an SVID has this long to get one.
const BOOTSTRAP_WITHIN: Duration = Duration::from_secs(60);
/// An attested request with evidence of the largest size that is accepted.
const MAX_REQUEST: usize = 128 << 10;
/// Streams of one connection.
const MAX_STREAMS: u32 = 32;

/// A connection that was admitted.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What a handshake needs.
#[derive(Clone)]
struct Porch {
    own: watch::Receiver<Option<Own>>,
    connections: Arc<Semaphore>,
    bootstrap: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    throttle: Arc<Throttle>,
    clock: Clock,
    accepted: mpsc::Sender<io::Result<Connection>>,
}

impl Porch {
    /// Counts a refusal, and logs it within the limit of what strangers may make us log.
    fn refuse(&self, address: SocketAddr, reason: Reason, why: impl std::fmt::Display) {
        self.metrics.handshake(Some(reason));
        if let Some(line) = self.throttle.line(self.clock.seconds()) {
            tracing::warn!(%address, %reason, line.suppressed, %why, "handshake refused");
        }
    }
}

/// Accepts connections until shutdown, and hands on those that are admitted.
pub(crate) async fn accept(
    listener: TcpListener,
    mut own: watch::Receiver<Option<Own>>,
    (metrics, clock): (Arc<Metrics>, Clock),
    accepted: mpsc::Sender<io::Result<Connection>>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    // Until we have an identity, callers wait in the backlog.
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        has_identity = own.wait_for(Option::is_some) => if has_identity.is_err() { return Ok(()) },
    }
    let porch = Porch {
        own,
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        bootstrap: Arc::new(Semaphore::new(MAX_BOOTSTRAP)),
        metrics,
        throttle: Arc::default(),
        clock,
        accepted,
    };
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut tasks = JoinSet::new();
    loop {
        let permits = async {
            let connection = Arc::clone(&porch.connections).acquire_owned().await.ok()?;
            Some((connection, Arc::clone(&handshakes).acquire_owned().await.ok()?))
        };
        let (socket, address, connection, handshake) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(_) = tasks.join_next() => continue,
            next = async { (permits.await, listener.accept().await) } => match next {
                (Some((connection, handshake)), Ok((socket, address))) => (socket, address, connection, handshake),
                (None, _) => return Ok(()),
                (_, Err(error)) => {
                    // Out of file descriptors, for example: others will be closed.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let porch = porch.clone();
        tasks.spawn(async move {
            let _handshake = handshake;
            handshake_with(&porch, socket, address, connection).await;
        });
    }
}

async fn handshake_with(porch: &Porch, socket: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
    let _ = socket.set_nodelay(true);
    if let Err(finding) = porch.clock.check() {
        // What expired would be valid, whoever presents it.
        porch.refuse(address, finding.reason, finding);
        return;
    }
    let Some(acceptor) = porch.own.borrow().as_ref().map(|own| own.acceptor.clone()) else { return };
    let outcome = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(socket)).await;
    let handshaken = match outcome {
        Ok(Ok(handshaken)) => handshaken,
        Ok(Err(error)) => {
            let reason = match &error {
                HandshakeError::Denied(denial) => denial.reason,
                HandshakeError::Tls { finding } => finding.reason,
                HandshakeError::Io(_) => Reason::ConnectFailed,
            };
            porch.refuse(address, reason, error);
            return;
        }
        Err(_) => {
            let why = format!("it took longer than {} s", HANDSHAKE_WITHIN.as_secs());
            porch.refuse(address, Reason::Timeout, why);
            return;
        }
    };
    let caller = Caller::new(handshaken.admission, address);
    let (deadline, bootstrap) = if caller.class() == Class::Bootstrap {
        let Ok(bootstrap) = Arc::clone(&porch.bootstrap).try_acquire_owned() else {
            porch.refuse(address, Reason::Overloaded, "too many callers without an SVID");
            return;
        };
        (Some(Box::pin(tokio::time::sleep(BOOTSTRAP_WITHIN))), Some(bootstrap))
    } else {
        (None, None)
    };
    porch.metrics.handshake(None);
    let connection =
        Connection { stream: handshaken.stream, caller, deadline, _permits: (permit, bootstrap) };
    // The server is gone when this fails, and so are we soon.
    let _ = porch.accepted.send(Ok(connection)).await;
}

/// Serves gRPC over connections that were admitted, until shutdown and all streams ended.
pub(crate) async fn serve(
    connections: mpsc::Receiver<io::Result<Connection>>,
    identity: IdentityService,
    mesh: MeshService,
    operator: OperatorService,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_max_header_list_size(16 << 10)
        .add_service(IdentityServer::new(identity).max_decoding_message_size(MAX_REQUEST))
        .add_service(
            MeshServer::new(mesh)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(OperatorServer::new(operator).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), shutdown.cancelled_owned())
        .await
        .map_err(Error::from)
}
