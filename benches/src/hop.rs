//! A hop between two attested peers, from the end of the TLS handshake on: the
//! session protocol over TLS, with everything that a proxy does for it but its
//! own bookkeeping. What each side does is metered apart; quotes are made outside.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_attester::{Attester, Produced};
use countersign_config::View;
use countersign_config::view::session::{SessionAdmission, SessionEvidence};
use countersign_evidence::UnixTime;
use countersign_evidence::evidence::media_type::TSM_TDX;
use countersign_ratls::binding::SessionCore;
use countersign_ratls::peer::Admission;
use countersign_ratls::session::{
    Acceptance, Action, Channel, Demands, Endpoint, Level, Moment, Offer, Party, Quoted, SecureRandom, Side,
};
use countersign_ratls::tls::{ALPN_MESH, Handshaken};
use countersign_ratls::{Identity, SpiffeId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{client, server};

use crate::fixture::NOW;
use crate::peers::{Peers, drive};

/// What looks at the work of one side: a clock, or callgrind.
pub trait Meter {
    /// Runs it.
    fn measure(&self, work: &mut dyn FnMut());
}

/// CPU time.
#[derive(Debug, Default)]
pub struct Stopwatch(Cell<Duration>);

impl Stopwatch {
    /// What was spent since the last call.
    pub fn take(&self) -> Duration {
        self.0.take()
    }
}

impl Meter for Stopwatch {
    fn measure(&self, work: &mut dyn FnMut()) {
        let start = crate::measure::cpu();
        work();
        self.0.set(self.0.get() + (crate::measure::cpu() - start));
    }
}

/// What a side demands of the other.
fn demands(view: &View, me: &SpiffeId, peer: &SpiffeId) -> Demands {
    let of = view.demands(me, peer).expect("a policy");
    Demands {
        level: of.level,
        accepted: of.media_types.iter().map(|media_type| (*media_type).to_owned()).collect(),
        policy_id: of.policy_id.0,
        interval: of.interval,
        ..Demands::default()
    }
}

/// The device of one side: it is asked for a quote, and somebody else makes it.
#[derive(Debug)]
struct Desk {
    machine: Arc<dyn Attester>,
    asked: RefCell<Option<SessionCore>>,
    made: RefCell<Option<Produced>>,
}

impl Desk {
    /// Makes the quote that is wanted, if one is.
    fn work(&self) {
        if let Some(core) = self.asked.take() {
            let made = self.machine.evidence(core.binder(&[]).as_bytes()).expect("a quote");
            self.made.replace(Some(made));
        }
    }
}

/// How far a side is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    open: bool,
    /// The round in which we proved ourselves last.
    own: Option<u64>,
    /// The round in which the peer did.
    peer: Option<u64>,
}

/// One side.
struct End<S> {
    stream: S,
    endpoint: Endpoint,
    me: SpiffeId,
    admission: Arc<Admission>,
    view: Arc<View>,
    proof: Option<SessionAdmission>,
    open: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> End<S> {
    fn new(shaken: Handshaken<S>, side: Side, of: &Identity, view: &Arc<View>, rounds: Rounds) -> Self {
        let Handshaken { stream, admission, agreed, .. } = shaken;
        let (me, peer) = (id(&of.id), id(&admission.presented.id));
        let mut demands = demands(view, &me, &peer);
        if rounds == Rounds::OfTheClient && side == Side::Client {
            demands.level = Level::L1;
        }
        let own = Party { id: me.clone(), spki_sha256: agreed.own_spki_sha256, not_after: of.not_after };
        let not_after = admission.presented.not_after;
        let peer = Party { id: peer, spki_sha256: agreed.peer_spki_sha256, not_after };
        let channel = Channel { side, quic: false, alpn: ALPN_MESH, ekm: agreed.ekm, own, peer };
        let offer = Offer { types: vec![TSM_TDX.to_owned()], event_log: false };
        let (demands, offer) = (Arc::new(demands), Arc::new(offer));
        let endpoint = Endpoint::new(channel, demands, offer, SecureRandom::shared(), after(0));
        let view = Arc::clone(view);
        Self { stream, endpoint: endpoint.expect("a session"), me, admission, view, proof: None, open: false }
    }

    /// Does what is to do, for ever.
    async fn run(&mut self, desk: &Desk, progress: &Cell<Progress>, now: Moment) {
        let mut space = vec![0; 16 << 10];
        loop {
            let out = self.pump(desk, now);
            if !out.is_empty() {
                self.stream.write_all(&out).await.expect("the peer reads");
                self.stream.flush().await.expect("the peer reads");
            }
            let state = self.endpoint.state();
            progress.set(Progress { open: self.open, own: state.own.round, peer: state.peer.round });
            let event = poll_fn(|cx| {
                if let Some(made) = desk.made.take() {
                    return Poll::Ready(Err(made));
                }
                pin!(self.stream.read(&mut space)).poll(cx).map(Ok)
            });
            match event.await {
                Ok(read) => {
                    let mut bytes = &space[..read.expect("the peer speaks")];
                    while !bytes.is_empty() {
                        let taken = self.endpoint.receive(bytes, now);
                        assert!(taken > 0, "nothing stands behind an Open here");
                        bytes = &bytes[taken..];
                    }
                }
                Err(made) => {
                    let (media_type, evidence) = (made.media_type, made.value.as_slice());
                    let quoted = Quoted { media_type, evidence, proof: None, event_log: None };
                    self.endpoint.quoted(Ok(quoted), now);
                }
            }
        }
    }

    /// Does what the machine says; what is to be written.
    fn pump(&mut self, desk: &Desk, now: Moment) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            match self.endpoint.poll(now) {
                Action::Send(bytes) => out.extend_from_slice(&bytes),
                Action::Quote(request) => drop(desk.asked.replace(Some(request.core))),
                Action::Appraise(received) => {
                    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.unix));
                    let evidence = SessionEvidence {
                        media_type: &received.media_type,
                        value: &received.evidence,
                        event_log: None,
                        report_data: &received.report_data,
                        challenged: at,
                    };
                    let proof = self.view.judge_session(&self.me, &self.admission, &evidence, at);
                    let proof = proof.expect("the evidence holds");
                    let acceptance = Acceptance { until: proof.valid_until, event_log: None };
                    self.proof = Some(proof);
                    self.endpoint.appraised(Ok(acceptance), now);
                }
                Action::Open => {
                    self.open = true;
                    self.endpoint.attached(now);
                }
                Action::Accepted(_) => {}
                Action::Wait(_) => return out,
                end @ (Action::Judge(_) | Action::Drain(_) | Action::Cut(_)) => panic!("{end:?}"),
            }
        }
    }
}

