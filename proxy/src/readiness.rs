//! Whether traffic may be sent here, and what is missing if not.
//!
//! Ready means: sockets bound, own evidence obtained, own certificate valid,
//! first snapshot applied, collateral for our own TEE at hand, a clock that is
//! not behind, no task lost, not draining. It does not mean that any destination is healthy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::drain::Drain;

/// What a proxy needs before it is ready, in the order in which it gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Every task runs.
    Tasks,
    /// A clock that is not behind what was signed.
    Clock,
    /// The listening sockets.
    Sockets,
    /// Evidence of this machine.
    Evidence,
    /// A certificate that is valid now.
    Identity,
    /// That the control plane admits us.
    Admission,
    /// The first snapshot of the configuration.
    Snapshot,
    /// Collateral with which peers can verify our own evidence.
    Collateral,
}

impl Need {
    const fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Clock => "clock",
            Self::Sockets => "sockets",
            Self::Evidence => "evidence",
            Self::Identity => "identity",
            Self::Admission => "admission",
            Self::Snapshot => "snapshot",
            Self::Collateral => "collateral",
        }
    }
}

/// The set of what is missing; ready when it is empty and no drain has begun.
#[derive(Debug)]
pub struct Readiness {
    missing: Mutex<BTreeMap<Need, String>>,
    drain: Drain,
}

impl Readiness {
    /// Nothing is there yet. From the beginning of `drain` nothing helps any
    /// more: whoever sends traffic here learns it before a listener closes.
    #[must_use]
    pub fn new(drain: Drain) -> Self {
        let waiting = [
            (Need::Sockets, "not bound yet"),
            (Need::Evidence, "none yet; it is made when the control plane has sent its challenge"),
            (Need::Identity, "waiting for the control plane to issue a certificate"),
            (Need::Snapshot, "waiting for the control plane"),
            (Need::Collateral, "waiting for the first snapshot"),
        ];
        let missing = waiting.into_iter().map(|(need, text)| (need, text.to_owned())).collect();
        Self { missing: Mutex::new(missing), drain }
    }

    /// Something is there.
    pub fn have(&self, need: Need) {
        // A lost task stays lost.
        if need != Need::Tasks {
            self.lock().remove(&need);
        }
    }

    /// Something is missing, and why.
    pub fn miss(&self, need: Need, why: impl Into<String>) {
        self.lock().insert(need, why.into());
    }

    /// Whether traffic may be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().is_empty() && !self.drain.begun()
    }

    /// `ready`, or a line for each thing that is missing.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        if self.drain.begun() {
            text.push_str("draining\n");
        }
        for (need, why) in &*self.lock() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {why}", need.name());
        }
        if text.is_empty() { "ready\n".to_owned() } else { text }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Need, String>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_proxy_says_everything_it_waits_for_and_becomes_ready_when_it_has_it() {
        let readiness = Readiness::new(Drain::default());
        let report = readiness.report();
        for line in ["sockets: ", "evidence: ", "identity: ", "snapshot: ", "collateral: "] {
            assert!(report.contains(line), "{report}");
        }
        for need in [Need::Sockets, Need::Evidence, Need::Identity, Need::Snapshot] {
            readiness.have(need);
            assert!(!readiness.is_ready());
        }
        readiness.have(Need::Collateral);
        assert!(readiness.is_ready());
        assert_eq!(readiness.report(), "ready\n");
    }

    #[test]
    fn a_lost_task_and_a_drain_are_never_forgiven() {
        let drain = Drain::default();
        let readiness = Readiness::new(drain.clone());
        readiness.miss(Need::Tasks, "inbound panicked");
        readiness.have(Need::Tasks);
        drain.begin();
        assert!(readiness.report().starts_with("draining\ntasks: inbound panicked\n"));
    }
}
