//! `countersign-proxy --config FILE`

mod log;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use countersign_config::bootstrap::ProxyBootstrap;
use countersign_proxy::{Clock, LogLevel, build};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;

/// glibc gives the memory of a frame back to the system when it is free and takes it again for
/// the next one: a fifth of the CPU time of bulk was page faults.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The data plane of Countersign: a sidecar that lets bytes pass only between
/// attested workloads.
#[derive(Debug, Parser)]
#[command(version, about, after_help = "Example:\n  countersign-proxy --config /etc/countersign/proxy.yaml")]
struct Arguments {
    /// The bootstrap file (kind: ProxyBootstrap).
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    config: PathBuf,
    /// The log filter, for example `info` or `info,countersign_proxy=debug`.
    #[arg(long, env = "COUNTERSIGN_LOG", default_value = "info", value_name = "FILTER", value_parser = log::filter)]
    log: Targets,
    /// The form of the log.
    #[arg(long, env = "COUNTERSIGN_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORM")]
    log_format: log::Form,
    /// Worker threads; at most one for each core.
    #[arg(long, env = "COUNTERSIGN_WORKERS", default_value_t = 2, value_name = "N")]
    workers: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = log::start(arguments.log.clone(), arguments.log_format);
    match start(&arguments, level) {
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

fn start(arguments: &Arguments, level: LogLevel) -> anyhow::Result<()> {
    let hardening = countersign_net::harden();
    for missing in &hardening.missing {
        tracing::warn!("{missing}");
    }
    let bootstrap = ProxyBootstrap::load(&arguments.config).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    })?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.workers.clamp(1, cores))
        .thread_name("data")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(run(&bootstrap, level));
    // A call on a quoting device that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn run(bootstrap: &ProxyBootstrap, level: LogLevel) -> anyhow::Result<()> {
    let clock = Clock::new(Arc::new(rustls::time_provider::DefaultTimeProvider));
    let source = countersign_proxy::platform::open(&bootstrap.attester, &bootstrap.state_dir).await?;
    let platform = source.platform();
    tracing::info!(driver = platform.driver, tee = %platform.tee, emulated = platform.emulated, "attester");
    let bound = build(bootstrap, clock, source, Some(level))?;
    let at = bound.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), inbound = at.inbound.map(tracing::field::display), outbound = ?at.outbound,
        admin = %at.admin, metrics = %at.metrics, readiness = %at.readiness, "bound"
    );
    let drain = bound.drain();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut again = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let first = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    // The first signal drains, the second ends.
    let second = async {
        for _ in 0..2 {
            tokio::select! {
                _ = again.0.recv() => {}
                _ = again.1.recv() => {}
            }
        }
        drain.force();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = bound.run(first) => {}
        () = second => {}
    }
    Ok(())
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
