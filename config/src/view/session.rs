//! The judgement of evidence that is made for a connection.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use countersign_evidence::claims::Tee;
use countersign_evidence::event_log::Register;
use countersign_evidence::evidence::media_type;
use countersign_evidence::verdict::Outcome;
use countersign_evidence::{
    Claims, Denial, Dependencies, Finding, Fingerprint, Reason, RegisterState, UnixTime, Verdict, appraise,
};
use countersign_ratls::SpiffeId;
use countersign_ratls::binding::ReportData;
use countersign_ratls::peer::Admission;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::View;
use super::judge::{Applied, unexplained};
use crate::kinds::attestation_policy::Mode;

/// Evidence that answered a challenge.
#[derive(Clone, Debug)]
pub struct SessionEvidence<'a> {
    /// The media type of its CMW record.
    pub media_type: &'a str,
    /// The value of the record.
    pub value: &'a [u8],
    /// The event log that came along.
    pub event_log: Option<SessionLog<'a>>,
    /// What it must carry, from our own view of the connection: the binder, or
    /// the root of the tree that the binder is a leaf of.
    pub report_data: &'a ReportData,
    /// When the challenge was sent: the evidence is no older.
    pub challenged: UnixTime,
}

/// An event log that came with evidence.
#[derive(Clone, Copy, Debug)]
pub struct SessionLog<'a> {
    /// The media type of its CMW record.
    pub media_type: &'a str,
    /// The value of the record.
    pub value: &'a [u8],
    /// How far the log was replayed when the last round of the hop was accepted;
    /// the value starts with entry [`next()`](RegisterState::next) then.
    pub replayed: &'a RegisterState,
}

/// A peer that proved itself in a round: what it proved, until when it holds.
#[derive(Clone, Debug)]
pub struct SessionAdmission {
    /// What the evidence proves.
    pub claims: Arc<Claims>,
    /// The verdict of every policy of level L2 or higher that speaks of the peer.
    pub verdicts: Vec<Verdict>,
    /// What policies with mode `Audit` would have refused.
    pub audited: Vec<Denial>,
    /// When the challenge was sent, in seconds since the epoch.
    pub challenged: u64,
    /// The last second at which this holds: evidence and policies. How soon the
    /// next round is due, and how long one may fail to come, is not in it.
    pub valid_until: u64,
    /// The generation of the configuration under which it was decided.
    pub generation: u64,
    /// How far the event log was replayed; `None` when none came along.
    pub registers: Option<RegisterState>,
    /// Nobody has asked for the log.
    log_unasked: bool,
    /// What it rests on.
    pub dependencies: Dependencies,
    kept: Arc<Kept>,
}

impl SessionAdmission {
    /// The evidence, which hops that rest on the same quote share.
    #[must_use]
    pub fn evidence(&self) -> (&'static str, &[u8]) {
        (self.kept.media_type, &self.kept.value)
    }
}

/// A round that is judged.
struct Round<'a> {
    me: &'a SpiffeId,
    admission: &'a Admission,
    policies: Vec<Applied<'a>>,
    challenged: u64,
    shown: Shown,
}

/// What is known of a peer's event log.
struct Shown {
    registers: Option<RegisterState>,
    log_unasked: bool,
}

/// Evidence, kept to be judged again under other collateral.
struct Kept {
    media_type: &'static str,
    value: Box<[u8]>,
    /// What it proves with the log that came along last, while somebody uses it.
    shown: Mutex<Weak<Claims>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.value.len(), self.media_type)
    }
}

/// Evidence that was verified, and under what collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Known {
    tee: Tee,
    evidence: Fingerprint,
    collateral: Fingerprint,
}

/// A verification that many hops share: a quote over a tree serves them all.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    claims: Arc<Claims>,
    kept: Arc<Kept>,
}

impl Verified {
    /// What the evidence proves together with the log that led to these registers:
    /// hops that rest on one quote share it.
    fn showing(&self, registers: &RegisterState) -> Arc<Claims> {
        let claims = self.claims.with_registers(registers);
        let mut shown = self.kept.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shown.upgrade().filter(|known| **known == claims) {
            return known;
        }
        let claims = Arc::new(claims);
        *shown = Arc::downgrade(&claims);
        claims
    }
}

/// What many hops share.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Verifications by evidence and collateral.
    verified: Cache<Known, Verified>,
    /// Logs by the register that they lead to and their length, as far as there is
    /// room: one machine has one log, and many hops.
    logs: Cache<(Register, u64), RegisterState, Events>,
}

/// How many events of logs are kept.
const EVENTS: u64 = 1 << 17;

#[derive(Clone, Debug)]
struct Events;

