//! `countersign platforms`: which machines there are, and which are enrolled.

use std::collections::BTreeMap;

use countersign_config::problem::Severity;
use countersign_wire::proto;
use serde_json::{Value, json};

use super::apply::{key, problem};
use crate::context::{ContextArgs, ask};
use crate::failure::{Failure, Outcome, Result};
use crate::input::{distance, rfc3339};
use crate::output::{DIM, Format, GOOD, NAME, NOTE, Output, clean, paint, snippet};

/// The digits of an ID that are shown at least.
const DIGITS: usize = 12;
/// The workloads of a machine that are shown.
const WORKLOADS: usize = 3;

/// Enrol machines: who may be part of the mesh, by the identity of the platform
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign platforms list
  countersign platforms approve 8f3ac01d5e --list payments/machines --note rack-4
  countersign platforms approve 00112233445566778899aabbccddeeff --tee tdx --list payments/machines
  countersign platforms revoke 8f3ac01d5e --list payments/machines
  countersign platforms revoke 8f3ac01d5e --dry-run

A policy admits the machines of the PlatformLists that it names under platformsFrom. IDs
are those of the vendors: PIID or PPID for Intel, CHIP_ID for AMD, in hexadecimal; the
first digits of one are enough if no other begins with them.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every machine that was seen, or that is approved
    List(List),
    /// Put a machine on a PlatformList, which is made when it is not there
    Approve(Approve),
    /// Take a machine away: its hops are cut at once
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct Approve {
    /// The ID, or the beginning of one that was seen
    id: String,
    /// The PlatformList
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = list)]
    list: (String, String),
    /// The kind of TEE: needed for a machine that was never seen
    #[arg(long, value_parser = ["tdx", "sgx", "sevSnp"])]
    tee: Option<String>,
    /// Which machine it is, for people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The ID, or the beginning of one that is approved
    id: String,
    /// The PlatformList; every one when not given
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = list)]
    list: Option<(String, String)>,
    /// The kind of TEE, when the machine is approved for several
    #[arg(long, value_parser = ["tdx", "sgx", "sevSnp"])]
    tee: Option<String>,
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn list(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("a PlatformList is NAMESPACE/NAME".to_owned()),
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    match &args.command {
        Command::List(args) => show(args, out),
        Command::Approve(args) => {
            let (namespace, name) = args.list.clone();
            let request = proto::ApprovePlatformRequest {
                id: args.id.clone(),
                tee: args.tee.clone().unwrap_or_default(),
                namespace,
                name,
                note: args.note.clone().unwrap_or_default(),
                dry_run: args.dry_run,
            };
            let response = ask(&args.context, async |mut client| client.approve_platform(request).await)?;
            report(&response, "approved", args.dry_run, args.output, out)
        }
        Command::Revoke(args) => {
            let (namespace, name) = args.list.clone().unwrap_or_default();
            let request = proto::RevokePlatformRequest {
                id: args.id.clone(),
                tee: args.tee.clone().unwrap_or_default(),
                namespace,
                name,
                dry_run: args.dry_run,
            };
            let response = ask(&args.context, async |mut client| client.revoke_platform(request).await)?;
            report(&response, "revoked", args.dry_run, args.output, out)
        }
    }
}

fn show(args: &List, out: &mut Output) -> Result {
    let response = ask(&args.context, async |mut client| client.platforms().await)?;
    if args.output == Format::Json {
        let platforms: Vec<_> = response.platforms.iter().map(document).collect();
        out.json(&json!({ "generation": response.generation, "now": response.now, "platforms": platforms }));
        return Ok(Outcome::Pass);
    }
    if response.platforms.is_empty() {
        out.line(paint(DIM, "no machine has asked for an identity yet, and none is approved"));
        return Ok(Outcome::Pass);
    }
    let short = shortest(&response.platforms);
    let rows = response.platforms.iter().map(|p| row(p, &short, response.now)).collect();
    out.table(&["PLATFORM", "TEE", "FIRST SEEN", "LAST SEEN", "TCB", "WORKLOADS", "APPROVED IN"], rows);
    for (platform, asked) in response.platforms.iter().flat_map(|p| p.workloads.iter().map(move |w| (p, w))) {
        if asked.refused.is_empty() {
            continue;
        }
        out.line(format!(
            "{} {} {}: {}, {}",
            paint(NOTE, "refused"),
            clean(&asked.workload),
            paint(NAME, shown(&platform.id, &short)),
            clean(&asked.refused),
            distance(response.now, asked.last)
        ));
    }
    Ok(Outcome::Pass)
}

