//! What a verdict rests on: enough to tell whether a change touches it.
//!
//! Everything that decides (a policy, a set of Reference Values, a trust bundle,
//! a piece of collateral) is a fact: a name, and what it says. A verdict that was
//! reached with some facts stands for as long as they are what they were, so that
//! after a change only those have to be reached again that rest on what changed.

use std::sync::Arc;

use crate::bytes::sha256;

/// The name of a fact: half of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name([u8; 16]);

/// What a fact says: half of a SHA-256, zero when there is no such thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content([u8; 16]);

impl Name {
    /// The name of the `name`d thing of this kind.
    #[must_use]
    pub fn new(kind: &str, name: &str) -> Self {
        Self(half([kind.as_bytes(), name.as_bytes()].join(&0)))
    }
}

impl Content {
    /// What `bytes` say.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(half(bytes))
    }
}

fn half(bytes: impl AsRef<[u8]>) -> [u8; 16] {
    sha256(bytes.as_ref()).first_chunk().copied().unwrap_or_default()
}

/// A fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fact {
    /// What it is about.
    pub name: Name,
    /// What it says.
    pub content: Content,
}

/// The facts that a verdict rests on. Shared by those that rest on the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dependencies(Option<Arc<[Fact]>>);

impl Dependencies {
    /// Nobody knows what the verdict rests on: every change touches it.
    #[must_use]
    pub const fn unknown() -> Self {
        Self(None)
    }

    /// These facts, in any order.
    #[must_use]
    pub fn new(mut facts: Vec<Fact>) -> Self {
        facts.sort_unstable();
        facts.dedup();
        Self(Some(facts.into()))
    }

    /// The facts by name; `None` when they are not known.
    #[must_use]
    pub fn facts(&self) -> Option<&[Fact]> {
        self.0.as_deref()
    }

    /// What the fact of this name said; `None` when it does not rest on it, or
    /// nobody knows.
    #[must_use]
    pub fn content(&self, name: &Name) -> Option<Content> {
        let facts = self.facts()?;
        let index = facts.binary_search_by_key(name, |fact| fact.name).ok()?;
        facts.get(index).map(|fact| fact.content)
    }

    /// Whether it rests on something of this name.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.0.is_none() || self.content(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_told_apart_by_kind_name_and_content() {
        assert_ne!(Name::new("a", "bc"), Name::new("ab", "c"));
        let fact =
            |name: &str, content: &[u8]| Fact { name: Name::new("k", name), content: Content::of(content) };
        let known = Dependencies::new(vec![fact("b", b"1"), fact("a", b"2"), fact("b", b"1")]);
        assert_eq!(known, Dependencies::new(vec![fact("a", b"2"), fact("b", b"1")]));
        assert_eq!(known.facts().unwrap().len(), 2);
        assert_eq!(known.content(&Name::new("k", "a")), Some(Content::of(b"2")));
        assert!(known.contains(&Name::new("k", "a")) && !known.contains(&Name::new("k", "c")));
        assert!(Dependencies::unknown().contains(&Name::new("k", "c")));
        assert_ne!(Content::of(b""), Content::default());
    }
}
