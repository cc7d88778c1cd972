//! The peer proves itself: the relying party's half of a direction.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason, reason::Fault};

use super::action::{Acceptance, Accepted, Action};
use super::common::{Common, Expiry, Failure, Outbox, RoundTerms, out_of_order};
use super::frame::Kind;
use super::message::{Challenge, Evidence, Outcome, RoundResult, decode_changed, feature};
use super::prover::MAX_RETRIES;
use super::reason::WireReason;
use super::receive::{Asked, receive};
use super::state::Direction;
use super::terms::{Demands, Moment, Wanted};
use crate::binding::sha256;

/// Between two rounds that the peer asked for by Changed.
const CHANGED_SPACING: Duration = Duration::from_secs(10);

/// After a new certificate of the peer a round follows within 10 s. A server
/// that rotates has a thousand of them to answer: they are spread.
const FRESH_AFTER_RENEWAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Stage {
    /// The next challenge is due at its time.
    Idle,
    /// A challenge is open.
    Asked(Box<Asked>),
    /// Its evidence is being appraised.
    Appraising(Pending),
    /// The hop drains because this direction failed. Evidence that is still on
    /// its way is of no interest any more.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    binder: [u8; 64],
    asked_at: Duration,
}

/// What the peer proved last.
#[derive(Clone, Copy, Debug)]
struct Proof {
    round: u64,
    binder: [u8; 64],
    /// When its challenge was made: nothing in the evidence is older than that,
    /// so its age counts from here, and not from when it came.
    asked_at: Duration,
    until: Expiry,
    /// When it is too old, whatever the verdict says.
    stale_at: Duration,
}

/// A proof that is too old by rules that are younger than it.
#[derive(Debug)]
struct Outdated {
    denial: Box<Denial>,
    /// By when another one is to be there.
    by: Duration,
}

/// The peer's direction.
#[derive(Debug)]
pub(super) struct Challenger {
    stage: Stage,
    /// The round that is due or open.
    round: u64,
    /// How often this round was asked for again.
    retried: u64,
    proof: Option<Proof>,
    /// Nothing new rests on the proof: another one is awaited.
    outdated: Option<Outdated>,
    due: Duration,
    /// When a round is due that is not waited for.
    early: Option<Duration>,
    /// When a Changed was last answered by a challenge.
    change_at: Option<Duration>,
    /// Whether `early` is for a Changed.
    change: bool,
    /// The nonce of our last challenge.
    nonce: Option<[u8; 32]>,
    /// The nonce of the last evidence.
    answer: Option<[u8; 32]>,
    event_log: Option<u64>,
    counted: u64,
    retries: u64,
    timeouts: u64,
    deferred: u64,
}

