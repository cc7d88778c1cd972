//! `manifest.toml` as far as it is read: everything optional, nothing believed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_evidence::{Fingerprint, UnixTime};
use toml::{Table, Value};

/// A directory with evidence and its manifest.
pub(crate) struct Corpus {
    dir: PathBuf,
    manifest: Table,
}

impl Corpus {
    /// The corpus that is named, or the one beside the repository.
    pub(crate) fn find() -> Result<Option<Self>, String> {
        let manifest = |dir: &Path| dir.join("manifest.toml").is_file();
        if let Some(dir) = std::env::var_os("COUNTERSIGN_CORPUS").filter(|dir| !dir.is_empty()) {
            let dir = PathBuf::from(dir);
            if !manifest(&dir) {
                return Err(format!("COUNTERSIGN_CORPUS: no manifest.toml in {}", dir.display()));
            }
            return Self::open(dir).map(Some);
        }
        let ancestors = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let beside = ancestors.map(|dir| dir.join("shared/evidence")).find(|dir| manifest(dir));
        beside.map(Self::open).transpose()
    }

    fn open(dir: PathBuf) -> Result<Self, String> {
        let path = dir.join("manifest.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let manifest = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { dir, manifest })
    }

    /// All samples in their order.
    pub(crate) fn samples(&self) -> Vec<Sample<'_>> {
        tables(&self.manifest, "sample").map(Sample).collect()
    }

    /// The paths of collateral of these kinds.
    pub(crate) fn collateral(&self, kinds: &[&str]) -> Vec<&str> {
        tables(&self.manifest, "collateral")
            .filter(|entry| text(entry, "kind").is_some_and(|kind| kinds.contains(&kind)))
            .filter_map(|entry| text(entry, "path"))
            .collect()
    }

    /// A file, when its contents are those that the manifest lists.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let bytes = std::fs::read(self.dir.join(path)).map_err(|e| format!("{path}: {e}"))?;
        let listed = tables(&self.manifest, "sample").chain(tables(&self.manifest, "collateral"));
        let digest = listed.filter(|entry| text(entry, "path") == Some(path)).find_map(|e| text(e, "sha256"));
        match digest {
            Some(digest) if !digest.eq_ignore_ascii_case(&Fingerprint::of(&bytes).to_string()) => {
                Err(format!("{path}: not the file that the manifest lists (sha256)"))
            }
            _ => Ok(bytes),
        }
    }
}

/// A piece of evidence.
#[derive(Clone, Copy)]
pub(crate) struct Sample<'c>(&'c Table);

impl<'c> Sample<'c> {
    pub(crate) fn id(&self) -> &'c str {
        text(self.0, "id").unwrap_or("(no id)")
    }

    /// The form of the evidence; empty when the manifest does not say.
    pub(crate) fn kind(&self) -> &'c str {
        text(self.0, "kind").unwrap_or_default()
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self, corpus: &Corpus) -> Result<Vec<u8>, String> {
        corpus.read(self.path()?)
    }

    pub(crate) fn path(&self) -> Result<&'c str, String> {
        text(self.0, "path").ok_or_else(|| "the sample has no path".to_owned())
    }

    /// The values that a parser must find.
    pub(crate) fn fields(&self) -> Keys<'c> {
        Keys::of(self.0, "fields")
    }

    /// What does not depend on time.
    pub(crate) fn expect(&self) -> Keys<'c> {
        Keys::of(self.0, "expect")
    }

    /// Collateral of the sample itself.
    pub(crate) fn collateral(&self) -> Vec<&'c str> {
        strings(self.0, "collateral")
    }

    pub(crate) fn cases(&self) -> Vec<Case<'c>> {
        tables(self.0, "case").map(Case).collect()
    }
}

/// An evaluation of a sample.
#[derive(Clone, Copy)]
pub(crate) struct Case<'c>(&'c Table);

impl<'c> Case<'c> {
    pub(crate) fn name(&self) -> &'c str {
        text(self.0, "name").unwrap_or("(no name)")
    }

    pub(crate) fn expect(&self) -> Keys<'c> {
        Keys::of(self.0, "expect")
    }

    pub(crate) fn collateral(&self) -> Vec<&'c str> {
        strings(self.0, "collateral")
    }

    /// The times at which the case holds: its own, and the ends of the validity
    /// of its collateral when its own is between them (`collateral-expired` is
    /// meant to be outside). Empty when the manifest gives none.
    pub(crate) fn instants(&self) -> Result<Vec<UnixTime>, String> {
        let at = |key: &str| self.0.get(key).map(|value| moment(key, value)).transpose();
        let (verify_at, from, to) = (at("verify_at")?, at("valid_from")?, at("valid_to")?);
        let mut instants: Vec<_> = verify_at.into_iter().collect();
        let inside = |now: UnixTime| from.is_none_or(|from| from <= now) && to.is_none_or(|to| now <= to);
        if verify_at.is_none_or(inside) {
            instants.extend(from.into_iter().chain(to));
        }
        instants.dedup();
        Ok(instants)
    }
}