impl Weighter<(Register, u64), RegisterState> for Events {
    fn weight(&self, _: &(Register, u64), registers: &RegisterState) -> u64 {
        registers.events().len() as u64 + 1
    }
}

impl Sessions {
    pub(super) fn new(entries: usize) -> Self {
        Self { verified: Cache::new(entries), logs: Cache::with_weighter(entries, EVENTS, Events) }
    }

    /// The same, shared with whoever has it. Where the names of events are not
    /// measured, equal registers are no proof of equal logs.
    fn share(&self, registers: RegisterState) -> RegisterState {
        let key = (*registers.register(), registers.next());
        if let Some(known) = self.logs.get(&key).filter(|known| *known == registers) {
            return known;
        }
        self.logs.insert(key, registers.clone());
        registers
    }
}

impl View {
    /// Judges evidence that the peer of an admitted hop made for the connection:
    /// signatures and collateral, the whole report data, the same TEE as in the
    /// certificate, and every policy of level L2 or higher that guards the hop.
    /// An event log must land on the quoted registers, whether a policy looks at
    /// it or not.
    ///
    /// # Errors
    /// The denial: of the evidence or its log, `binding-mismatch`, `other-tee`, the first
    /// `Enforce` policy that does not hold, or `no-policy`.
    pub fn judge_session(
        &self,
        me: &SpiffeId,
        admission: &Admission,
        evidence: &SessionEvidence<'_>,
        now: UnixTime,
    ) -> Result<SessionAdmission, Denial> {
        self.judge_round(me, admission, evidence, now, false)
    }

    /// As [`judge_session`](View::judge_session), for a challenge that did not ask for
    /// the event log. If a policy looks at it by now, the next round must show it:
    /// the admission holds for as long as an answer may take.
    ///
    /// # Errors
    /// As [`judge_session`](View::judge_session), `event-log-missing` excepted.
    pub fn judge_session_before_log(
        &self,
        me: &SpiffeId,
        admission: &Admission,
        evidence: &SessionEvidence<'_>,
        now: UnixTime,
    ) -> Result<SessionAdmission, Denial> {
        let silent = SessionEvidence { event_log: None, ..*evidence };
        self.judge_round(me, admission, &silent, now, true)
    }

    fn judge_round(
        &self,
        me: &SpiffeId,
        admission: &Admission,
        evidence: &SessionEvidence<'_>,
        now: UnixTime,
        log_unasked: bool,
    ) -> Result<SessionAdmission, Denial> {
        let policies = self.applied_to(me, admission)?;
        let mut verified = self.verify_session(None, evidence.media_type, evidence.value, now)?;
        evidence.report_data.check(&verified.claims.report_data)?;
        let registers = match evidence.event_log {
            Some(SessionLog { media_type, value, replayed }) => {
                let registers = verified.claims.replay_event_log(media_type, value, replayed)?;
                let registers = self.sessions.share(registers);
                verified.claims = verified.showing(&registers);
                Some(registers)
            }
            None => None,
        };
        let shown = Shown { registers, log_unasked };
        let challenged = evidence.challenged.as_secs();
        self.appraise_session(Round { me, admission, policies, challenged, shown }, verified, now)
    }

    /// Judges a peer again by what it proved last, without new evidence: after a
    /// change of policies, reference values, collateral. What it was not asked for
    /// yet it may show in the next round.
    ///
    /// # Errors
    /// As [`judge_session`](View::judge_session), `binding-mismatch` excepted:
    /// what the evidence is bound to has not changed.
    pub fn rejudge_session(
        &self,
        me: &SpiffeId,
        admission: &Admission,
        last: &SessionAdmission,
        now: UnixTime,
    ) -> Result<SessionAdmission, Denial> {
        let policies = self.applied_to(me, admission)?;
        let verified = if self.still_proves(&last.dependencies, &last.claims, now) {
            Verified { claims: Arc::clone(&last.claims), kept: Arc::clone(&last.kept) }
        } else {
            let (media_type, value) = last.evidence();
            let mut verified = self.verify_session(Some(&last.claims), media_type, value, now)?;
            // What was measured before is judged again with everything else.
            if let Some(registers) = &last.registers {
                verified.claims = verified.showing(registers);
            }
            verified
        };
        let shown = Shown { registers: last.registers.clone(), log_unasked: last.log_unasked };
        self.appraise_session(
            Round { me, admission, policies, challenged: last.challenged, shown },
            verified,
            now,
        )
    }

