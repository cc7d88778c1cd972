//! `countersign status`: the control plane and every proxy.

use countersign_wire::proto;
use serde_json::{Value, json};

use crate::appraisal::facts;
use crate::context::{ContextArgs, ask};
use crate::failure::{Outcome, Result};
use crate::input::{distance, rfc3339};
use crate::output::{BAD, DIM, Format, GOOD, HEADING, NAME, NOTE, Output, clean, paint};

/// Show the control plane and every proxy
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign status
  countersign status -v
  countersign status -o json

A proxy is synced (the newest generation is in use), stale (on its way, or away),
nacked (it rejected something: the reasons follow), or ahead (it has seen a newer
generation than the control plane has: a backup was restored).")]
pub(crate) struct Args {
    /// Also what the control plane itself proved
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let (status, peer) = ask(&args.context, async |mut client| {
        let status = client.status().await?;
        Ok((status, client.peer))
    })?;
    if args.output == Format::Json {
        out.json(&document(&status));
        return Ok(Outcome::Pass);
    }
    let ready = if status.missing.is_empty() {
        paint(GOOD, "ready")
    } else {
        paint(BAD, &format!("not ready: {}", status.missing.join(", ")))
    };
    out.line(format!(
        "{} {}  generation {}  {ready}",
        paint(HEADING, "trust domain"),
        paint(NAME, &status.trust_domain),
        status.generation
    ));
    out.line(paint(
        DIM,
        &format!(
            "control plane {}, CA until {} ({})",
            status.software,
            rfc3339(status.ca_not_after),
            distance(status.now, status.ca_not_after)
        ),
    ));
    if args.verbose {
        if let Some(id) = &peer.presented.id {
            out.line(format!("control plane's SVID: {}", paint(NAME, id.as_str())));
        }
        match &peer.claims {
            Some(claims) => {
                for (name, value) in facts(claims) {
                    out.line(format!("  {name:<12} {value}"));
                }
            }
            None => out.line(paint(
                NOTE,
                "its evidence was not checked: the context names no policy (attestation: FILE); only its SVID was",
            )),
        }
    }
    if status.proxies.is_empty() {
        out.line(paint(DIM, "no proxy has been here yet"));
        return Ok(Outcome::Pass);
    }
    out.line("");
    let rows = status.proxies.iter().map(|proxy| row(proxy, status.now)).collect();
    out.table(&["PROXY", "WORKLOAD", "STATE", "GENERATION", "TEE", "HOPS", "SVID EXPIRES"], rows);
    for proxy in &status.proxies {
        for rejected in &proxy.rejected {
            out.line(format!(
                "{} {}: {}: {}",
                paint(BAD, "rejected by"),
                clean(&proxy.name),
                clean(&rejected.name),
                clean(&rejected.reason)
            ));
        }
    }
    Ok(Outcome::Pass)
}

fn row(proxy: &proto::ProxyStatus, now: u64) -> Vec<String> {
    let state = if proxy.connected {
        proxy.state.clone()
    } else {
        format!("{}, away ({})", proxy.state, distance(now, proxy.last_seen))
    };
    let generation = match (proxy.generation_in_use, proxy.generation_sent) {
        (0, _) => "none yet".to_owned(),
        (used, sent) if used == sent => used.to_string(),
        (used, sent) => format!("{used} of {sent}"),
    };
    let tee = if proxy.emulated { format!("{} EMULATED", proxy.tee) } else { proxy.tee.clone() };
    let expires =
        if proxy.svid_not_after == 0 { "no SVID".to_owned() } else { distance(now, proxy.svid_not_after) };
    vec![proxy.name.clone(), proxy.workload.clone(), state, generation, tee, proxy.hops.to_string(), expires]
}

fn document(status: &proto::StatusResponse) -> Value {
    let proxies: Vec<Value> = status
        .proxies
        .iter()
        .map(|p| {
            let rejected: Vec<_> =
                p.rejected.iter().map(|r| json!({ "resource": r.name, "reason": r.reason })).collect();
            json!({
                "name": p.name, "workload": p.workload, "spiffeId": p.spiffe_id, "connected": p.connected,
                "state": p.state, "address": p.address, "software": p.software, "tee": p.tee,
                "emulated": p.emulated, "hops": p.hops, "rejected": rejected,
                "generation": { "sent": p.generation_sent, "acknowledged": p.generation_acked, "inUse": p.generation_in_use },
                "svidNotAfter": p.svid_not_after, "lastSeen": p.last_seen,
            })
        })
        .collect();
    json!({
        "trustDomain": status.trust_domain, "generation": status.generation, "software": status.software,
        "now": status.now, "missing": status.missing, "caNotAfter": status.ca_not_after, "proxies": proxies,
    })
}
