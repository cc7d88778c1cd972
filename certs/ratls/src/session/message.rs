//! The payloads of the frames (section 4.1, as written down in docs/session.md).
//!
//! Reading accepts exactly what writing makes, and unknown keys from 128 on.

use countersign_evidence::policy::Level;
use countersign_evidence::{Finding, Reason};
use rustls_pki_types::CertificateDer;

use super::fields::Fields;
use super::reason::WireReason;
use super::terms::{Side, Wanted};
use crate::cbor::Writer;
use crate::merkle::Node;
use crate::peer::MAX_CHAIN;

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// Bits of a Hello's features.
pub mod feature {
    /// Verifies evidence over a batch of binders.
    pub const MERKLE: u64 = 1;
    /// Sends, and as a verifier asks for, an event log from an index on.
    pub const EVENT_LOG_DELTA: u64 = 2;
}

/// Who we are and what we can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Key 2: the end of the connection.
    pub side: Side,
    /// Key 3: media types of evidence that the sender verifies.
    pub verifies: Vec<String>,
    /// Key 4: media types of evidence that it can produce.
    pub produces: Vec<String>,
    /// Key 5: [`feature`]s. Unknown bits are ignored.
    pub features: u64,
    /// Key 6: makes the Hello unique.
    pub nonce: [u8; 32],
    /// Key 7: the largest payload of an Evidence frame that it takes.
    pub max_evidence: u64,
    /// Key 8: how often it means to challenge, in seconds. Information.
    pub interval: u64,
    /// Key 9: the level that it demands of the receiver. It challenges if, and
    /// only if, that level needs evidence of the session.
    pub demands: Level,
}

impl Hello {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(9).uint(1).uint(VERSION).uint(2).uint(self.side.is_server().into());
        writer.uint(3).types(&self.verifies).uint(4).types(&self.produces);
        writer.uint(5).uint(self.features).uint(6).bytes(&self.nonce);
        writer.uint(7).uint(self.max_evidence).uint(8).uint(self.interval);
        writer.uint(9).uint(self.demands.number().into());
        writer.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is anything else, or of another version.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let fields = Fields::read("Hello", payload, 9)?;
        let version = fields.uint(1)?;
        if version != VERSION {
            let presented = version.to_string();
            return Err(Finding::new(Reason::UnsupportedVersion, "Hello version", "1", presented));
        }
        let side = match fields.uint(2)? {
            0 => Side::Client,
            1 => Side::Server,
            other => return Err(fields.malformed("role 0 or 1", &other.to_string())),
        };
        let demands = fields.uint(9)?;
        let level = u8::try_from(demands).ok().and_then(Level::from_number);
        let demands = level.ok_or_else(|| fields.malformed("level 0 to 3", &demands.to_string()))?;
        Ok(Self {
            side,
            verifies: fields.types(3)?,
            produces: fields.types(4)?,
            features: fields.uint(5)?,
            nonce: fields.array(6)?,
            max_evidence: fields.uint(7)?,
            interval: fields.uint(8)?,
            demands,
        })
    }
}

/// Prove yourself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Key 1: the round, from 0.
    pub round: u64,
    /// Key 2: fresh in every challenge.
    pub nonce: [u8; 32],
    /// Key 3: the media types that are accepted.
    pub accepted: Vec<String>,
    /// Key 4: what the evidence must consist of.
    pub wanted: Wanted,
    /// Key 5: SHA-256 of the policy.
    pub policy_id: [u8; 32],
    /// Key 6: how long the verifier waits, in milliseconds.
    pub deadline_ms: u64,
    /// Key 7: the first entry of the event log that is wanted.
    pub event_log_from: Option<u64>,
}

impl Challenge {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(6 + usize::from(self.event_log_from.is_some()));
        writer.uint(1).uint(self.round).uint(2).bytes(&self.nonce);
        writer.uint(3).types(&self.accepted).uint(4).uint(self.wanted.bits());
        writer.uint(5).bytes(&self.policy_id).uint(6).uint(self.deadline_ms);
        if let Some(from) = self.event_log_from {
            writer.uint(7).uint(from);
        }
        writer.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let fields = Fields::read("Challenge", payload, 7)?;
        Ok(Self {
            round: fields.uint(1)?,
            nonce: fields.array(2)?,
            accepted: fields.types(3)?,
            wanted: Wanted::from_bits(fields.uint(4)?),
            policy_id: fields.array(5)?,
            deadline_ms: fields.uint(6)?,
            event_log_from: fields.optional_uint(7)?,
        })
    }
}

/// The proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// Key 1: the round of the challenge that it answers.
    pub round: u64,
    /// Key 2: the attester's nonce.
    pub nonce: [u8; 32],
    /// Key 3: a CMW collection ([`super::collection`]).
    pub collection: &'a [u8],
    /// Key 4: where the binder stands, when a batch was quoted.
    pub proof: Option<Inclusion>,
}

/// That a binder is a leaf of a quoted batch: `[index, size, [* node]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The index of the leaf.
    pub index: u64,
    /// The number of leaves.
    pub size: u64,
    /// The inclusion proof ([`crate::merkle`]).
    pub path: Vec<Node>,
}

