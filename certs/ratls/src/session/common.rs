//! What both directions of a hop share: who is there, what is demanded, and
//! the ways to fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::policy::Level;
use countersign_evidence::{Denial, Finding, Reason};

use super::action::Action;
use super::frame::{self, Kind};
use super::terms::{Channel, Demands, Moment, Offer, Random, Side};
use crate::binding::{SessionContext, SessionCore};

/// The hop, as this end knows it by itself, and what the peer's Hello said.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) channel: Channel,
    pub(super) demands: Arc<Demands>,
    pub(super) offer: Arc<Offer>,
    pub(super) random: Arc<dyn Random>,
    /// What the peer said of itself.
    pub(super) peer: Option<PeerTerms>,
}

/// What counts of the peer's Hello.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerTerms {
    /// The hash over both Hellos.
    pub(super) hellos: [u8; 64],
    /// What it demands of us.
    pub(super) level: Level,
    /// The largest Evidence payload that it takes.
    pub(super) max_evidence: u64,
    /// [`super::message::feature`]s.
    pub(super) features: u64,
}

impl PeerTerms {
    pub(super) const fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }
}

/// What a binder is made for, besides the hop.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTerms<'a> {
    pub(super) attester: Side,
    /// SHA-256 of the attester's SPKI where its Evidence stands in its stream.
    pub(super) attester_key: &'a [u8; 32],
    /// SHA-256 of the verifier's SPKI where its Challenge stands in its stream.
    pub(super) verifier_key: &'a [u8; 32],
    pub(super) challenge: &'a [u8],
    pub(super) nonce: &'a [u8; 32],
    pub(super) round: u64,
    pub(super) previous: Option<&'a [u8; 64]>,
}

impl Common {
    /// What the peer's Hello said; every frame after it may ask.
    pub(super) fn terms(&self) -> Result<&PeerTerms, Finding> {
        self.peer.as_ref().ok_or_else(|| out_of_order("a Hello first", "another frame"))
    }

    /// Whether the peer demands that we prove ourselves in this session.
    pub(super) fn is_demanded(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.level.is_session_bound())
    }

    pub(super) fn nonce(&self) -> Result<[u8; 32], Finding> {
        let mut nonce = [0; 32];
        self.random.fill(&mut nonce)?;
        Ok(nonce)
    }

    /// A uniform share of `range`.
    pub(super) fn share(&self, range: Duration) -> Result<Duration, Finding> {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes)?;
        let share = u128::from(u32::from_be_bytes(bytes)) * range.as_nanos() / u128::from(u32::MAX);
        Ok(u64::try_from(share).map_or(range, Duration::from_nanos))
    }

    /// The interval, 20 % more or less.
    pub(super) fn jittered_interval(&self) -> Result<Duration, Finding> {
        let interval = self.demands.interval;
        Ok(interval * 4 / 5 + self.share(interval * 2 / 5)?)
    }

    /// The core of a round, wholly from this end's own view, but for the nonce
    /// of the attester.
    pub(super) fn core(&self, round: &RoundTerms<'_>) -> Result<SessionCore, Finding> {
        let hellos = &self.terms()?.hellos;
        let channel = &self.channel;
        let (client, server) = match channel.side {
            Side::Client => (&channel.own, &channel.peer),
            Side::Server => (&channel.peer, &channel.own),
        };
        let (client_key, server_key) = match round.attester {
            Side::Client => (round.attester_key, round.verifier_key),
            Side::Server => (round.verifier_key, round.attester_key),
        };
        let context = SessionContext {
            attester_is_server: round.attester.is_server(),
            quic: channel.quic,
            alpn: channel.alpn,
            ekm: &channel.ekm,
            client_spki_sha256: client_key,
            server_spki_sha256: server_key,
            hellos,
            challenge: round.challenge,
            attester_nonce: round.nonce,
            round: round.round,
            previous: round.previous,
            client_id: client.id.as_str(),
            server_id: server.id.as_str(),
        };
        Ok(context.core())
    }
}

/// What is to be done, in its order.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Action>);

impl Outbox {
    pub(super) fn push(&mut self, action: Action) {
        self.0.push_back(action);
    }

    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        self.push(Action::Send(frame::encode(kind, payload)));
    }

    /// The next action. What the queue needed for a burst is given back.
    pub(super) fn pop(&mut self) -> Option<Action> {
        let action = self.0.pop_front();
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
        action
    }

    /// Forgets what was not done and means nothing on a hop that is cut: all but
    /// what is to be written.
    pub(super) fn keep_writes(&mut self) {
        self.0.retain(|action| matches!(action, Action::Send(_)));
    }

    pub(super) fn bytes(&self) -> usize {
        let heap = |action: &Action| if let Action::Send(bytes) = action { bytes.capacity() } else { 0 };
        self.0.capacity() * size_of::<Action>() + self.0.iter().map(heap).sum::<usize>()
    }
}

/// Why the hop cannot go on as it is.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) denial: Box<Denial>,
    /// The evidence that was found wanting: the peer learns of it by a Result.
    pub(super) rejected: Option<Box<Rejected>>,
    /// Cuts whatever the matrix says of the reason: the hop drains for it already.
    pub(super) again: bool,
}

/// Evidence that was found wanting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejected {
    pub(super) round: u64,
    pub(super) binder: [u8; 64],
}

impl Failure {
    pub(super) fn rejected(denial: impl Into<Denial>, round: u64, binder: [u8; 64]) -> Self {
        Self { rejected: Some(Box::new(Rejected { round, binder })), ..Self::from(denial) }
    }
}

impl<T: Into<Denial>> From<T> for Failure {
    fn from(denial: T) -> Self {
        Self { denial: Box::new(denial.into()), rejected: None, again: false }
    }
}

/// A frame that is not one of those that may come now.
pub(super) fn out_of_order(expected: &str, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::Malformed, "session", expected, presented)
}

/// A point in wall-clock time after which something does not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    unix: u64,
    /// The same on the monotonic clock, as it looked when it became known.
    pub(super) monotonic: Duration,
    /// When it became known.
    known: Duration,
}

impl Expiry {
    /// `unix` is the last second at which it holds.
    pub(super) fn new(unix: u64, now: Moment) -> Self {
        let left = Duration::from_secs(unix.saturating_sub(now.unix));
        Self { unix, monotonic: now.monotonic.saturating_add(left), known: now.monotonic }
    }

    /// When to begin to end in good order: `grace` before, or when three
    /// quarters of the time are over if that is less.
    pub(super) fn wind_down(&self, grace: Duration) -> Duration {
        let left = self.monotonic.saturating_sub(self.known);
        self.monotonic.saturating_sub(grace.min(left / 4))
    }

    pub(super) fn passed(&self, now: Moment) -> bool {
        now.monotonic >= self.monotonic || now.unix > self.unix
    }
}
