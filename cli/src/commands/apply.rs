//! `countersign apply`: all documents, or none.

use std::path::PathBuf;

use countersign_config::Problem;
use countersign_config::problem::Severity;
use countersign_wire::proto;
use serde_json::json;

use crate::appraisal::shown;
use crate::context::{ContextArgs, ask};
use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{DIM, Format, GOOD, NOTE, Output, paint, snippet};

/// Apply resources: all of them, or none
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign apply -f policy.yaml
  countersign apply -f policies/ --dry-run
  countersign get attpol ledger-peers -n payments -o yaml | countersign apply -f -

A document with an error changes nothing: every problem is shown with its place.
The context (--context or COUNTERSIGN_CONTEXT) names the control plane.")]
pub(crate) struct Args {
    /// A file, a directory of .yaml files, or `-` (may be repeated)
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    file: Vec<PathBuf>,
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    match apply(args, out) {
        Err(Failure::Problems(problems, _)) if args.output == Format::Json => {
            out.json(&json!({ "dryRun": args.dry_run, "results": [], "problems": problems }));
            Err(Failure::Problems(Vec::new(), Vec::new()))
        }
        ended => ended,
    }
}

fn apply(args: &Args, out: &mut Output) -> Result {
    let sources = read(&args.file)?;
    let request = request(&sources, args.dry_run);
    let response = ask(&args.context, async |mut client| client.apply(request).await)?;
    let problems: Vec<Problem> = response.problems.iter().map(problem).collect();
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(Failure::Problems(problems, sources));
    }
    if args.output == Format::Json {
        let results: Vec<_> = response
            .results
            .iter()
            .map(|r| json!({ "resource": key(r.key.as_ref()), "outcome": outcome(r.outcome()) }))
            .collect();
        out.json(&json!({
            "generation": response.generation, "dryRun": args.dry_run, "results": results, "problems": problems,
        }));
        return Ok(Outcome::Pass);
    }
    for problem in &problems {
        let text = sources.iter().find(|(name, _)| *name == problem.file).map(|(_, text)| text.as_str());
        out.note(snippet(problem, text));
    }
    for result in &response.results {
        let style = if result.outcome() == proto::applied::Outcome::Unchanged { DIM } else { GOOD };
        out.line(format!("{} {}", paint(style, outcome(result.outcome())), key(result.key.as_ref())));
    }
    if args.dry_run {
        out.line(paint(NOTE, "dry run: nothing was changed"));
    } else {
        out.line(paint(DIM, &format!("generation {}", response.generation)));
    }
    Ok(Outcome::Pass)
}

/// Every file by name, with its text; each is checked before anything is sent.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        for file in input::files(path, &["yaml", "yml"])? {
            let (name, text) = (shown(&file), input::read_text(&file)?);
            if let Err(more) = countersign_config::parse(&name, &text) {
                problems.extend(more);
            }
            sources.push((name, text));
        }
    }
    if problems.is_empty() { Ok(sources) } else { Err(Failure::Problems(problems, sources)) }
}

/// The request for these files.
pub(crate) fn request(sources: &[(String, String)], dry_run: bool) -> proto::ApplyRequest {
    let files =
        sources.iter().map(|(name, text)| proto::File { name: name.clone(), text: text.clone() }).collect();
    proto::ApplyRequest { files, dry_run }
}

/// A problem as the control plane tells it.
pub(crate) fn problem(told: &proto::Problem) -> Problem {
    Problem {
        severity: if told.severity == "warning" { Severity::Warning } else { Severity::Error },
        file: told.file.clone(),
        line: told.line,
        column: told.column,
        path: told.path.clone(),
        message: told.message.clone(),
        hint: (!told.hint.is_empty()).then(|| told.hint.clone()),
    }
}

/// A key as people read it.
pub(crate) fn key(key: Option<&proto::ResourceKey>) -> String {
    match key {
        None => "?".to_owned(),
        Some(key) if key.namespace.is_empty() => format!("{} {}", key.kind, key.name),
        Some(key) => format!("{} {}/{}", key.kind, key.namespace, key.name),
    }
}

const fn outcome(outcome: proto::applied::Outcome) -> &'static str {
    match outcome {
        proto::applied::Outcome::Created => "created",
        proto::applied::Outcome::Configured => "configured",
        proto::applied::Outcome::Unchanged => "unchanged",
        proto::applied::Outcome::Unspecified => "done",
    }
}
