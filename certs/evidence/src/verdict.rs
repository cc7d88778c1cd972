//! The outcome of an appraisal.

use std::sync::Arc;

use crate::claims::Claims;
use crate::finding::{Denial, Finding};
use crate::policy::{Mode, PolicyRef};

/// An appraisal's outcome for one peer under one policy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The policy.
    pub policy: PolicyRef,
    /// Whether it decides.
    pub mode: Mode,
    /// What the peer proved.
    pub claims: Arc<Claims>,
    /// Allowed, or why not.
    pub outcome: Outcome,
}

/// Allowed, or why not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The policy holds.
    Allow {
        /// The alternative that held, for example `anyOf[0].tdx`.
        rule: String,
        /// The name of the reference entry that matched, when one was needed.
        #[serde(skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        /// The last second at which this holds without looking again:
        /// collateral, certificates, reference values and grace periods.
        valid_until: u64,
    },
    /// No alternative held.
    Deny {
        /// Each alternative with everything that is wrong under it. When the
        /// evidence is of a kind that no alternative speaks of, one rejection
        /// with an empty rule says so.
        rejections: Vec<Rejection>,
    },
}

/// Why one alternative did not hold.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rejection {
    /// The alternative, for example `anyOf[0].tdx`.
    pub rule: String,
    /// Every mismatch, never empty.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether the policy holds.
    #[must_use]
    pub const fn allows(&self) -> bool {
        matches!(self.outcome, Outcome::Allow { .. })
    }

    /// The denial, if it is one: of the alternative for this kind of TEE that
    /// came closest (fewest findings).
    #[must_use]
    pub fn denial(&self) -> Option<Denial> {
        let Outcome::Deny { rejections } = &self.outcome else { return None };
        let best = rejections.iter().min_by_key(|r| r.findings.len())?;
        let first = best.findings.first()?;
        Some(Denial {
            reason: first.reason,
            policy: Some(self.policy.clone()),
            rule: best.rule.clone(),
            findings: best.findings.clone(),
        })
    }
}
