//! # countersign: the operator's tool
//!
//! **Enters**: a command line, files, and what a control plane or a peer
//! answers. **Leaves**: text for people or JSON for programs on standard output,
//! errors on standard error, and an exit code: 0 for a pass, 1 for a denial or
//! a failed check, 2 for wrong usage or bad input, 3 when nobody answers.
//!
//! **Guaranteed**: input is bounded; text from files and peers cannot steer the
//! terminal; nothing that was not verified is shown as if it were. One module a
//! command; [`output`] is the only place that prints.

mod appraisal;
mod certificate;
mod cmw;
mod commands;
mod context;
mod failure;
mod input;
mod output;
mod summary;
mod tree;

use std::process::ExitCode;

use clap::Parser as _;

use crate::commands::{Cli, run};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::new();
    match run(cli, &mut output) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}
