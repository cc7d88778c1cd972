//! docs/metrics.md: a table for each program, written from what it exposes. The
//! unit tests of both programs include this file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// A family of an exposition in the Prometheus text format.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: String,
}

/// Compares the section `program` of docs/metrics.md with `exposition`, in which
/// every family has a sample. `names` are the names that the program declares.
pub(crate) fn check(program: &str, exposition: &str, names: &[&str]) {
    let families = families(exposition);
    let exposed: Vec<&str> = families.keys().map(String::as_str).collect();
    let mut declared = names.to_vec();
    declared.sort_unstable();
    assert_eq!(exposed, declared, "the families of {program} and its names");
    let mut table = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for (name, family) in &families {
        let _ = writeln!(table, "| `{name}` | {} | {} | {} |", family.kind, family.labels, family.help);
    }
    compare(program, &table);
}

/// The names of metrics that a module of names declares.
pub(crate) fn declared(source: &'static str) -> Vec<&'static str> {
    let value = |line: &'static str| line.strip_prefix("pub const ")?.split('"').nth(1);
    let is_metric = |name: &&str| name.starts_with("mesh_") || name.starts_with("istio_");
    source.lines().filter_map(value).filter(is_metric).collect()
}

fn families(exposition: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in exposition.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let labels =
                labels.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(label, _)| label);
            let labels: Vec<_> = labels.filter(|label| *label != "le").map(|l| format!("`{l}`")).collect();
            if let Some(family) = families.get_mut(name.trim_end_matches("_bucket")) {
                family.labels = labels.join(", ");
            }
        }
    }
    families
}

fn compare(program: &str, table: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(&file).unwrap_or_default();
    let (begin, end) = (format!("<!-- {program}: begin -->\n"), format!("<!-- {program}: end -->"));
    let (head, rest) = page.split_once(&begin).expect("docs/metrics.md marks the beginning of the section");
    let (section, tail) = rest.split_once(&end).expect("docs/metrics.md marks the end of the section");
    if std::env::var_os("COUNTERSIGN_WRITE_DOCS").is_some() {
        std::fs::write(&file, format!("{head}{begin}{table}{end}{tail}"))
            .expect("docs/metrics.md is written");
    } else {
        assert_eq!(section, table, "docs/metrics.md differs: run this test with COUNTERSIGN_WRITE_DOCS=1");
    }
}
