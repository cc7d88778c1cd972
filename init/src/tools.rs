//! The programs that set rules, and what they answer.

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;
use rustix::thread::CapabilitySet;

use crate::iptables::{self, HOOKS, Hook};
use crate::nft;
use crate::rules::{Family, Rules};

/// Which programs set rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `nft`.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        })
    }
}

/// The first that is there.
pub(crate) fn detect() -> Option<Backend> {
    if exists("nft") {
        Some(Backend::Nft)
    } else if exists("iptables-restore") {
        Some(Backend::Iptables)
    } else {
        None
    }
}

/// What would be set.
pub(crate) fn texts(backend: Backend, rules: &Rules) -> Vec<String> {
    match backend {
        Backend::Nft => vec![nft::text(rules)],
        Backend::Iptables => Family::BOTH
            .into_iter()
            .flat_map(|family| [format!("# {}", restore(family)), iptables::text(rules, family, &HOOKS)])
            .collect(),
    }
}

/// What would remove it.
pub(crate) fn cleanup_texts(backend: Backend) -> Vec<String> {
    match backend {
        Backend::Nft => vec![nft::CLEANUP.to_owned()],
        Backend::Iptables => vec![iptables::cleanup(&HOOKS)],
    }
}

/// Sets the rules in place of those that an earlier call has set.
pub(crate) fn apply(backend: Backend, rules: &Rules) -> anyhow::Result<()> {
    privileged()?;
    match backend {
        Backend::Nft => run("nft", &["-f", "-"], &nft::text(rules)),
        Backend::Iptables => families().into_iter().try_for_each(|family| {
            let missing: Vec<Hook> = HOOKS.into_iter().filter(|hook| !is_there(family, *hook)).collect();
            run(restore(family), &["--wait", "--noflush"], &iptables::text(rules, family, &missing))
        }),
    }
}

/// Removes the rules of one tool, or of every tool that is there.
pub(crate) fn cleanup(chosen: Option<Backend>) -> anyhow::Result<Vec<String>> {
    privileged()?;
    let mut done = Vec::new();
    for (backend, program) in [(Backend::Nft, "nft"), (Backend::Iptables, "iptables-restore")] {
        if chosen.is_some_and(|chosen| chosen != backend) || (chosen.is_none() && !exists(program)) {
            continue;
        }
        match backend {
            Backend::Nft => run("nft", &["-f", "-"], nft::CLEANUP)?,
            Backend::Iptables => {
                for family in families() {
                    let present: Vec<Hook> =
                        HOOKS.into_iter().filter(|hook| is_there(family, *hook)).collect();
                    run(restore(family), &["--wait", "--noflush"], &iptables::cleanup(&present))?;
                }
            }
        }
        done.push(format!("no rules of ours are left in {backend}"));
    }
    anyhow::ensure!(
        !done.is_empty(),
        "neither nft nor iptables-restore is on the PATH: nothing could be removed"
    );
    Ok(done)
}

const fn restore(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

/// Those that this system speaks: without IPv6 there is nothing to capture, and
/// ip6tables says so by an error.
fn families() -> Vec<Family> {
    let six = Path::new("/proc/net/if_inet6").exists();
    Family::BOTH.into_iter().filter(|family| *family == Family::V4 || six).collect()
}

fn is_there(family: Family, (table, chain, ours): Hook) -> bool {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let arguments = ["--wait", "-t", table, "-C", chain, "-p", "tcp", "-j", ours];
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Rules are the business of whoever may administer this network namespace.
fn privileged() -> anyhow::Result<()> {
    let mine = rustix::thread::capabilities(None).context("ask for our capabilities")?;
    anyhow::ensure!(
        mine.effective.contains(CapabilitySet::NET_ADMIN),
        "needs CAP_NET_ADMIN in this network namespace: run it as root, or give the init container the capability NET_ADMIN (and no other)"
    );
    Ok(())
}

fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Gives `input` to a program, which must like it.
fn run(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let output = fed(program, arguments, input).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow::anyhow!("{program} is not on the PATH: install it, or choose another --backend")
        }
        _ => anyhow::Error::new(error).context(program.to_owned()),
    })?;
    anyhow::ensure!(
        output.status.success(),
        "{program} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn fed(program: &str, arguments: &[&str], input: &str) -> std::io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever ends before it has read all says why on its own.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}
