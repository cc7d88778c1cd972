//! `countersign delete`: all resources, or none.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use countersign_config::Kind;
use countersign_wire::proto;
use serde_json::json;

use super::apply::{key, problem};
use crate::appraisal::read_resources;
use crate::context::{ContextArgs, ask};
use crate::failure::{Failure, Outcome, Result};
use crate::output::{DIM, Format, GOOD, NOTE, Output, paint};

/// Delete resources: all of them, or none
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign delete attpol ledger-peers -n payments
  countersign delete -f policy.yaml
  countersign delete refval ledger-2026-11 -n payments --dry-run

Deleting a name that is not there is exit code 1; what files name (-f) may be gone already.")]
pub(crate) struct Args {
    /// The kind, in any of its spellings
    #[arg(value_parser = Kinds, requires = "name", required_unless_present = "file")]
    kind: Option<Kind>,
    /// The name
    name: Option<String>,
    /// The namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Delete what these files name (may be repeated)
    #[arg(short, long = "file", value_name = "PATH", conflicts_with = "kind")]
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

/// Reads a kind in any of its spellings, and lets shells complete it.
#[derive(Clone, Debug)]
pub(crate) struct Kinds;

impl TypedValueParser for Kinds {
    type Value = Kind;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> std::result::Result<Kind, clap::Error> {
        kind.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let spellings =
            |kind: &Kind| PossibleValue::new(kind.name()).aliases([kind.plural(), kind.short_name()]);
        Some(Box::new(Kind::ALL.iter().map(spellings)))
    }
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    Kind::from_name(text).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let near = countersign_config::nearest(text, known.iter().copied());
        near.map_or_else(|| format!("kinds are {}", known.join(", ")), |near| format!("did you mean {near}?"))
    })
}

/// The namespace in which a kind's resources are.
pub(crate) fn namespace_of(kind: Kind, namespace: &str) -> String {
    if kind == Kind::TrustDomain { String::new() } else { namespace.to_owned() }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let keys = match (&args.kind, &args.name) {
        (Some(kind), Some(name)) => vec![proto::ResourceKey {
            kind: kind.name().to_owned(),
            namespace: namespace_of(*kind, &args.namespace),
            name: name.clone(),
        }],
        _ => read_resources(&args.file)?
            .iter()
            .map(|resource| {
                let key = resource.key();
                proto::ResourceKey {
                    kind: key.kind.name().to_owned(),
                    namespace: key.namespace,
                    name: key.name,
                }
            })
            .collect(),
    };
    let request = proto::DeleteRequest { keys, dry_run: args.dry_run };
    let response = ask(&args.context, async |mut client| client.delete(request).await)?;
    let problems: Vec<_> = response.problems.iter().map(problem).collect();
    if problems.iter().any(|p| p.severity == countersign_config::problem::Severity::Error) {
        if args.output == Format::Json {
            out.json(&json!({ "dryRun": args.dry_run, "deleted": [], "absent": [], "problems": problems }));
            return Err(Failure::Problems(Vec::new(), Vec::new()));
        }
        return Err(Failure::Problems(problems, Vec::new()));
    }
    if args.output == Format::Json {
        let names = |keys: &[proto::ResourceKey]| keys.iter().map(|k| key(Some(k))).collect::<Vec<_>>();
        out.json(&json!({
            "generation": response.generation, "dryRun": args.dry_run, "problems": problems,
            "deleted": names(&response.deleted), "absent": names(&response.absent),
        }));
        return Ok(outcome(args, &response));
    }
    for problem in &problems {
        out.note(crate::output::snippet(problem, None));
    }
    for deleted in &response.deleted {
        out.line(format!("{} {}", paint(GOOD, "deleted"), key(Some(deleted))));
    }
    for absent in &response.absent {
        out.line(format!("{} {}", paint(DIM, "not there"), key(Some(absent))));
    }
    if args.dry_run {
        out.line(paint(NOTE, "dry run: nothing was changed"));
    }
    Ok(outcome(args, &response))
}

/// A name that somebody typed and that is not there is most likely misspelt;
/// files may be deleted twice.
fn outcome(args: &Args, response: &proto::DeleteResponse) -> Outcome {
    Outcome::pass_if(args.kind.is_none() || response.absent.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn only_a_typed_name_must_be_there() {
        let absent =
            proto::DeleteResponse { absent: vec![proto::ResourceKey::default()], ..Default::default() };
        let typed = Cli::parse_from(["delete", "attpol", "ledgr"]).args;
        let files = Cli::parse_from(["delete", "-f", "policy.yaml"]).args;
        assert_eq!(outcome(&typed, &absent), Outcome::Denied);
        assert_eq!(outcome(&typed, &proto::DeleteResponse::default()), Outcome::Pass);
        assert_eq!(outcome(&files, &absent), Outcome::Pass);
    }
}
