//! We prove ourselves: the attester's half of a direction.

use std::time::Duration;

use countersign_evidence::{Finding, Reason};

use super::action::{Action, Proof, QuoteRequest, Quoted};
use super::collection::Parts;
use super::common::{Common, Failure, Outbox, RoundTerms, out_of_order};
use super::frame::Kind;
use super::message::{Challenge, Evidence, Inclusion, Outcome, RoundResult, feature};
use super::state::Direction;
use super::terms::{Moment, Offer, Wanted};
use crate::binding::{SessionCore, sha256};

/// How often one round may be asked for again.
pub(super) const MAX_RETRIES: u64 = 2;

/// Between two quotes for one hop after the gate. Who may challenge as often as
/// the network lets it would keep a device busy that many share.
const SPACING: Duration = Duration::from_secs(5);

/// What a verifier may call its deadline; anything else is taken as the nearest.
const PATIENCE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Where we stand.
#[derive(Debug, Default)]
enum Stage {
    /// A challenge of the next round may come.
    #[default]
    Idle,
    /// One came. The quote is asked for at its time.
    Challenged(Box<Challenged>, Duration),
    /// The quote is being made.
    Quoting(Box<Challenged>),
    /// The evidence with this binder is on its way.
    Proven([u8; 64]),
    /// It was not accepted; a challenge of the same round must come.
    Retried,
}

#[derive(Debug)]
struct Challenged {
    core: SessionCore,
    nonce: [u8; 32],
    deadline: Duration,
    event_log: Option<u64>,
}

/// Our direction.
#[derive(Debug, Default)]
pub(super) struct Prover {
    stage: Stage,
    /// The round that is due or open.
    round: u64,
    /// How often this round was asked for again.
    retried: u64,
    /// The last binder of ours that the peer accepted.
    accepted: Option<[u8; 64]>,
    /// The nonce of the last challenge.
    nonce: Option<[u8; 32]>,
    quoted_at: Option<Duration>,
    since: Option<Duration>,
    /// When the last challenge came.
    challenged_at: Option<Duration>,
    next: Option<Duration>,
    counted: u64,
    retries: u64,
}

impl Prover {
    /// A challenge came. `ours` is the nonce of our own last one: an echo of it
    /// is a reflection.
    pub(super) fn challenge(
        &mut self,
        common: &Common,
        payload: &[u8],
        ours: Option<&[u8; 32]>,
        now: Moment,
    ) -> Result<(), Failure> {
        let terms = *common.terms()?;
        if !terms.level.is_session_bound() {
            let presented = format!("one, and level {} was demanded", terms.level);
            return Err(out_of_order("no challenge", presented).into());
        }
        if !matches!(self.stage, Stage::Idle | Stage::Retried) {
            return Err(out_of_order("a Result first", "a Challenge").into());
        }
        let challenge = Challenge::decode(payload)?;
        if challenge.round != self.round {
            let (expected, presented) = (self.round.to_string(), challenge.round.to_string());
            return Err(Finding::new(Reason::Malformed, "Challenge round", expected, presented).into());
        }
        if self.nonce == Some(challenge.nonce) || ours == Some(&challenge.nonce) {
            return Err(Finding::new(
                Reason::BindingMismatch,
                "Challenge nonce",
                "a fresh one",
                "one that was used on this hop",
            )
            .into());
        }
        check_wants(&common.offer, &challenge)?;
        let nonce = common.nonce()?;
        // Both keys are taken as they are now. Ours cannot change before the
        // evidence is sent, and the verifier's is that of its Challenge.
        let core = common.core(&RoundTerms {
            attester: common.channel.side,
            attester_key: &common.channel.own.spki_sha256,
            verifier_key: &common.channel.peer.spki_sha256,
            challenge: payload,
            nonce: &nonce,
            round: self.round,
            previous: self.accepted.as_ref(),
        })?;
        let wait = Duration::from_millis(challenge.deadline_ms).clamp(*PATIENCE.start(), *PATIENCE.end());
        // Without a log the answer has none, and the peer's policy decides: it may
        // want one of other machines only.
        let event_log = common.offer.event_log && challenge.wanted.contains(Wanted::EVENT_LOG);
        let challenged = Challenged {
            core,
            nonce,
            deadline: now.monotonic.saturating_add(wait),
            event_log: event_log.then(|| challenge.event_log_from.unwrap_or_default()),
        };
        let spaced = self.quoted_at.map_or(now.monotonic, |at| at.saturating_add(SPACING));
        let at = if self.round == 0 { now.monotonic } else { spaced.max(now.monotonic) };
        self.nonce = Some(challenge.nonce);
        self.challenged_at = Some(now.monotonic);
        self.stage = Stage::Challenged(Box::new(challenged), at);
        Ok(())
    }

    /// Asks for the quote once it is time.
    pub(super) fn tick(&mut self, common: &Common, out: &mut Outbox, now: Moment) -> Result<(), Failure> {
        let due = matches!(&self.stage, Stage::Challenged(_, at) if now.monotonic >= *at);
        if !due {
            return Ok(());
        }
        let Stage::Challenged(challenged, _) = std::mem::take(&mut self.stage) else { return Ok(()) };
        out.push(Action::Quote(QuoteRequest {
            round: self.round,
            core: challenged.core.clone(),
            deadline: challenged.deadline,
            urgent: self.round == 0,
            batch: common.terms()?.has(feature::MERKLE),
            event_log: challenged.event_log,
        }));
        self.quoted_at = Some(now.monotonic);
        self.stage = Stage::Quoting(challenged);
        Ok(())
    }

