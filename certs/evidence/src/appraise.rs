//! Claims against a policy: every mismatch, not the first.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::claims::Claims;
use crate::policy::{Policy, References};
use crate::verdict::Verdict;

/// Appraises `claims` under `policy` at `now`.
///
/// `age` is how old the evidence is in seconds, as far as the caller can know
/// (see [`Policy::max_evidence_age`]).
#[must_use]
pub fn appraise(
    claims: Arc<Claims>,
    policy: &Policy,
    references: &References,
    age: u64,
    now: UnixTime,
) -> Verdict {
    let _ = (claims, policy, references, age, now);
    todo!()
}