impl Challenger {
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            stage: Stage::Idle,
            round: 0,
            retried: 0,
            proof: None,
            outdated: None,
            due: now.monotonic,
            early: None,
            change_at: None,
            change: false,
            nonce: None,
            answer: None,
            event_log: None,
            counted: 0,
            retries: 0,
            timeouts: 0,
            deferred: 0,
        }
    }

    /// Sends the challenge of the round that is due.
    pub(super) fn ask(&mut self, common: &Common, out: &mut Outbox, now: Moment) -> Result<(), Failure> {
        let demands = &common.demands;
        let nonce = common.nonce()?;
        // A generator that repeats itself makes evidence replayable.
        if self.nonce == Some(nonce) {
            return Err(
                Finding::new(Reason::Internal, "random numbers", "a fresh nonce", "the last one").into()
            );
        }
        let delta = common.peer.is_some_and(|peer| peer.has(feature::EVENT_LOG_DELTA));
        let event_log_from = self.event_log.filter(|_| delta && demands.wanted.contains(Wanted::EVENT_LOG));
        let payload = Challenge {
            round: self.round,
            nonce,
            accepted: demands.accepted.clone(),
            wanted: demands.wanted,
            policy_id: demands.policy_id,
            deadline_ms: u64::try_from(demands.response.as_millis()).unwrap_or(u64::MAX),
            event_log_from,
        }
        .encode();
        self.due = now.monotonic.saturating_add(common.jittered_interval()?);
        out.send(Kind::Challenge, &payload);
        self.early = None;
        if std::mem::take(&mut self.change) {
            self.change_at = Some(now.monotonic);
        }
        self.nonce = Some(nonce);
        self.stage = Stage::Asked(Box::new(Asked {
            payload,
            demands: Arc::clone(demands),
            event_log_from: event_log_from.unwrap_or_default(),
            own_key: common.channel.own.spki_sha256,
            at: now.monotonic,
            unix: now.unix,
            deadline: now.monotonic.saturating_add(demands.response),
            overdue: false,
        }));
        Ok(())
    }

    /// Whether evidence may come.
    pub(super) const fn expects_evidence(&self) -> bool {
        matches!(self.stage, Stage::Asked(_) | Stage::Over)
    }

    /// The peer's evidence.
    pub(super) fn take_evidence(
        &mut self,
        common: &Common,
        out: &mut Outbox,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let asked = match &self.stage {
            Stage::Asked(asked) => asked,
            Stage::Over => return Ok(()),
            _ => return Err(out_of_order("no Evidence, since no challenge is open", "one").into()),
        };
        let evidence = Evidence::decode(payload)?;
        if evidence.round != self.round {
            let (expected, presented) = (self.round.to_string(), evidence.round.to_string());
            return Err(Finding::new(Reason::Malformed, "Evidence round", expected, presented).into());
        }
        if self.answer == Some(evidence.nonce) {
            let presented = "that of the evidence before";
            return Err(
                Finding::new(Reason::BindingMismatch, "Evidence nonce", "a fresh one", presented).into()
            );
        }
        let core = common.core(&RoundTerms {
            attester: common.channel.side.other(),
            // Where the evidence stands in the peer's stream this is its key:
            // a new one takes effect with its frame.
            attester_key: &common.channel.peer.spki_sha256,
            verifier_key: &asked.own_key,
            challenge: &asked.payload,
            nonce: &evidence.nonce,
            round: self.round,
            previous: self.proof.as_ref().map(|proof| &proof.binder),
        })?;
        let binder = core.binder(&[]);
        self.answer = Some(evidence.nonce);
        let (bytes, asked_at) = (*binder.as_bytes(), asked.at);
        let keeps_log = common.peer.is_some_and(|peer| peer.has(feature::EVENT_LOG_DELTA));
        let received = receive(asked, keeps_log, self.round, &evidence, binder)
            .map_err(|finding| Failure::rejected(finding, self.round, bytes))?;
        out.push(Action::Appraise(Box::new(received)));
        self.stage = Stage::Appraising(Pending { binder: bytes, asked_at });
        Ok(())
    }

    /// The verdict on the peer's evidence. Whether it was accepted.
    pub(super) fn appraised(
        &mut self,
        common: &Common,
        out: &mut Outbox,
        verdict: Result<Acceptance, Denial>,
        now: Moment,
    ) -> Result<bool, Failure> {
        let Stage::Appraising(pending) = self.stage else { return Ok(false) };
        let until = |acceptance: &Acceptance| Expiry::new(acceptance.until, now);
        let verdict = verdict.and_then(|acceptance| match until(&acceptance).passed(now) {
            false => Ok(acceptance),
            true => Err(lapsed().into()),
        });
        match verdict {
            Ok(acceptance) => {
                let proof = Proof {
                    round: self.round,
                    binder: pending.binder,
                    asked_at: pending.asked_at,
                    until: until(&acceptance),
                    stale_at: pending.asked_at.saturating_add(common.demands.interval * 2),
                };
                self.proof = Some(proof);
                self.outdated = None;
                self.event_log = acceptance.event_log;
                self.stage = Stage::Idle;
                let next = self.next().saturating_sub(now.monotonic).as_secs();
                self.result(out, Outcome::Accept, pending.binder, next);
                self.round += 1;
                self.retried = 0;
                self.counted += 1;
                out.push(Action::Accepted(Accepted { round: proof.round, until: proof.end() }));
                Ok(true)
            }
            Err(denial) if self.retried < MAX_RETRIES && is_worth_another(&denial) => {
                let reason = WireReason::of(denial.reason);
                self.result(out, Outcome::Retry(reason), pending.binder, 0);
                self.retried += 1;
                self.retries += 1;
                self.ask(common, out, now)?;
                Ok(false)
            }
            Err(denial) => {
                self.stage = Stage::Over;
                Err(Failure::rejected(denial, self.round, pending.binder))
            }
        }
    }

    fn result(&self, out: &mut Outbox, outcome: Outcome, binder: [u8; 64], next: u64) {
        let result = RoundResult { round: self.round, outcome, binder_sha256: sha256(&binder), next };
        out.send(Kind::Result, &result.encode());
    }

    /// The last proof was appraised again. Until when it counts now.
    pub(super) fn reviewed(&mut self, until: u64, now: Moment) -> Result<(), Failure> {
        let expiry = Expiry::new(until, now);
        match &mut self.proof {
            Some(_) if expiry.passed(now) => {
                self.stage = Stage::Over;
                Err(lapsed().into())
            }
            Some(proof) => {
                proof.until = expiry;
                self.outdated = None;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The last proof is too old for rules that hold since now, and nothing else
    /// is wrong with it: the peer may prove itself anew, in the time of one answer.
    /// Said again, it gives no more time.
    pub(super) fn outdated(&mut self, common: &Common, denial: Denial, now: Moment) {
        if self.outdated.is_none() {
            let by = now.monotonic.saturating_add(common.demands.response);
            self.outdated = Some(Outdated { denial: Box::new(denial), by });
            if matches!(self.stage, Stage::Idle) {
                self.hasten(now.monotonic);
            }
        }
    }

    /// Whether a proof may still come.
    pub(super) const fn goes_on(&self) -> bool {
        self.proof.is_some() && !matches!(self.stage, Stage::Over)
    }

    /// The peer says that its state moved. The next round comes at once, or when
    /// ten seconds are over since it last said so: put off, never lost.
    pub(super) fn changed(&mut self, payload: &[u8], now: Moment) -> Result<(), Failure> {
        decode_changed(payload)?;
        let allowed = self.change_at.map_or(now.monotonic, |at| at.saturating_add(CHANGED_SPACING));
        if self.change || allowed > now.monotonic {
            self.deferred += 1;
        }
        if !self.change {
            self.change = true;
            self.hasten(allowed.max(now.monotonic));
        }
        Ok(())
    }

    /// The peer has another key. A round that is open proves it; else one follows soon.
    pub(super) fn renewed(&mut self, common: &Common, now: Moment) -> Result<(), Failure> {
        if !matches!(self.stage, Stage::Asked(_)) {
            self.hasten(now.monotonic.saturating_add(common.share(FRESH_AFTER_RENEWAL)?));
        }
        Ok(())
    }

    /// Somebody wants a proof now. One that is on its way will do.
    pub(super) fn ask_now(&mut self, now: Moment) {
        if matches!(self.stage, Stage::Idle) {
            self.hasten(now.monotonic);
        }
    }

    fn hasten(&mut self, at: Duration) {
        self.early = Some(self.early.map_or(at, |early| early.min(at)));
    }

    /// Other demands of the same kind hold: what they shorten is shortened.
    pub(super) fn demand(&mut self, common: &Common, before: &Demands, now: Moment) -> Result<(), Failure> {
        self.due = self.due.min(now.monotonic.saturating_add(common.jittered_interval()?));
        let stale_at = now.monotonic.saturating_add(common.demands.interval * 2);
        if let Some(proof) = &mut self.proof {
            proof.stale_at = proof.stale_at.min(stale_at);
        }
        if !before.wanted.contains(common.demands.wanted) {
            self.hasten(now.monotonic);
        }
        Ok(())
    }

    /// The hop drains for this direction: no more rounds.
    pub(super) fn give_up(&mut self) {
        self.stage = Stage::Over;
    }

    /// Deadlines, and the next challenge once the channel for it is there.
    pub(super) fn tick(
        &mut self,
        common: &Common,
        out: &mut Outbox,
        attached: bool,
        now: Moment,
    ) -> Result<(), Failure> {
        if let Some(outdated) = self.outdated.take_if(|outdated| now.monotonic >= outdated.by) {
            self.stage = Stage::Over;
            return Err(Failure { denial: outdated.denial, rejected: None, again: false });
        }
        if let Some(proof) = &self.proof {
            if now.monotonic >= proof.stale_at {
                let (expected, age) =
                    (common.demands.interval * 2, now.monotonic.saturating_sub(proof.asked_at));
                return Err(Finding::new(
                    Reason::EvidenceStale,
                    "age of the last accepted round",
                    format!("less than {} s", expected.as_secs()),
                    format!("{} s", age.as_secs()),
                )
                .into());
            }
            // Collateral, policies and certificates have ends of their own, and
            // nobody has looked again: the verdict is not refuted, it is gone.
            if proof.until.passed(now) && !matches!(self.stage, Stage::Over) {
                self.stage = Stage::Over;
                return Err(lapsed().into());
            }
        }
        let due = attached && now.monotonic >= self.next();
        match &mut self.stage {
            Stage::Asked(asked) if now.monotonic >= asked.deadline => {
                self.timeouts += 1;
                let again = std::mem::replace(&mut asked.overdue, true);
                asked.deadline = now.monotonic.saturating_add(asked.demands.response);
                let expected = format!("within {} s", asked.demands.response.as_secs());
                let finding = Finding::new(Reason::Timeout, "Evidence", expected, "none");
                Err(Failure { again, ..Failure::from(finding) })
            }
            Stage::Idle if due => {
                let asked = self.ask(common, out, now);
                if asked.is_err() {
                    self.stage = Stage::Over;
                }
                asked
            }
            _ => Ok(()),
        }
    }

    fn next(&self) -> Duration {
        self.early.map_or(self.due, |early| early.min(self.due))
    }

    /// When something is due in this direction.
    pub(super) fn wake(&self, attached: bool) -> Option<Duration> {
        let stage = match &self.stage {
            Stage::Asked(asked) => Some(asked.deadline),
            Stage::Idle if attached => Some(self.next()),
            _ => None,
        };
        let proof = self.proof.as_ref().map(|proof| match self.stage {
            Stage::Over => proof.stale_at,
            _ => proof.end(),
        });
        let outdated = self.outdated.as_ref().map(|outdated| outdated.by);
        stage.into_iter().chain(proof).chain(outdated).min()
    }

    /// The binder that was accepted last.
    pub(super) fn accepted(&self) -> Option<&[u8; 64]> {
        self.proof.as_ref().map(|proof| &proof.binder)
    }

    /// Until when the peer's last proof counts.
    pub(super) fn until(&self) -> Option<Duration> {
        self.proof.as_ref().filter(|_| self.outdated.is_none()).map(Proof::end)
    }

    /// Whether the verdict on it is past its time by either clock.
    pub(super) fn lapsed(&self, now: Moment) -> bool {
        self.proof.as_ref().is_none_or(|proof| proof.until.passed(now))
    }

    pub(super) const fn nonce(&self) -> Option<&[u8; 32]> {
        self.nonce.as_ref()
    }

    pub(super) fn state(&self, common: &Common) -> Direction {
        let bound = common.demands.level.is_session_bound();
        Direction {
            level: Some(common.demands.level),
            in_round: matches!(self.stage, Stage::Asked(_) | Stage::Appraising(_)),
            round: self.proof.map(|proof| proof.round),
            binder: self.proof.map(|proof| proof.binder),
            since: self.proof.map(|proof| proof.asked_at),
            next: (bound && matches!(self.stage, Stage::Idle)).then(|| self.next()),
            accepted: self.counted,
            retries: self.retries,
            timeouts: self.timeouts,
            changes_deferred: self.deferred,
            outdated: self.outdated.is_some(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Asked(asked) => size_of::<Asked>() + asked.payload.capacity(),
            _ => 0,
        }
    }
}

impl Proof {
    fn end(&self) -> Duration {
        self.stale_at.min(self.until.monotonic)
    }
}

/// Whether another quote of the peer, now, could be judged otherwise. What is
/// missing on our side is not mended by keeping the peer's device busy.
fn is_worth_another(denial: &Denial) -> bool {
    denial.reason.retry_can_help() && denial.reason.fault() == Fault::Peer
}

fn lapsed() -> Finding {
    Finding::new(Reason::NotReady, "verdict", "one that still holds", "one whose time is over")
}
