//! Who quotes: the device of this machine, or a broker that owns it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use countersign_attester::{Attester, Produced};
use countersign_evidence::claims::Tee;

use crate::error::SourceError;
use crate::subject::Subject;

/// A quote in the making.
pub type Quoting<'a> = Pin<Box<dyn Future<Output = Result<Produced, SourceError>> + Send + 'a>>;

/// What is known of a platform before it has quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The kind of TEE.
    pub tee: Tee,
    /// The driver, for logs.
    pub driver: &'static str,
    /// Whether it is emulated.
    pub emulated: bool,
}

/// Somebody who can quote, one subject after the other.
pub trait Source: Send + Sync + fmt::Debug {
    /// What it is.
    fn platform(&self) -> Platform;
    /// Evidence over `subject`. The future is polled to its end even when nobody
    /// waits for it any more: the device is busy for as long as it runs.
    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_>;
}

/// The device of this machine, or an emulated one. The only caller of
/// [`Attester::evidence`] in the programs of Countersign.
#[derive(Clone, Debug)]
pub struct Local(Arc<dyn Attester>);

impl Local {
    /// Over an attester.
    #[must_use]
    pub const fn new(attester: Arc<dyn Attester>) -> Self {
        Self(attester)
    }
}

impl Source for Local {
    fn platform(&self) -> Platform {
        Platform { tee: self.0.tee(), driver: self.0.driver(), emulated: self.0.emulated() }
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        let attester = Arc::clone(&self.0);
        Box::pin(async move {
            let call =
                tokio::task::spawn_blocking(move || attester.evidence(subject.report_data().as_bytes()));
            match call.await {
                Ok(Ok(produced)) => Ok(produced),
                Ok(Err(error)) => Err(SourceError::Failed(error.to_string())),
                Err(_) => Err(SourceError::Failed(format!("{}: the driver panicked", self.0.driver()))),
            }
        })
    }
}
