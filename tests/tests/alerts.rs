//! The alerts speak of metrics that there are, and fire when they must.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every rule, of all groups.
fn rules() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("deploy/alerts.yaml")).unwrap();
    let document: Value = serde_saphyr::from_str(&text).unwrap();
    let groups = document["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn every_alert_says_what_happened_and_what_to_do() {
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap().to_owned();
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for annotation in ["summary", "remedy"] {
            assert!(
                rule["annotations"][annotation].as_str().is_some_and(|t| t.len() > 10),
                "{name}: {annotation}"
            );
        }
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    // The guide names each of them, and no other.
    let guide = std::fs::read_to_string(root().join("docs/operators.md")).unwrap();
    let named = guide.split('`').skip(1).step_by(2).filter(|code| code.starts_with("Countersign"));
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), names);
}

#[test]
fn alerts_speak_of_metrics_that_there_are() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut words = 0;
    for rule in rules() {
        let expression = rule["expr"].as_str().unwrap();
        let of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for word in
            expression.split(|c| !of_a_name(c)).filter(|w| w.starts_with("mesh_") || w.starts_with("istio_"))
        {
            assert!(page.contains(&format!("| `{word}` |")), "{}: {word}", rule["alert"]);
            words += 1;
        }
    }
    assert!(words > 15, "{words}");
}

#[test]
fn alerts_fire_when_they_must_and_not_before() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]] {
        match Command::new("promtool").args(arguments).current_dir(root().join("deploy")).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("promtool is not there (Debian: prometheus); only the structure was checked");
                return;
            }
            output => {
                let output = output.unwrap();
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
            }
        }
    }
}
