//! Collecting what is wrong.

use std::fmt;

use crate::finding::Finding;
use crate::reason::Reason;

/// Values that are listed in a message before the rest is only counted.
const MAX_LISTED: usize = 8;

/// The mismatches under one alternative, and until when it holds if there are none.
#[derive(Debug)]
pub(super) struct Checks {
    now: u64,
    findings: Vec<Finding>,
    reference: Option<String>,
    until: u64,
}

impl Checks {
    pub(super) const fn new(now: u64) -> Self {
        Self { now, findings: Vec::new(), reference: None, until: u64::MAX }
    }

    pub(super) const fn now(&self) -> u64 {
        self.now
    }

    /// Something is wrong.
    pub(super) fn refuse(
        &mut self,
        reason: Reason,
        field: impl Into<String>,
        expected: impl Into<String>,
        presented: impl Into<String>,
    ) {
        self.findings.push(Finding::new(reason, field, expected, presented));
    }

    /// An attribute must have exactly this value, if one is given.
    pub(super) fn exact<const N: usize>(
        &mut self,
        field: &'static str,
        expected: Option<&[u8; N]>,
        presented: &[u8; N],
    ) {
        if let Some(expected) = expected
            && expected != presented
        {
            self.refuse(Reason::AttributeMismatch, field, hex::encode(expected), hex::encode(presented));
        }
    }

    /// An attribute must be one of these values.
    pub(super) fn one_of<const N: usize>(
        &mut self,
        field: &'static str,
        accepted: &[[u8; N]],
        presented: &[u8; N],
    ) {
        if !accepted.contains(presented) {
            let accepted: Vec<_> = accepted.iter().map(hex::encode).collect();
            self.refuse(Reason::AttributeMismatch, field, list(&accepted, "nothing"), hex::encode(presented));
        }
    }

    /// Bits of a field must have a value. `names` are those of bit 0 upwards.
    pub(super) fn bits(&mut self, field: &str, wrong: u64, names: &[&str], must_be_set: bool) {
        for bit in (0..64).filter(|bit| wrong >> bit & 1 == 1) {
            let name = names.iter().copied().nth(bit).filter(|n| !n.is_empty());
            let name = name.map_or_else(|| format!("bit {bit}"), str::to_owned);
            let (expected, presented) = if must_be_set { ("1", "0") } else { ("0", "1") };
            self.refuse(Reason::AttributeMismatch, format!("{field}.{name}"), expected, presented);
        }
    }

    /// What holds does so until this second only.
    pub(super) fn holds_until(&mut self, second: u64) {
        self.until = self.until.min(second);
    }

    /// The reference entry that matched.
    pub(super) fn matched(&mut self, reference: String) {
        self.reference = Some(reference);
    }

    /// The reference that matched and the last second, or what is wrong.
    pub(super) fn finish(self) -> Result<(Option<String>, u64), Vec<Finding>> {
        if self.findings.is_empty() { Ok((self.reference, self.until)) } else { Err(self.findings) }
    }
}

/// `a, b, c and 4 more`, or `none` when there is nothing to list.
pub(super) fn list<T: fmt::Display>(items: &[T], none: &str) -> String {
    let mut text: Vec<_> = items.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    if text.is_empty() {
        text.push(none.to_owned());
    }
    let mut text = text.join(", ");
    if let Some(more) = items.len().checked_sub(MAX_LISTED).filter(|n| *n > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// A digest for people: `5f3c…e1`.
pub(super) fn short(bytes: &[u8]) -> String {
    match bytes {
        [a, b, .., z] => format!("{a:02x}{b:02x}…{z:02x}"),
        _ => hex::encode(bytes),
    }
}
