//! What a machine says of itself, to whoever explains a hop.

use std::time::Duration;

use countersign_evidence::policy::Level;

use super::terms::Side;

/// Where a hop stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// No application byte may flow.
    Gate,
    /// Open; the channel for the rounds is awaited (not for QUIC, where it stays the same).
    Opening,
    /// Open.
    Open,
    /// Open for the streams that exist, until the grace is over.
    Draining,
    /// Over.
    Closed,
}

/// One direction of proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// The level that is demanded of the one who proves; `None` before the peer said it.
    pub level: Option<Level>,
    /// Whether a challenge is open.
    pub in_round: bool,
    /// The last round that was accepted.
    pub round: Option<u64>,
    /// The binder of that round.
    pub binder: Option<[u8; 64]>,
    /// When its challenge was made: nothing in the evidence is older. Monotonic clock.
    pub since: Option<Duration>,
    /// When the next challenge is due, as far as this end knows. Monotonic clock.
    pub next: Option<Duration>,
    /// Rounds accepted.
    pub accepted: u64,
    /// Challenges that were repeated.
    pub retries: u64,
    /// Deadlines that passed.
    pub timeouts: u64,
    /// `Changed` frames that came too early and were put off.
    pub changes_deferred: u64,
    /// The last proof is too old for rules that came later, and another one is awaited.
    pub outdated: bool,
}

/// A hop as one end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Our end.
    pub side: Side,
    /// Where the hop stands.
    pub phase: Phase,
    /// What we prove.
    pub own: Direction,
    /// What the peer proves.
    pub peer: Direction,
    /// Until when new streams may be opened. Monotonic clock.
    pub accepted_until: Option<Duration>,
    /// When the hop ends whatever happens. Monotonic clock.
    pub ends: Duration,
    /// Our identities on this hop: 0 is that of the handshake.
    pub own_serial: u64,
    /// The peer's identities on this hop: 0 is that of the handshake.
    pub peer_serial: u64,
}
