//! The structural check: a tree against a schema, every problem with its place.

use std::sync::LazyLock;

use serde_json::{Map, Value as Json};

use crate::document::{Node, Path, Position, Value};
use crate::kinds::scalar::{Duration, format_check, quoted};
use crate::problem::Problem;

/// The keyword of a schema for the least and the most of a duration.
const DURATION_BOUNDS: &str = "x-countersign-duration";
/// More problems than this help nobody.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// The longest word that may be a misspelt one, in bytes: a DNS-1123 name.
const MAX_WORD: usize = 253;

/// Checks `node` against `schema`.
pub(crate) fn check(file: &str, node: &Node, schema: &Json) -> Vec<Problem> {
    let mut checker = Checker { file, defs: schema.get("$defs"), problems: Vec::new() };
    checker.node(node, schema, &Path::default());
    checker.problems
}

/// The nearest of `known`, if one is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The cost is the product of the lengths, and no name of ours is longer.
    if word.len() > MAX_WORD {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    known
        .map(|k| (strsim::normalized_damerau_levenshtein(&lower, &k.to_ascii_lowercase()), k))
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// How alike a word must be to one of a few that are listed anyhow.
const ALIKE: f64 = 0.6;

/// The one of `literals` that was meant, if it is clear which: they are listed
/// beside the hint, and `L9` is as near to `L0` as to `L3`.
fn meant<'a>(word: &str, literals: &[&'a str]) -> Option<&'a str> {
    let near = nearest(word, literals.iter().copied())?;
    let score =
        |k: &str| strsim::normalized_damerau_levenshtein(&word.to_ascii_lowercase(), &k.to_ascii_lowercase());
    let alone = literals.iter().filter(|k| score(k) >= score(near)).count() == 1;
    (alone && score(near) >= ALIKE).then_some(near)
}

/// "did you mean", or what there is.
pub(crate) fn suggest(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", known.join(", ")),
    }
}

static NO_FIELDS: LazyLock<Map<String, Json>> = LazyLock::new(Map::new);

