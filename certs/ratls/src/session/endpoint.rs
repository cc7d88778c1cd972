//! The machine of one end of a hop.

mod gate;
mod time;

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};

use super::action::{Acceptance, Action, Quoted};
use super::challenger::Challenger;
use super::common::{Common, Expiry, Failure, Outbox};
use super::ending::End;
use super::fields::MAX_TYPES;
use super::frame::{Decoder, Kind};
use super::message::{Hello, feature};
use super::prover::Prover;
use super::reason::Ending;
use super::renewal::{Judging, Renewal};
use super::state::{Phase, State};
use super::terms::{Channel, Demands, Moment, Offer, OnFailure, Random};
use crate::identity::Identity;
use crate::peer::Presented;

/// The bounds of [`Demands::max_evidence`]: with the copy that is appraised, a
/// hop before its gate holds at most twice as much (section 2.3).
const EVIDENCE: std::ops::RangeInclusive<usize> = 4 << 10..=256 << 10;

/// No time in a demand is longer. What operators may write is far below.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// One end of a hop, client or server.
///
/// After every call, do what [`Endpoint::poll`] says until it says
/// [`Action::Wait`]; then wait for bytes, for an answer that is owed, or for
/// that time, whichever comes first.
#[derive(Debug)]
pub struct Endpoint {
    common: Common,
    prover: Prover,
    challenger: Challenger,
    renewal: Renewal,
    decoder: Decoder,
    out: Outbox,
    stage: Stage,
    end: End,
    born: Duration,
    /// What our Hello said, whatever is demanded later.
    max_evidence: usize,
    own_expires: Expiry,
    peer_expires: Expiry,
    /// A Changed of ours waits to be sent.
    change: bool,
    changed_at: Option<Duration>,
}

