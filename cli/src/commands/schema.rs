//! `countersign schema`: JSON Schema of what operators write.

use std::path::PathBuf;

use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Print the JSON Schema of resources and bootstrap files
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign schema
  countersign schema AttestationPolicy > attestationpolicy.json
  countersign schema --write config/schema")]
pub(crate) struct Args {
    /// The kind; without it the kinds that there are
    kind: Option<String>,
    /// Write a file for every kind into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let schemas = countersign_config::schema::schemas();
    if let Some(dir) = &args.write {
        for (kind, schema) in &schemas {
            let file = dir.join(format!("{kind}.json"));
            std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::write(&file, schema))
                .map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        }
        out.note(format!("{} schemas in {}", schemas.len(), dir.display()));
        return Ok(Outcome::Pass);
    }
    let Some(wanted) = &args.kind else {
        schemas.keys().for_each(|kind| out.line(kind));
        return Ok(Outcome::Pass);
    };
    let full = countersign_config::Kind::from_name(wanted).map_or(wanted.as_str(), |kind| kind.name());
    match schemas.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(full)) {
        Some((_, schema)) => out.line(schema.trim_end()),
        None => {
            let known: Vec<_> = schemas.keys().copied().collect();
            return Err(Failure::input(format!("no schema for `{wanted}`; there are {}", known.join(", "))));
        }
    }
    Ok(Outcome::Pass)
}
