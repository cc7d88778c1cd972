//! The client's side: a source like the local device.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_attester::Produced;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frame;
use super::message::{Code, MAX_RESPONSE, Request, Response, Status};
use crate::error::SourceError;
use crate::event::{Event, Measuring, Moving};
use crate::source::{Platform, Quoting, Source};
use crate::subject::Subject;

/// A broker on this machine answers at once, or does not live.
const TRANSFER: Duration = Duration::from_secs(2);
/// Longer than a broker waits for its device, so that its own error arrives.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longer than a broker lets somebody wait for another event.
const WATCH: Duration = Duration::from_secs(90);
/// Between attempts to watch a broker that does not let us.
const AGAIN: Duration = Duration::from_secs(1);

/// Quotes by way of a broker.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    platform: Platform,
    patience: Duration,
}

impl Client {
    /// Asks the broker what it is.
    ///
    /// # Errors
    /// When nobody answers on `socket`, or we may not use it.
    pub async fn open(socket: &Path) -> Result<Self, SourceError> {
        let status = Self::status(socket).await?;
        let Status { tee, emulated, event_log, .. } = status;
        let platform = Platform { tee, driver: "broker", emulated, event_log };
        tracing::info!(socket = %socket.display(), driver = status.driver, tee = %status.tee, "broker");
        Ok(Self { socket: socket.to_owned(), platform, patience: PATIENCE })
    }

    /// What the broker on `socket` is, and how it does.
    ///
    /// # Errors
    /// When nobody answers there, or we may not use it.
    pub async fn status(socket: &Path) -> Result<Status, SourceError> {
        match ask(socket, &Request::Status, TRANSFER).await? {
            Response::Status(status) => Ok(status),
            _ => Err(failed(socket, "it answered something else")),
        }
    }

    /// Has the broker on `socket` measure an event. Returns how many there are.
    ///
    /// # Errors
    /// When nobody answers there, we may not do this, or the machine cannot. The
    /// event may have been measured all the same when the answer was lost.
    pub async fn measure(socket: &Path, event: Event) -> Result<u64, SourceError> {
        match ask(socket, &Request::Measure(event), PATIENCE).await? {
            Response::Events(count) => Ok(count),
            _ => Err(failed(socket, "it answered something else")),
        }
    }

    /// With another patience than 40 s.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    async fn ask(&self, subject: Subject) -> Result<Produced, SourceError> {
        let expected = subject.report_data().clone();
        match ask(&self.socket, &Request::Evidence(subject), self.patience).await? {
            // Formats differ, but the report data is in all of them as it is.
            Response::Evidence(produced) if !contains(&produced.value, expected.as_bytes()) => {
                Err(failed(&self.socket, "it answered with evidence over other data"))
            }
            Response::Evidence(produced) => Ok(produced),
            _ => Err(failed(&self.socket, "it answered something else")),
        }
    }
}

impl Source for Client {
    fn platform(&self) -> Platform {
        self.platform
    }

    fn quote(&self, subject: Arc<Subject>) -> Quoting<'_> {
        Box::pin(self.ask(Arc::unwrap_or_clone(subject)))
    }

    fn measure(&self, event: Event) -> Measuring<'_> {
        Box::pin(Self::measure(&self.socket, event))
    }

    fn moved(&self, known: u64) -> Moving<'_> {
        Box::pin(async move {
            loop {
                match ask(&self.socket, &Request::Watch(known), WATCH).await {
                    Ok(Response::Events(count)) if count != known => return count,
                    Ok(Response::Events(_)) => {}
                    other => {
                        let why = other.err().map(|error| error.to_string());
                        tracing::debug!(why, "cannot watch for events; trying again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        })
    }
}

/// One request, one answer; a refusal is an error.
async fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<Response, SourceError> {
    let unreachable = |error: std::io::Error| failed(socket, &error.to_string());
    let connecting = timeout(TRANSFER, UnixStream::connect(socket)).await;
    let mut stream = connecting.map_err(|_| failed(socket, "it does not accept"))?.map_err(unreachable)?;
    // A broker that refuses us may have closed before we wrote; what it said counts.
    let written = frame::write(&mut stream, &request.encode(), TRANSFER).await;
    let read = frame::read(&mut stream, MAX_RESPONSE, patience).await;
    let bytes = read.map_err(|error| written.err().unwrap_or(error)).map_err(unreachable)?;
    match Response::decode(&bytes).map_err(|finding| failed(socket, &finding.to_string()))? {
        Response::Refused(Code::Overloaded, why) => Err(SourceError::Overloaded(why)),
        Response::Refused(_, why) => Err(failed(socket, &why)),
        response => Ok(response),
    }
}

fn failed(socket: &Path, why: &str) -> SourceError {
    SourceError::Failed(format!("broker {}: {why}", socket.display()))
}

fn contains(haystack: &[u8], needle: &[u8; 64]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
