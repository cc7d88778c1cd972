//! Why there is no quote.

use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};

use crate::schedule::Refused;

/// Why a source has no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The device, or the way to it, failed.
    #[error("{0}")]
    Failed(String),
    /// A broker has too much to do.
    #[error("the broker is overloaded: {0}")]
    Overloaded(String),
}

impl From<SourceError> for countersign_attester::Error {
    fn from(error: SourceError) -> Self {
        Self::Unavailable { driver: "broker", missing: error.to_string() }
    }
}

/// Why a request has no quote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// It is not among what may be quoted.
    #[error(transparent)]
    Malformed(#[from] Finding),
    /// It was not queued.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its deadline passed while it waited.
    #[error("the deadline passed before the device was free")]
    Late,
    /// The device failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The device did not answer.
    #[error("no answer of the device in {0:?}")]
    Hung(Duration),
    /// The task that owns the device has ended.
    #[error("quoting has ended")]
    Ended,
}

impl From<QuoteError> for Finding {
    fn from(error: QuoteError) -> Self {
        let (reason, expected) = match &error {
            QuoteError::Malformed(finding) => return finding.clone(),
            QuoteError::Refused(Refused::Hung) | QuoteError::Source(SourceError::Failed(_)) => {
                (Reason::NotReady, "evidence")
            }
            QuoteError::Refused(_) | QuoteError::Source(SourceError::Overloaded(_)) => {
                (Reason::Overloaded, "room in the queue")
            }
            QuoteError::Late => (Reason::Timeout, "a quote in time"),
            QuoteError::Hung(_) => (Reason::NotReady, "an answer of the device"),
            QuoteError::Ended => (Reason::Draining, "a device in use"),
        };
        Self::new(reason, "quote", expected, error.to_string())
    }
}

impl From<QuoteError> for Denial {
    fn from(error: QuoteError) -> Self {
        Finding::from(error).into()
    }
}
