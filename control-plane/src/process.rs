//! What may be learnt from the memory of this process, which holds the CA's key.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps and inspection by processes of the same user, and raises
/// the limit of file descriptors to its hard maximum. Returns what could not be done.
#[must_use]
pub fn harden() -> Vec<String> {
    let descriptors = getrlimit(Resource::Nofile).maximum;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let steps = [
        ("forbidding core dumps", setrlimit(Resource::Core, none)),
        ("forbidding inspection of our memory", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        (
            "raising the limit of file descriptors",
            setrlimit(Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors }),
        ),
    ];
    steps.into_iter().filter_map(|(what, done)| done.err().map(|error| format!("{what}: {error}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::dumpable_behavior;

    #[test]
    fn a_hardened_process_leaves_no_core_and_is_not_inspected() {
        assert_eq!(harden(), Vec::<String>::new());
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
