//! `countersign-broker --socket PATH`
//!
//! A program of its own, and a small one: it is measured with the guest, and
//! whoever reads it should be done soon.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use countersign_attester::Attester;
use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec, Vendor};
use countersign_quoting::broker::{Access, Client, Limits, Server, Socket, Who};
use countersign_quoting::{Local, Source as _};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{fmt, prelude::*};

/// Quotes for the proxies of this machine, so that nobody else needs the quoting
/// device: it makes each report data itself, from a key or from sessions.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example:\n  countersign-broker --socket /run/countersign/quotes --mode 0660 --group 991 --allow-uid 991"
)]
struct Arguments {
    /// Where to listen.
    #[arg(long, env = "COUNTERSIGN_BROKER_SOCKET", value_name = "PATH")]
    socket: PathBuf,
    /// Who may open the socket, as for chmod.
    #[arg(long, default_value = "0600", value_name = "MODE", value_parser = mode)]
    mode: u32,
    /// The group of the socket, by its number.
    #[arg(long, value_name = "GID")]
    group: Option<u32>,
    /// A user who is served, by its number, besides the broker's own. Can be given more than once.
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,
    /// A group whose processes are served, by its number: as their effective
    /// group, not as a supplementary one. Can be given more than once.
    #[arg(long, value_name = "GID")]
    allow_gid: Vec<u32>,
    /// A user who may have events measured and nothing else, by its number: the
    /// agent of this guest. Can be given more than once.
    #[arg(long, value_name = "UID")]
    measuring_uid: Vec<u32>,
    /// A group that may do so. Can be given more than once.
    #[arg(long, value_name = "GID")]
    measuring_gid: Vec<u32>,
    /// Where the log of runtime events is kept for as long as the machine runs.
    /// An emulated machine keeps its log in memory.
    #[arg(long, value_name = "DIR", default_value = "/run/countersign/events", conflicts_with = "emulated")]
    events: PathBuf,
    /// Quote for an emulated machine of the vendor in this directory, for tests.
    #[arg(long, value_name = "DIR")]
    emulated: Option<PathBuf>,
    /// The emulated machine.
    #[arg(long, value_name = "JSON", default_value = r#"{"tdx": {}}"#, requires = "emulated")]
    machine: String,
    /// Ask the broker on the socket how it is, and end.
    #[arg(long, conflicts_with_all = ["emulated", "group"])]
    status: bool,
    /// The log filter, for example `info` or `warn`.
    #[arg(long, env = "COUNTERSIGN_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// The form of the log.
    #[arg(long, env = "COUNTERSIGN_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORM")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// An emulated machine, as in a bootstrap file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Machine {
    Tdx(Box<TdxSpec>),
    Sgx(Box<SgxSpec>),
    SevSnp(Box<SnpSpec>),
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err("accepted: an octal number from 0 to 0777".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = log(&arguments) {
        // There is no log to write to; nobody reads standard error then.
        let _ = writeln!(std::io::stderr(), "{error:#}");
        return ExitCode::FAILURE;
    }
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(arguments: &Arguments) -> anyhow::Result<()> {
    let filter: Targets = arguments.log.parse().context("--log")?;
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colour());
    let registry = tracing_subscriber::registry().with(filter);
    match arguments.log_format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
    Ok(())
}

/// Colour is for people at a terminal who did not say no to it (<https://no-color.org>).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    for missing in &countersign_net::harden().missing {
        tracing::warn!("{missing}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        if arguments.status { status(&arguments.socket).await } else { serve(arguments).await }
    });
    // A call on a device that hangs must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    // Before the socket is there: who can connect is answered.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let attester = attester(arguments).context("attester")?;
    let own = rustix::process::geteuid().as_raw();
    let measuring = Who { uids: arguments.measuring_uid.clone(), gids: arguments.measuring_gid.clone() };
    let access =
        Access { own, uids: arguments.allow_uid.clone(), gids: arguments.allow_gid.clone(), measuring };
    if arguments.mode & 0o077 == 0 && admits_others(&access) {
        tracing::warn!("--mode lets nobody but our own user open the socket; those whom we allow cannot");
    }
    let socket = Socket::bind(&arguments.socket, arguments.mode, arguments.group)
        .await
        .with_context(|| format!("--socket {}", arguments.socket.display()))?;
    let source = Local::new(attester);
    let platform = source.platform();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), socket = %socket.path().display(), mode = %format_args!("{:04o}", arguments.mode),
        driver = platform.driver, tee = %platform.tee, emulated = platform.emulated, own_uid = access.own,
        allow_uid = listed(&access.uids).map(display), allow_gid = listed(&access.gids).map(display),
        measuring_uid = listed(&access.measuring.uids).map(display),
        measuring_gid = listed(&access.measuring.gids).map(display),
        "listening"
    );
    let server = Server::new(socket, Arc::new(source), access, Limits::default());
    server
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("ending");
        })
        .await;
    Ok(())
}

/// Whether anybody but the broker's own user is served.
fn admits_others(access: &Access) -> bool {
    let Access { own, uids, gids, measuring } = access;
    uids.iter().chain(&measuring.uids).any(|uid| uid != own) || !gids.is_empty() || !measuring.gids.is_empty()
}

/// Numbers for a field of the log; none leave no field.
fn listed(numbers: &[u32]) -> Option<String> {
    let all: Vec<_> = numbers.iter().map(u32::to_string).collect();
    (!all.is_empty()).then(|| all.join(","))
}

/// The device of this machine, or an emulated machine.
fn attester(arguments: &Arguments) -> anyhow::Result<Arc<dyn Attester>> {
    let Some(vendor) = &arguments.emulated else {
        return Ok(countersign_attester::open_measuring(Path::new("/"), &arguments.events)?);
    };
    let vendor = Vendor::load(vendor).context("--emulated")?;
    Ok(match serde_json::from_str(&arguments.machine).context("--machine")? {
        Machine::Tdx(spec) => vendor.tdx(*spec)?,
        Machine::Sgx(spec) => vendor.sgx(*spec)?,
        Machine::SevSnp(spec) => vendor.snp(*spec)?,
    })
}

async fn status(socket: &Path) -> anyhow::Result<()> {
    let status = Client::status(socket).await?;
    let emulated = if status.emulated { " EMULATED" } else { "" };
    writeln!(
        std::io::stdout(),
        "{}{emulated}, driver {}: {}; {} waiting, {} quotes",
        status.tee,
        status.driver,
        status.health,
        status.waiting,
        status.quotes
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_user_on_the_list_is_nobody_else() {
        let access = |uids: &[u32], gids: &[u32], measuring: Who| {
            admits_others(&Access { own: 7, uids: uids.to_vec(), gids: gids.to_vec(), measuring })
        };
        assert!(!access(&[], &[], Who::default()));
        assert!(!access(&[7], &[], Who { uids: vec![7], gids: Vec::new() }));
        assert!(access(&[7, 8], &[], Who::default()));
        assert!(access(&[], &[7], Who::default()));
        assert!(access(&[], &[], Who { uids: vec![8], gids: Vec::new() }));
        assert!(access(&[], &[], Who { uids: Vec::new(), gids: vec![7] }));
    }
}
