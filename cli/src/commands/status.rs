//! `countersign status`: the control plane and every proxy.

use countersign_wire::proto;
use countersign_wire::refusal::from_json;
use serde_json::{Value, json};

use crate::appraisal::facts;
use crate::context::{ContextArgs, ask};
use crate::failure::{Outcome, Result};
use crate::input::{distance, rfc3339};
use crate::output::{BAD, DIM, Format, GOOD, HEADING, NAME, NOTE, Output, clean, paint};

/// For how long a refusal is shown without having been asked for, seconds.
const RECENT: u64 = 3600;

/// Show the control plane and every proxy
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign status
  countersign status -v
  countersign status -o json

A proxy is synced (the newest generation is in use), stale (on its way, or away),
nacked (it rejected something: the reasons follow), ahead (it has seen a newer
generation than the control plane has: a backup was restored), or refused (it is not
admitted any more: the reason follows).")]
pub(crate) struct Args {
    /// Also what the control plane itself proved, and refusals of long ago
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
    let rows = status.proxies.iter().map(|proxy| row(proxy, &status)).collect();
    out.table(&["PROXY", "WORKLOAD", "STATE", "GENERATION", "TEE", "HOPS", "SVID EXPIRES"], rows);
    for proxy in &status.proxies {
        remarks(proxy, &status, args.verbose).iter().for_each(|line| out.fitted(line, args.verbose));
    }
    Ok(Outcome::Pass)
}

/// What is to be done about a proxy, below the table.
fn remarks(proxy: &proto::ProxyStatus, status: &proto::StatusResponse, verbose: bool) -> Vec<String> {
    let generation = status.generation;
    let mut remarks: Vec<String> = proxy
        .rejected
        .iter()
        .map(|rejected| {
            format!(
                "{} {}: {}: {}",
                paint(BAD, "rejected by"),
                clean(&proxy.name),
                clean(&rejected.name),
                clean(&rejected.reason)
            )
        })
        .collect();
    if !proxy.refused.is_empty() {
        remarks.push(format!("{} {}: {}", paint(BAD, "refused"), clean(&proxy.name), clean(&proxy.refused)));
    }
    if proxy.namesake {
        remarks.push(format!(
            "{} {}: another proxy is connected under the same name and SPIFFE ID; give each a `name` of its own",
            paint(BAD, "namesake"),
            clean(&proxy.name)
        ));
    }
    if proxy.generation_seen > 0 {
        let seen = proxy.generation_seen;
        remarks.push(format!(
            "{} {}: it has seen generation {seen}, or another content of it, and the control plane is at \
             {generation}; if a backup was restored, on the control plane's machine:",
            paint(BAD, "ahead"),
            clean(&proxy.name)
        ));
        remarks.push(format!("  curl -X POST 'http://127.0.0.1:15010/raise_generation?above={seen}'"));
    }
    let recent = |refusal: &&proto::Refusal| verbose || status.now.saturating_sub(refusal.last) <= RECENT;
    let refusal = proxy.last_refusal.as_ref().filter(recent);
    remarks.extend(refusal.and_then(|refusal| last(proxy, refusal, status.now)));
    remarks
}

/// The last refusal that a proxy tells of.
fn last(proxy: &proto::ProxyStatus, refusal: &proto::Refusal, now: u64) -> Option<String> {
    let denial = from_json(refusal.denial.as_bytes())?;
    let verb = if refusal.by_peer { "it was refused by" } else { "it refused" };
    let often = if refusal.times > 1 { format!(", {} times", refusal.times) } else { String::new() };
    Some(format!(
        "{} {} by {}: {verb} {} ({}, {}){often}: {}",
        paint(NOTE, "last refusal"),
        distance(now, refusal.last),
        clean(&proxy.name),
        clean(&refusal.peer),
        clean(&refusal.direction),
        clean(&refusal.stage),
        clean(&denial.to_string()),
    ))
}

