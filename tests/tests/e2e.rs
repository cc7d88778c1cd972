//! The built programs, as a newcomer starts them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use countersign_tests::vendor::profile;
use serde_json::Value;
use tokio::process::Command;

/// How long the whole demonstration may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A built program. Cargo does not build those of other packages for a test.
fn program(name: &str) -> PathBuf {
    let path = profile().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

/// Processes whose command line names `directory`.
fn processes_in(directory: &str) -> Vec<String> {
    let of = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(entry.unwrap()));
    all.filter(|line| line.contains(directory)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_shows_mutual_attestation_a_cut_and_the_explanation() {
    for name in ["countersign-control-plane", "countersign-proxy"] {
        program(name);
    }
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("demonstration");
    let named = directory.display().to_string();
    let started = Instant::now();
    let running = Command::new(program("countersign"))
        .args(["demo", "-o", "json", "--dir", &named])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ended = tokio::time::timeout(LIMIT, running.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("longer than {LIMIT:?}")).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("the demonstration took {:.1} s", started.elapsed().as_secs_f64());

    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let position = |name: &str| {
        events.iter().position(|e| e["event"] == name).unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    let order =
        ["vendor", "controlPlaneReady", "applied", "proxy", "answered", "proved", "cut", "restored", "done"];
    let positions: Vec<_> = order.iter().map(|name| position(name)).collect();
    assert!(positions.is_sorted(), "{said}");
    assert_eq!(events[position("vendor")]["emulated"], true);
    assert_eq!(events[position("controlPlaneReady")]["proved"], "tdx");

    // Both machines, of both vendors, and what they are admitted as. They are ready, so they use something.
    let proxies: Vec<&Value> = events.iter().filter(|e| e["event"] == "proxy").collect();
    let mut tees: Vec<_> = proxies.iter().map(|p| p["tee"].as_str().unwrap()).collect();
    tees.sort_unstable();
    assert_eq!(tees, ["sevSnp", "tdx"]);
    assert!(
        proxies
            .iter()
            .all(|p| p["emulated"] == true && p["spiffeId"].as_str().unwrap().starts_with("spiffe://"))
    );
    assert!(
        proxies.iter().all(|p| p["generation"] == events[position("applied")]["generation"]),
        "{proxies:?}"
    );

    // Both ends proved themselves before the first byte, and again on the live hop.
    let proved: Vec<&Value> = events.iter().filter(|e| e["event"] == "proved").collect();
    assert_eq!(proved.len(), 4, "{proved:?}");
    for (i, proof) in proved.iter().enumerate() {
        let (to, tee) = if i % 2 == 0 { ("audit", "tdx") } else { ("ledger", "sevSnp") };
        assert_eq!((&proof["to"], &proof["tee"], &proof["level"]), (&to.into(), &tee.into(), &"L2".into()));
        assert_eq!(proof["round"], i / 2, "{proof}");
    }

    // Before the cut everything holds; after it one step does not, and says which field of which policy.
    let explained: Vec<&Value> =
        events.iter().filter(|e| e["event"] == "explained").map(|e| &e["explanation"]).collect();
    let [before, after] = explained[..] else { panic!("{explained:?}") };
    assert_eq!((&before["allowed"], &after["allowed"]), (&true.into(), &false.into()));
    let mut failed = after["steps"].as_array().unwrap().iter().filter(|step| step["ok"] == false);
    let why = failed
        .find(|step| step["title"].as_str().unwrap().contains("proves itself"))
        .expect("a step")
        .to_string();
    for part in ["measurement-mismatch", "expected", "presented", "anyOf"] {
        assert!(why.contains(part), "{part} is missing in {why}");
    }
    let cut = &events[position("cut")];
    assert!(cut["milliseconds"].as_f64().unwrap() > 0.0);
    println!("apply to cut: {} ms", cut["milliseconds"]);

    assert_eq!(processes_in(&named), Vec::<String>::new(), "the demonstration left processes");
    // Its files hold keys: they are for their owner alone.
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o077, 0);
}

/// The CLI judges the control plane's evidence by the policy that the context names.
async fn a_control_plane_that_is_not_as_approved_is_refused(directory: &str) {
    let context = format!("{directory}/control-plane/operator.yaml");
    let policy = format!("{directory}/control-plane-policy.yaml");
    let status = async || {
        let output = Command::new(program("countersign"))
            .args(["status", "-v", "--context", &context])
            .stdin(Stdio::null())
            .output();
        let output = output.await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = status().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("mrTd") && said.contains(&"c0".repeat(48)), "{said}");
    let approved = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, approved.replace(&"c0".repeat(48), &"ee".repeat(48))).unwrap();
    let (code, said) = status().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("measurement-mismatch"), "{said}");
    std::fs::write(&policy, approved).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demonstration_leaves_no_process_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let named = temporary.path().join("interrupted").display().to_string();
    let mut running = Command::new(program("countersign"))
        .args(["demo", "-o", "json", "--dir", &named])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(running.stdout.take().unwrap()));
    // All of its processes run by now.
    let answered = async {
        let mut told = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("\"answered\"") {
                return;
            }
            told.push(line);
        }
        panic!("it ended early, after {told:?}");
    };
    tokio::time::timeout(LIMIT, answered).await.unwrap();
    assert!(processes_in(&named).len() >= 4, "{:?}", processes_in(&named));
    a_control_plane_that_is_not_as_approved_is_refused(&named).await;
    let id = running.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    let status = tokio::time::timeout(LIMIT, running.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(processes_in(&named), Vec::<String>::new());
}