impl<'a> Evidence<'a> {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(self.collection.len() + 1280));
        writer.map(3 + usize::from(self.proof.is_some()));
        writer.uint(1).uint(self.round).uint(2).bytes(&self.nonce).uint(3).bytes(self.collection);
        if let Some(Inclusion { index, size, path }) = &self.proof {
            writer.uint(4).array(3).uint(*index).uint(*size).array(path.len());
            path.iter().fold(&mut writer, |writer, node| writer.bytes(node));
        }
        writer.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Finding> {
        let fields = Fields::read("Evidence", payload, 4)?;
        Ok(Self {
            round: fields.uint(1)?,
            nonce: fields.array(2)?,
            collection: fields.bytes(3)?,
            proof: fields.proof(4)?,
        })
    }
}

/// What became of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Accept,
    /// It does not, and the hop ends.
    Reject(WireReason),
    /// It does not, and another challenge of the same round follows.
    Retry(WireReason),
}

/// The frame Result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundResult {
    /// Key 1: the round.
    pub round: u64,
    /// Keys 2 and 5: the outcome; a reason stands exactly beside what is not an acceptance.
    pub outcome: Outcome,
    /// Key 3: SHA-256 of the binder.
    pub binder_sha256: [u8; 32],
    /// Key 4: when the next challenge is meant to come, in seconds. Information.
    pub next: u64,
}

impl RoundResult {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (number, reason) = match self.outcome {
            Outcome::Accept => (0, None),
            Outcome::Reject(reason) => (1, Some(reason)),
            Outcome::Retry(reason) => (2, Some(reason)),
        };
        let mut writer = Writer::default();
        writer.map(4 + usize::from(reason.is_some()));
        writer.uint(1).uint(self.round).uint(2).uint(number).uint(3).bytes(&self.binder_sha256);
        writer.uint(4).uint(self.next);
        if let Some(reason) = reason {
            writer.uint(5).uint(reason.number());
        }
        writer.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let fields = Fields::read("Result", payload, 5)?;
        let reason = fields.has(5).then(|| wire_reason(&fields, 5)).transpose()?;
        let outcome = match (fields.uint(2)?, reason) {
            (0, None) => Outcome::Accept,
            (1, Some(reason)) => Outcome::Reject(reason),
            (2, Some(reason)) => Outcome::Retry(reason),
            _ => return Err(fields.malformed("0, or 1 or 2 with a reason", "another outcome")),
        };
        Ok(Self { round: fields.uint(1)?, outcome, binder_sha256: fields.array(3)?, next: fields.uint(4)? })
    }
}

/// The hop comes to an end. A grace of 0 s: it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Key 1: why.
    pub reason: WireReason,
    /// Key 2: how long open streams may go on, in seconds.
    pub grace: u64,
}

impl Farewell {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(2).uint(1).uint(self.reason.number()).uint(2).uint(self.grace);
        writer.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let fields = Fields::read("Drain", payload, 2)?;
        Ok(Self { reason: wire_reason(&fields, 1)?, grace: fields.uint(2)? })
    }
}

fn wire_reason(fields: &Fields<'_>, key: usize) -> Result<WireReason, Finding> {
    let number = fields.uint(key)?;
    WireReason::from_number(number)
        .ok_or_else(|| fields.malformed("a reason from 1 to 15", &number.to_string()))
}

/// The kind of a Changed: a register moved by a measured event.
pub const CHANGED_MEASUREMENT: u64 = 1;

/// The payload of a Changed of this kind.
#[must_use]
pub fn encode_changed(kind: u64) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(1).uint(1).uint(kind);
    writer.0
}

/// The kind of a Changed. Any number is one: all it asks for is a challenge.
///
/// # Errors
/// When the payload is anything else.
pub fn decode_changed(payload: &[u8]) -> Result<u64, Finding> {
    Fields::read("Changed", payload, 1)?.uint(1)
}

/// The payload of an Open with this value ([`crate::binding::session::OpenStatement`]).
#[must_use]
pub fn encode_open(value: &[u8; 32]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(1).uint(1).bytes(value);
    writer.0
}

/// The value of an Open.
///
/// # Errors
/// When the payload is anything else.
pub fn decode_open(payload: &[u8]) -> Result<[u8; 32], Finding> {
    Fields::read("Open", payload, 1)?.array(1)
}

/// A new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIdentity {
    /// Key 1: leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Key 2: of the leaf's key over the statement.
    pub signature: Vec<u8>,
    /// Key 3: from 1, each by one more.
    pub serial: u64,
}

impl NewIdentity {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let size: usize = self.chain.iter().map(|certificate| certificate.len() + 8).sum();
        let mut writer = Writer(Vec::with_capacity(size + self.signature.len() + 32));
        writer.map(3).uint(1).array(self.chain.len());
        self.chain.iter().fold(&mut writer, |writer, certificate| writer.bytes(certificate));
        writer.uint(2).bytes(&self.signature).uint(3).uint(self.serial);
        writer.0
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let fields = Fields::read("Identity", payload, 3)?;
        let chain = fields.list(1, MAX_CHAIN)?;
        Ok(Self {
            chain: chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect(),
            signature: fields.bytes(2)?.to_vec(),
            serial: fields.uint(3)?,
        })
    }
}