    /// The quote is there.
    pub(super) fn quoted(
        &mut self,
        common: &Common,
        out: &mut Outbox,
        quoted: &Quoted<'_>,
    ) -> Result<(), Failure> {
        let Stage::Quoting(challenged) = &self.stage else { return Ok(()) };
        let terms = common.terms()?;
        let internal =
            |expected: &str, presented: &str| Finding::new(Reason::Internal, "quote", expected, presented);
        if quoted.proof.is_some() && !terms.has(feature::MERKLE) {
            return Err(internal("a quote of the binder itself", "one of a batch").into());
        }
        if quoted.event_log.is_some() != challenged.event_log.is_some() {
            return Err(internal("an event log exactly when it is wanted", "otherwise").into());
        }
        let parts = Parts { cpu: (quoted.media_type, quoted.evidence), event_log: quoted.event_log };
        let payload = Evidence {
            round: self.round,
            nonce: challenged.nonce,
            collection: &parts.encode(),
            proof: quoted.proof.map(|Proof { index, size, path }| Inclusion {
                index,
                size,
                path: path.to_vec(),
            }),
        }
        .encode();
        if payload.len() as u64 > terms.max_evidence {
            // Nobody sent anything wrong: the peer is not to be distrusted for it.
            let expected = format!("at most {} bytes, as the peer's Hello says", terms.max_evidence);
            let presented = format!("{} bytes", payload.len());
            return Err(Finding::new(Reason::Overloaded, "our evidence", expected, presented).into());
        }
        let binder = *challenged.core.binder(&[]).as_bytes();
        out.send(Kind::Evidence, &payload);
        self.stage = Stage::Proven(binder);
        Ok(())
    }

    /// What the peer says of our evidence.
    pub(super) fn result(&mut self, payload: &[u8], now: Moment) -> Result<Outcome, Failure> {
        let Stage::Proven(binder) = self.stage else {
            return Err(out_of_order("no Result, since no evidence is open", "one").into());
        };
        let result = RoundResult::decode(payload)?;
        if result.round != self.round {
            let (expected, presented) = (self.round.to_string(), result.round.to_string());
            return Err(Finding::new(Reason::Malformed, "Result round", expected, presented).into());
        }
        let ours = sha256(&binder);
        // Who refuses for the binding has another one: that is what he says.
        let refused = matches!(result.outcome, Outcome::Reject(_));
        if result.binder_sha256 != ours && !refused {
            let presented = hex::encode(result.binder_sha256);
            return Err(
                Finding::new(Reason::BindingMismatch, "Result binder", hex::encode(ours), presented).into()
            );
        }
        match result.outcome {
            Outcome::Accept => {
                self.accepted = Some(binder);
                self.round += 1;
                self.retried = 0;
                self.counted += 1;
                self.since = self.challenged_at;
                self.next = Some(now.monotonic.saturating_add(Duration::from_secs(result.next)));
                self.stage = Stage::Idle;
            }
            Outcome::Retry(_) if self.retried == MAX_RETRIES => {
                let expected = format!("at most {MAX_RETRIES} retries of a round");
                return Err(out_of_order(&expected, "one more").into());
            }
            Outcome::Retry(_) => {
                self.retried += 1;
                self.retries += 1;
                self.stage = Stage::Retried;
            }
            Outcome::Reject(_) => {}
        }
        Ok(result.outcome)
    }

    /// Whether evidence for the key in use is being made.
    pub(super) const fn is_quoting(&self) -> bool {
        matches!(self.stage, Stage::Challenged(..) | Stage::Quoting(_))
    }

    /// Whether the answer to [`Action::Quote`] is awaited.
    pub(super) const fn awaits_quote(&self) -> bool {
        matches!(self.stage, Stage::Quoting(_))
    }

    /// The last binder of ours that the peer accepted.
    pub(super) const fn accepted(&self) -> Option<&[u8; 64]> {
        self.accepted.as_ref()
    }

    pub(super) fn wake(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Challenged(_, at) => Some(*at),
            _ => None,
        }
    }

    pub(super) fn state(&self, common: &Common) -> Direction {
        Direction {
            level: common.peer.map(|peer| peer.level),
            in_round: !matches!(self.stage, Stage::Idle),
            round: self.accepted.and_then(|_| self.round.checked_sub(1)),
            binder: self.accepted,
            since: self.since,
            next: self.next,
            accepted: self.counted,
            retries: self.retries,
            ..Direction::default()
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.stage {
            Stage::Challenged(..) | Stage::Quoting(_) => size_of::<Challenged>(),
            _ => 0,
        }
    }
}

/// Whether we can give what is wanted at all.
fn check_wants(offer: &Offer, challenge: &Challenge) -> Result<(), Finding> {
    let unsupported = |field, expected: String, presented| {
        Finding::new(Reason::UnsupportedFormat, field, expected, presented)
    };
    if !challenge.accepted.iter().any(|accepted| offer.types.contains(accepted)) {
        let presented = challenge.accepted.join(", ");
        return Err(unsupported("Challenge types", offer.types.join(", "), presented));
    }
    let can = Wanted::CPU.and(Wanted::EVENT_LOG);
    if !can.contains(challenge.wanted) || !challenge.wanted.contains(Wanted::CPU) {
        let presented = challenge.wanted.bits().to_string();
        return Err(unsupported("Challenge wanted", format!("parts of {}", can.bits()), presented));
    }
    if challenge.event_log_from.is_some() && !challenge.wanted.contains(Wanted::EVENT_LOG) {
        return Err(out_of_order("an index only with an event log", "an index alone"));
    }
    Ok(())
}
