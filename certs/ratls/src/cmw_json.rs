//! The JSON form of CMW (RFC 9999): the same arrays and maps, values in base64url.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_evidence::{Finding, Reason};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::cmw::{self, COLLECTION_TYPE, Cmw, Collection, Entry, Kind, Label, Record};

/// Reads a record or a collection. serde_json bounds the depth at 128.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cmw<'static>, Finding> {
    let refused = |error: serde_json::Error| {
        let reason = if error.is_eof() { Reason::Truncated } else { Reason::Malformed };
        Finding::new(reason, "cmw", "JSON of a record or a collection", error.to_string())
    };
    node(serde_json::from_slice(bytes).map_err(refused)?, 0)
}

fn node(node: Node, depth: usize) -> Result<Cmw<'static>, Finding> {
    match node {
        Node::Array(entries) => record(entries).map(Cmw::Record),
        Node::Map(entries) => collection(entries, depth).map(Cmw::Collection),
        Node::Text(_) | Node::Number(_) => Err(cmw::malformed("array or object", "another type")),
    }
}

fn record(entries: Vec<Node>) -> Result<Record<'static>, Finding> {
    let mut entries = entries.into_iter();
    let kind = match entries.next() {
        Some(Node::Text(text)) => Kind::MediaType(cmw::media_type(Cow::Owned(text))?),
        Some(Node::Number(n)) => cmw::content_format(n)?,
        _ => return Err(cmw::malformed("media type or content format", "another type")),
    };
    let Some(Node::Text(value)) = entries.next() else {
        return Err(cmw::malformed("value as base64url", "another type"));
    };
    let value = URL_SAFE_NO_PAD
        .decode(value)
        .map_err(|error| cmw::malformed("value as base64url without padding", error.to_string()))?;
    let indicator = match entries.next() {
        None => None,
        Some(Node::Number(bits)) => Some(cmw::indicator_bits(bits)?),
        Some(_) => return Err(cmw::malformed("ind as number", "another type")),
    };
    match entries.next() {
        None => Ok(Record { kind, value: value.into(), indicator }),
        Some(_) => Err(cmw::malformed("2 or 3 entries", "more")),
    }
}

fn collection(entries: Vec<(String, Node)>, depth: usize) -> Result<Collection<'static>, Finding> {
    cmw::bounded(entries.len(), depth)?;
    let mut collection = Collection { kind: None, entries: Vec::with_capacity(entries.len()) };
    for (label, content) in entries {
        if label == COLLECTION_TYPE {
            let Node::Text(kind) = content else {
                return Err(cmw::malformed("collection type as text", "another type"));
            };
            collection.kind = Some(kind.into());
            continue;
        }
        let content = node(content, depth + 1)?;
        collection.entries.push(Entry { label: Label::Text(label.into()), content, encoded: &[] });
    }
    cmw::not_empty(collection)
}

/// JSON as far as CMW uses it. Unlike serde_json's own value, it keeps the
/// order of keys and refuses duplicates.
enum Node {
    Text(String),
    Number(u64),
    Array(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number from 0, an array or an object")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }
            fn visit_u64<E: Error>(self, n: u64) -> Result<Node, E> {
                Ok(Node::Number(n))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_element()? {
                    entries.push(entry);
                }
                Ok(Node::Array(entries))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut entries: Vec<(String, Node)> = Vec::new();
                while let Some(key) = access.next_key::<String>()? {
                    if entries.len() > cmw::MAX_ENTRIES || entries.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format_args!(
                            "a duplicate key, or more than {} keys",
                            cmw::MAX_ENTRIES
                        )));
                    }
                    entries.push((key, access.next_value()?));
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}
