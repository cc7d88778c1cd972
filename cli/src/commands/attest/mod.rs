//! `countersign attest`: what the hops of the mesh prove, as it happens.

mod admin;
mod hops;
pub(crate) mod now;
mod plane;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use crate::context::{Context, ContextArgs};
use crate::failure::{Failure, Outcome, Result};
use crate::input::{now, rfc3339};
use crate::output::{BAD, DIM, Format, Output, paint};
use hops::{HEADER, Hop, domain, summary};
use now::Now;
use plane::Plane;

/// Watch the hops prove themselves, or have them do so now
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign attest watch
  countersign attest watch --proxy ledger-0 --proxy audit-0
  countersign attest watch --once -o json
  countersign attest watch --admin 127.0.0.1:15000
  countersign attest now payments/ledger
  countersign attest now ledger-0 --peer spiffe://prod.example/ns/payments/sa/audit
  countersign attest now --admin 127.0.0.1:15000

LEVEL is what the peer proves to the proxy: L0 its SVID, L1 evidence in its certificate, L2
evidence for this very connection, L3 the same on a machine that is enrolled. AGE is the
time since the challenge that the last proof answers, NEXT the time until the next one.
What drains comes first, then the oldest proof. Arrows say who called: ← the peer.
`now PROXY` has the peers of that proxy prove themselves to it, not the proxy itself.
With --once the exit code is 1 when a proxy does not answer; that of `now` is 0 when every
peer that was asked proved itself, or none has anything to prove at its level. Both end with
3 when the control plane does not answer. A peer is asked at most once in 10 s.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every hop: level, round, age of the proof, next challenge, TEE, policy, state
    #[command(after_help = "Examples:
  countersign attest watch
  countersign attest watch --proxy ledger-0 --proxy audit-0
  countersign attest watch --once -o json
  countersign attest watch --admin 127.0.0.1:15000")]
    Watch(Watch),
    /// Have the peers of a proxy prove themselves to it now, and show what came of it
    #[command(after_help = "Examples:
  countersign attest now payments/ledger
  countersign attest now ledger-0 --peer spiffe://prod.example/ns/payments/sa/audit
  countersign attest now --admin 127.0.0.1:15000

Name the proxy, or with --admin the admin port of one on this host; `countersign status`
shows the names.")]
    Now(Now),
}

#[derive(Debug, clap::Args)]
struct Watch {
    /// Only this proxy, by the name in `countersign status` (may be repeated)
    #[arg(long, value_name = "NAME", conflicts_with = "admin")]
    proxy: Vec<String>,
    /// Ask the proxy on this host whose admin port this is, not the control plane (may be repeated)
    #[arg(long, value_name = "ADDRESS")]
    admin: Vec<SocketAddr>,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look once and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    context: ContextArgs,
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
    let watch = match &args.command {
        Command::Watch(watch) => watch,
        Command::Now(now) => return super::runtime()?.block_on(now::run(now, out)),
    };
    let context = if watch.admin.is_empty() { Some(Context::load(&watch.context)?) } else { None };
    super::runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
        let looking = async {
            match &context {
                Some(context) => by_control_plane(context, watch, out).await,
                None => by_admin_ports(watch, out).await,
            }
        };
        tokio::select! {
            biased;
            _ = interrupt.recv() => Ok(Outcome::Pass),
            _ = terminate.recv() => Ok(Outcome::Pass),
            result = looking => result,
        }
    })
}

fn ticks(watch: &Watch) -> Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(watch.every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn by_control_plane(context: &Context, watch: &Watch, out: &mut Output) -> Result {
    if watch.once {
        let mut plane = Plane::connect(context, &watch.proxy).await?;
        plane.everybody().await?;
        return Ok(show(plane.look(), watch, out));
    }
    let mut ticks = ticks(watch);
    // Without the first connection there is nothing to watch; later ones may fail and come back.
    let mut plane = Some(Plane::connect(context, &watch.proxy).await?);
    loop {
        let ended = match plane.take() {
            Some(plane) => keep_looking(plane, &mut ticks, watch, out).await,
            None => match Plane::connect(context, &watch.proxy).await {
                Ok(again) => {
                    plane = Some(again);
                    continue;
                }
                Err(failure) => failure,
            },
        };
        show(Look { missing: vec![ended.to_string()], ..Look::default() }, watch, out);
        ticks.tick().await;
    }
}

/// Shows what proxies tell for as long as they can. Why they cannot any more.
async fn keep_looking(mut plane: Plane, ticks: &mut Interval, watch: &Watch, out: &mut Output) -> Failure {
    if let Err(failure) = plane.everybody().await {
        return failure;
    }
    loop {
        tokio::select! {
            _ = ticks.tick() => { show(plane.look(), watch, out); }
            told = plane.next() => if let Err(failure) = told { return failure },
        }
    }
}

async fn by_admin_ports(watch: &Watch, out: &mut Output) -> Result {
    let mut ticks = ticks(watch);
    loop {
        ticks.tick().await;
        let mut look = Look::default();
        for address in &watch.admin {
            match admin::hops(*address).await {
                Ok(hops) => look.hops.extend(hops),
                Err(failure) => look.missing.push(failure.to_string()),
            }
        }
        look.total = u64::try_from(look.hops.len()).unwrap_or(u64::MAX);
        let outcome = show(look, watch, out);
        if watch.once {
            return Ok(outcome);
        }
    }
}

fn show(mut look: Look, watch: &Watch, out: &mut Output) -> Outcome {
    look.hops.sort_by_key(Hop::urgency);
    let outcome = Outcome::pass_if(look.missing.is_empty());
    let at = rfc3339(now().as_secs());
    if watch.output == Format::Json {
        let hops: Vec<_> = look.hops.iter().map(Hop::document).collect();
        out.json_line(&json!({ "at": at, "total": look.total, "hops": hops, "missing": look.missing }));
        return outcome;
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
    outcome
}
