//! The commands, one module each.

mod apply;
mod attest;
mod completions;
mod connect;
mod delete;
mod demo;
mod describe;
mod doctor;
mod emulate;
mod explain;
mod get;
mod inspect;
mod measure;
mod platforms;
mod run;
mod schema;
mod status;
mod validate;
mod verify;
mod version;

use clap::{Parser, Subcommand};

use crate::failure::Result;
use crate::output::Output;

/// Countersign: a service mesh in which every hop proves what it runs.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 pass, 1 denied or a check failed, 2 wrong usage or bad input,\n\
                  3 no answer from the control plane or the peer.\n\
                  Start with: countersign demo"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole product on this machine, in seconds
    Demo(demo::Args),
    /// Apply resources: all of them, or none
    Apply(apply::Args),
    /// Show resources
    Get(get::Args),
    /// Show one resource with its status on every proxy
    Describe(describe::Args),
    /// Delete resources: all of them, or none
    Delete(delete::Args),
    /// Check resources offline: every problem with file, line and column
    Validate(validate::Args),
    /// Show the control plane and every proxy
    Status(status::Args),
    /// Show and enrol machines by the identity of their platform
    Platforms(platforms::Args),
    /// Say whether one workload may call another, and why
    Explain(explain::Args),
    /// Watch the hops of the mesh prove themselves, or have them do so now
    Attest(attest::Args),
    /// Verify evidence or a certificate offline: a tree of checks
    Verify(verify::Args),
    /// Show what a certificate says, without verifying it
    Inspect(inspect::Args),
    /// Attested TLS to a peer: who is there, what it proved, what the policy says
    Connect(connect::Args),
    /// Run a command whose only way to the network is the proxy
    Run(run::Args),
    /// Emulated TEE platforms for tests and demonstrations
    Emulate(emulate::Args),
    /// Measure an event into the runtime register of this machine, for good
    Measure(measure::Args),
    /// Check this machine: TEE devices, limits, clock, control plane
    Doctor(doctor::Args),
    /// Print the JSON Schema of resources and bootstrap files
    Schema(schema::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the version
    Version(version::Args),
    /// A workload of the demonstration
    #[command(hide = true)]
    DemoWorkload(demo::workload::Args),
    /// The inner half of `run`
    #[command(hide = true)]
    RunConfined(run::ConfinedArgs),
}

/// Runs a command.
pub(crate) fn run(cli: Cli, out: &mut Output) -> Result {
    match cli.command {
        Command::Demo(args) => demo::run(args, out),
        Command::Apply(args) => apply::run(&args, out),
        Command::Get(args) => get::run(&args, out),
        Command::Describe(args) => describe::run(&args, out),
        Command::Delete(args) => delete::run(&args, out),
        Command::Validate(args) => validate::run(&args, out),
        Command::Status(args) => status::run(&args, out),
        Command::Platforms(args) => platforms::run(&args, out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Attest(args) => attest::run(&args, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::Inspect(args) => inspect::run(&args, out),
        Command::Connect(args) => connect::run(&args, out),
        Command::Emulate(args) => emulate::run(args, out),
        Command::Measure(args) => measure::run(&args, out),
        Command::Doctor(args) => doctor::run(&args, out),
        Command::Schema(args) => schema::run(&args, out),
        Command::Completions(args) => completions::run(&args, out),
        Command::Version(args) => version::run(&args, out),
        Command::DemoWorkload(args) => demo::workload::run(&args, out),
        Command::Run(args) => run::run(&args, out),
        Command::RunConfined(args) => run::run_confined(args, out),
    }
}

/// A runtime for the commands that talk to somebody.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| crate::failure::Failure::failed(format!("cannot start the runtime: {e}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shells_complete_kinds() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "countersign", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("AttestationPolicy"), "{shell}");
        }
    }

    #[test]
    fn every_example_of_a_help_text_can_be_parsed() {
        let mut examples = 0;
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut here = 0;
            for line in help.lines().filter_map(|l| l.trim().strip_prefix("countersign ")) {
                let line = line.split(['|', '>', '#']).next().unwrap();
                let words = std::iter::once("countersign").chain(line.split_whitespace());
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("`countersign {line}`: {error}");
                }
                here += 1;
            }
            let hidden = command.is_hide_set() || command.get_name() == "version";
            assert!(hidden || here > 0, "`{}` has no example", command.get_name());
            examples += here;
        }
        assert!(examples > 20);
    }

    /// The lines of the ```sh blocks of a page.
    fn shell_lines(page: &str) -> impl Iterator<Item = &str> {
        page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).flat_map(str::lines)
    }

    #[test]
    fn every_command_of_the_guides_can_be_parsed() {
        let pages = [include_str!("../../../README.md"), include_str!("../../../docs/operators.md")];
        let mut ours = 0;
        for line in pages.into_iter().flat_map(shell_lines) {
            let line = line.split(['|', '>', '#']).next().unwrap().trim();
            let ours_too = [
                "countersign-proxy ",
                "countersign-control-plane ",
                "countersign-broker ",
                "countersign-init",
            ];
            let mut known = ["make ", "curl ", "export "].into_iter().chain(ours_too);
            if line.is_empty() || known.any(|program| line.starts_with(program)) {
                continue;
            }
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("`{line}`: {error}");
            }
            assert!(line.starts_with("countersign "), "{line}");
            ours += 1;
        }
        assert!(ours > 20, "{ours}");
    }
}
