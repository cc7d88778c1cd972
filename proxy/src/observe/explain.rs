//! A refusal in the one form in which every place shows it.

use std::fmt;

use countersign_evidence::Denial;

/// `denied SRC → DST`, the policy, and every reason, a line each.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// Who called, as far as it is known.
    pub source: &'a str,
    /// Who was called.
    pub destination: &'a str,
    /// Why not.
    pub denial: &'a Denial,
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied  {} → {}", Line(self.source), Line(self.destination))?;
        if let Some(policy) = &self.denial.policy {
            write!(f, "\npolicy  {policy}")?;
            if !self.denial.rule.is_empty() {
                write!(f, ", {}", Line(&self.denial.rule))?;
            }
        }
        for finding in &self.denial.findings {
            write!(f, "\nreason  {}", Line(&finding.to_string()))?;
        }
        write!(f, "\nremedy  {}", self.denial.reason.remedy())
    }
}

/// Text that a peer may have chosen: it stays on its line and steers no terminal.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(pub &'a str);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::policy::PolicyRef;
    use countersign_evidence::{Finding, Reason};

    #[test]
    fn a_denial_names_both_ends_the_policy_and_every_finding_on_lines_of_their_own() {
        let denial = Denial {
            reason: Reason::MeasurementMismatch,
            policy: Some(PolicyRef {
                namespace: "payments".into(),
                name: "audit-peers".into(),
                generation: 17,
            }),
            rule: "anyOf[0].tdx".into(),
            findings: vec![
                Finding::new(Reason::MeasurementMismatch, "rtmr[2]", "91aa (audit v2.0.1)", "5f3c"),
                Finding::new(Reason::TcbOutOfDate, "tcbStatus", "UpToDate", "Out\nOfDate"),
            ],
        };
        let text =
            Explanation { source: "spiffe://a/x", destination: "spiffe://a/y", denial: &denial }.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "denied  spiffe://a/x → spiffe://a/y",
                "policy  payments/audit-peers (generation 17), anyOf[0].tdx",
                "reason  measurement-mismatch: rtmr[2] is 5f3c, accepted: 91aa (audit v2.0.1)",
                "reason  tcb-out-of-date: tcbStatus is Out\\nOfDate, accepted: UpToDate",
            ]
        );
        assert!(lines[4].starts_with("remedy  "));
    }
}
