//! The program itself: what it says when it starts, and how it stops.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use countersign_attester::emulated::Vendor;
use countersign_evidence::UnixTime;

#[test]
fn the_program_says_where_things_are_and_stops_when_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let vendor = Vendor::generate(UnixTime::since_unix_epoch(now), Duration::from_secs(86_400)).unwrap();
    vendor.save(&directory.path().join("vendor")).unwrap();
    std::fs::create_dir(directory.path().join("collateral")).unwrap();
    let file = directory.path().join("control-plane.yaml");
    let text = "apiVersion: countersign.dev/v1alpha1\nkind: ControlPlaneBootstrap\nspec:\n  trustDomain: demo.example\n  \
                stateDir: ./state\n  collateralDir: ./collateral\n  listen: 127.0.0.1:0\n  admin: 127.0.0.1:0\n  \
                metrics: 127.0.0.1:0\n  readiness: 127.0.0.1:0\n  attester:\n    emulated: { vendor: ./vendor, tdx: {} }\n";
    std::fs::write(&file, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_countersign-control-plane"))
        .args([OsStr::new("--log-format=json"), OsStr::new("--config"), file.as_os_str()])
        .env("COUNTERSIGN_LOG", "info")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let started: Vec<String> =
        lines.by_ref().take_while(|line| !line.contains("renewed our own identity")).collect();
    let log = started.join("\n");
    for said in ["bundle.json", "operator.yaml", "listening", "127.0.0.1:"] {
        assert!(log.contains(said), "{said} is missing in {log}");
    }
    assert!(!log.contains("PRIVATE KEY"));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(lines.any(|line| line.contains("stopped")));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_countersign-control-plane"));
    let output = program.args(["--config", "/nowhere.yaml"]).env_remove("NO_COLOR").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(log.contains("ERROR ") && !log.contains('\u{1b}'), "{log}");
}
