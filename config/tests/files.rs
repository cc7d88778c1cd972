//! The files that ship with the crate: examples and generated schemas.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeSet;
use std::path::Path;

use countersign_config::problem::Severity;
use countersign_config::{bootstrap, parse, resource, schema};

fn directory(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Name and text of every file of a directory.
fn files(name: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(directory(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read_to_string(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_example_is_valid_by_itself_and_as_a_set() {
    let mut kinds = BTreeSet::new();
    for (name, text) in files("examples") {
        if text.contains("Bootstrap\n") {
            let problems = bootstrap::validate(&name, &text).err().unwrap_or_default();
            assert!(problems.is_empty(), "{}", problems[0]);
            continue;
        }
        let resources = match parse(&name, &text) {
            Ok(resources) => resources,
            Err(problems) => {
                assert!(problems.is_empty(), "{}", problems[0]);
                continue;
            }
        };
        let problems = resource::check_set(&resources);
        let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{name}: {}", errors[0]);
        // The policy for the control plane selects no WorkloadIdentity: there is none.
        if name != "control-plane-attestation.yaml" {
            assert!(problems.is_empty(), "{name}: {}", problems[0]);
        }
        for resource in &resources {
            kinds.insert(resource.kind().name());
            let again = parse(&name, &resource.to_yaml()).unwrap();
            assert_eq!(again, std::slice::from_ref(resource), "{}", resource.to_yaml());
            assert_eq!(resource::Resource::from_json(&resource.to_json()).unwrap(), *resource);
        }
    }
    assert_eq!(kinds.len(), resource::Kind::ALL.len(), "each kind is in an example: {kinds:?}");
}

/// `COUNTERSIGN_WRITE_SCHEMAS=1 cargo test -p countersign-config` writes them.
#[test]
fn the_schema_files_are_those_of_the_types() {
    for (kind, text) in schema::schemas() {
        let path = directory("schema").join(format!("{kind}.json"));
        if std::env::var_os("COUNTERSIGN_WRITE_SCHEMAS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(file == text, "{} is out of date, see the comment of this test", path.display());
    }
    assert_eq!(files("schema").len(), schema::schemas().len());
}

#[test]
fn no_schema_accepts_null_or_unknown_fields() {
    for (kind, text) in schema::schemas() {
        assert!(!text.contains("\"null\""), "{kind}");
        let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            if definition["properties"].is_object() {
                assert_eq!(definition["additionalProperties"], false, "{kind} {name}");
            }
        }
    }
}
