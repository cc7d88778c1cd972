//! docker-compose.yml and the files that it names fit together.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::{Path, PathBuf};

use countersign_config::problem::Severity;
use countersign_config::{bootstrap, parse, resource};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Every text in a document, however deep.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(members) => members.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

#[test]
fn the_composition_names_only_what_there_is() {
    let composition = yaml(&root().join("docker-compose.yml"));
    let services = composition["services"].as_object().unwrap();
    assert!(services.len() >= 7, "{services:?}");
    for (name, service) in services {
        let network = service["network_mode"].as_str().and_then(|mode| mode.strip_prefix("service:"));
        let needs = service["depends_on"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        for other in needs.chain(network) {
            assert!(services.contains_key(other), "{name} needs {other}");
        }
    }
    let mut all = Vec::new();
    texts(&composition, &mut all);
    let files: Vec<_> = all
        .iter()
        .filter_map(|text| {
            let mounted = text.strip_prefix("/config/").map(|file| format!("deploy/compose/{file}"));
            let bound = || text.strip_prefix("./")?.split(':').next().map(str::to_owned);
            mounted.or_else(bound)
        })
        .chain(["deploy/Dockerfile".to_owned()])
        .collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        assert!(root().join(&file).exists(), "{file}");
    }
}

#[test]
fn the_files_of_the_composition_are_valid() {
    let composition = yaml(&root().join("docker-compose.yml"));
    let services = composition["services"].as_object().unwrap();
    let mut bootstraps = 0;
    for entry in std::fs::read_dir(root().join("deploy/compose")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("Bootstrap\n") {
            bootstraps += 1;
            let problems = bootstrap::validate(&name, &text).err().unwrap_or_default();
            assert!(problems.is_empty(), "{problems:?}");
            let document = yaml(&path);
            let outbound = document["spec"]["outbound"].as_array().into_iter().flatten();
            let addresses =
                outbound.map(|o| &o["address"]).chain([&document["spec"]["controlPlane"]["address"]]);
            for host in addresses.filter_map(|address| address.as_str()?.split(':').next()) {
                assert!(services.contains_key(host), "{name}: {host} is no service");
            }
        } else {
            let resources = parse(&name, &text).unwrap_or_else(|problems| panic!("{problems:?}"));
            let problems = resource::check_set(&resources);
            let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
            assert!(errors.is_empty(), "{errors:?}");
        }
    }
    assert_eq!(bootstraps, 3);
}