struct Checker<'a> {
    file: &'a str,
    defs: Option<&'a Json>,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, at: Position, path: &Path, message: impl Into<String>, hint: Option<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            let mut problem = Problem::error(self.file, at, path, message);
            problem.hint = hint;
            self.problems.push(problem);
        }
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
        name.and_then(|name| self.defs?.get(name)).unwrap_or(schema)
    }

    fn node(&mut self, node: &Node, schema: &'a Json, path: &Path) {
        if let Some(message) = node.as_str().and_then(|text| outside(text, schema)) {
            return self.report(node.at, path, message, None);
        }
        let schema = self.resolve(schema);
        if schema.get("x-countersign-unsupported").is_some() {
            let message = "is a field of the Gateway API that is not supported: remove it";
            return self.report(node.at, path, message, None);
        }
        let alternatives = ["oneOf", "anyOf"].iter().find_map(|k| schema.get(k).and_then(Json::as_array));
        if let Some(alternatives) = alternatives {
            return self.alternatives(node, alternatives, path);
        }
        if let Some(expected) = schema.get("const") {
            if node.to_json() != *expected {
                self.not_const(node, schema, expected, path);
            }
            return;
        }
        if let Some(known) = schema.get("enum").and_then(Json::as_array) {
            let known: Vec<&str> = known.iter().filter_map(Json::as_str).collect();
            return self.one_of(node, &known, path);
        }
        let expected = schema.get("type").and_then(Json::as_str).unwrap_or_default();
        match (expected, &node.value) {
            ("object", Value::Map(_)) => self.object(node, schema, path),
            ("array", Value::List(items)) => self.array(node, items, schema, path),
            ("string", Value::String(text)) => self.string(node, text, schema, path),
            ("integer", Value::Integer(n)) => self.integer(node, *n, schema, path),
            ("boolean", Value::Bool(_)) | ("", _) => {}
            _ => self.wrong_type(node, &[word_of_type(expected)], path),
        }
    }

    fn object(&mut self, node: &Node, schema: &'a Json, path: &Path) {
        let Value::Map(entries) = &node.value else { return };
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&NO_FIELDS);
        for entry in entries {
            let below = path.key(&entry.key);
            match (properties.get(&entry.key), schema.get("additionalProperties")) {
                (Some(property), _) => self.node(&entry.node, property, &below),
                (None, Some(Json::Bool(false))) => {
                    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                    let hint = suggest(&entry.key, &known);
                    let message = format!("unknown field {}", quoted(&entry.key));
                    self.report(entry.at, &below, message, Some(hint));
                }
                (None, Some(values @ Json::Object(_))) => self.node(&entry.node, values, &below),
                (None, _) => {}
            }
        }
        let required = schema.get("required").and_then(Json::as_array);
        for name in required.into_iter().flatten().filter_map(Json::as_str) {
            if node.get(name).is_none() {
                let hint = properties.get(name).and_then(|p| self.explain(p));
                self.report(node.at, path, format!("field `{name}` is missing"), hint);
            }
        }
        if entries.len() < limit(schema, "minProperties", 0) {
            let known: Vec<&str> = properties.keys().map(String::as_str).collect();
            let hint = format!("give at least one of: {}", known.join(", "));
            self.report(node.at, path, "is empty", Some(hint));
        }
    }

    /// The first sentence of a field's description.
    fn explain(&self, schema: &'a Json) -> Option<String> {
        let text = schema.get("description").or_else(|| self.resolve(schema).get("description"))?.as_str()?;
        let sentence = text.split_once(". ").map_or(text, |(first, _)| first);
        Some(sentence.trim_end_matches('.').replace('\n', " "))
    }

    fn array(&mut self, node: &Node, items: &[Node], schema: &'a Json, path: &Path) {
        if let Some(item_schema) = schema.get("items") {
            for (i, item) in items.iter().enumerate() {
                self.node(item, item_schema, &path.index(i));
            }
        }
        let (least, most) = (limit(schema, "minItems", 0), limit(schema, "maxItems", usize::MAX));
        if items.is_empty() && least > 0 {
            let hint = "an empty list could mean everything or nothing: give an item or remove the field";
            self.report(node.at, path, "is an empty list", Some(hint.to_owned()));
        } else if !(least..=most).contains(&items.len()) {
            let message = format!("has {} items, accepted: {least} to {most}", items.len());
            self.report(node.at, path, message, None);
        }
    }

    fn string(&mut self, node: &Node, text: &str, schema: &'a Json, path: &Path) {
        // It would reach terminals and logs.
        if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            return self.report(node.at, path, format!("holds the control character {c:?}"), None);
        }
        let check = schema.get("format").and_then(Json::as_str).and_then(format_check);
        if let Some(Err(message)) = check.map(|check| check(text)) {
            return self.report(node.at, path, message, None);
        }
        if let Some(digits) = schema.get("pattern").and_then(Json::as_str).and_then(hex_digits)
            && (text.len() != digits || !text.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            let message = format!("{} is not {digits} hex digits", quoted(text));
            return self.report(node.at, path, message, None);
        }
        let length = text.chars().count();
        let (least, most) = (limit(schema, "minLength", 0), limit(schema, "maxLength", usize::MAX));
        if !(least..=most).contains(&length) {
            let message = format!("has {length} characters, accepted: {least} to {most}");
            self.report(node.at, path, message, None);
        }
    }

    fn integer(&mut self, node: &Node, n: i128, schema: &'a Json, path: &Path) {
        let bound = |key| schema.get(key).and_then(Json::as_i64).map(i128::from);
        let (format_least, format_most) = match schema.get("format").and_then(Json::as_str) {
            Some("uint8") => (0, 255),
            Some("uint16") => (0, 65_535),
            Some("uint32") => (0, i128::from(u32::MAX)),
            _ => (0, i128::from(u64::MAX)),
        };
        let least = bound("minimum").unwrap_or(format_least).max(format_least);
        let most = bound("maximum").unwrap_or(format_most).min(format_most);
        if !(least..=most).contains(&n) {
            self.report(node.at, path, format!("is {n}, accepted: {least} to {most}"), None);
        }
    }

    fn not_const(&mut self, node: &Node, schema: &'a Json, expected: &Json, path: &Path) {
        let refusal = schema.get("x-countersign-refusal").and_then(Json::as_str);
        let expected = expected.as_str().map_or_else(|| expected.to_string(), str::to_owned);
        let message = format!("is {}, accepted: `{expected}`", describe(node));
        self.report(node.at, path, message, refusal.map(str::to_owned));
    }

    fn one_of(&mut self, node: &Node, known: &[&str], path: &Path) {
        match node.as_str() {
            Some(text) if known.contains(&text) => {}
            Some(text) => {
                let hint = meant(text, known).map(|k| format!("did you mean `{k}`?"));
                let message = format!("is {}, accepted: {}", quoted(text), known.join(", "));
                self.report(node.at, path, message, hint);
            }
            None => self.wrong_type(node, &[&format!("one of {}", known.join(", "))], path),
        }
    }

    /// Alternatives of a schema: literals, mappings with one key that names the
    /// alternative, or different types. The node's own form decides which one
    /// the operator meant, so that the messages are about that one.
    fn alternatives(&mut self, node: &Node, alternatives: &'a [Json], path: &Path) {
        let alternatives: Vec<&Json> = alternatives.iter().map(|a| self.resolve(a)).collect();
        let literals: Vec<&str> = alternatives.iter().flat_map(|a| literals_of(a)).collect();
        let tags: Vec<(&str, &Json)> = alternatives.iter().filter_map(|a| tag_of(a)).collect();
        let others: Vec<&Json> = alternatives
            .iter()
            .copied()
            .filter(|a| literals_of(a).is_empty() && tag_of(a).is_none())
            .collect();

        match &node.value {
            Value::Map(entries) if !tags.is_empty() => {
                let names: Vec<&str> = tags.iter().map(|(name, _)| *name).collect();
                for entry in entries {
                    let below = path.key(&entry.key);
                    match tags.iter().find(|(name, _)| *name == entry.key) {
                        Some((_, schema)) => self.node(&entry.node, schema, &below),
                        None => {
                            let message = format!("unknown field {}", quoted(&entry.key));
                            self.report(entry.at, &below, message, Some(suggest(&entry.key, &names)));
                        }
                    }
                }
                let found: Vec<&str> =
                    entries.iter().map(|e| e.key.as_str()).filter(|k| names.contains(k)).collect();
                if found.len() > 1 || entries.is_empty() {
                    let what = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
                    let message = format!("holds {what}, accepted: exactly one of {}", names.join(", "));
                    self.report(node.at, path, message, None);
                }
            }
            Value::String(_) if !literals.is_empty() && !others.iter().any(|o| fits(node, o)) => {
                let mut more: Vec<String> = others.iter().map(|o| word_of(o)).collect();
                if !tags.is_empty() {
                    let names: Vec<&str> = tags.iter().map(|(name, _)| *name).collect();
                    more.push(format!("a mapping with {}", names.join(" or ")));
                }
                self.literal(node, &literals, &more, path);
            }
            _ => match others.iter().find(|o| fits(node, o)) {
                Some(schema) => self.node(node, schema, path),
                None => {
                    let mut accepted: Vec<String> = others.iter().map(|o| word_of(o)).collect();
                    if !literals.is_empty() {
                        accepted.insert(0, format!("one of {}", literals.join(", ")));
                    }
                    let names: Vec<&str> = tags.iter().map(|(name, _)| *name).collect();
                    if !names.is_empty() {
                        accepted.push(format!("a mapping with one of {}", names.join(", ")));
                    }
                    let accepted: Vec<&str> = accepted.iter().map(String::as_str).collect();
                    self.wrong_type(node, &accepted, path);
                }
            },
        }
    }

    fn literal(&mut self, node: &Node, literals: &[&str], others: &[String], path: &Path) {
        let Some(text) = node.as_str().filter(|text| !literals.contains(text)) else { return };
        let mut accepted = literals.join(", ");
        for other in others {
            accepted = format!("{accepted}, or {other}");
        }
        let hint = meant(text, literals).map(|k| format!("did you mean `{k}`?"));
        self.report(node.at, path, format!("is {}, accepted: {accepted}", quoted(text)), hint);
    }

    fn wrong_type(&mut self, node: &Node, accepted: &[&str], path: &Path) {
        let accepted = accepted.join(", or ");
        let text = accepted.contains("text");
        let hint = match &node.value {
            Value::Integer(_) | Value::Float(_) | Value::Bool(_) if text => {
                Some("put it in quotes: YAML reads it as another type".to_owned())
            }
            Value::String(t) if accepted.contains("number") && t.parse::<i128>().is_ok() => {
                Some("leave out the quotes".to_owned())
            }
            Value::String(t)
                if accepted.contains("true")
                    && nearest(t, ["yes", "no", "on", "off"].into_iter()).is_some() =>
            {
                Some("YAML 1.2 has true and false only".to_owned())
            }
            Value::Null => Some("give a value or remove the field".to_owned()),
            _ => None,
        };
        self.report(node.at, path, format!("is {}, accepted: {accepted}", describe(node)), hint);
    }
}

