//! A man in the middle of a hop: somebody who has the wire between two proxies,
//! and those of their keys that a test gives him. What he hears he keeps.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use countersign_ratls::session::frame::{Decoder, Kind, encode};
use countersign_ratls::session::message::{Farewell, Outcome, RoundResult};
use countersign_ratls::session::{Side, WireReason};
use countersign_ratls::tls::{ALPN_MESH, Acceptor, Connector, Profile};
use countersign_ratls::{IdPattern, Identity};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use crate::attacker::Anybody;
use crate::clock::Clock;
use crate::mesh::{Mesh, Platform};
use crate::pair::Pair;
use crate::policy::{self, Policy};
use crate::session::{Prover, Speaker};
use crate::workload::Workload;

/// Above every frame.
const LARGEST: usize = 256 << 10;

/// What he does with the connections of clients.
#[derive(Clone, Debug, Default)]
pub enum Act {
    /// Passes the bytes on as they are.
    #[default]
    Wire,
    /// Ends TLS, passes on what proves something, and keeps the rest: neither end
    /// hears from the other that it was refused, so that each decides by itself.
    Relay {
        /// As whom he answers the client.
        server: Box<Identity>,
        /// As whom he calls the server.
        client: Box<Identity>,
    },
    /// Answers with these frames.
    Say {
        /// As whom he answers.
        server: Box<Identity>,
        /// The frames.
        frames: Vec<u8>,
    },
    /// Answers as an honest server would that has this certificate and this machine.
    Prove(Box<Prover>),
}

/// A frame that went by.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Who said it.
    pub by: Side,
    /// What it is.
    pub kind: Kind,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The man in the middle. Ends when it is dropped.
#[derive(Debug)]
pub struct Middle {
    /// Where clients find him.
    pub address: SocketAddr,
    act: watch::Sender<Act>,
    heard: Heard,
}

type Heard = Arc<Mutex<Vec<Frame>>>;

impl Middle {
    /// On the way to `server`, an honest wire at first.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(server: SocketAddr, clock: &Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (act, acts) = watch::channel(Act::Wire);
        let heard = Heard::default();
        tokio::spawn(serve(listener, acts, server, clock.clone(), Arc::clone(&heard)));
        Self { address, act, heard }
    }

    /// From now on. What was heard before is forgotten, connections that exist stay.
    pub fn act(&self, act: Act) {
        self.lock().clear();
        self.act.send_replace(act);
    }

    /// As [`Act::Relay`].
    pub fn relay(&self, server: &Identity, client: &Identity) {
        self.act(Act::Relay { server: Box::new(server.clone()), client: Box::new(client.clone()) });
    }

    /// The frames of one side, as they were.
    #[must_use]
    pub fn heard_of(&self, side: Side) -> Vec<Frame> {
        self.lock().iter().filter(|frame| frame.by == side).cloned().collect()
    }

    /// What of the first session proves something, to be said again.
    #[must_use]
    pub fn recording(&self, side: Side) -> Vec<u8> {
        let heard = self.heard_of(side);
        let first = PROVE.iter().filter_map(|kind| heard.iter().find(|frame| frame.kind == *kind));
        first.flat_map(|frame| encode(frame.kind, &frame.payload)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Frame>> {
        self.heard.lock().unwrap()
    }
}

/// The frames that prove something, in the order in which they come.
const PROVE: [Kind; 3] = [Kind::Hello, Kind::Challenge, Kind::Evidence];

/// The reason with which a side refused the other, if it said so.
///
/// # Panics
/// When a frame is malformed.
#[must_use]
pub fn refusal(frames: &[Frame]) -> Option<WireReason> {
    frames.iter().find_map(|frame| match frame.kind {
        Kind::Drain => Some(Farewell::decode(&frame.payload).unwrap().reason),
        Kind::Result => match RoundResult::decode(&frame.payload).unwrap().outcome {
            Outcome::Reject(reason) => Some(reason),
            _ => None,
        },
        _ => None,
    })
}

/// The frames in `bytes`, as they were said by one side.
///
/// # Panics
/// When they are none.
#[must_use]
pub fn frames(by: Side, mut bytes: &[u8]) -> Vec<Frame> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    while let Some((kind, payload)) = decoder.next(&mut bytes, |kind| Ok(kind.cap(LARGEST))).unwrap() {
        frames.push(Frame { by, kind, payload });
    }
    frames
}

