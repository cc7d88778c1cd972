//! `countersign measure`: an event into the runtime register of this machine.

use std::path::PathBuf;

use countersign_quoting::Event;
use countersign_quoting::broker::Client;
use serde_json::json;

use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{Format, Output};

/// Measure an event into the runtime register of this machine, for good
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign measure --socket /run/countersign/quotes exec /usr/bin/ledger
  countersign measure --socket /run/countersign/quotes config --file ledger.conf.sha384

Ask the broker (countersign-broker) before the thing happens, and let it happen only
when this ends with exit code 0. Every peer whose policy looks at runtime events
learns of it within seconds, and cuts its hops to this machine if it is not among the
events that the policy admits. A register cannot be taken back: only a new start of
the machine forgets.")]
pub(crate) struct Args {
    /// The socket of the broker
    #[arg(long, value_name = "PATH", env = "COUNTERSIGN_BROKER_SOCKET")]
    socket: PathBuf,
    /// What kind of event it is: visible ASCII without spaces
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Its content as text; empty when not given
    content: Option<String>,
    /// The content from this file, at most 1024 bytes; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "content")]
    file: Option<PathBuf>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let content = match (&args.content, &args.file) {
        (Some(content), _) => content.clone().into_bytes(),
        (None, Some(file)) => input::read(file)?,
        (None, None) => Vec::new(),
    };
    let event = Event::new(args.kind.as_str(), content).map_err(Failure::input)?;
    let digest = hex::encode(event.record().map_err(Failure::input)?.digest());
    let count = super::runtime()?.block_on(Client::measure(&args.socket, event)).map_err(Failure::failed)?;
    match args.output {
        Format::Text => {
            out.line(format!("measured '{}', {count} since the start of this machine", args.kind));
            out.line(format!("digest {digest}"));
        }
        Format::Json => out.json(&json!({ "type": args.kind, "digest": digest, "events": count })),
    }
    Ok(Outcome::Pass)
}
