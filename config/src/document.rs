//! YAML as a tree with positions.
//!
//! The library parses and bounds; here the events become [`Node`]s that know
//! their line and column, so that every later stage can point at what it means.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::problem::Problem;

/// The most bytes of one file: a Kubernetes object may have 1 MiB as well.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting; our deepest kind has 9 levels.
pub const MAX_DEPTH: usize = 32;
/// The most documents of one file.
pub const MAX_DOCUMENTS: usize = 1024;
const MAX_NODES: usize = 200_000;

/// A place in a file; both count from 1, and 0 means that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A value with the place where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: an empty value, `null` or `~`.
    Null,
    /// `true` or `false`; nothing else is a Boolean.
    Bool(bool),
    /// An integer.
    Integer(i128),
    /// Any other number. No field of ours is one.
    Float(f64),
    /// Text.
    String(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the document. Keys are unique.
    Map(Vec<Entry>),
}

/// An entry of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the key is.
    pub at: Position,
    /// The key.
    pub key: String,
    /// The value.
    pub node: Node,
}

/// One step from a node to a node below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a sequence.
    Index(usize),
}

/// A path from the root of a document, shown as `spec.anyOf[0].tdx`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// This path and a key.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Step::Key(key.into()))
    }

    /// This path and an index.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(n) => write!(f, "[{n}]")?,
                Step::Key(key) if !plain(key) || key.is_empty() => write!(f, "[{key:?}]")?,
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

impl Node {
    /// The entry of a mapping with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            _ => None,
        }
    }

    /// The text, if it is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Where `path` is, or the deepest part of it that exists.
    #[must_use]
    pub fn locate(&self, path: &Path) -> Position {
        let mut node = self;
        for step in &path.0 {
            let next = match (step, &node.value) {
                (Step::Key(key), _) => node.get(key),
                (Step::Index(i), Value::List(items)) => items.get(*i),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.at
    }

    /// The same without positions.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Integer(n) => match (u64::try_from(*n), i64::try_from(*n)) {
                (Ok(n), _) => n.into(),
                (_, Ok(n)) => n.into(),
                _ => Json::String(n.to_string()),
            },
            Value::Float(n) => serde_json::Number::from_f64(*n).map_or(Json::Null, Json::Number),
            Value::String(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }

    /// A tree without positions, from JSON.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => Value::Integer(n.into()),
                (_, Some(n)) => Value::Integer(n.into()),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            Json::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        at: Position::default(),
                        key: key.clone(),
                        node: Node::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self { at: Position::default(), value }
    }
}

/// Reads every document of `text`. Empty documents are left out.
///
/// # Errors
/// When it is not YAML, holds a key twice, or is over a limit.
pub fn read(file: &str, text: &str) -> Result<Vec<Node>, Problem> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, the limit is {MAX_BYTES}", text.len());
        return Err(Problem::error(file, Position::default(), "", message));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_aliases: 1000,
            max_anchors: 1000,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: MAX_BYTES,
            flow_nesting_limit: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    let documents: Vec<Spanned<Raw>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| syntax(file, &error))?;
    let nodes = documents.into_iter().map(Node::from).filter(|node| node.value != Value::Null);
    Ok(nodes.collect())
}

fn syntax(file: &str, error: &serde_saphyr::Error) -> Problem {
    let at =
        error.location().map_or(Position::default(), |at| Position { line: at.line(), column: at.column() });
    let text = error.without_snippet().to_string();
    // The library appends the place, which a problem shows in front.
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    Problem::error(file, at, "", format!("not valid YAML: {message}"))
}

/// The tree as the library hands it over.
#[derive(Debug)]
enum Raw {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Self {
        let at = position(&raw.referenced);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(b) => Value::Bool(b),
            Raw::Integer(n) => Value::Integer(n),
            Raw::Float(n) => Value::Float(n),
            Raw::String(text) => Value::String(text),
            Raw::List(items) => Value::List(items.into_iter().map(Node::from).collect()),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, node)| Entry {
                        at: position(&key.referenced),
                        key: key.value,
                        node: Node::from(node),
                    })
                    .collect(),
            ),
        };
        Self { at, value }
    }
}

fn position(at: &serde_saphyr::Location) -> Position {
    Position { line: at.line(), column: at.column() }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(v))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(v.into()))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(v.into()))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Float(v))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::String(v.to_owned()))
    }
    fn visit_string<E: de::Error>(self, v: String) -> Result<Raw, E> {
        Ok(Raw::String(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_and_key_knows_its_place() {
        let text = "a:\n  - x\n  - {b: 7, 1: true}\n---\n# only a comment\n---\nc: ~\n";
        let nodes = read("t.yaml", text).unwrap();
        assert_eq!(nodes.len(), 2);
        let path = Path::default().key("a").index(1).key("b");
        assert_eq!(nodes[0].locate(&path), Position { line: 3, column: 9 });
        let Value::List(items) = &nodes[0].get("a").unwrap().value else { panic!() };
        let Value::Map(entries) = &items[1].value else { panic!() };
        assert_eq!((entries[1].key.as_str(), entries[1].at), ("1", Position { line: 3, column: 12 }));
        assert_eq!(nodes[1].get("c").unwrap().value, Value::Null);
        assert_eq!(path.key("x.y/z").to_string(), r#"a[1].b["x.y/z"]"#);
    }

    #[test]
    fn a_key_twice_is_an_error_at_the_second() {
        let problem = read("t.yaml", "a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((problem.line, problem.column), (3, 1), "{problem}");
        assert!(problem.message.contains("duplicate"), "{problem}");
    }

    #[test]
    fn bombs_hit_a_limit() {
        let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            aliases.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(read("t.yaml", &aliases).is_err());
        assert!(read("t.yaml", &"[".repeat(100)).is_err());
        assert!(read("t.yaml", &"- ".repeat(100)).is_err());
        assert!(read("t.yaml", &"x".repeat(MAX_BYTES + 1)).is_err());
        assert!(read("t.yaml", "a: &x [*x]\n").is_err());
        assert!(read("t.yaml", "a: !!python/object x\n").is_err());
    }
}
