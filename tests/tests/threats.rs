//! docs/threats.md and docs/security-argument.md name tests; each of them exists.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where the crates of the names are.
const CRATES: &[(&str, &str)] = &[
    ("evidence", "certs/evidence"),
    ("attester", "certs/attester"),
    ("ratls", "certs/ratls"),
    ("quoting", "certs/quoting"),
    ("broker", "certs/broker"),
    ("config", "config"),
    ("wire", "control-plane/wire"),
    ("control-plane", "control-plane"),
    ("net", "proxy/net"),
    ("proxy", "proxy"),
    ("init", "init"),
    ("cli", "cli"),
    ("tests", "tests"),
    ("model", "tests/model"),
];

/// Every Rust file below `directory`, with its text.
fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// Whether `text` has a test function of this name.
fn has_test(text: &str, name: &str) -> bool {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&format!("fn {name}(")) {
        let attributes = before.rsplit_once('}').map_or(before, |(_, attributes)| attributes);
        if attributes.contains("#[test]") || attributes.contains("#[tokio::test") {
            return true;
        }
        rest = after;
    }
    false
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let pages = ["docs/threats.md", "docs/security-argument.md"];
    let page = pages.map(|page| std::fs::read_to_string(root().join(page)).unwrap()).concat();
    let names: Vec<(&str, &str, &str)> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| {
            let mut parts = code.split("::");
            let name = (parts.next()?, parts.next()?, parts.next()?);
            let is_name = |part: &str| {
                !part.is_empty()
                    && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
            };
            let all = [name.0, name.1, name.2].into_iter().all(is_name);
            (parts.next().is_none() && all).then_some(name)
        })
        .collect();
    assert!(names.len() > 60, "{} tests are named", names.len());
    let mut of_crate: BTreeMap<&str, Vec<(PathBuf, String)>> = BTreeMap::new();
    let mut missing = Vec::new();
    for (krate, file, name) in names {
        let Some((_, directory)) = CRATES.iter().find(|(known, _)| *known == krate) else {
            missing.push(format!("{krate}::{file}::{name}: no crate {krate}"));
            continue;
        };
        let files = of_crate.entry(krate).or_insert_with(|| {
            let mut found = Vec::new();
            for part in ["src", "tests"] {
                sources(&root().join(directory).join(part), &mut found);
            }
            found
        });
        // `configfs_tsm` is configfs_tsm.rs or configfs_tsm/tests.rs.
        let is_file = |path: &Path| {
            path.file_stem().is_some_and(|stem| stem == file)
                || path.parent().and_then(Path::file_name).is_some_and(|parent| parent == file)
        };
        if !files.iter().any(|(path, text)| is_file(path) && has_test(text, name)) {
            missing.push(format!("{krate}::{file}::{name}"));
        }
    }
    assert!(missing.is_empty(), "the documentation names tests that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn every_attack_of_the_list_has_its_place() {
    let page = std::fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let headings: String = page.lines().filter(|line| line.starts_with("### ")).collect();
    for number in 1..=25 {
        let named = |end: char| headings.contains(&format!("A{number}{end}"));
        assert!(named('.') || named(','), "A{number}");
    }
}

/// tests/mutations.txt: each text that is to be changed is in its file, once; and
/// each test exists.
#[test]
fn every_mutation_still_finds_its_defence() {
    let table = std::fs::read_to_string(root().join("tests/mutations.txt")).unwrap();
    let (mut name, mut file, mut mutations, mut wrong) = ("", String::new(), 0, Vec::new());
    for line in table.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "#" => {}
            "file" => file = std::fs::read_to_string(root().join(rest)).unwrap(),
            "-" => match file.matches(rest).count() {
                1 => {}
                count => wrong.push(format!("{name}: {count} times: {rest}")),
            },
            "+" => {}
            "test" | "slow" => {
                let [package, target, test] = rest.split(' ').collect::<Vec<_>>().try_into().unwrap();
                let directory = CRATES.iter().find(|(name, _)| package.ends_with(name)).unwrap().1;
                let mut found = Vec::new();
                let part = if target == "lib" { "src" } else { "tests" };
                sources(&root().join(directory).join(part), &mut found);
                let function = test.rsplit("::").next().unwrap();
                if !found.iter().any(|(_, text)| has_test(text, function)) {
                    wrong.push(format!("{name}: there is no test {package} {target} {test}"));
                }
            }
            head => {
                name = head;
                mutations += 1;
                assert!(head.starts_with('[') && head.ends_with(']'), "{line}");
            }
        }
    }
    assert!(mutations > 25, "{mutations} mutations");
    // Those that the attacks name are there.
    let mut attacks = Vec::new();
    sources(&root().join("tests/tests/security"), &mut attacks);
    let heads = attacks.iter().flat_map(|(_, text)| text.lines().filter(|line| line.starts_with("//!")));
    for code in heads.flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let is_name =
            code.strip_prefix('a').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if is_name && !table.contains(&format!("\n[{code}] ")) {
            wrong.push(format!("there is no mutation {code}"));
        }
    }
    assert!(wrong.is_empty(), "tests/mutations.txt does not fit the sources:\n{}", wrong.join("\n"));
}