fn row(proxy: &proto::ProxyStatus, status: &proto::StatusResponse) -> Vec<String> {
    let now = status.now;
    let state = match (proxy.connected, proxy.refused.is_empty()) {
        (true, _) => proxy.state.clone(),
        (false, false) => format!("{} ({})", proxy.state, distance(now, proxy.last_seen)),
        (false, true) => format!("{}, away ({})", proxy.state, distance(now, proxy.last_seen)),
    };
    let generation = match (proxy.generation_in_use, proxy.generation_sent) {
        (0, _) => "none yet".to_owned(),
        // Nothing was sent over this connection: it has what it has.
        (used, 0) if used == status.generation => used.to_string(),
        (used, 0) => format!("{used}, here {}", status.generation),
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
                "refused": (!p.refused.is_empty()).then_some(&p.refused),
                "namesake": p.namesake,
                "generationSeen": (p.generation_seen > 0).then_some(p.generation_seen),
                "svidNotAfter": p.svid_not_after, "lastSeen": p.last_seen,
                "lastRefusal": p.last_refusal.as_ref().map(refusal),
            })
        })
        .collect();
    json!({
        "trustDomain": status.trust_domain, "generation": status.generation, "software": status.software,
        "now": status.now, "missing": status.missing, "caNotAfter": status.ca_not_after, "proxies": proxies,
    })
}

fn refusal(refusal: &proto::Refusal) -> Value {
    json!({
        "peer": refusal.peer, "direction": refusal.direction, "stage": refusal.stage, "byPeer": refusal.by_peer,
        "firstAt": refusal.first, "lastAt": refusal.last, "times": refusal.times,
        "generation": refusal.generation,
        "denial": serde_json::from_str::<Value>(&refusal.denial).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::{Finding, Reason};
    use countersign_wire::refusal::to_json;

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    #[test]
    fn a_proxy_that_is_refused_or_ahead_shows_why_and_what_to_do() {
        let status = proto::StatusResponse { now: 100, generation: 16, ..Default::default() };
        let proxy = proto::ProxyStatus {
            name: "ledger-0".into(),
            state: "refused".into(),
            last_seen: 42,
            generation_in_use: 15,
            generation_sent: 16,
            refused: "measurement-mismatch: mrTd is 11".into(),
            ..Default::default()
        };
        let cells = row(&proxy, &status);
        assert_eq!((cells[2].as_str(), cells[3].as_str()), ("refused (58 s ago)", "15 of 16"));
        assert_eq!(
            plain(&remarks(&proxy, &status, false)),
            "refused ledger-0: measurement-mismatch: mrTd is 11"
        );

        let ahead = proto::ProxyStatus {
            connected: true,
            state: "ahead".into(),
            generation_in_use: 17,
            generation_sent: 0,
            generation_seen: 17,
            refused: String::new(),
            ..proxy
        };
        assert_eq!(row(&ahead, &status)[3], "17, here 16");
        let told = plain(&remarks(&ahead, &status, false));
        assert!(told.ends_with("curl -X POST 'http://127.0.0.1:15010/raise_generation?above=17'"), "{told}");

        let denial = Finding::new(Reason::EventNotAdmitted, "event[1]", "no event", "'exec'").into();
        let refusal = proto::Refusal {
            direction: "inbound".into(),
            peer: "spiffe://prod.example/audit".into(),
            stage: "gate".into(),
            last: 88,
            times: 14,
            denial: to_json(&denial, 4096),
            ..Default::default()
        };
        let quiet = proto::ProxyStatus { generation_seen: 0, last_refusal: Some(refusal), ..ahead };
        let told = plain(&remarks(&quiet, &status, false));
        let begins = "last refusal 12 s ago by ledger-0: it refused spiffe://prod.example/audit (inbound, gate), \
                      14 times: event-not-admitted: event[1] is 'exec'";
        assert!(told.starts_with(begins), "{told}");
        let later = proto::StatusResponse { now: 90_000, ..status };
        assert!(remarks(&quiet, &later, false).is_empty() && remarks(&quiet, &later, true).len() == 1);
    }
}
