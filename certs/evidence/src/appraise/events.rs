//! What was measured at runtime against what may be.

use super::checks::{Checks, list};
use crate::claims::{RuntimeEvents, TdxClaims};
use crate::event_log::{Event, RUNTIME_REGISTER};
use crate::finding::timestamp;
use crate::policy::{EventContent, EventReference, EventRule, References};
use crate::reason::Reason;

/// Findings about single events before the rest is only counted.
const MAX_FINDINGS: usize = 8;

pub(super) fn check(checks: &mut Checks, body: &TdxClaims, rule: &EventRule, references: &References) {
    if let EventRule::Nothing = rule {
        return nothing(checks, body);
    }
    if !rule.wants_log() {
        return;
    }
    match (&body.runtime_events, rule) {
        (RuntimeEvents::Replayed(events), EventRule::Admitted(names)) => {
            admitted(checks, events, names, references);
        }
        (RuntimeEvents::Replayed(_) | RuntimeEvents::ToFollow, _) => {}
        (RuntimeEvents::NotShown, _) => {
            checks.refuse(
                Reason::EventLogMissing,
                "event log",
                "the log of what was measured into rtmr[3]",
                "evidence without one",
            );
        }
    }
}

/// The register says it alone; a log tells what there is.
fn nothing(checks: &mut Checks, body: &TdxClaims) {
    let Some(register) = body.rtmr.get(RUNTIME_REGISTER).filter(|register| **register != [0; 48]) else {
        return;
    };
    match &body.runtime_events {
        RuntimeEvents::Replayed(events) if !events.is_empty() => {
            let events: Vec<_> = events.iter().collect();
            refuse(checks, &events, "no event at all");
        }
        _ => {
            checks.refuse(
                Reason::EventNotAdmitted,
                "rtmr[3]",
                "zero: no event at all",
                hex::encode(register),
            );
        }
    }
}

/// Every event must be admitted by some entry of some set. Without an event
/// there is nothing to admit.
fn admitted(checks: &mut Checks, events: &[Event], names: &[String], references: &References) {
    let mut sets = Vec::new();
    let mut unusable = Vec::new();
    for name in names {
        match references.get(name) {
            Some(set) if set.valid_until.is_none_or(|until| checks.now() <= until) => sets.push(set),
            Some(set) => {
                unusable.push((name, format!("expired {}", timestamp(set.valid_until.unwrap_or(0)))));
            }
            None => unusable.push((name, "missing".to_owned())),
        }
    }
    let mut refused = Vec::new();
    for event in events {
        // Of several sets that admit it, the one that holds longest counts.
        let holding = sets.iter().filter(|set| set.runtime_events.admits(event).is_some());
        match holding.map(|set| set.valid_until.unwrap_or(u64::MAX)).max() {
            Some(longest) => checks.holds_until(longest),
            None => refused.push(event),
        }
    }
    let Some(first) = refused.first() else { return };
    let entries: Vec<_> = sets.iter().flat_map(|set| set.runtime_events.iter()).collect();
    // The entries of the same type are what the event was meant to match.
    let same = |r: &&&EventReference| *r.kind == *first.kind;
    let has_same = entries.iter().any(|r| same(&r));
    let mut expected: Vec<String> = Vec::new();
    // Two digests of one name are one entry to a reader.
    for shown in entries.iter().filter(|r| !has_same || same(r)).map(|r| show(r)) {
        if !expected.contains(&shown) {
            expected.push(shown);
        }
    }
    refuse(checks, &refused, &list(&expected, "no event at all"));
    for (name, state) in unusable {
        let expected = format!("usable values '{name}'");
        checks.refuse(Reason::ReferenceValuesUnusable, "runtimeEvents", expected, state);
    }
}

fn refuse(checks: &mut Checks, events: &[&Event], expected: &str) {
    for event in events.iter().take(MAX_FINDINGS) {
        checks.refuse(
            Reason::EventNotAdmitted,
            format!("event[{}]", event.index),
            expected,
            event.to_string(),
        );
    }
    if let Some(more) = events.len().checked_sub(MAX_FINDINGS).filter(|n| *n > 0) {
        checks.refuse(Reason::EventNotAdmitted, "events", expected, format!("{more} more"));
    }
}

/// `'exec' (agent 1.4)`.
fn show(reference: &EventReference) -> String {
    let EventReference { name, kind, content } = reference;
    match content {
        EventContent::Any => format!("every '{kind}' ({name})"),
        EventContent::Digest(_) | EventContent::Exactly(_) => format!("'{kind}' ({name})"),
    }
}