/// A table of expectations that remembers what was asked of it.
pub(crate) struct Keys<'c> {
    table: Option<&'c Table>,
    seen: RefCell<BTreeSet<&'c str>>,
}

impl<'c> Keys<'c> {
    fn of(table: &'c Table, key: &str) -> Self {
        Self { table: table.get(key).and_then(Value::as_table), seen: RefCell::default() }
    }

    /// No expectations.
    pub(crate) fn none() -> Self {
        Self { table: None, seen: RefCell::default() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'c Value> {
        let (key, value) = self.table?.get_key_value(key)?;
        self.seen.borrow_mut().insert(key);
        Some(value)
    }

    /// A text, unless it says that it is not known.
    pub(crate) fn text(&self, key: &str) -> Option<&'c str> {
        self.get(key).and_then(Value::as_str).filter(|text| !text.starts_with("unknown"))
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// The numbers of a list.
    pub(crate) fn integers(&self, key: &str) -> Option<Vec<i64>> {
        self.get(key)
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_integer).collect())
    }

    /// The texts of a list.
    pub(crate) fn list(&self, key: &str) -> Option<Vec<&'c str>> {
        self.get(key).and_then(Value::as_array).map(|list| list.iter().filter_map(Value::as_str).collect())
    }

    /// Compares a value that was found, when the table has an expectation of it.
    pub(crate) fn is(&self, key: &str, presented: impl Into<Value>) -> Result<(), String> {
        self.get(key).map_or(Ok(()), |expected| same(key, expected, &presented.into()))
    }

    /// Compares every value with what `find` finds under its name: `None` when
    /// it knows no such field, `Some(None)` when the field is absent.
    pub(crate) fn compare(
        &self,
        mut find: impl FnMut(&str, &Value) -> Option<Option<Value>>,
    ) -> Result<usize, String> {
        let mut compared = 0;
        for (name, expected) in self.table.into_iter().flatten() {
            let Some(found) = find(name, expected) else { continue };
            self.get(name);
            compared += 1;
            match found {
                Some(found) => same(name, expected, &found)?,
                None => return Err(format!("{name}: expected {expected:?}, found none")),
            }
        }
        Ok(compared)
    }

    /// A note about the keys that nothing here knows.
    pub(crate) fn not_compared(&self) -> String {
        // Explanations for people, and the answers of other tools.
        const EXPLANATIONS: [&str; 2] = ["reason", "own_failures"];
        let seen = self.seen.borrow();
        let ignored: Vec<_> = self
            .table
            .into_iter()
            .flat_map(Table::keys)
            .map(String::as_str)
            .filter(|key| !seen.contains(key) && !EXPLANATIONS.contains(key))
            .collect();
        match ignored.as_slice() {
            [] => String::new(),
            [a, b, c, more @ ..] if more.len() > 1 => {
                format!("; not compared: {a}, {b}, {c} and {} more", more.len())
            }
            few => format!("; not compared: {}", few.join(", ")),
        }
    }
}

fn same(what: &str, expected: &Value, presented: &Value) -> Result<(), String> {
    if expected == presented {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, found {presented:?}"))
}

fn text<'c>(table: &'c Table, key: &str) -> Option<&'c str> {
    table.get(key).and_then(Value::as_str)
}

fn tables<'c>(table: &'c Table, key: &str) -> impl Iterator<Item = &'c Table> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
}

fn strings<'c>(table: &'c Table, key: &str) -> Vec<&'c str> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Times may be strings or TOML's own.
fn moment(key: &str, value: &Value) -> Result<UnixTime, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        // Without an offset TOML's times are local; here they are UTC.
        Value::Datetime(time) => {
            let midnight = if time.time.is_none() { "T00:00:00" } else { "" };
            format!("{time}{midnight}{}", if time.offset.is_none() { "Z" } else { "" })
        }
        other => format!("{other:?}"),
    };
    at(&text).ok_or_else(|| format!("{key}: '{text}' is not a time of RFC 3339 since 1970"))
}

/// A time of RFC 3339.
pub(crate) fn at(rfc3339: &str) -> Option<UnixTime> {
    let time = time::OffsetDateTime::parse(rfc3339, &time::format_description::well_known::Rfc3339).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(time.unix_timestamp().try_into().ok()?)))
}

/// The same time as the manifest writes it.
pub(crate) fn rfc3339(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok())
        .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}
