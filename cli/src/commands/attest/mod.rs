//! `countersign attest`: what the hops of the mesh prove, as it happens.

mod admin;
mod hops;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Outcome, Result};
use crate::input::{now, rfc3339};
use crate::output::{BAD, DIM, Format, Output, paint};
use hops::{HEADER, Hop, domain, summary};

/// Watch the hops prove themselves
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign attest watch --admin 127.0.0.1:15000
  countersign attest watch --admin 127.0.0.1:15000 --once
  countersign attest watch --admin 127.0.0.1:15000 --every 5 -o json

LEVEL is what the peer proves to the proxy: L0 its SVID, L1 evidence in its certificate, L2
evidence for this very connection, L3 the same on a machine that is enrolled. AGE is the
time since the challenge that the last proof answers, NEXT the time until the next one.
What drains comes first, then the oldest proof. Arrows say who called: ← the peer.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every hop: level, round, age of the proof, next challenge, TEE, policy, state
    Watch(Watch),
}

#[derive(Debug, clap::Args)]
struct Watch {
    /// Ask the proxy on this host whose admin port this is (may be repeated)
    #[arg(long, value_name = "ADDRESS", required = true)]
    admin: Vec<SocketAddr>,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look once and end
    #[arg(long)]
    once: bool,
    /// The form of the answer: a table, or one JSON object a line for each look
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What was seen at one moment.
#[derive(Debug, Default)]
struct Look {
    hops: Vec<Hop>,
    /// How many there are, which may be more than are shown.
    total: u64,
    /// Who did not answer, and why.
    missing: Vec<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let Command::Watch(watch) = &args.command;
    super::runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
        tokio::select! {
            biased;
            _ = interrupt.recv() => Ok(Outcome::Pass),
            _ = terminate.recv() => Ok(Outcome::Pass),
            result = look_again_and_again(watch, out) => result,
        }
    })
}

async fn look_again_and_again(watch: &Watch, out: &mut Output) -> Result {
    let mut ticks = tokio::time::interval(Duration::from_secs(watch.every));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let look = ask(&watch.admin).await;
        show(&look, watch, out);
        if watch.once {
            return Ok(Outcome::pass_if(look.missing.is_empty()));
        }
    }
}

async fn ask(proxies: &[SocketAddr]) -> Look {
    let mut look = Look::default();
    for address in proxies {
        match admin::hops(*address).await {
            Ok(hops) => look.hops.extend(hops),
            Err(failure) => look.missing.push(failure.to_string()),
        }
    }
    look.total = u64::try_from(look.hops.len()).unwrap_or(u64::MAX);
    look.hops.sort_by_key(Hop::urgency);
    look
}

fn show(look: &Look, watch: &Watch, out: &mut Output) {
    let at = rfc3339(now().as_secs());
    if watch.output == Format::Json {
        let hops: Vec<_> = look.hops.iter().map(Hop::document).collect();
        out.json_line(&json!({ "at": at, "total": look.total, "hops": hops, "missing": look.missing }));
        return;
    }
    let mut lines = vec![format!("{}  {}", summary(&look.hops, look.total), paint(DIM, &at))];
    lines.extend(look.missing.iter().map(|why| paint(BAD, why)));
    if !look.hops.is_empty() {
        let domain = domain(&look.hops);
        let rows = look.hops.iter().map(|hop| hop.row(domain)).collect();
        lines.push(String::new());
        lines.extend(out.table_lines(&HEADER, rows));
    }
    if watch.once || !out.to_terminal() {
        lines.iter().for_each(|line| out.line(line));
    } else {
        out.screen(&lines);
    }
}
