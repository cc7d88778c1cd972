//! What was expected, what was presented, and where: the unit of every explanation.

use std::fmt;

use crate::policy::PolicyRef;
use crate::reason::Reason;

/// One mismatch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The stable reason.
    pub reason: Reason,
    /// The field, as operators write it: `rtmr[2]`, `tcbInfo.nextUpdate`, `PCK certificate`.
    pub field: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was there.
    pub presented: String,
}

/// No field, and nothing that was presented, is shown with more characters. What a
/// genuine peer presents is shorter: the longest is a register of 64 bytes.
const MOST: usize = 256;

impl Finding {
    /// A finding about `field`. What a peer may have chosen is kept in part only.
    pub fn new(
        reason: Reason,
        field: impl Into<String>,
        expected: impl Into<String>,
        presented: impl Into<String>,
    ) -> Self {
        let (field, presented) = (tame(field.into(), MOST), tame(presented.into(), MOST));
        Self { reason, field, expected: tame(expected.into(), usize::MAX), presented }
    }
}

/// The text in at most so many characters, none of which ends a line, steers a
/// terminal or changes the order in which others are shown: peers choose labels,
/// names and types, and have them written to logs before anybody knows who they are.
fn tame(text: String, most: usize) -> String {
    let wild = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    if text.len() <= most && !text.contains(wild) {
        return text;
    }
    let mut tamed = String::with_capacity(text.len().min(most));
    for (index, c) in text.chars().enumerate() {
        if index == most {
            tamed.push('…');
            break;
        }
        match wild(c) {
            true => tamed.extend(c.escape_default()),
            false => tamed.push(c),
        }
    }
    tamed
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.reason)?;
        match self.presented.as_str() {
            "none" => write!(f, "there is no {}", self.field)?,
            // What happened, not a value.
            told if self.reason.tells_what_happened() => write!(f, "{}: {told}", self.field)?,
            presented => write!(f, "{} is {presented}", self.field)?,
        }
        write!(f, ", accepted: {}", self.expected)
    }
}

impl std::error::Error for Finding {}

/// A point in time for messages: RFC 3339 in UTC.
#[must_use]
pub fn timestamp(seconds: u64) -> String {
    use time::format_description::well_known::Rfc3339;
    i64::try_from(seconds)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok())
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// A refusal of a peer, with everything that explains it.
///
/// The first finding decides the reason; the others are what else is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Denial {
    /// The reason that decides alert, status and label.
    pub reason: Reason,
    /// The policy that was not met, with the path of its rule, if it was a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// The rule inside the policy, for example `anyOf[0].tdx`; empty when there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Every mismatch that was found; never empty.
    pub findings: Vec<Finding>,
}

impl From<Finding> for Denial {
    fn from(finding: Finding) -> Self {
        Self { reason: finding.reason, policy: None, rule: String::new(), findings: vec![finding] }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(policy) = &self.policy {
            write!(f, "policy {policy}")?;
            if !self.rule.is_empty() {
                write!(f, ", {}", self.rule)?;
            }
            f.write_str(": ")?;
        }
        for (i, finding) in self.findings.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{finding}")?;
        }
        write!(f, " ({})", self.reason.remedy())
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_presents_stays_on_its_line_and_is_not_long() {
        let label = "x\n2026-11-21 INFO all is well\r\u{1b}[2J\u{9b}1m\u{202e}";
        let finding = Finding::new(Reason::UnsupportedFormat, label, "a label\nor two", label);
        let tamed = "x\\n2026-11-21 INFO all is well\\r\\u{1b}[2J\\u{9b}1m\\u{202e}";
        assert_eq!((finding.field.as_str(), finding.presented.as_str()), (tamed, tamed));
        assert_eq!(
            finding.to_string(),
            format!("unsupported-format: {tamed} is {tamed}, accepted: a label\\nor two")
        );
        let long = Finding::new(Reason::Malformed, "é".repeat(50_000), "x".repeat(1000), "\0".repeat(50_000));
        assert_eq!(long.field, format!("{}…", "é".repeat(256)));
        assert_eq!(long.presented, format!("{}…", "\\u{0}".repeat(256)));
        assert_eq!(long.expected.len(), 1000, "what we accept is ours to say");
        let register = "ab".repeat(64);
        assert_eq!(Finding::new(Reason::MeasurementMismatch, "rtmr[0]", "", &*register).presented, register);
    }

    #[test]
    fn what_is_not_there_is_not_called_none() {
        let told = |presented| Finding::new(Reason::CrlMissing, "CRL", "a list", presented).to_string();
        assert_eq!(told("none"), "crl-missing: there is no CRL, accepted: a list");
        assert_eq!(told("old"), "crl-missing: CRL is old, accepted: a list");
        let refused = Finding::new(Reason::ConnectFailed, "proxy a:1", "a connection", "Connection refused");
        assert_eq!(
            refused.to_string(),
            "connect-failed: proxy a:1: Connection refused, accepted: a connection"
        );
    }
}