/// What is wrong with a duration that has the bounds of its field: a list of the
/// least and the most, beside the reference to the type.
fn outside(text: &str, schema: &Json) -> Option<String> {
    let bounds = schema.get(DURATION_BOUNDS)?.as_array()?;
    let [least, most] = bounds.as_slice() else { return None };
    let read = |value: &Json| Duration::parse(value.as_str()?).ok();
    let (least, most, given) = (read(least)?, read(most)?, Duration::parse(text).ok()?);
    (!(least.0..=most.0).contains(&given.0)).then(|| format!("{given} is outside {least} to {most}"))
}

/// The number of digits in the pattern of a digest, how the emulated machines write it.
fn hex_digits(pattern: &str) -> Option<usize> {
    pattern.strip_prefix("^[0-9a-fA-F]{")?.strip_suffix("}$")?.parse().ok()
}

fn limit(schema: &Json, key: &str, default: usize) -> usize {
    schema.get(key).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(default)
}

fn literals_of(schema: &Json) -> Vec<&str> {
    match (schema.get("const"), schema.get("enum"), schema.get("oneOf")) {
        (Some(Json::String(text)), ..) => vec![text],
        (_, Some(Json::Array(items)), _) => items.iter().filter_map(Json::as_str).collect(),
        (_, _, Some(Json::Array(items))) => items.iter().flat_map(literals_of).collect(),
        _ => Vec::new(),
    }
}