fn report(
    response: &proto::EnrolResponse,
    what: &str,
    dry_run: bool,
    format: Format,
    out: &mut Output,
) -> Result {
    let mut problems: Vec<_> = response.problems.iter().map(problem).collect();
    // There is no file: what is wrong is wrong with the list that came of it.
    problems.iter_mut().filter(|p| p.path == p.file).for_each(|p| p.path.clear());
    let platform = response.platform.clone().unwrap_or_default();
    if format == Format::Json {
        let lists: Vec<_> = response
            .results
            .iter()
            .map(|r| json!({ "resource": key(r.key.as_ref()), "outcome": outcome(r.outcome()) }))
            .collect();
        out.json(&json!({
            "generation": response.generation, "dryRun": dry_run, "problems": problems, "results": lists,
            "platform": document(&platform),
        }));
    }
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        let shown = if format == Format::Json { Vec::new() } else { problems };
        return Err(Failure::Problems(shown, Vec::new()));
    }
    if format == Format::Json {
        return Ok(Outcome::Pass);
    }
    problems.iter().for_each(|problem| out.note(snippet(problem, None)));
    for result in &response.results {
        let list = result.key.as_ref().map_or_else(String::new, |k| format!("{}/{}", k.namespace, k.name));
        let (style, word) = match result.outcome() {
            proto::applied::Outcome::Unchanged => (DIM, format!("{what} before")),
            _ => (GOOD, what.to_owned()),
        };
        let place = if what == "revoked" { "from" } else { "in" };
        out.line(format!(
            "{} {} {} {place} {}",
            paint(style, &word),
            clean(&platform.tee),
            paint(NAME, &platform.id),
            clean(&list)
        ));
    }
    if platform.last_seen == 0 {
        out.line(paint(NOTE, "this platform was never seen here: look at the ID twice"));
    }
    if dry_run {
        out.line(paint(NOTE, "dry run: nothing was changed"));
    } else {
        out.line(paint(DIM, &format!("generation {}", response.generation)));
    }
    Ok(Outcome::Pass)
}

/// For each ID as many of its digits as tell it from the others, and not too few.
fn shortest(platforms: &[proto::Platform]) -> BTreeMap<&str, usize> {
    let mut ids: Vec<&str> = platforms.iter().map(|platform| platform.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let mut out: BTreeMap<&str, usize> = ids.iter().map(|id| (*id, DIGITS)).collect();
    for pair in ids.windows(2) {
        let [a, b] = pair else { continue };
        let digits = common(a, b) + 1;
        for id in [a, b] {
            if let Some(shown) = out.get_mut(id) {
                *shown = digits.max(*shown);
            }
        }
    }
    out
}

fn shown<'a>(id: &'a str, short: &BTreeMap<&str, usize>) -> &'a str {
    short.get(id).and_then(|digits| id.get(..*digits)).unwrap_or(id)
}

fn row(platform: &proto::Platform, short: &BTreeMap<&str, usize>, now: u64) -> Vec<String> {
    let seen = |at: u64| match at {
        0 => "never".to_owned(),
        at if at >= now => "now".to_owned(),
        at => distance(now, at),
    };
    let mut workloads: Vec<_> =
        platform.workloads.iter().take(WORKLOADS).map(|asked| asked.workload.clone()).collect();
    if platform.workloads.len() > WORKLOADS {
        workloads.push(format!("and {} more", platform.workloads.len() - WORKLOADS));
    }
    let approved: Vec<_> = platform.approvals.iter().map(|a| format!("{}/{}", a.namespace, a.name)).collect();
    let emulated = if platform.emulated { " EMULATED" } else { "" };
    vec![
        shown(&platform.id, short).to_owned(),
        format!("{}{emulated}", platform.tee),
        seen(platform.first_seen),
        seen(platform.last_seen),
        platform.tcb.replace("bootloader", "bl").replace("microcode", "ucode"),
        workloads.join(", "),
        if approved.is_empty() { "no list".to_owned() } else { approved.join(", ") },
    ]
}

