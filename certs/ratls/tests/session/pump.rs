//! Two machines, what their drivers would do, and the wire between them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_evidence::evidence::media_type;
use countersign_evidence::{Denial, Evidence, Finding, Reason};
use countersign_ratls::binding::batch_report_data;
use countersign_ratls::merkle;
use countersign_ratls::peer::Presented;
use countersign_ratls::session::frame::{self, Decoder, Kind};
use countersign_ratls::session::{
    Acceptance, Accepted, Action, Channel, Cut, Demands, Drain, Ekm, Endpoint, Moment, Offer, Party, Proof,
    QuoteRequest, Quoted, Random, Received, Side, WireReason,
};
use rustls_pki_types::CertificateDer;

use crate::common::{NOW, id, tdx};

/// Numbers that are different every time, and the same in every run.
#[derive(Debug)]
pub struct Seeded(AtomicU64);

impl Seeded {
    pub fn shared(seed: u64) -> Arc<dyn Random> {
        Arc::new(Self(AtomicU64::new(seed)))
    }
}

impl Random for Seeded {
    fn fill(&self, out: &mut [u8]) -> Result<(), Finding> {
        for chunk in out.chunks_mut(8) {
            // splitmix64
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_be_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

/// Evidence of the emulated TDX machine over `report_data`. It parses; its
/// signature does not verify, and nothing here looks at it.
pub fn evidence(report_data: &[u8; 64]) -> Vec<u8> {
    static GENUINE: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
        let marker = [0xab; 64];
        let value = tdx().evidence(&marker).unwrap().value;
        let at = value.windows(64).position(|window| window == marker).unwrap();
        (value, at)
    });
    let (mut value, at) = GENUINE.clone();
    value[at..at + 64].copy_from_slice(report_data);
    value
}

pub const TYPE: &str = media_type::TSM_TDX;

pub fn demands() -> Demands {
    Demands { accepted: vec![TYPE.to_owned()], policy_id: [0xcc; 32], ..Demands::default() }
}

pub fn offer() -> Offer {
    Offer { types: vec![TYPE.to_owned()], event_log: false }
}

/// The moment `seconds` after the beginning.
pub fn after(seconds: f64) -> Moment {
    let monotonic = Duration::from_secs_f64(seconds);
    Moment { monotonic, unix: NOW + monotonic.as_secs() }
}

pub fn party(side: Side) -> Party {
    let (name, key) = match side {
        Side::Client => ("spiffe://td/client", 0x66),
        Side::Server => ("spiffe://td/server", 0x77),
    };
    Party { id: id(name), spki_sha256: [key; 32], not_after: NOW + 30 * 86_400 }
}

pub fn channel(side: Side, ekm: u8) -> Channel {
    Channel {
        side,
        quic: false,
        alpn: b"ratls-h2/1",
        ekm: Ekm::new([ekm; 32].into()),
        own: party(side),
        peer: party(side.other()),
    }
}

/// What came out of a machine, besides what is sent and what is answered.
#[derive(Debug)]
pub enum Event {
    Open,
    Accepted(Accepted),
    Drain(Drain),
    Cut(Cut),
}

/// A machine with a driver that answers as it is told.
#[derive(Debug)]
pub struct Node {
    pub endpoint: Endpoint,
    /// Whether quotes are made at once; otherwise they wait in `quotes`.
    pub quotes_at_once: bool,
    pub quotes: Vec<QuoteRequest>,
    /// Whether evidence is accepted at once; otherwise it waits in `received`.
    pub accepts_at_once: bool,
    pub received: Vec<Received>,
    /// Whether identities are admitted at once; otherwise they wait in `judged`.
    pub admits_at_once: bool,
    pub judged: Vec<Vec<CertificateDer<'static>>>,
    /// How long verdicts hold.
    pub verdict: u64,
    pub events: Vec<Event>,
    /// Frames that were sent and not taken from here.
    pub sent: VecDeque<(Kind, Vec<u8>)>,
    /// What stands behind the peer's Open.
    pub application: Vec<u8>,
}

impl Node {
    pub fn new(channel: Channel, demands: Demands, offer: Offer, seed: u64) -> Self {
        let (demands, offer) = (Arc::new(demands), Arc::new(offer));
        let endpoint = Endpoint::new(channel, demands, offer, Seeded::shared(seed), after(0.0)).unwrap();
        Self {
            endpoint,
            quotes_at_once: true,
            quotes: Vec::new(),
            accepts_at_once: true,
            received: Vec::new(),
            admits_at_once: true,
            judged: Vec::new(),
            verdict: 30 * 86_400,
            events: Vec::new(),
            sent: VecDeque::new(),
            application: Vec::new(),
        }
    }

