//! One line for each case, and the sum.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Miss {
    Failed(String),
    Skipped(String),
}

impl From<String> for Miss {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Prints and counts.
pub(crate) struct Tally {
    filters: Vec<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
    later: BTreeMap<String, usize>,
}

impl Tally {
    /// With filters, only cases whose title contains one of them are run.
    pub(crate) const fn new(filters: Vec<String>) -> Self {
        Self { filters, passed: 0, failed: 0, skipped: 0, later: BTreeMap::new() }
    }

    /// Runs one case. A panic is a failure of that case alone.
    pub(crate) fn run(&mut self, title: &str, case: impl FnOnce() -> Result<String, Miss>) {
        if !self.filters.is_empty() && !self.filters.iter().any(|f| title.contains(f.as_str())) {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(case))
            .unwrap_or_else(|_| Err(Miss::Failed("panicked, see above".to_owned())));
        match outcome {
            Ok(detail) => {
                self.passed += 1;
                println!("ok {title}: {}", one_line(&detail));
            }
            Err(Miss::Failed(why)) => self.failed(&format!("{title}: {why}")),
            Err(Miss::Skipped(why)) => {
                self.skipped += 1;
                println!("skipped {title}: {}", one_line(&why));
            }
        }
    }

    /// A failure.
    pub(crate) fn failed(&mut self, what: &str) {
        self.failed += 1;
        println!("FAILED {}", one_line(what));
    }

    /// Cases of a kind that this release does not verify.
    pub(crate) fn later(&mut self, kind: &str, cases: usize) {
        if self.filters.is_empty() {
            *self.later.entry(kind.to_owned()).or_default() += cases;
        }
    }

    /// The last line, and what to exit with.
    pub(crate) fn finish(self) -> ExitCode {
        for (kind, cases) in &self.later {
            println!("skipped {}: {cases} cases of a kind that this release does not verify", one_line(kind));
        }
        let skipped = self.skipped + self.later.values().sum::<usize>();
        println!("{} passed, {} failed, {skipped} skipped", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
