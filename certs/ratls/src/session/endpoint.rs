//! The machine of one end of a hop.

use std::sync::Arc;

use countersign_evidence::{Denial, Finding, Reason};

use super::action::{Acceptance, Action, Cut, Quoted};
use super::reason::WireReason;
use super::state::{Direction, Phase, State};
use super::terms::{Channel, Demands, Moment, Offer, Random, Side};
use crate::identity::Identity;
use crate::peer::Presented;

/// One end of a hop, client or server.
///
/// After every call, do what [`Endpoint::poll`] says until it says
/// [`Action::Wait`]; then wait for bytes, for an answer that is owed, or for
/// that time, whichever comes first.
#[derive(Debug)]
pub struct Endpoint {
    side: Side,
    refusal: Option<Denial>,
}

impl Endpoint {
    /// A machine for a connection whose handshake is over. The gate's deadline
    /// runs from `now`.
    ///
    /// # Errors
    /// When no session can be made of this: `self-connection` when both ends
    /// have one key, `internal` when a demand or the random numbers are unusable.
    pub fn new(
        channel: Channel,
        _demands: Arc<Demands>,
        _offer: Arc<Offer>,
        _random: Arc<dyn Random>,
        _now: Moment,
    ) -> Result<Self, Denial> {
        let finding = Finding::new(Reason::NotReady, "session", "the protocol ratls-mesh/1", "none yet");
        Ok(Self { side: channel.side, refusal: Some(finding.into()) })
    }

    /// Takes in bytes of the peer and returns how many. Fewer than there are
    /// when what follows is not for now:
    ///
    /// * after the peer's Open (the last frame before the gate) the rest belongs
    ///   to the application protocol; for QUIC, to the next call;
    /// * after a frame that makes an [`Action::Judge`], until it is answered.
    ///
    /// So: call this, do what [`Endpoint::poll`] says, and go on with the rest.
    /// When the machine is done, everything is taken in and ignored.
    #[must_use = "the rest of the bytes is still to be handled"]
    pub fn receive(&mut self, bytes: &[u8], _now: Moment) -> usize {
        bytes.len()
    }

    /// After [`Action::Open`]: the channel for the rounds is there (h2 stream 1).
    /// Must come within 2 s. Not needed for QUIC, whose channel stays the same.
    pub fn attached(&mut self, _now: Moment) {}

    /// The peer closed or reset the channel, or it broke: the hop is cut.
    pub fn end(&mut self, _now: Moment) {}

    /// What to do now.
    pub fn poll(&mut self, _now: Moment) -> Action {
        match self.refusal.take() {
            Some(denial) => {
                let wire = WireReason::of(denial.reason);
                Action::Cut(Cut { denial, wire, by_peer: false, distrust: false })
            }
            None => Action::Wait(None),
        }
    }

    /// The answer to [`Action::Quote`]. An error means that we cannot prove
    /// ourselves now: before the gate the hop is cut, later it drains.
    pub fn quoted(&mut self, _quoted: Result<Quoted<'_>, Denial>, _now: Moment) {}

    /// The answer to [`Action::Appraise`].
    pub fn appraised(&mut self, _verdict: Result<Acceptance, Denial>, _now: Moment) {}

    /// The last accepted evidence was appraised again, without a round, because
    /// something that the verdict depends on changed: until when it holds now.
    pub fn reviewed(&mut self, _verdict: Result<u64, Denial>, _now: Moment) {}

    /// The answer to [`Action::Judge`]: the same chain, parsed and admitted.
    pub fn judged(&mut self, _judgement: Result<&Presented, Denial>, _now: Moment) {}

    /// The policy demands something else from now on. A change between levels
    /// with and without session evidence ends the hop, since it is in the Hello.
    pub fn demand(&mut self, _demands: Arc<Demands>, _now: Moment) {}

    /// Our own state moved (a measured event): asks the peer for a challenge,
    /// at most once in 10 s.
    pub fn changed(&mut self, _now: Moment) {}

    /// We have a new certificate and key: tells the peer, at most once in 10 s
    /// and not while a quote for the old key is being made. The newest wins.
    ///
    /// # Errors
    /// When it is not for our SPIFFE ID, or its key cannot sign.
    pub fn renew(&mut self, _identity: &Arc<Identity>, _now: Moment) -> Result<(), Finding> {
        Ok(())
    }

    /// The hop is to end, for a reason of ours (shutdown, for example): drains.
    pub fn drain(&mut self, _denial: Denial, _now: Moment) {}

    /// Whether a new stream may be opened on this hop.
    #[must_use]
    pub fn usable(&self, _now: Moment) -> bool {
        false
    }

    /// The peer's level of proof and everything else that explains the hop.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            side: self.side,
            phase: Phase::Closed,
            own: Direction::default(),
            peer: Direction::default(),
            accepted_until: None,
            ends: std::time::Duration::ZERO,
            own_serial: 0,
            peer_serial: 0,
        }
    }
}
