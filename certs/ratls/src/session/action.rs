//! What a machine asks of its driver, and what the driver answers.

use std::fmt;
use std::time::Duration;

use countersign_evidence::Denial;
use rustls_pki_types::CertificateDer;

use super::reason::WireReason;
use crate::binding::{ReportData, SessionCore};
use crate::merkle::Node;

/// What to do next. Each is said once, in the order in which it must be done.
#[derive(Debug)]
pub enum Action {
    /// Write these bytes to the channel, whole and before anything after them.
    Send(Vec<u8>),
    /// Get a quote, then call `Endpoint::quoted`. At most one is open at a time.
    Quote(QuoteRequest),
    /// Appraise, then call `Endpoint::appraised`. At most one is open at a time.
    Appraise(Box<Received>),
    /// The peer has a new certificate: judge it as in a handshake, then call
    /// `Endpoint::judged`. Until then no byte is taken in.
    Judge(Vec<CertificateDer<'static>>),
    /// The gate is open: application bytes may flow in both directions. Once.
    Open,
    /// A round of the peer was accepted.
    Accepted(Accepted),
    /// Take no new streams; the hop is cut when the grace is over. Once.
    Drain(Drain),
    /// Close the connection and everything on it, now. The last action.
    Cut(Cut),
    /// Nothing to do before this time on the monotonic clock, unless something
    /// happens. `None`: the machine is done.
    Wait(Option<Duration>),
}

/// Our evidence is wanted.
#[derive(Clone, Debug)]
pub struct QuoteRequest {
    /// The round.
    pub round: u64,
    /// The binder is `core.binder(&[])`: quote it, or a batch that it is a leaf of.
    pub core: SessionCore,
    /// When the peer stops waiting, on the monotonic clock.
    pub deadline: Duration,
    /// A new hop waits for this (round 0); otherwise any time before the deadline is good.
    pub urgent: bool,
    /// Whether the peer verifies batches. If not, the binder itself must be quoted.
    pub batch: bool,
    /// The event log is wanted, from this entry on. Take it after the quote.
    pub event_log: Option<u64>,
}

/// A quote that was made for a [`QuoteRequest`].
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    /// The media type of the evidence.
    pub media_type: &'a str,
    /// The evidence.
    pub evidence: &'a [u8],
    /// Where the binder stands, when a batch was quoted.
    pub proof: Option<Proof<'a>>,
    /// Media type and bytes of the event log, exactly when it was wanted.
    pub event_log: Option<(&'a str, &'a [u8])>,
}

/// That a binder is a leaf of a quoted batch ([`crate::merkle`]).
#[derive(Clone, Copy, Debug)]
pub struct Proof<'a> {
    /// The index of the leaf.
    pub index: u64,
    /// The number of leaves.
    pub size: u64,
    /// The inclusion proof.
    pub path: &'a [Node],
}

/// Evidence of the peer: well-formed, of a type that we accept, and its report
/// data is what we computed from our own view of the session. Nothing else is
/// checked: signature, chain, collateral, policy, and that it is of the same
/// machine as the certificate (section 4.5).
#[derive(Debug)]
pub struct Received {
    /// The round.
    pub round: u64,
    /// The binder.
    pub binder: [u8; 64],
    /// The report data that the evidence carries: the binder, or that of a batch with it.
    pub report_data: ReportData,
    /// The media type of the evidence.
    pub media_type: String,
    /// The evidence.
    pub evidence: Vec<u8>,
    /// Media type and bytes of the event log, when it was wanted.
    pub event_log: Option<(String, Vec<u8>)>,
    /// Whether the event log was wanted. If not, the round says nothing about it.
    pub event_log_wanted: bool,
    /// The entry from which the log was wanted.
    pub event_log_from: u64,
    /// The policy that the challenge named.
    pub policy_id: [u8; 32],
    /// When the challenge was sent, in seconds since the epoch: nothing in the
    /// evidence is older.
    pub challenged: u64,
}

/// A favourable verdict on what was [`Received`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The last second at which it holds without looking again, since the epoch.
    pub until: u64,
    /// How many entries of the event log are known now: the next round asks
    /// only for later ones. `None` asks for all of it again.
    pub event_log: Option<u64>,
}

/// The peer proved itself in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The round.
    pub round: u64,
    /// Until when this counts, on the monotonic clock: new streams only before.
    pub until: Duration,
}

/// A hop that comes to its end.
#[derive(Debug)]
pub struct Drain {
    /// Why, in full.
    pub denial: Denial,
    /// Why, as the wire says it.
    pub wire: WireReason,
    /// Whether the peer decided so.
    pub by_peer: bool,
    /// When the hop is cut, on the monotonic clock.
    pub until: Duration,
    /// The time between now and then.
    pub grace: Duration,
}

/// A hop that is over.
#[derive(Debug)]
pub struct Cut {
    /// Why, in full: for the local audit log only.
    pub denial: Denial,
    /// Why, as the wire says it.
    pub wire: WireReason,
    /// Whether the peer decided so.
    pub by_peer: bool,
    /// Whether the peer showed that it must not be trusted: its key belongs
    /// into the negative cache (section 4.4).
    pub distrust: bool,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.denial)
    }
}