    fn applied_to(&self, me: &SpiffeId, admission: &Admission) -> Result<Vec<Applied<'_>>, Denial> {
        let expected = "a SPIFFE ID";
        let none = || Finding::new(Reason::SvidInvalid, "URI SAN of the certificate", expected, "none");
        self.applied(me, admission.presented.id.as_ref().ok_or_else(none)?)
    }

    /// Verifies once what many hops present. `last` is what it proved before.
    fn verify_session(
        &self,
        last: Option<&Claims>,
        media_type: &str,
        value: &[u8],
        now: UnixTime,
    ) -> Result<Verified, Denial> {
        let verify = || {
            let claims = self.verify_after(last, media_type, value, now)?;
            let (media_type, shown) = (media_type::of(claims.tee), Mutex::default());
            let kept = Kept { media_type, value: value.into(), shown };
            Ok::<_, Denial>(Verified { claims, kept: Arc::new(kept) })
        };
        let Some(tee) = media_type::tee(media_type) else { return verify() };
        let key =
            Known { tee, evidence: Fingerprint::of(value), collateral: Fingerprint(*self.collateral.id()) };
        let known = self.sessions.verified.get_or_insert_with(&key, verify)?;
        if known.claims.window.contains(now.as_secs()) {
            return Ok(known);
        }
        // It says what ended, and nothing that ended is believed.
        verify()
    }

    fn appraise_session(
        &self,
        round: Round<'_>,
        verified: Verified,
        now: UnixTime,
    ) -> Result<SessionAdmission, Denial> {
        let Round { me, admission, policies, challenged, shown } = round;
        let Verified { claims, kept } = verified;
        let Shown { registers, log_unasked } = shown;
        if let Some(certified) = &admission.claims {
            same_tee(certified, &claims)?;
        }
        let age = now.as_secs().saturating_sub(challenged);
        let (mut verdicts, mut audited, mut valid_until) = (Vec::new(), Vec::new(), claims.window.until);
        let mut judged = Arc::clone(&claims);
        let bound = || policies.iter().filter(|(policy, _)| policy.level.is_session_bound());
        if log_unasked && bound().any(|(policy, _)| policy.wants_event_log()) {
            let to_follow = claims.with_event_log_to_follow();
            if to_follow != *claims {
                let answer = bound().map(|(policy, _)| policy.continuous.timeout.0).min().unwrap_or_default();
                valid_until = valid_until.min(now.as_secs().saturating_add(answer.as_secs()));
                judged = Arc::new(to_follow);
            }
        }
        let mut stale = None;
        for (policy, mode) in bound() {
            let verdict = appraise(Arc::clone(&judged), &policy.policy, &self.references, age, now);
            match (&verdict.outcome, mode) {
                (Outcome::Allow { valid_until: until, .. }, Mode::Enforce) => {
                    valid_until = valid_until.min(*until);
                }
                (Outcome::Allow { .. }, Mode::Audit) => {}
                (Outcome::Deny { .. }, mode) => {
                    let denial = verdict.denial().unwrap_or_else(|| unexplained(policy));
                    match mode {
                        // What is only too old can be made anew: not if another policy
                        // finds something worse.
                        Mode::Enforce if denial.reason == Reason::EvidenceStale => {
                            stale = stale.or(Some(denial));
                        }
                        Mode::Enforce => return Err(denial),
                        Mode::Audit => audited.push(denial),
                    }
                }
            }
            verdicts.push(verdict);
        }
        if let Some(denial) = stale {
            return Err(denial);
        }
        Ok(SessionAdmission {
            dependencies: self.resting_on(me, None, &policies, Some(&claims)),
            claims,
            verdicts,
            audited,
            challenged,
            valid_until,
            generation: self.generation,
            registers,
            log_unasked,
            kept,
        })
    }
}

/// Evidence in the certificate and evidence for the connection are of one TEE
/// (3-attestation, section 4.5): who took a key to another place has that
/// place's evidence only.
///
/// # Errors
/// `other-tee` with what differs.
pub fn same_tee(certified: &Claims, presented: &Claims) -> Result<(), Denial> {
    let describe = |c: &Claims| format!("{}{}", c.tee, if c.emulated { ", emulated" } else { "" });
    let platform = |c: &Claims| c.platform().map_or_else(|| "not named".to_owned(), |p| p.to_string());
    let (field, _) = certified.launch_measurement();
    let launch = |c: &Claims| hex::encode(c.launch_measurement().1);
    let pairs = [
        ("tee", describe(certified), describe(presented)),
        ("platform", platform(certified), platform(presented)),
        (field, launch(certified), launch(presented)),
    ];
    let differing = pairs.into_iter().filter(|(_, expected, presented)| expected != presented);
    let findings: Vec<_> = differing
        .map(|(field, expected, presented)| {
            let expected = format!("{expected}, as in the certificate");
            Finding::new(Reason::OtherTee, field, expected, presented)
        })
        .collect();
    if findings.is_empty() {
        return Ok(());
    }
    Err(Denial { reason: Reason::OtherTee, policy: None, rule: String::new(), findings })
}
