//! What the policies demand of a hop before anybody proved anything.

use std::time::Duration;

use countersign_evidence::claims::Tee;
use countersign_evidence::evidence::media_type;
use countersign_evidence::policy::Level;
use countersign_evidence::{Denial, Finding, Fingerprint, Reason};
use countersign_ratls::SpiffeId;

use super::View;
use super::compile::HopPolicy;
use super::judge::Applied;
use crate::kinds::assurance::OnFailure;
use crate::kinds::attestation_policy::Mode;

/// What one side of a hop demands of the other: the strictest of all policies
/// with `mode: Enforce` that guard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demands {
    /// The highest level. Rounds are for those above L1.
    pub level: Level,
    /// How long after a proof the next one is asked for. Short enough for the
    /// least `maxEvidenceAge`, which can make it less than 30 s.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// What happens when it does not come, or cannot be judged.
    pub on_failure: OnFailure,
    /// How long a hop that drains may take.
    pub drain_grace: Duration,
    /// SHA-256 over the canonical JSON of the policies, in the order of their
    /// names, each followed by a line feed: the policy ID of a challenge.
    pub policy_id: Fingerprint,
    /// The media types of evidence that all policies accept, never empty above
    /// L0.
    pub media_types: Vec<&'static str>,
    /// Whether some policy, recorded ones included, looks at the event log.
    pub event_log: bool,
}

/// The levels that the policies of one workload demand of its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The least that some peer may be content with.
    pub lowest: Level,
    /// The most that some peer must prove.
    pub highest: Level,
}

impl View {
    /// What `me` demands of `peer`.
    ///
    /// # Errors
    /// `no-policy`; or `tee-not-accepted` when the policies accept no kind of
    /// TEE in common, so that nothing could satisfy them.
    pub fn demands(&self, me: &SpiffeId, peer: &SpiffeId) -> Result<Demands, Denial> {
        let guarding = self.applied(me, peer)?;
        let enforced = enforced(&guarding);
        let level = enforced.iter().map(|p| p.level).max().unwrap_or(Level::L3);
        let mut demands = Demands {
            level,
            interval: Duration::MAX,
            timeout: Duration::MAX,
            on_failure: OnFailure::Drain,
            drain_grace: Duration::MAX,
            policy_id: policy_id(&enforced),
            media_types: media_types(&enforced),
            event_log: guarding.iter().any(|(p, _)| p.level.is_session_bound() && p.wants_event_log()),
        };
        for policy in enforced.iter().filter(|p| p.level.is_session_bound() || !level.is_session_bound()) {
            let pace = &policy.continuous;
            demands.interval = demands.interval.min(pace.interval.0);
            demands.timeout = demands.timeout.min(pace.timeout.0);
            demands.drain_grace = demands.drain_grace.min(pace.drain_grace.0);
            if pace.on_failure == OnFailure::Cut {
                demands.on_failure = OnFailure::Cut;
            }
        }
        for policy in enforced.iter().filter(|p| p.level.is_session_bound()) {
            let most = policy.policy.max_evidence_age.map(Duration::from_secs);
            demands.interval = demands.interval.min(most.map_or(Duration::MAX, |m| pace(m, demands.timeout)));
        }
        if level > Level::L0 && demands.media_types.is_empty() {
            return Err(nothing_in_common(&enforced));
        }
        Ok(demands)
    }

    /// Whether a connection that gives `level` is enough for what `me` demands of
    /// `peer`: what policies in mode `Audit` would have refused.
    ///
    /// # Errors
    /// `no-policy`; `level-too-low` with the policy that demands most.
    pub fn check_level(&self, me: &SpiffeId, peer: &SpiffeId, level: Level) -> Result<Vec<Denial>, Denial> {
        let guarding = self.applied(me, peer)?;
        let most = enforced(&guarding).into_iter().max_by_key(|p| p.level);
        if let Some(policy) = most.filter(|p| p.level > level) {
            return Err(level_too_low(policy, level));
        }
        let audits = guarding.iter().filter(|(p, mode)| *mode == Mode::Audit && p.level > level);
        Ok(audits.map(|(policy, _)| level_too_low(policy, level)).collect())
    }

    /// The levels that policies with mode `Enforce` demand of the peers of `me`,
    /// whoever they are; `None` when no policy selects `me`, so that nobody is
    /// admitted.
    #[must_use]
    pub fn levels(&self, me: &SpiffeId) -> Option<Levels> {
        let guarding = self.guarding(me).ok()?;
        let levels = || guarding.iter().filter(|p| p.mode == Mode::Enforce).map(|p| p.level);
        Some(Levels { lowest: levels().min()?, highest: levels().max()? })
    }
}

/// The policies that decide.
pub(super) fn enforced<'a>(guarding: &[Applied<'a>]) -> Vec<&'a HopPolicy> {
    guarding.iter().filter(|(_, mode)| *mode == Mode::Enforce).map(|(policy, _)| *policy).collect()
}

/// The longest interval that leaves no gap: a round may be a fifth late, and its
/// answer may take all its time.
fn pace(max_age: Duration, timeout: Duration) -> Duration {
    max_age.saturating_sub(timeout).mul_f64(1.0 / 1.2).max(Duration::from_secs(10))
}

fn policy_id(policies: &[&HopPolicy]) -> Fingerprint {
    let text: String = policies.iter().flat_map(|p| [p.json.as_str(), "\n"]).collect();
    Fingerprint::of(text.as_bytes())
}

fn media_types(policies: &[&HopPolicy]) -> Vec<&'static str> {
    let accepts = |policy: &HopPolicy, tee| policy.policy.any_of.iter().any(|a| a.tee() == tee);
    let mut asking = policies.iter().filter(|p| p.level > Level::L0).peekable();
    if asking.peek().is_none() {
        return Vec::new();
    }
    let asking: Vec<_> = asking.collect();
    let all = [Tee::Tdx, Tee::SevSnp, Tee::Sgx].into_iter();
    all.filter(|tee| asking.iter().all(|p| accepts(p, *tee))).map(media_type::of).collect()
}

fn nothing_in_common(policies: &[&HopPolicy]) -> Denial {
    let names: Vec<String> = policies.iter().map(|p| p.key.to_string()).collect();
    let expected = "a kind of TEE that all policies accept";
    Finding::new(Reason::TeeNotAccepted, names.join(", "), expected, "none in common").into()
}

fn level_too_low(policy: &HopPolicy, level: Level) -> Denial {
    Denial {
        reason: Reason::LevelTooLow,
        policy: Some(policy.policy.name.clone()),
        rule: "level".to_owned(),
        findings: vec![Finding::new(
            Reason::LevelTooLow,
            "level of the connection",
            format!("{} or higher", policy.level),
            level.to_string(),
        )],
    }
}