async fn serve(
    listener: TcpListener,
    mut acts: watch::Receiver<Act>,
    server: SocketAddr,
    clock: Clock,
    heard: Heard,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = acts.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
            Ok((socket, _)) = listener.accept() => {
                let act = acts.borrow().clone();
                connections.spawn(one(act, socket, server, clock.clone(), Arc::clone(&heard)));
            }
        }
    }
}

/// One connection. However it ends: what counts is what the proxies make of it.
async fn one(act: Act, mut socket: TcpStream, server: SocketAddr, clock: Clock, heard: Heard) {
    match act {
        Act::Wire => {
            let Ok(mut there) = TcpStream::connect(server).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut socket, &mut there).await;
        }
        Act::Relay { server: answering, client } => {
            let Some(here) = answer(&answering, socket, &clock).await else { return };
            let anybody = IdPattern::parse(&policy::id("ledger")).unwrap();
            let connector = Connector::new(&client, Arc::new(Anybody), anybody, &profile(&clock)).unwrap();
            let Ok(socket) = TcpStream::connect(server).await else { return };
            let Ok(there) = connector.connect(socket).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (split(here), split(there.stream));
            let both = Barrier::new(2);
            tokio::join!(
                pass(from_client, to_server, Side::Client, &heard, Some(&both)),
                pass(from_server, to_client, Side::Server, &heard, Some(&both)),
            );
        }
        Act::Say { server, frames } => {
            let Some(mut here) = answer(&server, socket, &clock).await else { return };
            let said = async {
                here.write_all(&frames).await?;
                here.flush().await
            };
            if said.await.is_ok() {
                pass(here, tokio::io::sink(), Side::Client, &heard, None).await;
            }
        }
        Act::Prove(prover) => {
            let Some(mut here) = answer(&prover.identity, socket, &clock).await else { return };
            let mut speaker = Speaker::new(&prover, Side::Server, here.get_ref().1, &clock);
            let first = speaker.pump();
            if here.write_all(&first).await.is_ok() && here.flush().await.is_ok() {
                speaker.gate(&mut here).await;
            }
        }
    }
}

fn profile(clock: &Clock) -> Profile {
    Profile { alpn: vec![ALPN_MESH.to_vec()], require_pq: false, clock: clock.provider() }
}

/// A handshake with a client, whoever it is.
async fn answer(as_whom: &Identity, socket: TcpStream, clock: &Clock) -> Option<TlsStream<TcpStream>> {
    let acceptor = Acceptor::new(as_whom, Arc::new(Anybody), &profile(clock)).unwrap();
    acceptor.accept(socket).await.ok().map(|shaken| shaken.stream)
}

/// Passes on what proves something, until nobody speaks any more. Evidence waits
/// for that of the other side: who refuses first proves nothing more.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    by: Side,
    heard: &Mutex<Vec<Frame>>,
    both: Option<&Barrier>,
) {
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 16 << 10]);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut input = &buffer[..read];
        while let Ok(Some((kind, payload))) = decoder.next(&mut input, |kind| Ok(kind.cap(LARGEST))) {
            heard.lock().unwrap().push(Frame { by, kind, payload: payload.clone() });
            if let Some(both) = both.filter(|_| kind == Kind::Evidence) {
                both.wait().await;
            }
            // The other end may be gone; this one may still have something to say.
            if PROVE.contains(&kind) && to.write_all(&encode(kind, &payload)).await.is_ok() {
                let _ = to.flush().await;
            }
        }
    }
}

impl Pair {
    /// Two default TDX guests, with somebody on the wire between them.
    pub async fn with_a_middle() -> (Self, Middle) {
        let mesh = Mesh::with(&Policy::default()).await;
        let workload = Workload::start().await;
        let ledger = mesh.sidecar("ledger").on(&Platform::default()).serving(&[workload.port]).ready().await;
        let middle = Middle::start(ledger.inbound(), &mesh.clock).await;
        let web = mesh.sidecar("web").calling("ledger", middle.address, workload.port).ready().await;
        (Self { mesh, web, ledger, workload }, middle)
    }
}
