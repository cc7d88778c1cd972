//! `countersign completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::commands::Cli;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign completions bash > /etc/bash_completion.d/countersign
  countersign completions zsh > ~/.zfunc/_countersign
  countersign completions fish > ~/.config/fish/completions/countersign.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "countersign", &mut script);
    out.raw(&script).map_err(|e| Failure::failed(format!("standard output: {e}")))?;
    Ok(Outcome::Pass)
}
