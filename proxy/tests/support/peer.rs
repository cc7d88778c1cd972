//! A peer that is no proxy: it speaks the session protocol by its own machine, and
//! stops, lies or goes away wherever a test wants it to.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_attester::Attester;
use countersign_evidence::evidence::media_type;
use countersign_evidence::{Denial, Finding};
use countersign_proxy::Clock;
use countersign_ratls::peer::Presented;
use countersign_ratls::session::frame::{self, Decoder, Kind};
use countersign_ratls::session::message::{Farewell, Outcome, RoundResult};
use countersign_ratls::session::{
    Acceptance, Action, Channel, Cut, Demands, Ekm, Endpoint, Level, Offer, Party, Quoted, SecureRandom,
    Side, WireReason,
};
use countersign_ratls::tls::{ALPN_MESH, Acceptor, Agreed, Connector, Profile};
use countersign_ratls::{IdPattern, Identity, SpiffeId};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use countersign_proxy::opaque::record;

use super::plane::Everybody;
use super::records::Records;
use super::{DAY, World, within};

/// Who a peer is, and what it demands of the proxy. Any evidence will do for it.
pub struct Who {
    pub identity: Identity,
    pub attester: Arc<dyn Attester>,
    pub demands: Demands,
    /// What it speaks behind the gate.
    pub alpn: &'static [u8],
}

impl Who {
    /// With a certificate for `id` on a default platform.
    pub fn new(world: &World, id: &str, level: Level) -> Self {
        Self::on(world, id, level, world.platform(countersign_attester::emulated::TdxSpec::default()))
    }

    pub fn on(world: &World, id: &str, level: Level, attester: Arc<dyn Attester>) -> Self {
        let accepted = vec![media_type::TSM_TDX.to_owned()];
        let demands = Demands { level, accepted, ..Demands::default() };
        Self { identity: world.identity(id, &*attester), attester, demands, alpn: ALPN_MESH }
    }

    /// The same over another protocol.
    pub fn over(self, alpn: &'static [u8]) -> Self {
        Self { alpn, ..self }
    }
}

/// What carries the frames.
enum Wire {
    Tls(Box<TlsStream<TcpStream>>),
    One(SendStream<Bytes>, RecvStream),
    /// Records of a dedicated hop.
    Records(Records),
    /// It is HTTP/2 by now, and nobody asked for stream 1.
    Gone,
}

/// What is behind the gate.
pub type Plain = std::pin::Pin<Box<dyn ReadWrite>>;

pub trait ReadWrite: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send> ReadWrite for T {}

/// One end of a hop.
pub struct Peer {
    /// The machine. What it decides about the proxy counts for nothing. It has an
    /// exporter of its own on a peer whose test speaks by hand.
    pub endpoint: Endpoint,
    by_hand: bool,
    /// Frames that are kept back, by kind.
    pub withheld: Vec<Kind>,
    /// What was kept back, oldest first.
    pub held: VecDeque<(Kind, Vec<u8>)>,
    /// Every frame of the proxy.
    pub heard: Vec<(Kind, Vec<u8>)>,
    /// What came behind its Open.
    pub beyond: Vec<u8>,
    /// Whether the machine sees the gate open.
    pub open: bool,
    /// How the session ended for the machine.
    pub cut: Option<Cut>,
    /// What has come and is not looked at yet.
    bytes: Vec<u8>,
    decoder: Decoder,
    wire: Wire,
    attester: Arc<dyn Attester>,
    clock: Clock,
}

impl Peer {
    /// Calls the proxy at `address`, up to the end of the handshake.
    pub async fn call(world: &World, who: Who, to: &str, address: SocketAddr) -> Self {
        let expected = IdPattern::parse(to).unwrap();
        let connector =
            Connector::new(&who.identity, Arc::new(Everybody), expected, &profile(world, who.alpn)).unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let shaken = within("a handshake", connector.connect(socket)).await.unwrap();
        let peer = shaken.admission.presented.clone();
        Self::new(world, who, Side::Client, shaken.agreed, &peer, shaken.stream.into())
    }

