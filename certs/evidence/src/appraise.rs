//! Claims against a policy: every mismatch, not the first.

mod checks;
mod events;
mod intel;
mod measurements;
mod snp;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use self::checks::Checks;
use crate::anchors::BUILT_IN;
use crate::claims::{Body, Claims, Tee};
use crate::finding::{Finding, timestamp};
use crate::policy::{Alternative, Common, PlatformList, Policy, References};
use crate::reason::Reason;
use crate::verdict::{Outcome, Rejection, Verdict};

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
    let outcome = outcome(&claims, policy, references, age, now.as_secs());
    Verdict { policy: policy.name.clone(), mode: policy.mode, claims, outcome }
}

fn outcome(claims: &Claims, policy: &Policy, references: &References, age: u64, now: u64) -> Outcome {
    let mut rejections = Vec::new();
    for (index, alternative) in policy.any_of.iter().enumerate() {
        let mut checks = Checks::new(now);
        if !check(&mut checks, claims, alternative, references) {
            continue; // it speaks of another kind of TEE
        }
        check_time(&mut checks, claims, policy.max_evidence_age, age);
        let rule = format!("anyOf[{index}].{}", claims.tee);
        match checks.finish() {
            Ok((reference, valid_until)) => return Outcome::Allow { rule, reference, valid_until },
            Err(findings) => rejections.push(Rejection { rule, findings }),
        }
    }
    if rejections.is_empty() {
        rejections
            .push(Rejection { rule: String::new(), findings: vec![no_alternative(claims.tee, policy)] });
    }
    Outcome::Deny { rejections }
}

/// Checks one alternative; false when it is for another kind of TEE.
fn check(checks: &mut Checks, claims: &Claims, alternative: &Alternative, references: &References) -> bool {
    match (&claims.body, alternative) {
        (Body::Tdx(body), Alternative::Tdx(rule)) => {
            intel::check_tdx(checks, body, rule);
            check_common(checks, claims, &rule.common);
            measurements::check(checks, &**body, &rule.common.references, references);
            events::check(checks, body, &rule.runtime_events, references);
        }
        (Body::Sgx(body), Alternative::Sgx(rule)) => {
            intel::check_sgx(checks, body, rule);
            check_common(checks, claims, &rule.common);
            measurements::check(checks, &**body, &rule.common.references, references);
        }
        (Body::SevSnp(body), Alternative::SevSnp(rule)) => {
            snp::check(checks, body, rule);
            check_common(checks, claims, &rule.common);
            measurements::check(checks, &**body, &rule.common.references, references);
        }
        _ => return false,
    }
    true
}

fn check_common(checks: &mut Checks, claims: &Claims, common: &Common) {
    let root = &claims.root;
    if !common.emulated_roots.contains(root) {
        let vendors = common.roots.as_deref().unwrap_or(&BUILT_IN);
        if claims.emulated {
            checks.refuse(
                Reason::EmulatedNotAdmitted,
                "root",
                checks::list(&common.emulated_roots, "a vendor's root"),
                format!("{root}, a root of emulated platforms"),
            );
        } else if !vendors.contains(root) {
            checks.refuse(Reason::UntrustedRoot, "root", checks::list(vendors, "no root"), root.to_string());
        }
    }
    check_platform(checks, claims, common);
}

fn check_platform(checks: &mut Checks, claims: &Claims, common: &Common) {
    let (named, lists) = (common.platforms.as_ref(), &common.platform_lists);
    if named.is_none() && lists.is_empty() {
        return;
    }
    let platform = claims.platform();
    let enrolled = |id: &str| {
        let key = (claims.tee, id.to_owned());
        lists.iter().any(|list| list.members.as_ref().is_some_and(|members| members.contains(&key)))
    };
    if platform.as_ref().is_some_and(|p| named.is_some_and(|n| n.contains(&p.value)) || enrolled(&p.value)) {
        return;
    }
    let machines = |count: usize| match count {
        0 => format!("no {} machine", claims.tee),
        1 => format!("one {} machine", claims.tee),
        count => format!("{count} {} machines", claims.tee),
    };
    let on = |list: &PlatformList| match &list.members {
        Some(members) => {
            let count = members.iter().filter(|(tee, _)| *tee == claims.tee).count();
            format!("PlatformList {} with {}", list.name, machines(count))
        }
        None => format!("PlatformList {}, which does not exist", list.name),
    };
    let named = named.filter(|named| lists.is_empty() || !named.is_empty());
    let named = named.map(|named| format!("`platforms` with {}", machines(named.len())));
    let listed: Vec<String> = named.into_iter().chain(lists.iter().map(|list| on(list))).collect();
    let presented =
        platform.map_or_else(|| "evidence that does not name its machine".to_owned(), |p| p.to_string());
    checks.refuse(
        Reason::PlatformNotAllowed,
        "platform",
        format!("one that is on {}", checks::list(&listed, "a list")),
        presented,
    );
}

/// Claims are only as good as what they rest on is valid, and evidence ages.
fn check_time(checks: &mut Checks, claims: &Claims, max_age: Option<u64>, age: u64) {
    let (now, window) = (checks.now(), claims.window);
    if now < window.from {
        let from = timestamp(window.from);
        checks.refuse(
            Reason::CollateralNotYetValid,
            "window",
            format!("a time from {from} on"),
            timestamp(now),
        );
    }
    if now > window.until {
        let until = timestamp(window.until);
        checks.refuse(Reason::CollateralExpired, "window", format!("a time until {until}"), timestamp(now));
    }
    checks.holds_until(window.until);
    if let Some(max) = max_age {
        match max.checked_sub(age) {
            Some(left) => checks.holds_until(now.saturating_add(left)),
            None => checks.refuse(
                Reason::EvidenceStale,
                "maxEvidenceAge",
                format!("at most {max} s old"),
                format!("{age} s old"),
            ),
        }
    }
}

fn no_alternative(tee: Tee, policy: &Policy) -> Finding {
    let mut accepted: Vec<_> = policy.any_of.iter().map(|a| a.tee().name()).collect();
    accepted.sort_unstable();
    accepted.dedup();
    Finding::new(Reason::TeeNotAccepted, "tee", checks::list(&accepted, "nothing"), tee.name())
}
