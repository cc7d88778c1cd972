//! What may be measured at runtime.

use std::collections::BTreeMap;

use crate::event_log::native::Record;
use crate::event_log::{Event, dstack_digest};

/// An event that may be measured at runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventReference {
    /// What it is, for people.
    pub name: String,
    /// The type that it must have. In a log whose digests do not cover types
    /// only the digest is compared.
    pub kind: String,
    /// The digest that it must have; every event of the type when there is none.
    pub content: EventContent,
}

/// The content that an event must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventContent {
    /// Any.
    Any,
    /// The one with this digest.
    Digest([u8; 48]),
    /// This one.
    Exactly(Vec<u8>),
}

/// The events that may be measured at runtime, by digest and by type: every
/// live hop is compared with them whenever they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventReferences {
    by_digest: BTreeMap<[u8; 48], Vec<EventReference>>,
    by_kind: BTreeMap<String, EventReference>,
}

impl FromIterator<EventReference> for EventReferences {
    fn from_iter<T: IntoIterator<Item = EventReference>>(references: T) -> Self {
        let mut all = Self::default();
        for reference in references {
            let mut digest = |digest| all.by_digest.entry(digest).or_default().push(reference.clone());
            match &reference.content {
                EventContent::Any => drop(all.by_kind.insert(reference.kind.clone(), reference)),
                EventContent::Digest(exact) => digest(*exact),
                // The same content has another digest in each form of log.
                EventContent::Exactly(content) => {
                    if let Ok(record) = Record::new(&reference.kind, content) {
                        digest(record.digest());
                    }
                    digest(dstack_digest(&reference.kind, content));
                }
            }
        }
        all
    }
}

impl EventReferences {
    /// The entry that admits this event.
    #[must_use]
    pub fn admits(&self, event: &Event) -> Option<&EventReference> {
        let mut exact = self.by_digest.get(&event.digest).into_iter().flatten();
        let exact = exact.find(|r| !event.kind_measured || *r.kind == *event.kind);
        exact.or_else(|| self.by_kind.get(&*event.kind).filter(|_| event.kind_measured))
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = &EventReference> {
        self.by_kind.values().chain(self.by_digest.values().flatten())
    }
}
