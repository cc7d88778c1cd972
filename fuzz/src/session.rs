//! Two ends of a session, and drivers that do what a machine asks for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use countersign_attester::Attester;
use countersign_attester::emulated::TdxSpec;
use countersign_evidence::evidence::media_type::TSM_TDX;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::SpiffeId;
use countersign_ratls::session::frame::{Decoder, Kind};
use countersign_ratls::session::{
    Acceptance, Action, Channel, Demands, Ekm, Endpoint, Level, Moment, Offer, Party, QuoteRequest, Quoted,
    Random, Side, Wanted,
};

use crate::VENDOR;

/// The first second.
const START: u64 = 1_795_219_200;

/// Numbers that are never the same twice, and the same in every run.
#[derive(Debug)]
struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, out: &mut [u8]) -> Result<(), Finding> {
        for chunk in out.chunks_mut(8) {
            let number = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_be_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

/// A quote of the vendor over any report data. Its signature does not hold,
/// which is for the appraisal to find.
fn quote(report_data: &[u8; 64]) -> Vec<u8> {
    static GENUINE: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
        let machine = VENDOR.tdx(TdxSpec::default()).expect("a machine");
        let value = machine.evidence(&[0xab; 64]).expect("a quote").value;
        let at = value.windows(64).position(|window| window == [0xab; 64]).expect("the report data");
        (value, at)
    });
    let (mut value, at) = GENUINE.clone();
    value[at..at + 64].copy_from_slice(report_data);
    value
}

/// The moment `ticks` tenths of a second after the start.
#[must_use]
pub fn after(ticks: u64) -> Moment {
    Moment { monotonic: Duration::from_millis(ticks * 100), unix: START + ticks / 10 }
}

/// One end, with what its driver has to do.
#[derive(Debug)]
pub struct Node {
    /// The machine.
    pub endpoint: Endpoint,
    /// Frames to the other end.
    pub sent: VecDeque<(Kind, Vec<u8>)>,
    /// A quote that is owed.
    pub quote: Option<QuoteRequest>,
    /// Whether an appraisal is owed.
    pub appraise: bool,
    /// Whether the gate is open.
    pub open: bool,
    /// Rounds that were accepted.
    pub accepted: u64,
    /// Whether the hop is cut.
    pub cut: bool,
}

impl Node {
    /// An end that demands this level.
    #[must_use]
    pub fn new(side: Side, level: Level, log: bool) -> Self {
        let party = |side| {
            let (name, key) = match side {
                Side::Client => ("spiffe://fuzz.example/client", 1),
                Side::Server => ("spiffe://fuzz.example/server", 2),
            };
            let id = SpiffeId::parse(name).expect("an ID");
            Party { id, spki_sha256: [key; 32], not_after: START + 86_400 }
        };
        let channel = Channel {
            side,
            quic: false,
            alpn: b"ratls-h2/1",
            ekm: Ekm::new([7; 32].into()),
            own: party(side),
            peer: party(side.other()),
        };
        let wanted = if log { Wanted::CPU.and(Wanted::EVENT_LOG) } else { Wanted::CPU };
        let demands = Demands { level, accepted: vec![TSM_TDX.to_owned()], wanted, ..Demands::default() };
        let offer = Offer { types: vec![TSM_TDX.to_owned()], event_log: log };
        let random = Arc::new(Counter(AtomicU64::new(side as u64 + 1)));
        let endpoint = Endpoint::new(channel, Arc::new(demands), Arc::new(offer), random, after(0));
        Self {
            endpoint: endpoint.expect("a machine"),
            sent: VecDeque::new(),
            quote: None,
            appraise: false,
            open: false,
            accepted: 0,
            cut: false,
        }
    }

    /// Does what the machine says until it waits.
    pub fn pump(&mut self, now: Moment) {
        for _ in 0..64 {
            let action = self.endpoint.poll(now);
            assert!(!self.cut || matches!(action, Action::Wait(None)), "{action:?} after the end");
            match action {
                Action::Send(bytes) => {
                    let mut rest = bytes.as_slice();
                    let frame = Decoder::default().next(&mut rest, |_| Ok(1 << 20));
                    self.sent.extend(frame.expect("a frame"));
                    assert!(rest.is_empty());
                }
                Action::Quote(request) => assert!(self.quote.replace(request).is_none()),
                Action::Appraise(_) => assert!(!std::mem::replace(&mut self.appraise, true)),
                Action::Judge(_) => self.endpoint.judged(Err(denial(Reason::SvidUntrusted)), now),
                Action::Open => {
                    assert!(!std::mem::replace(&mut self.open, true));
                    self.endpoint.attached(now);
                }
                Action::Accepted(accepted) => {
                    assert_eq!(accepted.round, self.accepted);
                    self.accepted += 1;
                }
                Action::Drain(_) => assert!(!self.endpoint.usable(now)),
                Action::Cut(_) => self.cut = true,
                Action::Wait(until) => {
                    assert!(until.is_none_or(|until| until > now.monotonic));
                    assert_eq!(until.is_none(), self.cut);
                    return;
                }
            }
        }
        panic!("it does not come to rest: {self:?}");
    }

    /// Takes in bytes as a driver does.
    pub fn give(&mut self, bytes: &[u8], now: Moment) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let open = self.open;
            let taken = self.endpoint.receive(rest, now);
            rest = &rest[taken..];
            self.pump(now);
            // What is behind the Open is for somebody else.
            if taken == 0 || open != self.open {
                return;
            }
        }
    }

    /// Makes the quote that is owed, or fails to.
    pub fn answer(&mut self, well: bool, now: Moment) {
        let Some(request) = self.quote.take() else { return };
        let value = quote(request.core.binder(&[]).as_bytes());
        let event_log = request.event_log.map(|_| ("application/x-log", &b"log"[..]));
        let quoted = Quoted { media_type: TSM_TDX, evidence: &value, proof: None, event_log };
        self.endpoint.quoted(if well { Ok(quoted) } else { Err(denial(Reason::Overloaded)) }, now);
        self.pump(now);
    }

    /// Accepts the evidence that waits, or refuses it.
    pub fn appraise(&mut self, refusal: Option<Reason>, now: Moment) {
        if !std::mem::take(&mut self.appraise) {
            return;
        }
        let verdict = match refusal {
            None => Ok(Acceptance { until: now.unix + 10_000, event_log: Some(4) }),
            Some(reason) => Err(denial(reason)),
        };
        self.endpoint.appraised(verdict, now);
        self.pump(now);
    }
}

fn denial(reason: Reason) -> Denial {
    Finding::new(reason, "fuzz", "this", "that").into()
}

/// What both ends of an honest hop send until its gate is open.
#[must_use]
pub fn transcript() -> Vec<(Kind, Vec<u8>)> {
    let now = after(0);
    let mut ends = [Node::new(Side::Client, Level::L2, true), Node::new(Side::Server, Level::L2, true)];
    let mut frames = Vec::new();
    for _ in 0..8 {
        for at in 0..2 {
            ends[at].pump(now);
            ends[at].answer(true, now);
            ends[at].appraise(None, now);
            for (kind, payload) in std::mem::take(&mut ends[at].sent) {
                ends[1 - at].give(&countersign_ratls::session::frame::encode(kind, &payload), now);
                frames.push((kind, payload));
            }
        }
    }
    assert!(ends.iter().all(|end| end.open));
    frames
}