    /// The same, but the test says everything, and knows what it must be bound to.
    pub async fn mute(world: &World, who: Who, to: &str, address: SocketAddr) -> (Self, Agreed) {
        let expected = IdPattern::parse(to).unwrap();
        let connector =
            Connector::new(&who.identity, Arc::new(Everybody), expected, &profile(world, who.alpn)).unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let shaken = within("a handshake", connector.connect(socket)).await.unwrap();
        let peer = shaken.admission.presented.clone();
        let agreed = shaken.agreed;
        let other = Agreed {
            alpn: Vec::new(),
            ekm: Ekm::new([0; 32].into()),
            own_spki_sha256: agreed.own_spki_sha256,
            peer_spki_sha256: agreed.peer_spki_sha256,
        };
        let mute = Self::new(world, who, Side::Client, other, &peer, shaken.stream.into());
        (Self { by_hand: true, ..mute }, agreed)
    }

    /// Is called by a proxy.
    pub async fn answer(world: &World, who: Who, socket: TcpStream) -> Self {
        let acceptor = Acceptor::new(&who.identity, Arc::new(Everybody), &profile(world, who.alpn)).unwrap();
        let shaken = within("a handshake", acceptor.accept(socket)).await.unwrap();
        let peer = shaken.admission.presented.clone();
        Self::new(world, who, Side::Server, shaken.agreed, &peer, shaken.stream.into())
    }

    fn new(
        world: &World,
        who: Who,
        side: Side,
        agreed: Agreed,
        peer: &Presented,
        stream: TlsStream<TcpStream>,
    ) -> Self {
        let party = |id: &SpiffeId, key, not_after| Party { id: id.clone(), spki_sha256: key, not_after };
        let (own, peer_id) = (who.identity.id.clone().unwrap(), peer.id.clone().unwrap());
        let channel = Channel {
            side,
            quic: false,
            alpn: who.alpn,
            ekm: agreed.ekm,
            own: party(&own, agreed.own_spki_sha256, who.identity.not_after),
            peer: party(&peer_id, agreed.peer_spki_sha256, peer.not_after),
        };
        let clock = world.clock();
        let offer = Offer { types: vec![media_type::TSM_TDX.to_owned()], event_log: false };
        let random = SecureRandom::shared();
        let endpoint =
            Endpoint::new(channel, Arc::new(who.demands), Arc::new(offer), random, clock.moment()).unwrap();
        Self {
            endpoint,
            by_hand: false,
            withheld: Vec::new(),
            held: VecDeque::new(),
            heard: Vec::new(),
            beyond: Vec::new(),
            open: false,
            cut: None,
            bytes: Vec::new(),
            decoder: Decoder::default(),
            wire: Wire::Tls(Box::new(stream)),
            attester: who.attester,
            clock,
        }
    }

    /// The TLS stream, before the gate.
    pub fn tls(&mut self) -> &mut TlsStream<TcpStream> {
        match &mut self.wire {
            Wire::Tls(stream) => stream,
            Wire::One(..) | Wire::Records(_) | Wire::Gone => panic!("there are no bare frames any more"),
        }
    }

