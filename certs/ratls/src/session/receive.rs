//! What can be said of evidence by itself: whether it is of the kind that was asked
//! for, and over this connection.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::{Finding, Reason};

use super::action::Received;
use super::collection::Parts;
use super::message::{Evidence, Inclusion};
use super::terms::{Demands, Wanted};
use crate::binding::{ReportData, batch_report_data};
use crate::merkle;

/// A challenge that is open.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) payload: Vec<u8>,
    /// What was demanded then.
    pub(super) demands: Arc<Demands>,
    pub(super) event_log_from: u64,
    /// Our key where the challenge stands in our stream.
    pub(super) own_key: [u8; 32],
    pub(super) at: Duration,
    pub(super) unix: u64,
    pub(super) deadline: Duration,
    pub(super) overdue: bool,
}

/// Everything about evidence that needs no collateral and no policy.
pub(super) fn receive(
    asked: &Asked,
    keeps_log: bool,
    round: u64,
    evidence: &Evidence<'_>,
    binder: ReportData,
) -> Result<Received, Finding> {
    let demands = &asked.demands;
    let parts = Parts::decode(evidence.collection)?;
    let (media_type, value) = parts.cpu;
    if !demands.accepted.iter().any(|accepted| accepted == media_type) {
        let expected = demands.accepted.join(", ");
        return Err(Finding::new(Reason::UnsupportedFormat, "evidence type", expected, media_type));
    }
    let wanted = demands.wanted.contains(Wanted::EVENT_LOG);
    match parts.event_log {
        Some(_) if !wanted => {
            return Err(Finding::new(Reason::UnsupportedFormat, "evlog", "no event log", "one"));
        }
        // Who said in its Hello that it keeps none is judged without.
        None if wanted && keeps_log => {
            return Err(Finding::new(Reason::EventLogMissing, "evlog", "an event log", "none"));
        }
        _ => {}
    }
    let bytes = *binder.as_bytes();
    let report_data = match &evidence.proof {
        None => binder,
        Some(Inclusion { index, size, path }) => {
            batch_report_data(*size, &merkle::root_from_proof(*index, *size, &bytes, path)?)
        }
    };
    let parsed = countersign_evidence::Evidence::parse(media_type, value)?;
    report_data.check(parsed.report_data())?;
    Ok(Received {
        round,
        binder: bytes,
        report_data,
        media_type: media_type.to_owned(),
        evidence: value.to_vec(),
        event_log: parts.event_log.map(|(kind, log)| (kind.to_owned(), log.to_vec())),
        event_log_wanted: wanted,
        event_log_from: asked.event_log_from,
        policy_id: demands.policy_id,
        challenged: asked.unix,
    })
}
