//! The house and its rules: dependencies run one way, and stay light.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Who may depend on whom, inside the workspace (docs/architecture.md). An entry
/// is the whole list: a crate that is not named here may not be used.
const ALLOWED: &[(&str, &[&str])] = &[
    ("countersign-evidence", &[]),
    ("countersign-attester", &["countersign-evidence"]),
    ("countersign-ratls", &["countersign-evidence"]),
    ("countersign-quoting", &["countersign-evidence", "countersign-attester", "countersign-ratls"]),
    ("countersign-config", &["countersign-evidence", "countersign-attester", "countersign-ratls"]),
    ("countersign-wire", &["countersign-evidence", "countersign-ratls", "countersign-config"]),
    (
        "countersign-control-plane",
        &[
            "countersign-evidence",
            "countersign-attester",
            "countersign-ratls",
            "countersign-quoting",
            "countersign-config",
            "countersign-wire",
        ],
    ),
    ("countersign-net", &[]),
    ("countersign-broker", &["countersign-attester", "countersign-quoting", "countersign-net"]),
    (
        "countersign-proxy",
        &[
            "countersign-evidence",
            "countersign-attester",
            "countersign-ratls",
            "countersign-quoting",
            "countersign-config",
            "countersign-wire",
            "countersign-net",
        ],
    ),
    (
        "countersign",
        &[
            "countersign-evidence",
            "countersign-attester",
            "countersign-ratls",
            "countersign-quoting",
            "countersign-config",
            "countersign-wire",
        ],
    ),
    ("countersign-init", &[]),
    ("countersign-model", &[]),
];

/// What the sidecar must never compile, not even for its tests.
const TOO_HEAVY_FOR_THE_SIDECAR: &[&str] = &[
    "k8s-openapi",
    "kube",
    "kube-client",
    "gateway-api",
    "cel",
    "regorus",
    "cedar-policy",
    "redb",
    "etcd-client",
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Package name by id, and the normal and build dependencies (ids) of each id.
fn graph(metadata: &Value, with_dev: bool) -> (BTreeMap<String, String>, BTreeMap<String, BTreeSet<String>>) {
    let names = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| (p["id"].as_str().unwrap().to_owned(), p["name"].as_str().unwrap().to_owned()))
        .collect();
    let edges = metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| {
            let uses = node["deps"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dep| {
                    with_dev || dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
                })
                .map(|dep| dep["pkg"].as_str().unwrap().to_owned())
                .collect();
            (node["id"].as_str().unwrap().to_owned(), uses)
        })
        .collect();
    (names, edges)
}

#[test]
fn dependencies_run_one_way() {
    let metadata = metadata();
    let (names, edges) = graph(&metadata, false);
    let ours: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (id, uses) in &edges {
        let name = names[id].as_str();
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else { continue };
        for used in uses.iter().map(|id| names[id].as_str()).filter(|used| ours.contains(used)) {
            assert!(allowed.contains(&used), "{name} must not depend on {used}: see docs/architecture.md");
        }
    }
}

/// Files that ask an attester for evidence: the queue, which hashes what it is
/// given, and the command that makes evidence of an emulated machine for tests
/// (3-attestation, A14).
const MAY_QUOTE: [&str; 2] = ["certs/quoting/src/source.rs", "cli/src/commands/emulate.rs"];

#[test]
fn nothing_but_the_queue_asks_a_device_for_quotes() {
    let metadata = metadata();
    let (names, edges) = graph(&metadata, false);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned();
    let attester = names.iter().find(|(_, name)| *name == "countersign-attester").expect("the attester").0;
    // Whoever depends on the attester, and is a program or in one.
    let mut open: Vec<PathBuf> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter(|package| edges[package["id"].as_str().unwrap()].contains(attester))
        .filter(|package| {
            !["countersign-tests", "countersign-benches"].contains(&package["name"].as_str().unwrap())
        })
        .map(|package| Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("src"))
        .collect();
    assert!(open.len() >= 6, "{open:?}");
    let mut quoting = BTreeSet::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path).expect("text");
            let text = text.split("#[cfg(test)]\nmod ").next().expect("a first part");
            // `Attester::evidence` is the only method of this name with an argument.
            if text.match_indices(".evidence(").any(|(at, call)| !text[at + call.len()..].starts_with(')')) {
                quoting
                    .insert(path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned());
            }
        }
    }
    assert_eq!(quoting.iter().map(String::as_str).collect::<Vec<_>>(), MAY_QUOTE);
}

#[test]
fn the_sidecar_and_its_tests_stay_light() {
    let metadata = metadata();
    let (names, normal) = graph(&metadata, false);
    let (_, all) = graph(&metadata, true);
    let proxy = names.iter().find(|(_, name)| *name == "countersign-proxy").expect("the proxy").0;
    // The proxy's own dev-dependencies count; those of its dependencies are not built.
    let mut open: Vec<&String> = all[proxy].iter().collect();
    let mut seen: BTreeSet<&String> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        for next in &normal[id] {
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    let heavy: Vec<&str> = seen
        .iter()
        .map(|id| names[*id].as_str())
        .filter(|name| TOO_HEAVY_FOR_THE_SIDECAR.contains(name))
        .collect();
    assert!(heavy.is_empty(), "the sidecar compiles {heavy:?}");
}