    /// Does what the machine says until it waits; returns until when.
    pub fn pump(&mut self, now: Moment) -> Option<Duration> {
        // Enough for anything that is no endless loop.
        for _ in 0..10_000 {
            match self.endpoint.poll(now) {
                Action::Send(bytes) => self.sent.extend(split(&bytes)),
                Action::Quote(request) => {
                    self.quotes.push(request);
                    if self.quotes_at_once {
                        self.quote(now);
                    }
                }
                Action::Appraise(received) => {
                    check(&received);
                    self.received.push(*received);
                    if self.accepts_at_once {
                        self.accept(now);
                    }
                }
                Action::Judge(chain) => {
                    self.judged.push(chain);
                    if self.admits_at_once {
                        self.admit(now);
                    }
                }
                Action::Open => {
                    self.events.push(Event::Open);
                    // The driver has its stream at once.
                    self.endpoint.attached(now);
                }
                Action::Accepted(accepted) => self.events.push(Event::Accepted(accepted)),
                Action::Drain(drain) => self.events.push(Event::Drain(drain)),
                Action::Cut(cut) => self.events.push(Event::Cut(cut)),
                Action::Wait(until) => {
                    assert!(
                        until.is_none_or(|until| until > now.monotonic),
                        "{until:?} is not after {now:?}"
                    );
                    return until;
                }
            }
        }
        panic!("the machine does not come to rest: {self:#?}");
    }

    /// Answers the oldest quote that waits, alone.
    pub fn quote(&mut self, now: Moment) {
        let request = self.quotes.remove(0);
        let value = evidence(request.core.binder(&[]).as_bytes());
        let event_log = request.event_log.map(|_| ("application/x-log", &b"log"[..]));
        let quoted = Quoted { media_type: TYPE, evidence: &value, proof: None, event_log };
        self.endpoint.quoted(Ok(quoted), now);
    }

    /// Accepts the oldest evidence that waits.
    pub fn accept(&mut self, now: Moment) {
        self.received.remove(0);
        let acceptance = Acceptance { until: now.unix + self.verdict, event_log: Some(3) };
        self.endpoint.appraised(Ok(acceptance), now);
    }

    pub fn admit(&mut self, now: Moment) {
        let presented = Presented::parse(&self.judged.remove(0)).unwrap();
        self.endpoint.judged(Ok(&presented), now);
    }

    /// Takes in a frame.
    pub fn give(&mut self, kind: Kind, payload: &[u8], now: Moment) -> Option<Duration> {
        self.give_bytes(&frame::encode(kind, payload), now)
    }

    /// Takes in bytes as a driver does.
    pub fn give_bytes(&mut self, bytes: &[u8], now: Moment) -> Option<Duration> {
        let mut rest = bytes;
        loop {
            let was_open = self.is_open();
            let taken = self.endpoint.receive(rest, now);
            rest = &rest[taken..];
            let until = self.pump(now);
            if !was_open && self.is_open() {
                self.application.extend_from_slice(rest);
                return until;
            }
            if rest.is_empty() || taken == 0 {
                return until;
            }
        }
    }

    pub fn take(&mut self, kind: Kind) -> Vec<u8> {
        let at = self.sent.iter().position(|(sent, _)| *sent == kind).unwrap();
        self.sent.remove(at).unwrap().1
    }

    pub fn is_open(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Open))
    }

    pub fn cut(&self) -> Option<&Cut> {
        self.events.iter().find_map(|event| if let Event::Cut(cut) = event { Some(cut) } else { None })
    }

    pub fn drain(&self) -> Option<&Drain> {
        self.events.iter().find_map(|event| if let Event::Drain(drain) = event { Some(drain) } else { None })
    }

    /// Reason and blame of the cut.
    pub fn ended(&self) -> Option<(Reason, bool)> {
        self.cut().map(|cut| (cut.denial.reason, cut.by_peer))
    }

    pub fn accepted(&self) -> Vec<u64> {
        let round =
            |event: &Event| if let Event::Accepted(accepted) = event { Some(accepted.round) } else { None };
        self.events.iter().filter_map(round).collect()
    }
}

/// Nothing that reaches the appraisal carries another report data.
fn check(received: &Received) {
    let parsed = Evidence::parse(&received.media_type, &received.evidence).unwrap();
    received.report_data.check(parsed.report_data()).unwrap();
}

