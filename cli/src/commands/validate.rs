//! `countersign validate`: every problem of resources, offline.

use std::path::PathBuf;

use countersign_config::problem::Severity;
use countersign_config::resource::{check_part, check_set};
use serde_json::json;

use crate::appraisal::{Documents, read_documents};
use crate::failure::{Failure, Outcome, Result};
use crate::output::{Format, GOOD, Output, paint, snippet};

/// Check resources offline: every problem with file, line and column
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign validate -f policy.yaml
  countersign validate -f policies/ -f reference-values.yaml
  countersign validate -f proxy.yaml
  countersign validate -f policies/ --strict
  countersign validate -f policy.yaml -o json

Resources are checked together. What they refer to and is not among them may be on the
control plane, and is a warning; with --strict an error. Bootstrap files (ProxyBootstrap, ControlPlaneBootstrap)
each for itself, without the files that they name.")]
pub(crate) struct Args {
    /// A file, a directory of .yaml files, or `-` (may be repeated)
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    file: Vec<PathBuf>,
    /// These files are all there is: what they refer to and do not hold is an error
    #[arg(long)]
    strict: bool,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let (count, bootstraps, sources, problems) = match read_documents(&args.file) {
        Ok(Documents { resources, bootstraps, places, sources }) => {
            let found = if args.strict { check_set(&resources) } else { check_part(&resources) };
            let problems: Vec<_> = found.into_iter().map(|p| places.place(p)).collect();
            (resources.len(), bootstraps, sources, problems)
        }
        Err(Failure::Problems(problems, sources)) if args.output == Format::Json => {
            (0, Vec::new(), sources, problems)
        }
        Err(failure) => return Err(failure),
    };
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    match args.output {
        Format::Json => out.json(&json!({
            "valid": errors == 0, "resources": count, "bootstraps": bootstraps, "problems": problems,
        })),
        Format::Text => {
            for problem in &problems {
                let text = sources.iter().find(|(name, _)| *name == problem.file);
                out.note(snippet(problem, text.map(|(_, text)| text.as_str())));
            }
            if errors == 0 {
                let mut what: Vec<_> = bootstraps.iter().map(|kind| (*kind).to_owned()).collect();
                if count > 0 || what.is_empty() {
                    what.push(format!("{count} resource{}", if count == 1 { "" } else { "s" }));
                }
                out.line(format!("{} ({})", paint(GOOD, "valid"), what.join(", ")));
            }
        }
    }
    if errors == 0 { Ok(Outcome::Pass) } else { Err(Failure::Problems(Vec::new(), Vec::new())) }
}
