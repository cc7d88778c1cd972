//! What a hop is, what we demand of the peer on it, and what we offer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use countersign_evidence::policy::Level;
use countersign_evidence::{Finding, Reason};

use crate::binding::Ekm;
use crate::spiffe::SpiffeId;

/// The end of the connection that somebody is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// Who opened the connection.
    Client,
    /// Who accepted it.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    pub(super) const fn is_server(self) -> bool {
        matches!(self, Self::Server)
    }
}

/// A point in time, told by the two clocks that matter here.
///
/// Timers run on the monotonic clock, so that whoever sets the wall clock back
/// does not make a verdict live longer (A16). Certificates and verdicts end by
/// the wall clock, and are also held to the monotonic one from when they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since any fixed point of the process; never goes back.
    pub monotonic: Duration,
    /// Seconds since the epoch.
    pub unix: u64,
}

/// The label of the exporter; its context is empty and its length 32
/// (3-attestation, section 2.2).
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL-ratls-mesh-v1";

/// One end of a hop, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The URI SAN of the leaf.
    pub id: SpiffeId,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The last second of the leaf's validity, since the epoch.
    pub not_after: u64,
}

/// A TLS connection after its handshake, as this end of it knows it. Nothing in
/// here was said by the peer outside of TLS.
#[derive(Debug)]
pub struct Channel {
    /// Which end we are.
    pub side: Side,
    /// Whether the transport is QUIC.
    pub quic: bool,
    /// The negotiated ALPN.
    pub alpn: &'static [u8],
    /// The exported keying material.
    pub ekm: Ekm,
    /// We, as our certificate of this handshake says.
    pub own: Party,
    /// The peer, as its certificate of this handshake says.
    pub peer: Party,
}

/// Parts of evidence that a challenge can want (Challenge key 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted(u64);

impl Wanted {
    /// The CPU's evidence. Always wanted.
    pub const CPU: Self = Self(1);
    /// The event log that explains the runtime registers.
    pub const EVENT_LOG: Self = Self(2);

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is wanted.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As in a Challenge.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From a Challenge. Bits that are not known are kept.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// What to do about a failure after the gate that the matrix lets drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum OnFailure {
    /// Streams may end within the grace; no new ones.
    #[default]
    Drain,
    /// The hop is cut at once.
    Cut,
}

/// What our policy demands of the peer on this hop. Shared by all hops of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demands {
    /// The level. Below L2 the peer is not challenged.
    pub level: Level,
    /// The media types of evidence that we verify and the policy accepts, most
    /// wanted first; at most 16.
    pub accepted: Vec<String>,
    /// What evidence must consist of.
    pub wanted: Wanted,
    /// SHA-256 of the policy's bytes (Challenge key 5).
    pub policy_id: [u8; 32],
    /// From challenge to challenge, before jitter: 30 s to 15 min.
    pub interval: Duration,
    /// In which evidence must arrive.
    pub response: Duration,
    /// In which the gate must open: 3 s to 30 s.
    pub gate: Duration,
    /// What the policy wants for failures that can drain.
    pub on_failure: OnFailure,
    /// How long a drain lasts: at most 120 s.
    pub drain_grace: Duration,
    /// The largest payload of an Evidence frame that we accept, bytes.
    pub max_evidence: usize,
}

impl Default for Demands {
    fn default() -> Self {
        Self {
            level: Level::L2,
            accepted: Vec::new(),
            wanted: Wanted::CPU,
            policy_id: [0; 32],
            interval: Duration::from_secs(300),
            response: Duration::from_secs(15),
            gate: Duration::from_secs(10),
            on_failure: OnFailure::default(),
            drain_grace: Duration::from_secs(30),
            max_evidence: 256 << 10,
        }
    }
}

/// What we can prove ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The media types of evidence that we can produce; empty outside of a TEE. At most 16.
    pub types: Vec<String>,
    /// Whether we keep an event log that we can send from an index on.
    pub event_log: bool,
}

/// Where nonces and jitter come from.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills `out` with bytes that nobody can predict.
    ///
    /// # Errors
    /// `internal` when there are none: the hop is cut then.
    fn fill(&self, out: &mut [u8]) -> Result<(), Finding>;
}

/// The random numbers of the cryptographic library.
#[derive(Clone, Copy, Debug, Default)]
pub struct SecureRandom;

impl SecureRandom {
    /// To be shared by all hops.
    #[must_use]
    pub fn shared() -> Arc<dyn Random> {
        Arc::new(Self)
    }
}

impl Random for SecureRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), Finding> {
        rand::fill(out).map_err(|_| {
            Finding::new(Reason::Internal, "random numbers", "a working generator", "one that failed")
        })
    }
}
