//! Who quotes: the device of this machine, or a broker that owns it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use countersign_attester::{Attester, Produced};
use countersign_evidence::claims::Tee;
use tokio::sync::watch;

use crate::error::SourceError;
use crate::event::{Event, Measuring, Moving};
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
    /// Whether evidence comes with a log of what was measured at runtime.
    pub event_log: bool,
}

/// Somebody who can quote, one subject after the other.
pub trait Source: Send + Sync + fmt::Debug {
    /// What it is.
    fn platform(&self) -> Platform;
    /// Evidence over `subject`. The future is polled to its end even when nobody
    /// waits for it any more: the device is busy for as long as it runs.
    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_>;
    /// Measures an event into the runtime register, for good.
    fn measure(&self, event: Event) -> Measuring<'_> {
        let why = format!("{}: events cannot be measured: {} was not", self.platform().driver, event.kind());
        Box::pin(std::future::ready(Err(SourceError::Failed(why))))
    }
    /// Resolves when the number of measured events is another than `known`. Never
    /// where none can be measured.
    fn moved(&self, known: u64) -> Moving<'_> {
        let _ = known;
        Box::pin(std::future::pending())
    }
}

/// The device of this machine, or an emulated one. The only caller of
/// [`Attester::evidence`] in the programs of Countersign.
#[derive(Clone, Debug)]
pub struct Local {
    attester: Arc<dyn Attester>,
    events: watch::Receiver<u64>,
}

impl Local {
    /// Over an attester.
    #[must_use]
    pub fn new(attester: Arc<dyn Attester>) -> Self {
        let (count, events) = watch::channel(0);
        // Calls of several threads may overtake each other.
        attester.on_extended(Arc::new(move |now| {
            count.send_if_modified(|known| std::mem::replace(known, now.max(*known)) < now);
        }));
        Self { attester, events }
    }
}

impl Source for Local {
    fn platform(&self) -> Platform {
        Platform {
            tee: self.attester.tee(),
            driver: self.attester.driver(),
            emulated: self.attester.emulated(),
            event_log: self.attester.keeps_event_log(),
        }
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        let attester = Arc::clone(&self.attester);
        Box::pin(async move {
            let call =
                tokio::task::spawn_blocking(move || attester.evidence(subject.report_data().as_bytes()));
            match call.await {
                Ok(Ok(produced)) => Ok(produced),
                Ok(Err(error)) => Err(SourceError::Failed(error.to_string())),
                Err(_) => Err(panicked(&*self.attester)),
            }
        })
    }

    fn measure(&self, event: Event) -> Measuring<'_> {
        let attester = Arc::clone(&self.attester);
        Box::pin(async move {
            let call = tokio::task::spawn_blocking(move || {
                let record = event.record().map_err(|finding| finding.to_string())?;
                attester.extend(&record).map_err(|error| error.to_string())
            });
            match call.await {
                Ok(measured) => measured.map_err(SourceError::Failed),
                Err(_) => Err(panicked(&*self.attester)),
            }
        })
    }

    fn moved(&self, known: u64) -> Moving<'_> {
        let mut events = self.events.clone();
        Box::pin(async move {
            let count = events.wait_for(|count| *count != known).await.map(|count| *count);
            // The attester keeps the sender for as long as it lives, if it has a register.
            match count {
                Ok(count) => count,
                Err(_) => std::future::pending().await,
            }
        })
    }
}

fn panicked(attester: &dyn Attester) -> SourceError {
    SourceError::Failed(format!("{}: the driver panicked", attester.driver()))
}
