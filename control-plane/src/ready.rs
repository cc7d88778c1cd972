//! Readiness: what is still missing, by name.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What the control plane waits for. Ready when nothing is left.
#[derive(Debug)]
pub(crate) struct Ready(Mutex<BTreeMap<&'static str, String>>);

/// A clock that is not behind what was signed.
pub(crate) const CLOCK: &str = "clock";
/// The CA, its key, the snapshot key.
pub(crate) const AUTHORITY: &str = "authority";
/// The first snapshot.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Our own SVID with evidence.
pub(crate) const IDENTITY: &str = "identity";
/// Shutting down, or a task failed.
pub(crate) const PROCESS: &str = "process";

impl Ready {
    pub(crate) fn new() -> Self {
        let waiting = [AUTHORITY, SNAPSHOT, IDENTITY].map(|name| (name, "not there yet".to_owned()));
        Self(Mutex::new(waiting.into()))
    }

    pub(crate) fn done(&self, name: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(crate) fn missing(&self, name: &'static str, why: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, why.into());
    }

    /// `name: why`, empty when ready.
    pub(crate) fn report(&self) -> Vec<String> {
        let missing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        missing.iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }
}