/// How far the way through the gate is gone.
#[derive(Debug)]
enum Stage {
    /// Frames, and nothing else.
    Gate {
        /// Ours, until the peer's is there.
        hello: Vec<u8>,
        nonce: [u8; 32],
        deadline: Duration,
        /// Our Open is sent: all that was demanded either way is proved.
        open_sent: bool,
    },
    /// Open; the channel for the rounds must be there by this time.
    Opening(Duration),
    /// Open.
    Open,
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
        demands: Arc<Demands>,
        offer: Arc<Offer>,
        random: Arc<dyn Random>,
        now: Moment,
    ) -> Result<Self, Denial> {
        if channel.own.spki_sha256 == channel.peer.spki_sha256 {
            return Err(
                Finding::new(Reason::SelfConnection, "peer", "another key than ours", "our own").into()
            );
        }
        check(&demands, &offer)?;
        let (own_expires, peer_expires) =
            (Expiry::new(channel.own.not_after, now), Expiry::new(channel.peer.not_after, now));
        let common = Common { channel, demands, offer, random, peer: None };
        let nonce = common.nonce()?;
        let delta = if common.offer.event_log { feature::EVENT_LOG_DELTA } else { 0 };
        let hello = Hello {
            side: common.channel.side,
            verifies: common.demands.accepted.clone(),
            produces: common.offer.types.clone(),
            features: feature::MERKLE | delta,
            nonce,
            max_evidence: common.demands.max_evidence as u64,
            interval: common.demands.interval.as_secs(),
            demands: common.demands.level,
        }
        .encode();
        let cap = Kind::Hello.cap(0);
        if hello.len() > cap {
            let presented = format!("{} bytes", hello.len());
            return Err(unusable("a Hello of at most 2048 bytes", &presented).into());
        }
        let mut out = Outbox::default();
        out.send(Kind::Hello, &hello);
        let mut challenger = Challenger::new(now);
        // In one flight: the challenge depends on nothing that the peer says.
        if common.demands.level.is_session_bound() {
            challenger.ask(&common, &mut out, now).map_err(|failure| *failure.denial)?;
        }
        let deadline = now.monotonic.saturating_add(common.demands.gate);
        let max_evidence = common.demands.max_evidence;
        Ok(Self {
            common,
            prover: Prover::default(),
            challenger,
            renewal: Renewal::default(),
            decoder: Decoder::default(),
            out,
            stage: Stage::Gate { hello, nonce, deadline, open_sent: false },
            end: End::default(),
            born: now.monotonic,
            max_evidence,
            own_expires,
            peer_expires,
            change: false,
            changed_at: None,
        })
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
    pub fn receive(&mut self, bytes: &[u8], now: Moment) -> usize {
        // What comes late is late, whoever looks first.
        self.tick(now);
        let mut rest = bytes;
        while !self.end.is_cut() && !self.renewal.is_judging() {
            let gate = self.is_gate();
            let mut decoder = std::mem::take(&mut self.decoder);
            let next = decoder.next(&mut rest, |kind| self.admit(kind));
            self.decoder = decoder;
            let done = match next {
                Ok(None) => break,
                Ok(Some((kind, payload))) => self.frame(kind, &payload, now),
                Err(finding) => Err(finding.into()),
            };
            self.settle(done, now);
            if gate && !self.is_gate() {
                break;
            }
        }
        match self.end.is_cut() {
            true => bytes.len(),
            false => bytes.len() - rest.len(),
        }
    }

    /// After [`Action::Open`]: the channel for the rounds is there (h2 stream 1).
    /// Must come within 2 s. Not needed for QUIC, whose channel stays the same.
    pub fn attached(&mut self, now: Moment) {
        self.tick(now);
        if matches!(self.stage, Stage::Opening(_)) {
            self.stage = Stage::Open;
        }
    }

    /// The peer closed or reset the channel, or it broke: the hop is cut.
    pub fn end(&mut self, _now: Moment) {
        self.end.channel_closed(&mut self.out);
    }

    /// What to do now.
    pub fn poll(&mut self, now: Moment) -> Action {
        self.tick(now);
        match self.out.pop() {
            Some(action) => action,
            None if self.end.is_cut() => Action::Wait(None),
            None => Action::Wait(Some(self.wake())),
        }
    }

    /// The answer to [`Action::Quote`]. An error means that we cannot prove
    /// ourselves now: before the gate the hop is cut, later it drains.
    pub fn quoted(&mut self, quoted: Result<Quoted<'_>, Denial>, now: Moment) {
        if self.end.is_cut() || !self.prover.awaits_quote() {
            return;
        }
        let done = match quoted {
            Ok(quoted) => self.prover.quoted(&self.common, &mut self.out, &quoted),
            Err(denial) => Err(denial.into()),
        };
        self.settle(done, now);
    }

    /// The answer to [`Action::Appraise`].
    pub fn appraised(&mut self, verdict: Result<Acceptance, Denial>, now: Moment) {
        if self.end.is_cut() {
            return;
        }
        let done = match self.challenger.appraised(&self.common, &mut self.out, verdict, now) {
            Ok(true) => self.open_if_proved(),
            Ok(false) => Ok(()),
            Err(failure) => Err(failure),
        };
        self.settle(done, now);
    }

    /// The last accepted evidence was appraised again, without a round, because
    /// something that the verdict depends on changed: until when it holds now.
    ///
    /// `evidence-stale` must say that nothing else is wrong. Then the peer is
    /// challenged anew before the hop is cut, unless the policy says that failures cut.
    pub fn reviewed(&mut self, verdict: Result<u64, Denial>, now: Moment) {
        let done = match verdict {
            Ok(until) => self.challenger.reviewed(until, now),
            Err(denial) if self.may_prove_anew(&denial) => {
                self.challenger.outdated(&self.common, denial, now);
                Ok(())
            }
            Err(denial) => Err(denial.into()),
        };
        self.settle(done, now);
    }

    fn may_prove_anew(&self, denial: &Denial) -> bool {
        denial.reason == Reason::EvidenceStale
            && !self.is_gate()
            && !self.grace(&self.common.demands, denial.reason).is_zero()
            && self.challenger.goes_on()
    }

    /// The answer to [`Action::Judge`]: the same chain, parsed and admitted.
    pub fn judged(&mut self, judgement: Result<&Presented, Denial>, now: Moment) {
        let Some(judging) = self.renewal.judged().filter(|_| !self.end.is_cut()) else { return };
        let done = self.adopt(&judging, judgement, now);
        if done.is_err() {
            // Its evidence from here on would be for a key that we do not take up.
            self.challenger.give_up();
        }
        self.settle(done, now);
    }

    fn adopt(
        &mut self,
        judging: &Judging,
        judgement: Result<&Presented, Denial>,
        now: Moment,
    ) -> Result<(), Failure> {
        self.renewal.adopt(&mut self.common, judging, judgement)?;
        self.peer_expires = Expiry::new(self.common.channel.peer.not_after, now);
        self.challenger.renewed(&self.common, now)
    }

    /// The policy demands something else from now on. A change between levels
    /// with and without session evidence ends the hop, since it is in the Hello.
    pub fn demand(&mut self, demands: Arc<Demands>, now: Moment) {
        if let Err(finding) = check(&demands, &self.common.offer) {
            return self.settle(Err(finding.into()), now);
        }
        let (before, after) = (self.common.demands.level, demands.level);
        if before.is_session_bound() != after.is_session_bound() {
            let (expected, presented) = (after.to_string(), before.to_string());
            let finding = Finding::new(Reason::PolicyChanged, "level of the hop", expected, presented);
            // The new policy says how; the old one holds for as long as there is a hop.
            let grace = self.grace(&demands, Reason::PolicyChanged);
            return self.end.fail(&mut self.out, finding.into(), grace, now);
        }
        let before = std::mem::replace(&mut self.common.demands, demands);
        if after.is_session_bound() {
            let done = self.challenger.demand(&self.common, &before, now);
            self.settle(done, now);
        }
    }

    /// Our own state moved (a measured event): asks the peer for a challenge,
    /// at most once in 10 s.
    pub fn changed(&mut self, _now: Moment) {
        self.change = true;
    }

    /// Asks the peer for a proof now, on behalf of somebody who wants to see one.
    /// Whether one is to come: not before the gate is open, not from a hop that
    /// ends, and not where the level asks for none. How often is up to the caller.
    pub fn ask(&mut self, now: Moment) -> bool {
        let ends = self.end.is_cut() || self.end.is_draining();
        if self.is_gate() || ends || !self.common.demands.level.is_session_bound() {
            return false;
        }
        self.challenger.ask_now(now);
        true
    }

    /// We have a new certificate and key: tells the peer, at most once in 10 s
    /// and not while a quote for the old key is being made. The newest wins.
    ///
    /// # Errors
    /// When it is not for our SPIFFE ID, or its key cannot sign.
    pub fn renew(&mut self, identity: &Arc<Identity>, _now: Moment) -> Result<(), Finding> {
        self.renewal.renew(&self.common, identity)
    }

    /// The hop is to end, for a reason of ours (shutdown, for example). Drains
    /// or cuts as the matrix says of the reason.
    pub fn drain(&mut self, denial: Denial, now: Moment) {
        self.settle(Err(denial.into()), now);
    }

    /// Whether a failure for this reason cuts the hop, even if it drains already.
    #[must_use]
    pub fn cuts_for(&self, reason: Reason) -> bool {
        Ending::of(reason) != Ending::Drain || self.grace(&self.common.demands, reason).is_zero()
    }

    /// Whether a new stream may be opened on this hop.
    #[must_use]
    pub fn usable(&self, now: Moment) -> bool {
        let expired = self.own_expires.passed(now) || self.peer_expires.passed(now);
        let lapsed = self.common.demands.level.is_session_bound() && self.challenger.lapsed(now);
        let until = self.accepted_until();
        !expired && !lapsed && until.is_some_and(|until| now.monotonic < until)
    }

    fn accepted_until(&self) -> Option<Duration> {
        if self.end.is_cut() || self.end.is_draining() || self.is_gate() {
            return None;
        }
        match self.common.demands.level.is_session_bound() {
            true => self.challenger.until().map(|until| until.min(self.ends())),
            false => Some(self.ends()),
        }
    }

    /// What there is to know about the hop, to explain it.
    #[must_use]
    pub fn state(&self) -> State {
        let phase = match &self.stage {
            _ if self.end.is_cut() => Phase::Closed,
            Stage::Gate { .. } => Phase::Gate,
            _ if self.end.is_draining() => Phase::Draining,
            Stage::Opening(_) => Phase::Opening,
            Stage::Open => Phase::Open,
        };
        State {
            side: self.common.channel.side,
            phase,
            own: self.prover.state(&self.common),
            peer: self.challenger.state(&self.common),
            accepted_until: self.accepted_until(),
            ends: self.end.until().map_or_else(|| self.ends(), |until| until.min(self.ends())),
            own_serial: self.renewal.own_serial,
            peer_serial: self.renewal.peer_serial,
        }
    }

    /// The memory of the machine in bytes, with what it holds on the heap and
    /// does not share.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let hello = if let Stage::Gate { hello, .. } = &self.stage { hello.capacity() } else { 0 };
        let ids = self.common.channel.own.id.as_str().len() + self.common.channel.peer.id.as_str().len();
        size_of::<Self>()
            + hello
            + ids
            + self.decoder.buffered()
            + self.out.bytes()
            + self.prover.bytes()
            + self.challenger.bytes()
    }

    const fn is_gate(&self) -> bool {
        matches!(self.stage, Stage::Gate { .. })
    }

    /// Applies what a step came to.
    fn settle(&mut self, done: Result<(), Failure>, now: Moment) {
        let Err(failure) = done else { return };
        let grace = self.grace(&self.common.demands, failure.denial.reason);
        self.end.fail(&mut self.out, failure, grace, now);
    }

    /// How long the hop may go on after a failure that lets it drain.
    fn grace(&self, demands: &Demands, reason: Reason) -> Duration {
        // Nothing failed when a hop ends because it was to end.
        let planned = reason == Reason::Draining;
        match (&self.stage, demands.on_failure) {
            (Stage::Gate { .. }, _) => Duration::ZERO,
            (_, OnFailure::Cut) if !planned => Duration::ZERO,
            _ => demands.drain_grace,
        }
    }
}

/// Whether a session can be made of these.
fn check(demands: &Demands, offer: &Offer) -> Result<(), Finding> {
    let bound = demands.level.is_session_bound();
    if demands.accepted.len() > MAX_TYPES || offer.types.len() > MAX_TYPES {
        return Err(unusable("at most 16 media types", "more"));
    }
    if bound && demands.accepted.is_empty() {
        return Err(unusable("a media type that is accepted", "none"));
    }
    let longest = demands.interval.max(demands.response).max(demands.gate).max(demands.drain_grace);
    if longest > LONGEST || demands.interval.is_zero() {
        return Err(unusable("times of at most a day", &format!("{} s", longest.as_secs())));
    }
    if !EVIDENCE.contains(&demands.max_evidence) {
        return Err(unusable("room for evidence from 4 KiB to 256 KiB", &demands.max_evidence.to_string()));
    }
    Ok(())
}

fn unusable(expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::Internal, "session", expected, presented)
}
