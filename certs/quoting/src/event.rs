//! What is measured, and the word that something was.

use std::pin::Pin;

use countersign_evidence::Finding;
use countersign_evidence::event_log::native::Record;

use crate::error::SourceError;

/// An event to be measured into the runtime register of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    kind: String,
    content: Vec<u8>,
}

impl Event {
    /// An event of this type with this content.
    ///
    /// # Errors
    /// When the type is no short visible text, or the content is too large.
    pub fn new(kind: impl Into<String>, content: impl Into<Vec<u8>>) -> Result<Self, Finding> {
        let event = Self { kind: kind.into(), content: content.into() };
        event.record()?;
        Ok(event)
    }

    /// The event as its log records it.
    ///
    /// # Errors
    /// Never, for what [`Event::new`] has accepted.
    pub fn record(&self) -> Result<Record<'_>, Finding> {
        Record::new(&self.kind, &self.content)
    }

    /// What kind of event it is.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its content.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }
}

/// An event that is being measured: how many there are then. It goes on when
/// the future is dropped.
pub type Measuring<'a> = Pin<Box<dyn Future<Output = Result<u64, SourceError>> + Send + 'a>>;

/// Waits for another number of events than is known.
pub type Moving<'a> = Pin<Box<dyn Future<Output = u64> + Send + 'a>>;
