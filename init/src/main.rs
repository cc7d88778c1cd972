//! `countersign-init`: rules that send the TCP traffic of a workload to its proxy.
//!
//! **Enters**: which traffic is meant. **Leaves**: rules of nftables or iptables in
//! the network namespace in which it runs, set at once and set again without harm.
//!
//! **Guaranteed**: what is captured goes to the proxy or nowhere. While no proxy
//! listens the system refuses it; what the redirection misses a second rule refuses.

mod arguments;
mod iptables;
mod nft;
mod rules;
mod tools;
mod validate;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::arguments::{Action, Arguments};
use crate::tools::Backend;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to say it.
            let _ = writeln!(std::io::stderr(), "countersign-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let rules = arguments.rules()?;
    let lines = match arguments.action() {
        Action::Validate => validate::validate(&rules)?,
        Action::Apply if arguments.dry_run => tools::texts(arguments.backend()?, &rules),
        Action::Cleanup if arguments.dry_run => tools::cleanup_texts(arguments.backend()?),
        Action::Apply => {
            let backend = arguments.backend()?;
            tools::apply(backend, &rules).with_context(|| format!("set the rules with {backend}"))?;
            vec![format!(
                "outbound TCP goes to port {}, inbound to {}, by {backend}",
                rules.outbound_port, rules.inbound_port
            )]
        }
        Action::Cleanup => tools::cleanup(arguments.chosen())?,
    };
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

impl Arguments {
    /// The tool to use: the one that was asked for, or the first that is there.
    fn backend(&self) -> anyhow::Result<Backend> {
        match self.chosen() {
            Some(backend) => Ok(backend),
            // To print rules needs no tool.
            None if self.dry_run => Ok(tools::detect().unwrap_or(Backend::Nft)),
            None => tools::detect().context(
                "neither nft nor iptables-restore is on the PATH: install nftables or iptables (Debian packages of these names)",
            ),
        }
    }
}
