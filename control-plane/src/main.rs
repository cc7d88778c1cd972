//! `countersign-control-plane --config FILE`

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use countersign_config::bootstrap::ControlPlaneBootstrap;
use countersign_control_plane::{Options, build};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Countersign's control plane: stores policy, issues attested identities, and
/// distributes signed snapshots to proxies.
///
/// At its first start it makes the trust domain's keys in its state directory,
/// and there bundle.json (for proxies) and operator.yaml (for the CLI).
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  countersign-control-plane --config control-plane.yaml\n\n\
    Signals: SIGTERM and SIGINT shut down gracefully. Log levels: COUNTERSIGN_LOG=debug"
)]
struct Arguments {
    /// The ControlPlaneBootstrap file.
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    config: PathBuf,
    /// What is logged, for example `info` or `warn,countersign_control_plane=debug`.
    #[arg(long, default_value = "info", value_name = "FILTER", env = "COUNTERSIGN_LOG")]
    log: Targets,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = Format::Text, env = "COUNTERSIGN_LOG_FORMAT")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(arguments.log, arguments.log_format);
    for missing in countersign_control_plane::process::harden() {
        tracing::warn!("{missing}");
    }
    match run(&arguments.config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes. Many say their cause themselves: it is not said twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

async fn run(path: &Path) -> anyhow::Result<()> {
    let config = match ControlPlaneBootstrap::load(path) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            bail!("{} cannot be used", path.display());
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let bound = build(config, Options::default()).await?;
    let addresses = bound.addresses();
    tracing::info!(
        server = %addresses.server, admin = %addresses.admin, metrics = %addresses.metrics,
        readiness = %addresses.readiness, "listening"
    );
    bound
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}

fn start_logging(filter: Targets, format: Format) {
    let registry = tracing_subscriber::registry().with(filter);
    // Colour is for people at a terminal who did not say no to it (https://no-color.org).
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    match format {
        Format::Text => registry.with(lines).init(),
        Format::Json => registry.with(lines.json()).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || anyhow::anyhow!("address in use");
        assert_eq!(told(&cause().context("listen")), "listen: address in use");
        assert_eq!(told(&cause().context("listen: address in use")), "listen: address in use");
    }
}
