//! How much a peer must prove, and how often.

use std::time::Duration as StdDuration;

use countersign_evidence::claims::Tee;
use countersign_evidence::policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attestation_policy::{AttestationPolicySpec, is_native_only};
use super::scalar::Duration;
use crate::document::Path;

/// How much a peer must prove (3-attestation, section 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    /// Its SPIFFE ID and nothing about its machine. Needs `acceptUnattested: true`.
    L0,
    /// Evidence in its certificate: some TEE held the key once. Whoever steals
    /// the key has the proof as well.
    L1,
    /// Evidence that is made for the connection, before the first byte and again
    /// and again while it lives.
    #[default]
    L2,
    /// As L2, and by a machine that is on a list.
    L3,
}

impl Level {
    /// Whether it is what a policy that does not speak of it demands.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<Level> for policy::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::L0 => Self::L0,
            Level::L1 => Self::L1,
            Level::L2 => Self::L2,
            Level::L3 => Self::L3,
        }
    }
}

/// How often a live hop proves itself again, and what happens when it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Continuous {
    /// How long after a proof the next one is asked for, a fifth more or less:
    /// from 30s to 15m. More often when `maxEvidenceAge` needs it.
    #[schemars(extend("x-countersign-duration" = ["30s", "15m"]))]
    pub interval: Duration,
    /// How long the answer may take, from 1s to 1m.
    #[schemars(extend("x-countersign-duration" = ["1s", "1m"]))]
    pub timeout: Duration,
    /// What happens to a hop that did not prove itself in time, or that nobody
    /// can judge for want of collateral. One that proved to be something else is
    /// always cut.
    pub on_failure: OnFailure,
    /// How long a hop that drains may take to finish, from 0s to 2m.
    #[schemars(extend("x-countersign-duration" = ["0s", "2m"]))]
    pub drain_grace: Duration,
}

/// What happens to a hop that did not prove itself again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// No new streams; the open ones may finish within `drainGrace`.
    #[default]
    Drain,
    /// All streams end at once.
    Cut,
}

impl Default for Continuous {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(300),
            timeout: Duration::from_secs(15),
            on_failure: OnFailure::default(),
            drain_grace: Duration::from_secs(30),
        }
    }
}

impl Continuous {
    fn check(&self, path: &Path, report: &mut dyn FnMut(Path, String)) {
        for (name, value, least, most) in [
            ("interval", &self.interval, 30, 900),
            ("timeout", &self.timeout, 1, 60),
            ("drainGrace", &self.drain_grace, 0, 120),
        ] {
            let (from, to) = (StdDuration::from_secs(least), StdDuration::from_secs(most));
            if !(from..=to).contains(&value.0) {
                let (from, to) = (Duration(from), Duration(to));
                report(path.key(name), format!("{value} is outside {from} to {to}"));
            }
        }
    }
}

impl AttestationPolicySpec {
    /// What the level needs, and what has no meaning under it.
    pub(super) fn check_level(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        if let Some(continuous) = &self.continuous {
            continuous.check(&spec.key("continuous"), report);
            if self.level < Level::L2 {
                let message = format!("under {:?} nothing is proved again: L2 and L3 do that", self.level);
                report(spec.key("continuous"), message);
            }
        }
        if self.level == Level::L0 {
            self.check_unattested(spec, report);
            return;
        }
        if self.accept_unattested {
            let message = format!("{:?} admits nobody without evidence: only L0 does", self.level);
            report(spec.key("acceptUnattested"), message);
        }
        if self.any_of.is_empty() {
            let message = format!("field `anyOf` is missing: {:?} needs to know what evidence", self.level);
            report(spec.clone(), message);
        }
        for (i, alternative) in self.any_of.iter().enumerate() {
            if self.level == Level::L3 && !alternative.names_platforms() {
                let tee = Tee::from(alternative.tee()).name();
                let message =
                    "L3 admits listed machines only: give `platforms` or `platformsFrom`".to_owned();
                report(spec.key("anyOf").index(i).key(tee), message);
            }
        }
    }

    fn check_unattested(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        if !self.accept_unattested {
            let message = "L0 admits peers that prove nothing about their machine: \
                 say `acceptUnattested: true` if that is meant";
            report(spec.key("level"), message.to_owned());
        }
        let given = [
            ("anyOf", !self.any_of.is_empty()),
            ("freshness", self.freshness.is_some()),
            ("acceptForms", !is_native_only(&self.accept_forms)),
        ];
        for (name, _) in given.iter().filter(|(_, given)| *given) {
            report(spec.key(*name), "has no meaning under L0, which asks for no evidence".to_owned());
        }
    }
}
