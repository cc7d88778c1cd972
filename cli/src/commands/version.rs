//! `countersign version`.

use serde_json::json;

use crate::failure::{Outcome, Result};
use crate::output::{Format, Output};

/// Print the version
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let version = env!("CARGO_PKG_VERSION");
    match args.output {
        Format::Text => out.line(format!("countersign {version}")),
        Format::Json => {
            out.json(&json!({ "version": version, "apiVersion": countersign_config::resource::API_VERSION }));
        }
    }
    Ok(Outcome::Pass)
}
