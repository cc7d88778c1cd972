//! `countersign describe`: one resource, and what every proxy made of it.

use countersign_config::Kind;
use countersign_wire::proto;

use super::delete::{Kinds, namespace_of};
use super::get::{clean_document, find, resource, state, with_status};
use crate::context::{ContextArgs, ask};
use crate::failure::{Failure, Outcome, Result};
use crate::output::{BAD, Format, HEADING, Output, clean, paint};

/// Show one resource with its status on every proxy
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign describe attpol ledger-peers -n payments
  countersign describe trustdomain prod.example
  countersign describe refval ledger-2026-11 -n payments -o json")]
pub(crate) struct Args {
    /// The kind, in any of its spellings
    #[arg(value_parser = Kinds)]
    kind: Kind,
    /// The name
    name: String,
    /// The namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let request = proto::ListRequest {
        kind: args.kind.name().to_owned(),
        namespace: namespace_of(args.kind, &args.namespace),
        name: args.name.clone(),
    };
    let response = ask(&args.context, async |client| find(client, request).await)?;
    let Some(item) = response.items.first() else {
        return Err(Failure::input(format!("there is no {} {}", args.kind.name(), args.name)));
    };
    if args.output == Format::Json {
        out.json(&with_status(item));
        return Ok(Outcome::Pass);
    }
    out.line(clean_document(&resource(item)?.to_yaml()));
    let status = item.status.clone().unwrap_or_default();
    out.line("");
    out.line(paint(HEADING, "Status"));
    out.line(format!("  state       {}", state(&status)));
    out.line(format!("  generation  {} (the mesh is at {})", status.generation, response.generation));
    out.line(format!("  proxies     {} of {} applied it", status.applied, status.proxies));
    if !status.rejected_here.is_empty() {
        out.line(format!("  {}  {}", paint(BAD, "unusable"), clean(&status.rejected_here)));
    }
    for rejected in &status.rejected {
        out.line(format!(
            "  {}  {}: {}",
            paint(BAD, "rejected"),
            clean(&rejected.name),
            clean(&rejected.reason)
        ));
    }
    Ok(Outcome::Pass)
}