pub fn split(bytes: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let (mut decoder, mut rest, mut frames) = (Decoder::default(), bytes, Vec::new());
    while let Some(frame) = decoder.next(&mut rest, |_| Ok(usize::MAX)).unwrap() {
        frames.push(frame);
    }
    frames
}

/// Answers the open requests of several nodes with one quote over all binders.
pub fn quote_batch(nodes: &mut [&mut Node], now: Moment) {
    let requests: Vec<_> = nodes.iter_mut().map(|node| node.quotes.remove(0)).collect();
    let binders: Vec<_> = requests.iter().map(|request| *request.core.binder(&[]).as_bytes()).collect();
    let root = merkle::root(&binders).unwrap();
    let size = binders.len() as u64;
    let value = evidence(batch_report_data(size, &root).as_bytes());
    for (index, node) in nodes.iter_mut().enumerate() {
        let path = merkle::proof(index, &binders).unwrap();
        let proof = Proof { index: index as u64, size, path: &path };
        let quoted = Quoted { media_type: TYPE, evidence: &value, proof: Some(proof), event_log: None };
        node.endpoint.quoted(Ok(quoted), now);
    }
}

/// A hop.
#[derive(Debug)]
pub struct Hop {
    pub client: Node,
    pub server: Node,
    pub now: Moment,
}

impl Hop {
    pub fn new(client: Demands, server: Demands) -> Self {
        Self::with_offers((client, offer()), (server, offer()))
    }

    pub fn with_offers(client: (Demands, Offer), server: (Demands, Offer)) -> Self {
        Self {
            client: Node::new(channel(Side::Client, 0x55), client.0, client.1, 1),
            server: Node::new(channel(Side::Server, 0x55), server.0, server.1, 2),
            now: after(0.0),
        }
    }

    /// Both demand everything of each other.
    pub fn mutual() -> Self {
        Self::new(demands(), demands())
    }

    /// The same with the gate behind it.
    pub fn open() -> Self {
        let mut hop = Self::mutual();
        hop.settle();
        assert!(hop.client.is_open() && hop.server.is_open(), "{hop:#?}");
        hop
    }

    /// Carries frames until there are none.
    pub fn settle(&mut self) -> Option<Duration> {
        // Enough for anything that is no endless exchange.
        for _ in 0..1000 {
            let wakes = [self.client.pump(self.now), self.server.pump(self.now)];
            if self.client.sent.is_empty() && self.server.sent.is_empty() {
                return wakes.into_iter().flatten().min();
            }
            self.carry();
        }
        panic!("the machines do not come to rest: {self:#?}");
    }

    /// Carries what was sent so far, one flight each way.
    pub fn carry(&mut self) {
        let (up, down) = (std::mem::take(&mut self.client.sent), std::mem::take(&mut self.server.sent));
        for (kind, payload) in up {
            self.server.give(kind, &payload, self.now);
        }
        for (kind, payload) in down {
            self.client.give(kind, &payload, self.now);
        }
    }

    /// Lets time pass, stopping wherever a machine wants to be woken.
    pub fn pass(&mut self, seconds: f64) {
        let end = self.now.monotonic + Duration::from_secs_f64(seconds);
        loop {
            let next = self.settle().map_or(end, |wake| wake.min(end));
            self.now = after(next.as_secs_f64());
            // Rounding must not leave us in front of what we wait for.
            self.now.monotonic = next;
            if next >= end {
                self.settle();
                return;
            }
        }
    }

    /// Lets time pass in steps until something is so: within an hour.
    pub fn until(&mut self, step: f64, so: impl Fn(&Self) -> bool) {
        let end = self.now.monotonic + Duration::from_secs(3600);
        while !so(self) {
            assert!(self.now.monotonic < end, "it does not come to pass: {self:#?}");
            self.pass(step);
        }
    }

    pub fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

pub fn denial(reason: Reason) -> Denial {
    Finding::new(reason, "test", "this", "that").into()
}

/// The reason that a frame tells the peer.
pub fn said(kind: Kind, payload: &[u8]) -> Option<WireReason> {
    use countersign_ratls::session::message::{Farewell, Outcome, RoundResult};
    match kind {
        Kind::Drain => Some(Farewell::decode(payload).unwrap().reason),
        Kind::Result => match RoundResult::decode(payload).unwrap().outcome {
            Outcome::Accept => None,
            Outcome::Reject(reason) | Outcome::Retry(reason) => Some(reason),
        },
        _ => None,
    }
}
