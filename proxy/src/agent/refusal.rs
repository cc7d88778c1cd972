//! With what the control plane refuses us: the first real reason, for as long as only
//! what follows from it arrives. It explains itself in full once, over the connection
//! that it ends; each attempt after that sees an alert or a connection that breaks, and
//! a log that names another consequence every time names no cause.

use countersign_evidence::reason::Fault;
use countersign_evidence::{Denial, Finding, Reason};

/// For how long an attempt that fails without a word is taken for the same, seconds.
const STILL: u64 = 60;

/// The last refusal of the control plane.
#[derive(Debug, Default)]
pub(super) struct LastRefusal(Option<Known>);

#[derive(Debug)]
struct Known {
    denial: Denial,
    /// The alert that came of it.
    alert: Option<Finding>,
    at: u64,
}

impl LastRefusal {
    /// The control plane has said why, or answered with something else than an end.
    fn said(&mut self, denial: &Denial, now: u64) {
        let refuses = denial.reason.fault() == Fault::Peer && !denial.reason.retry_can_help();
        self.0 = refuses.then(|| Known { denial: denial.clone(), alert: None, at: now });
    }

    /// Why a connection ended on which the control plane had proved itself: with this
    /// alert, or without any for this reason.
    pub(super) fn ended(&mut self, alert: Option<&Finding>, otherwise: Denial, now: u64) -> Denial {
        let known = self.0.as_mut().filter(|known| now <= known.at.saturating_add(STILL));
        let follows = matches!(otherwise.reason, Reason::ConnectFailed | Reason::TlsFailure);
        match (known, alert) {
            (Some(known), Some(alert)) if known.alert.as_ref().is_none_or(|before| before == alert) => {
                known.alert = Some(alert.clone());
                known.at = now;
                known.denial.clone()
            }
            (_, Some(alert)) => {
                let denial = Denial::from(alert.clone());
                self.0 = Some(Known { denial: denial.clone(), alert: Some(alert.clone()), at: now });
                denial
            }
            (Some(known), None) if follows => known.denial.clone(),
            (_, None) => {
                self.said(&otherwise, now);
                otherwise
            }
        }
    }

    /// It admits us.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(reason: Reason) -> Finding {
        Finding::new(reason, "field", "expected", format!("{reason}"))
    }

    #[test]
    fn the_first_real_reason_is_said_with_each_attempt() {
        let mut last = LastRefusal::default();
        let broken = || Denial::from(finding(Reason::ConnectFailed));
        let alert = finding(Reason::PeerRefused);
        // Nobody has said anything yet.
        assert_eq!(last.ended(None, broken(), 100), broken());
        let real = Denial::from(finding(Reason::MeasurementMismatch));
        assert_eq!(last.ended(None, real.clone(), 100), real);
        for (now, alert) in [(101, Some(&alert)), (102, None), (160, Some(&alert)), (200, None)] {
            assert_eq!(last.ended(alert, broken(), now), real, "at {now}");
        }
        // Another alert is another story, and an answer the end of it.
        let other = finding(Reason::NoApplicationProtocol);
        assert_eq!(last.ended(Some(&other), broken(), 201), Denial::from(other.clone()));
        assert_eq!(last.ended(None, broken(), 202), Denial::from(other));
        assert_eq!(last.ended(None, broken(), 900), broken(), "long ago");
        last.ended(None, real, 901);
        last.forget();
        assert_eq!(last.ended(None, broken(), 902), broken());
        // What passes by itself is no refusal.
        last.ended(None, finding(Reason::NotReady).into(), 903);
        assert_eq!(last.ended(None, broken(), 904), broken());
    }
}
