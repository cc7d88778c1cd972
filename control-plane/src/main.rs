//! `countersign-control-plane --config FILE`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use countersign_config::bootstrap::ControlPlaneBootstrap;
use countersign_control_plane::{Options, build};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

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
    start_logging(arguments.log_format);
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = match ControlPlaneBootstrap::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            bail!("{}: {} problems", arguments.config.display(), problems.len());
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

fn start_logging(format: Format) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("COUNTERSIGN_LOG")
        .from_env_lossy();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => logs.init(),
        Format::Json => logs.json().init(),
    }
}
