//! Whether traffic may be sent here, and what is missing if not.
//!
//! Ready means: sockets bound, own evidence obtained, own certificate valid,
//! first snapshot applied, collateral for our own TEE at hand, no task lost,
//! not draining. It does not mean that any destination is healthy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// What a proxy needs before it is ready, in the order in which it gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Every task runs.
    Tasks,
    /// The listening sockets.
    Sockets,
    /// Evidence of this machine.
    Evidence,
    /// A certificate that is valid now.
    Identity,
    /// The first snapshot of the configuration.
    Snapshot,
    /// Collateral with which peers can verify our own evidence.
    Collateral,
}

impl Need {
    const fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Sockets => "sockets",
            Self::Evidence => "evidence",
            Self::Identity => "identity",
            Self::Snapshot => "snapshot",
            Self::Collateral => "collateral",
        }
    }
}

/// The set of what is missing; ready when it is empty and no drain has begun.
#[derive(Debug)]
pub struct Readiness(Mutex<State>);

#[derive(Debug)]
struct State {
    missing: BTreeMap<Need, String>,
    draining: bool,
}

impl Readiness {
    /// Nothing is there yet.
    #[must_use]
    pub fn new() -> Self {
        let waiting = [
            (Need::Sockets, "not bound yet"),
            (Need::Evidence, "none yet; it is made when the control plane has sent its challenge"),
            (Need::Identity, "waiting for the control plane to issue a certificate"),
            (Need::Snapshot, "waiting for the control plane"),
            (Need::Collateral, "waiting for the first snapshot"),
        ];
        let missing = waiting.into_iter().map(|(need, text)| (need, text.to_owned())).collect();
        Self(Mutex::new(State { missing, draining: false }))
    }

    /// Something is there.
    pub fn have(&self, need: Need) {
        let mut state = self.lock();
        // A lost task stays lost.
        if need != Need::Tasks {
            state.missing.remove(&need);
        }
    }

    /// Something is missing, and why.
    pub fn miss(&self, need: Need, why: impl Into<String>) {
        self.lock().missing.insert(need, why.into());
    }

    /// From now on this proxy is never ready again.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether traffic may be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        state.missing.is_empty() && !state.draining
    }

    /// `ready`, or a line for each thing that is missing.
    #[must_use]
    pub fn report(&self) -> String {
        let state = self.lock();
        let mut text = String::new();
        if state.draining {
            text.push_str("draining\n");
        }
        for (need, why) in &state.missing {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {why}", need.name());
        }
        if text.is_empty() { "ready\n".to_owned() } else { text }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_proxy_says_everything_it_waits_for_and_becomes_ready_when_it_has_it() {
        let readiness = Readiness::new();
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
        let readiness = Readiness::new();
        readiness.miss(Need::Tasks, "inbound panicked");
        readiness.have(Need::Tasks);
        readiness.drain();
        assert!(readiness.report().starts_with("draining\ntasks: inbound panicked\n"));
    }
}