/// The name and the schema behind it, for a mapping with exactly one field that
/// is closed by itself (how serde writes an enum variant).
fn tag_of(schema: &Json) -> Option<(&str, &Json)> {
    let properties = schema.get("properties")?.as_object()?;
    let closed = schema.get("additionalProperties") == Some(&Json::Bool(false));
    let mut all = properties.iter();
    match (all.next(), all.next()) {
        (Some((name, value)), None) if closed && schema.get("title").is_none() => Some((name, value)),
        _ => None,
    }
}

fn fits(node: &Node, schema: &Json) -> bool {
    let expected = schema.get("type").and_then(Json::as_str).unwrap_or_default();
    matches!(
        (expected, &node.value),
        ("object", Value::Map(_))
            | ("array", Value::List(_))
            | ("string", Value::String(_))
            | ("integer", Value::Integer(_))
            | ("boolean", Value::Bool(_))
    )
}

fn word_of(schema: &Json) -> String {
    let expected = schema.get("type").and_then(Json::as_str).unwrap_or_default();
    match schema.get("properties").and_then(Json::as_object) {
        Some(properties) => {
            let names: Vec<&str> = properties.keys().map(String::as_str).collect();
            format!("a mapping with {}", names.join(", "))
        }
        None => word_of_type(expected).to_owned(),
    }
}

fn word_of_type(name: &str) -> &str {
    match name {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
    }
}

fn describe(node: &Node) -> String {
    match &node.value {
        Value::Null => "empty".to_owned(),
        Value::Bool(b) => format!("`{b}`"),
        Value::Integer(n) => format!("the number {n}"),
        Value::Float(n) => format!("the number {n}"),
        Value::String(text) => format!("the text {}", quoted(text)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}
