//! What this process may do, and what may be learnt from its memory.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getpriority_process, getrlimit, set_dumpable_behavior,
    setpriority_process, setrlimit,
};

/// What [`harden`] reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// File descriptors that this process may have open.
    pub descriptors: u64,
    /// What could not be done, and why.
    pub missing: Vec<String>,
}

/// Raises the limit of file descriptors to its hard maximum, and forbids core
/// dumps and inspection by processes of the same user: session keys live in
/// this memory (3-attestation, A1: keys are memory-only).
#[must_use]
pub fn harden() -> Hardening {
    let mut missing = Vec::new();
    let now = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        missing.push(format!("raising the limit of file descriptors: {error}"));
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        missing.push(format!("forbidding core dumps: {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        missing.push(format!("forbidding inspection of our memory: {error}"));
    }
    Hardening { descriptors: descriptors(), missing }
}

/// From now on this thread takes what the others leave of the cores: where they
/// have nothing to do it loses nothing.
pub fn step_back() {
    let me = Some(rustix::thread::gettid());
    let lower = getpriority_process(me).map(|now| now.saturating_add(10).min(19));
    // A thread that cannot goes on as it is.
    let _ = lower.and_then(|lower| setpriority_process(me, lower));
}

/// How many file descriptors this process may have open now.
#[must_use]
pub fn descriptors() -> u64 {
    // No limit is given as `None`; nothing here counts higher than this.
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used, reason = "test code")]
    fn a_thread_that_steps_back_does_so_alone() {
        let nice = || getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = nice();
        let stepped = std::thread::spawn(move || {
            step_back();
            nice()
        });
        assert_eq!(stepped.join().unwrap(), (before + 10).min(19));
        assert_eq!(nice(), before);
    }
}