fn id(id: &Option<SpiffeId>) -> SpiffeId {
    id.clone().expect("a SPIFFE ID")
}

/// The moment so many seconds after the beginning.
fn after(seconds: u64) -> Moment {
    Moment { monotonic: Duration::from_secs(seconds), unix: NOW + seconds }
}

/// Who proves himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// Both.
    Mutual,
    /// The client, to a server that proves nothing for this connection.
    OfTheClient,
}

/// Both sides of one hop.
pub struct Hop {
    client: End<client::TlsStream<DuplexStream>>,
    server: End<server::TlsStream<DuplexStream>>,
    desks: [Desk; 2],
    round: u64,
}

impl Hop {
    /// A hop whose handshake is over and whose gate is shut. What the sides do
    /// after their handshakes is metered: client's, server's.
    ///
    /// # Panics
    /// When the set-up is broken.
    #[must_use]
    pub fn new(peers: &Peers, rounds: Rounds, meters: [&dyn Meter; 2]) -> Self {
        let (connector, acceptor) = peers.ends(peers.guards());
        let (near, far) = tokio::io::duplex(256 << 10);
        let (near, far) = drive(async { tokio::join!(connector.connect(near), acceptor.accept(far)) });
        let (view, [of_client, of_server]) = (peers.view(), peers.identities());
        let (mut client, mut server) = (None, None);
        let (mut near, mut far) = (near.ok(), far.ok());
        meters[0].measure(&mut || {
            client = near.take().map(|near| End::new(near, Side::Client, of_client, &view, rounds));
        });
        meters[1].measure(&mut || {
            server = far.take().map(|far| End::new(far, Side::Server, of_server, &view, rounds));
        });
        let desks = peers.machines().clone().map(|machine| Desk {
            machine,
            asked: RefCell::default(),
            made: RefCell::default(),
        });
        let (client, server) = (client.expect("the client accepts"), server.expect("the server accepts"));
        Self { client, server, desks, round: 0 }
    }

    /// Opens the gate.
    pub fn open(&mut self, meters: [&dyn Meter; 2]) {
        self.run(after(0), meters, |client, server| client.open && server.open);
    }

    /// Lets time pass until there was one more round in each direction.
    pub fn next_round(&mut self, meters: [&dyn Meter; 2]) {
        self.round += 1;
        let round = Some(self.round);
        let mutual = self.client.endpoint.state().peer.level >= Some(Level::L2);
        // The interval, and the most of its jitter.
        self.run(after(self.round * 360), meters, |client, server| {
            let proved = |prover: Progress, verifier: Progress| prover.own == round && verifier.peer == round;
            proved(client, server) && (!mutual || proved(server, client))
        });
    }

    /// What the server keeps for the hop: the machine, and what the peer proved.
    #[must_use]
    pub fn into_kept(self) -> (Endpoint, Option<SessionAdmission>) {
        (self.server.endpoint, self.server.proof)
    }

    fn run(&mut self, now: Moment, meters: [&dyn Meter; 2], done: impl Fn(Progress, Progress) -> bool) {
        let [near, far] = &self.desks;
        let progress = [const { Cell::new(Progress { open: false, own: None, peer: None }) }; 2];
        let client = Metered { side: Box::pin(self.client.run(near, &progress[0], now)), meter: meters[0] };
        let server = Metered { side: Box::pin(self.server.run(far, &progress[1], now)), meter: meters[1] };
        let (mut client, mut server) = (client, server);
        drive(poll_fn(|cx| {
            // Both end with the loop only.
            let _ = (client.poll(cx), server.poll(cx));
            near.work();
            far.work();
            if done(progress[0].get(), progress[1].get()) { Poll::Ready(()) } else { Poll::Pending }
        }));
    }
}

/// A side whose work is metered.
struct Metered<'a, F> {
    side: Pin<Box<F>>,
    meter: &'a dyn Meter,
}

impl<F: Future<Output = ()>> Metered<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut polled = Poll::Pending;
        self.meter.measure(&mut || polled = self.side.as_mut().poll(cx));
        polled
    }
}