    /// Does what the machine says; what it wants to be written.
    fn pump(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let now = self.clock.moment();
            match self.endpoint.poll(now) {
                Action::Send(frame) => {
                    let kind = Kind::from_byte(frame[4]).unwrap();
                    if self.withheld.contains(&kind) {
                        self.held.push_back((kind, frame));
                    } else {
                        out.extend(frame);
                    }
                }
                Action::Quote(request) => {
                    let produced = self.attester.evidence(request.core.binder(&[]).as_bytes()).unwrap();
                    let (media_type, evidence) = (produced.media_type, &*produced.value);
                    let quoted = Quoted { media_type, evidence, proof: None, event_log: None };
                    self.endpoint.quoted(Ok(quoted), now);
                }
                Action::Appraise(_) => {
                    let accepted = Acceptance { until: now.unix + DAY, event_log: None };
                    self.endpoint.appraised(Ok(accepted), now);
                }
                Action::Judge(chain) => {
                    let judged = Presented::parse(&chain).map_err(Denial::from);
                    self.endpoint.judged(judged.as_ref().map_err(Clone::clone), now);
                }
                Action::Open => self.open = true,
                Action::Accepted(_) | Action::Drain(_) => {}
                Action::Cut(cut) => self.cut = Some(cut),
                Action::Wait(_) => return out,
            }
        }
    }

    /// Writes what the machine wants to say, as far as it is not kept back.
    pub async fn speak(&mut self) {
        let out = self.pump();
        // Who hears nothing more has ended the hop: that shows with the next read.
        let _ = self.write(&out).await;
    }

    /// Writes any bytes where frames are written.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.wire {
            Wire::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Wire::One(send, _) => {
                send.send_data(Bytes::copy_from_slice(bytes), false).map_err(io::Error::other)
            }
            Wire::Records(records) => records.write(record::Kind::Attest, bytes).await,
            Wire::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Looks at the next frame of the proxy: false when nothing more comes.
    ///
    /// # Panics
    /// When what comes before the gate is open is no frame of the session.
    pub async fn listen(&mut self) -> bool {
        loop {
            let mut rest = self.bytes.as_slice();
            let any = |_: Kind| Ok::<_, Finding>(1 << 20);
            let next = self.decoder.next(&mut rest, any).expect("frames of the session, and nothing else");
            self.bytes = rest.to_vec();
            if let Some((kind, payload)) = next {
                if kind == Kind::Open {
                    self.beyond = std::mem::take(&mut self.bytes);
                }
                let whole = frame::encode(kind, &payload);
                self.heard.push((kind, payload));
                if self.by_hand {
                    return true;
                }
                let mut rest = &whole[..];
                while !rest.is_empty() {
                    let taken = self.endpoint.receive(rest, self.clock.moment());
                    rest = &rest[taken..];
                    self.speak().await;
                    if taken == 0 {
                        break;
                    }
                }
                return true;
            }
            let seen = self.seen();
            if !self.read().await {
                return false;
            }
            if self.seen() != seen {
                return true;
            }
        }
    }

    /// How much came that is not the session's.
    fn seen(&self) -> (usize, usize) {
        match &self.wire {
            Wire::Records(records) => (records.parts.len(), records.data.len()),
            _ => (0, 0),
        }
    }

    async fn read(&mut self) -> bool {
        match &mut self.wire {
            Wire::Tls(stream) => {
                let mut some = vec![0; 16 << 10];
                let read = within("a word of the proxy", stream.read(&mut some)).await;
                let some = &some[..read.unwrap_or_default()];
                if self.heard.iter().any(|(kind, _)| *kind == Kind::Open) {
                    self.beyond.extend_from_slice(some);
                } else {
                    self.bytes.extend_from_slice(some);
                }
                !some.is_empty()
            }
            Wire::One(_, recv) => match within("a word of the proxy", recv.data()).await {
                Some(Ok(data)) => {
                    recv.flow_control().release_capacity(data.len()).unwrap();
                    self.bytes.extend_from_slice(&data);
                    true
                }
                _ => false,
            },
            Wire::Records(records) => {
                within("a word of the proxy", records.read(&mut self.bytes)).await.unwrap_or_default()
            }
            Wire::Gone => false,
        }
    }

    /// Speaks and listens until something is so.
    pub async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        self.speak().await;
        while !so(self) {
            assert!(
                self.listen().await,
                "{what}: the proxy ended the hop; heard {:?}, {:?}",
                self.kinds(),
                self.told()
            );
        }
    }

    /// Listens until the proxy ends the hop.
    pub async fn hear_out(&mut self) {
        while self.listen().await {}
    }

    /// Whether a frame of this kind came.
    pub fn has_heard(&self, kind: Kind) -> bool {
        self.count(kind) > 0
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.heard.iter().filter(|(heard, _)| *heard == kind).count()
    }

    pub fn kinds(&self) -> Vec<Kind> {
        self.heard.iter().map(|(kind, _)| *kind).collect()
    }

    /// The reason that the proxy gave last for not going on.
    pub fn told(&self) -> Option<WireReason> {
        let (kind, payload) = self.heard.last()?;
        match kind {
            Kind::Drain => Some(Farewell::decode(payload).unwrap().reason),
            Kind::Result => match RoundResult::decode(payload).unwrap().outcome {
                Outcome::Accept => None,
                Outcome::Reject(reason) | Outcome::Retry(reason) => Some(reason),
            },
            _ => None,
        }
    }

    /// Goes through the gate.
    pub async fn pass(&mut self) {
        self.until("the gate", |peer| peer.open).await;
    }

    /// Behind the gate, as a client: HTTP/2, whose stream 1 carries the frames.
    pub async fn calling(mut self) -> (Self, SendRequest<Bytes>) {
        self.pass().await;
        let (mut request, connection) = h2::client::handshake(self.plain()).await.unwrap();
        tokio::spawn(connection);
        let (response, send) = request.send_request(attest(), false).unwrap();
        let response = within("stream 1", response).await.unwrap();
        self.attach(send, response.into_body());
        (self, request)
    }

    /// Behind the gate of a dedicated hop.
    pub async fn dedicated(mut self) -> Self {
        self.pass().await;
        self.wire = Wire::Records(Records::new(self.plain()));
        self.endpoint.attached(self.clock.moment());
        self
    }

    /// The records of a dedicated hop.
    pub fn records(&mut self) -> &mut Records {
        match &mut self.wire {
            Wire::Records(records) => records,
            _ => panic!("no dedicated hop"),
        }
    }

    /// Listens until the records that came are so.
    pub async fn until_records(&mut self, what: &str, so: impl Fn(&Records) -> bool) {
        let is_so = |peer: &Self| matches!(&peer.wire, Wire::Records(records) if so(records));
        self.until(what, is_so).await;
    }

    /// Quotes on another machine from now on.
    pub fn move_to(&mut self, attester: Arc<dyn Attester>) {
        self.attester = attester;
    }

    /// Behind the gate, as a server that leaves everything to the test.
    pub async fn serving(mut self) -> h2::server::Connection<Plain, Bytes> {
        self.pass().await;
        within("HTTP/2", h2::server::handshake(self.plain())).await.unwrap()
    }

    /// Behind the gate, as a server: the same, and the requests that come.
    pub async fn called(mut self) -> (Self, Requests) {
        self.pass().await;
        let mut connection = within("HTTP/2", h2::server::handshake(self.plain())).await.unwrap();
        let (request, mut respond) = within("stream 1", connection.accept()).await.unwrap().unwrap();
        assert_eq!((request.uri().path(), u32::from(respond.stream_id())), (PATH, 1));
        let mut response = Response::new(());
        response.headers_mut().insert(http::header::CONTENT_TYPE, FRAMES.parse().unwrap());
        let send = respond.send_response(response, false).unwrap();
        self.attach(send, request.into_body());
        let (came, requests) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = connection.accept().await {
                if came.send(request).await.is_err() {
                    return;
                }
            }
        });
        (self, requests)
    }

    /// HTTP/2 without any rounds.
    pub async fn without_rounds(mut self) -> SendRequest<Bytes> {
        self.pass().await;
        let (request, connection) = h2::client::handshake(self.plain()).await.unwrap();
        tokio::spawn(connection);
        request
    }

    fn attach(&mut self, send: SendStream<Bytes>, recv: RecvStream) {
        self.wire = Wire::One(send, recv);
        self.endpoint.attached(self.clock.moment());
    }

    /// Ends the connection by a reset.
    pub fn reset(&mut self) {
        let Wire::Tls(stream) = std::mem::replace(&mut self.wire, Wire::Gone) else { panic!("no gate") };
        let socket = match *stream {
            TlsStream::Client(stream) => stream.into_inner().0,
            TlsStream::Server(stream) => stream.into_inner().0,
        };
        countersign_net::abort(socket);
    }

    /// Ends stream 1, in order or not.
    pub fn close(&mut self, reset: bool) {
        match &mut self.wire {
            Wire::One(send, _) if reset => send.send_reset(h2::Reason::CANCEL),
            Wire::One(send, _) => send.send_data(Bytes::new(), true).unwrap(),
            _ => panic!("there is no stream 1"),
        }
    }

    /// The bytes behind the gate.
    fn plain(&mut self) -> Plain {
        let ahead = io::Cursor::new(std::mem::take(&mut self.beyond));
        let Wire::Tls(stream) = std::mem::replace(&mut self.wire, Wire::Gone) else { panic!("no gate") };
        let (read, write) = tokio::io::split(*stream);
        Box::pin(tokio::io::join(ahead.chain(read), write))
    }
}

pub type Requests = tokio::sync::mpsc::Receiver<(Request<RecvStream>, SendResponse<Bytes>)>;

pub const PATH: &str = "/.well-known/ratls-mesh/attest";
pub const FRAMES: &str = "application/vnd.countersign.ratls-mesh-frames";

/// The request for the rounds.
pub fn attest() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("https://peer{PATH}").parse().unwrap();
    request.headers_mut().insert(http::header::CONTENT_TYPE, FRAMES.parse().unwrap());
    request
}

/// A call of the workload behind the proxy.
pub fn connect(port: u16) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = format!("ledger:{port}").parse().unwrap();
    request
}

fn profile(world: &World, alpn: &[u8]) -> Profile {
    Profile { alpn: vec![alpn.to_vec()], require_pq: false, clock: world.clock().provider() }
}
