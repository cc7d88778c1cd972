//! The least control plane that a proxy accepts: real TLS, real certificates,
//! the real delta protocol, and a test that decides what it sends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use countersign_attester::emulated::TdxSpec;
use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::AttestedRequest;
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::tls::{Acceptor, Profile};
use countersign_ratls::{Authority, SpiffeId};
use countersign_wire::Snapshot;
use countersign_wire::proto::identity_server::{Identity, IdentityServer};
use countersign_wire::proto::mesh_server::{Mesh, MeshServer};
use countersign_wire::proto::{self, ControlMessage, ProxyMessage};
use countersign_wire::server::{Heard, Session};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::{World, at};

pub const CONTROL: &str = "spiffe://prod.example/countersign/control-plane";
const NONCE: [u8; 32] = [9; 32];

/// What happened at the control plane.
#[derive(Debug, PartialEq)]
pub enum Seen {
    /// A handshake that did not come to its end.
    Refused,
    /// A certificate was issued.
    Issued,
    /// A message of the proxy, and what it rejects by then.
    Heard(Heard, Vec<String>),
}

/// What the control plane sends next.
#[derive(Clone)]
pub enum Send {
    /// A snapshot, by the protocol.
    Snapshot(Arc<Snapshot>),
    /// A snapshot, and nothing after it: the stream ends.
    Last(Arc<Snapshot>),
    /// Whatever it is.
    Raw(ControlMessage),
}

pub struct Plane {
    pub address: SocketAddr,
    pub send: watch::Sender<Option<Send>>,
    pub seen: mpsc::Receiver<Seen>,
}

impl Plane {
    /// A control plane that runs on `platform`.
    pub async fn start(world: &World, platform: TdxSpec) -> Self {
        let identity = world.identity(CONTROL, &*world.platform(platform));
        let profile = Profile {
            alpn: vec![countersign_wire::ALPN.to_vec()],
            require_pq: false,
            clock: world.clock().provider(),
        };
        let acceptor = Acceptor::new(&identity, Arc::new(Everybody), &profile).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, seen) = mpsc::channel(64);
        let (incoming, connections) = mpsc::channel(8);
        let handshakes = report.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                match acceptor.accept(socket).await {
                    Ok(shaken) => incoming.send(Ok::<_, io::Error>(Io(shaken.stream))).await.unwrap(),
                    Err(_) => handshakes.send(Seen::Refused).await.unwrap(),
                }
            }
        });
        let send = watch::Sender::new(None);
        let authority = Authority::from_parts(
            world.authority.certificate.clone(),
            countersign_ratls::key::PrivateKey::from_pem(&world.authority.key().to_pem()).unwrap(),
        );
        let service = Service {
            authority: Arc::new(authority.unwrap()),
            world_time: Arc::clone(&world.time),
            send: send.clone(),
            report,
        };
        let server = tonic::transport::Server::builder()
            .add_service(IdentityServer::new(service.clone()))
            .add_service(MeshServer::new(service));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
        Self { address, send, seen }
    }

    /// The next message of the proxy that is not a mere report.
    pub async fn heard(&mut self) -> (Heard, Vec<String>) {
        loop {
            match self.seen.recv().await.unwrap() {
                Seen::Heard(Heard::InUse(_), _) | Seen::Issued => {}
                Seen::Heard(heard, rejected) => return (heard, rejected),
                Seen::Refused => panic!("the proxy refused us"),
            }
        }
    }
}

/// Admits everybody: what a proxy proves is not what these tests are about.
#[derive(Debug)]
pub struct Everybody;

impl Judge for Everybody {
    fn judge(&self, chain: &[CertificateDer<'_>], _: Role, _: UnixTime) -> Result<Arc<Admission>, Denial> {
        let presented = Presented::parse(chain)?;
        Ok(Arc::new(Admission::without_evidence(presented, u64::MAX, 0)))
    }
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    world_time: Arc<super::Simulated>,
    send: watch::Sender<Option<Send>>,
    report: mpsc::Sender<Seen>,
}

#[tonic::async_trait]
impl Identity for Service {
    async fn challenge(
        &self,
        _: Request<proto::ChallengeRequest>,
    ) -> Result<Response<proto::ChallengeResponse>, Status> {
        Ok(Response::new(proto::ChallengeResponse { nonce: NONCE.to_vec().into(), expires: u64::MAX }))
    }

    async fn issue(
        &self,
        request: Request<proto::IssueRequest>,
    ) -> Result<Response<proto::IssueResponse>, Status> {
        let request = request.into_inner();
        let csr = AttestedRequest::parse(&request.csr).unwrap();
        assert_eq!(csr.challenge, NONCE);
        let name = request.workload.strip_prefix("payments/").unwrap();
        let id = SpiffeId::parse(&format!("spiffe://prod.example/ns/payments/sa/{name}")).unwrap();
        let leaf = Leaf { spki: &csr.spki, id: &id, lifetime: 3600, cmw: Some(&csr.cmw) };
        use rustls::time_provider::TimeProvider as _;
        let now = self.world_time.current_time().unwrap_or_else(|| at(0));
        let chain = self.authority.issue(&leaf, now).unwrap();
        self.report.send(Seen::Issued).await.unwrap();
        let chain = chain.iter().map(|c| Bytes::copy_from_slice(c)).collect();
        Ok(Response::new(proto::IssueResponse { chain, bundle: String::new() }))
    }
}

#[tonic::async_trait]
impl Mesh for Service {
    type SubscribeStream = ReceiverStream<Result<ControlMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut incoming = request.into_inner();
        let (outgoing, stream) = mpsc::channel(16);
        let (mut changes, report) = (self.send.subscribe(), self.report.clone());
        changes.mark_changed();
        tokio::spawn(async move {
            let mut session = Session::new();
            let mut last = false;
            loop {
                tokio::select! {
                    message = incoming.message() => {
                        let Ok(Some(message)) = message else { return };
                        let heard = session.feed(message).unwrap();
                        let rejected = session.status().rejected.keys().cloned().collect();
                        report.send(Seen::Heard(heard, rejected)).await.unwrap();
                    }
                    changed = changes.changed() => {
                        if changed.is_err() { return }
                        match changes.borrow_and_update().clone() {
                            Some(Send::Snapshot(snapshot)) => session.offer(snapshot),
                            Some(Send::Last(snapshot)) => {
                                last = session.peer().is_some_and(|peer| peer.generation < snapshot.generation());
                                session.offer(snapshot);
                            }
                            Some(Send::Raw(message)) => { let _ = outgoing.try_send(Ok(message)); }
                            None => {}
                        }
                    }
                }
                while let Some(message) = session.poll() {
                    if outgoing.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A message that ends a generation with a signature of zeros.
pub fn forged(generation: u64, kid: &str) -> ControlMessage {
    let complete = proto::SnapshotComplete { generation, signature: vec![0; 64].into(), kid: kid.to_owned() };
    ControlMessage { message: Some(proto::control_message::Message::Complete(complete)) }
}

struct Io(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Io {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
