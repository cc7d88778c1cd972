//! `countersign doctor`: is this machine fit, and what is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::context::{Client, Context, ContextArgs};
use crate::failure::{Outcome, Result};
use crate::input;
use crate::output::{BAD, DIM, Format, GOOD, HEADING, NOTE, Output, clean, paint};

/// Fewer descriptors than this limit the hops of a proxy.
const DESCRIPTORS: u64 = 65_536;
/// A clock before this is not set: no release of this program is older.
const BUILT: u64 = 1_760_000_000;

/// Check this machine: TEE devices, limits, clock, control plane
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign doctor
  countersign doctor -o json
  countersign doctor --require-tee

Without a TEE device the checks pass all the same: an operator's machine needs
none. With --require-tee a machine that cannot quote fails.")]
pub(crate) struct Args {
    /// Fail when no TEE device is usable
    #[arg(long)]
    require_tee: bool,
    /// Where the file system of the machine starts
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How one check ended.
#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Ok,
    Note,
    Bad,
}

#[derive(serde::Serialize)]
struct Check {
    name: &'static str,
    mark: Mark,
    text: String,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let detections = countersign_attester::detect(&args.root);
    let ready = detections.iter().find(|d| d.missing.is_empty()).map(|d| d.driver);
    let tee = match ready {
        Some(driver) => Check { name: "TEE device", mark: Mark::Ok, text: format!("{driver} is ready") },
        None => Check {
            name: "TEE device",
            mark: if args.require_tee { Mark::Bad } else { Mark::Note },
            text: "none is usable: this machine cannot quote (emulated platforms work everywhere)".to_owned(),
        },
    };
    let checks = [
        tee,
        runtime_events(&args.root),
        kernel(&args.root),
        descriptors(&args.root),
        clock(),
        control_plane(&args.context),
    ];
    let passed = checks.iter().all(|check| check.mark != Mark::Bad);
    match args.output {
        Format::Json => out.json(&json!({ "passed": passed, "attesters": detections, "checks": checks })),
        Format::Text => {
            out.line(paint(HEADING, "Attesters, fastest usable first"));
            let rows = detections.iter().map(|d| {
                let state = if d.missing.is_empty() { "ready" } else { "not usable" };
                vec![d.driver.to_owned(), d.tee.to_string(), state.to_owned(), d.missing.join("; ")]
            });
            out.table(&["DRIVER", "TEE", "STATE", "MISSING"], rows.collect());
            out.line("");
            out.line(paint(HEADING, "This machine"));
            for check in &checks {
                let mark = match check.mark {
                    Mark::Ok => paint(GOOD, "✓"),
                    Mark::Note => paint(NOTE, "!"),
                    Mark::Bad => paint(BAD, "✗"),
                };
                out.line(format!("{mark} {:<18} {}", check.name, clean(&check.text)));
            }
            if !passed {
                out.line(paint(DIM, "Lines with ✗ need somebody's attention."));
            }
        }
    }
    Ok(Outcome::pass_if(passed))
}

fn runtime_events(root: &Path) -> Check {
    let name = "runtime events";
    let missing = countersign_attester::detect_runtime_log(root).missing.join("; ");
    if missing.is_empty() {
        return Check { name, mark: Mark::Ok, text: "can be measured into RTMR 3".to_owned() };
    }
    Check { name, mark: Mark::Note, text: format!("cannot be measured: {missing}") }
}

fn kernel(root: &Path) -> Check {
    let name = "kernel";
    let release = std::fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let mut numbers = release.trim().split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 7) => {
            Check { name, mark: Mark::Ok, text: format!("{} (configfs-tsm since 6.7)", release.trim()) }
        }
        (Some(_), Some(_)) => Check {
            name,
            mark: Mark::Note,
            text: format!(
                "{} is older than 6.7: no configfs-tsm, only the older TEE devices",
                release.trim()
            ),
        },
        _ => Check { name, mark: Mark::Note, text: "the release cannot be read from /proc".to_owned() },
    }
}

fn descriptors(root: &Path) -> Check {
    let name = "file descriptors";
    let limits = std::fs::read_to_string(root.join("proc/self/limits")).unwrap_or_default();
    let hard = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().nth(1))
        .and_then(|word| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() });
    match hard {
        Some(hard) if hard >= DESCRIPTORS => {
            Check { name, mark: Mark::Ok, text: format!("up to {hard} may be open") }
        }
        Some(hard) => Check {
            name,
            mark: Mark::Note,
            text: format!(
                "up to {hard} may be open: a busy proxy wants {DESCRIPTORS} (LimitNOFILE=, ulimit -Hn)"
            ),
        },
        None => Check { name, mark: Mark::Note, text: "the limit cannot be read from /proc".to_owned() },
    }
}

fn clock() -> Check {
    let now = input::now().as_secs();
    if now < BUILT {
        let text = format!(
            "{} is before this program was built: certificates cannot be judged",
            input::rfc3339(now)
        );
        return Check { name: "clock", mark: Mark::Bad, text };
    }
    Check { name: "clock", mark: Mark::Ok, text: input::rfc3339(now) }
}

fn control_plane(args: &ContextArgs) -> Check {
    let name = "control plane";
    let context = match Context::load_if_named(args) {
        Ok(Some(context)) => context,
        Ok(None) => {
            let text = "no context (--context FILE or COUNTERSIGN_CONTEXT): not checked".to_owned();
            return Check { name, mark: Mark::Note, text };
        }
        Err(failure) => return Check { name, mark: Mark::Bad, text: failure.to_string() },
    };
    let answer = super::runtime().and_then(|runtime| {
        runtime.block_on(async {
            let mut client = Client::connect(&context, Duration::from_secs(5)).await?;
            client.status().await
        })
    });
    match answer {
        Err(failure) => Check { name, mark: Mark::Bad, text: failure.to_string() },
        Ok(status) => {
            let here = input::now().as_secs();
            let text = format!(
                "{} answers: generation {}, {} proxies",
                context.server(),
                status.generation,
                status.proxies.len()
            );
            if here.abs_diff(status.now) > 5 {
                let text = format!("{text}; its clock differs from ours by {} s", here.abs_diff(status.now));
                return Check { name, mark: Mark::Note, text };
            }
            Check { name, mark: Mark::Ok, text }
        }
    }
}