fn document(platform: &proto::Platform) -> Value {
    let time = |at: u64| if at == 0 { Value::Null } else { rfc3339(at).into() };
    let workloads: Vec<_> = platform
        .workloads
        .iter()
        .map(|asked| {
            let refused = (!asked.refused.is_empty()).then_some(&asked.refused);
            json!({ "workload": asked.workload, "lastSeen": time(asked.last), "refused": refused })
        })
        .collect();
    let approvals: Vec<_> = platform
        .approvals
        .iter()
        .map(|a| {
            json!({
                "list": format!("{}/{}", a.namespace, a.name), "note": a.note, "approvedBy": a.approved_by,
                "approvedAt": time(a.approved_at),
            })
        })
        .collect();
    json!({
        "id": platform.id, "kind": platform.kind, "tee": platform.tee, "emulated": platform.emulated,
        "firstSeen": time(platform.first_seen), "lastSeen": time(platform.last_seen), "tcb": platform.tcb,
        "workloads": workloads, "approvals": approvals,
    })
}

const fn outcome(outcome: proto::applied::Outcome) -> &'static str {
    match outcome {
        proto::applied::Outcome::Created => "created",
        proto::applied::Outcome::Configured => "configured",
        proto::applied::Outcome::Unchanged => "unchanged",
        proto::applied::Outcome::Unspecified => "done",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(id: &str) -> proto::Platform {
        proto::Platform { id: id.to_owned(), tee: "tdx".to_owned(), ..Default::default() }
    }

    #[test]
    fn ids_are_shown_with_as_many_digits_as_tell_them_apart() {
        let (a, b) = ("00112233445566778899aabbccddee00", "00112233445566778899aabbccddeeff");
        let c = "ff112233445566778899aabbccddee00";
        let all = [platform(a), platform(b), platform(c)];
        let short = shortest(&all);
        assert_eq!(shown(a, &short), &a[..31]);
        assert_eq!(shown(b, &short), &b[..31]);
        assert_eq!(shown(c, &short), &c[..12]);
        // The same machine with two kinds of TEE is not ambiguous by itself.
        let twice = [platform(a), platform(a)];
        assert_eq!(shown(a, &shortest(&twice)), &a[..12]);
    }

    #[test]
    fn a_list_has_a_namespace_and_a_name() {
        assert_eq!(list("payments/machines").unwrap(), ("payments".to_owned(), "machines".to_owned()));
        for text in ["machines", "/machines", "payments/", "a/b/c", ""] {
            assert!(list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_machine_that_was_never_seen_and_one_that_nobody_approved_are_told_apart() {
        let mut listed = platform("00112233445566778899aabbccddeeff");
        listed.approvals.push(proto::Approval {
            namespace: "a".into(),
            name: "b".into(),
            ..Default::default()
        });
        let mut seen = platform("ff112233445566778899aabbccddeeff");
        (seen.first_seen, seen.last_seen) = (100, 160);
        let all = [listed, seen];
        let short = shortest(&all);
        let rows: Vec<_> = all.iter().map(|p| row(p, &short, 220)).collect();
        assert_eq!(rows[0][2..], ["never", "never", "", "", "a/b"]);
        assert_eq!(rows[1][2..4], ["2 min ago", "60 s ago"]);
        assert_eq!(rows[1][6], "no list");
        assert_eq!(document(&all[0])["lastSeen"], Value::Null);
        assert_eq!(document(&all[1])["lastSeen"], "1970-01-01T00:02:40Z");
    }
}
