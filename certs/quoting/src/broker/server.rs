//! The broker's side: who asks, what for, in bounded time and number.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_evidence::{Finding, Reason};
use countersign_ratls::throttle::Throttle;
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

use super::access::{Access, Rights};
use super::frame;
use super::message::{Code, MAX_REQUEST, Request, Response, Status};
use super::socket::Socket;
use crate::event::Event;
use crate::quoter::{Quoter, QuotingTask};
use crate::schedule::Options;
use crate::source::Source;
use crate::subject::Subject;

/// Bounds of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of these, by one user.
    pub connections_per_user: usize,
    /// How long a request may take to arrive, and an answer to leave.
    pub transfer: Duration,
    /// How long requests that are being served may take when the broker ends.
    pub grace: Duration,
    /// After this time without an answer the device counts as hung.
    pub patience: Duration,
    /// How long somebody may wait for another event, before he has to ask again.
    pub watch: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            connections_per_user: 16,
            transfer: Duration::from_secs(2),
            grace: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            watch: Duration::from_secs(60),
        }
    }
}

/// A broker that listens.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
    access: Access,
    limits: Limits,
    source: Arc<dyn Source>,
    quoter: Quoter,
    task: QuotingTask,
}

/// Why somebody gets no answer: nothing that he sent is in it.
type Closed = &'static str;

impl Server {
    /// Serves `socket` from `source`, to whom `access` admits.
    #[must_use]
    pub fn new(socket: Socket, source: Arc<dyn Source>, access: Access, limits: Limits) -> Self {
        let options = Options {
            solos: limits.connections,
            solos_per_peer: limits.connections_per_user,
            patience: limits.patience,
            ..Options::default()
        };
        let (quoter, task) = Quoter::new(Arc::clone(&source), options);
        Self { socket, access, limits, source, quoter, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// The queue, for metrics.
    #[must_use]
    pub const fn quoter(&self) -> &Quoter {
        &self.quoter
    }

    /// Serves until `shutdown` resolves, then finishes what is being served.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { socket, access, limits, source, quoter, task } = self;
        let serving = async move {
            let mut porch = Porch::new(access, limits.clone(), source, quoter);
            tokio::pin!(shutdown);
            loop {
                tokio::select! {
                    biased;
                    () = &mut shutdown => break,
                    ended = porch.connections.join_next_with_id(), if !porch.connections.is_empty() => {
                        porch.left(ended);
                    }
                    accepted = socket.listener.accept() => porch.accepted(accepted.map(|(stream, _)| stream)).await,
                }
            }
            // The file goes first, so that the next broker can take the place.
            drop(socket);
            porch.ending.send_replace(true);
            let finish = async {
                while let Some(ended) = porch.connections.join_next_with_id().await {
                    porch.left(Some(ended));
                }
            };
            if tokio::time::timeout(limits.grace, finish).await.is_err() {
                tracing::warn!("requests that took too long were cut");
            }
        };
        tokio::select! {
            () = serving => {}
            () = task.run() => {}
        }
    }
}

/// Who is inside.
struct Porch {
    access: Access,
    limits: Limits,
    source: Arc<dyn Source>,
    quoter: Quoter,
    throttle: Throttle,
    connections: JoinSet<()>,
    users: HashMap<Id, u32>,
    /// Whether the broker ends: nobody needs to wait for events any more.
    ending: watch::Sender<bool>,
    started: Instant,
}

impl Porch {
    fn new(access: Access, limits: Limits, source: Arc<dyn Source>, quoter: Quoter) -> Self {
        Self {
            access,
            limits,
            source,
            quoter,
            throttle: Throttle::default(),
            connections: JoinSet::new(),
            users: HashMap::new(),
            ending: watch::Sender::new(false),
            started: Instant::now(),
        }
    }

    async fn accepted(&mut self, accepted: io::Result<UnixStream>) {
        let met = accepted.and_then(|stream| stream.peer_cred().map(|peer| (stream, peer)));
        let (stream, peer) = match met {
            Ok(met) => met,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                // Out of descriptors, most likely: they come back when somebody leaves.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        };
        let inside = self.users.values().filter(|uid| **uid == peer.uid()).count();
        let Some(rights) = self.access.rights(&peer) else {
            return self.refuse(&stream, &peer, Code::Denied, "this user may not use this broker");
        };
        if self.connections.len() >= self.limits.connections {
            self.refuse(&stream, &peer, Code::Overloaded, "too many connections");
        } else if inside >= self.limits.connections_per_user {
            self.refuse(&stream, &peer, Code::Overloaded, "too many connections of this user");
        } else {
            let guest = Guest {
                stream,
                peer,
                rights,
                limits: self.limits.clone(),
                source: Arc::clone(&self.source),
                quoter: self.quoter.clone(),
                ending: self.ending.subscribe(),
            };
            let handle = self.connections.spawn(guest.serve());
            self.users.insert(handle.id(), peer.uid());
        }
    }

    fn left(&mut self, ended: Option<Result<(Id, ()), JoinError>>) {
        match ended {
            Some(Ok((id, ()))) => drop(self.users.remove(&id)),
            Some(Err(error)) => {
                tracing::error!(%error, "serving a request panicked");
                self.users.remove(&error.id());
            }
            None => {}
        }
    }

    /// Says so if the socket takes it at once, and waits for nothing.
    fn refuse(&self, stream: &UnixStream, peer: &UCred, code: Code, why: &'static str) {
        if let Some(line) = self.throttle.line(self.started.elapsed().as_secs()) {
            tracing::warn!(
                uid = peer.uid(),
                gid = peer.gid(),
                pid = peer.pid(),
                suppressed = line.suppressed,
                why,
                "refused"
            );
        }
        let answer = Response::Refused(code, why.to_owned()).encode();
        let size = u32::try_from(answer.len()).unwrap_or(u32::MAX).to_be_bytes();
        let _ = stream.try_write(&[size.as_slice(), &answer].concat());
    }
}

/// Resolves when the client has gone, or says more than its one request.
async fn leaving(stream: &UnixStream) -> Closed {
    loop {
        if stream.readable().await.is_err() {
            return "it has gone";
        }
        match stream.try_read(&mut [0]) {
            Ok(0) => return "it did not wait for its answer",
            Ok(_) => return "it sent more than one request",
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return "it has gone",
        }
    }
}

/// One connection: one request, one answer.
struct Guest {
    stream: UnixStream,
    peer: UCred,
    rights: Rights,
    limits: Limits,
    source: Arc<dyn Source>,
    quoter: Quoter,
    ending: watch::Receiver<bool>,
}

impl Guest {
    async fn serve(mut self) {
        if let Err(why) = self.answer().await {
            tracing::debug!(
                uid = self.peer.uid(),
                pid = self.peer.pid(),
                why,
                "a connection ended without an answer"
            );
        }
    }

    async fn answer(&mut self) -> Result<(), Closed> {
        let read = frame::read(&mut self.stream, MAX_REQUEST, self.limits.transfer).await;
        let response = match read {
            Ok(bytes) => match Request::decode(&bytes) {
                Ok(request) if !self.rights.cover(&request) => {
                    self.refused(Code::Denied, "this user may not ask for this".to_owned())
                }
                Ok(Request::Status) => Response::Status(self.status()),
                Ok(Request::Evidence(subject)) => self.quote(subject).await?,
                Ok(Request::Measure(event)) => self.measure(event).await,
                Ok(Request::Watch(known)) => self.watch(known).await?,
                Err(finding) => self.refused(Code::Malformed, finding.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.refused(Code::Malformed, error.to_string())
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err("its request took too long"),
            Err(_) => return Err("it left before its request was complete"),
        };
        let written = frame::write(&mut self.stream, &response.encode(), self.limits.transfer).await;
        written.map_err(|_| "it did not take its answer")
    }

    /// Quotes for as long as the client is there.
    async fn quote(&mut self, subject: Subject) -> Result<Response, Closed> {
        let (purpose, count) = (subject.purpose(), subject.len());
        let (uid, gid, pid) = (self.peer.uid(), self.peer.gid(), self.peer.pid());
        let started = tokio::time::Instant::now();
        let asked = self.quoter.alone(subject, uid.into());
        let made = tokio::select! {
            biased;
            made = asked => made,
            why = leaving(&self.stream) => return Err(why),
        };
        match made {
            Ok(produced) => {
                tracing::info!(uid, gid, pid, purpose, count, took = ?started.elapsed(), "quoted");
                Ok(Response::Evidence((*produced).clone()))
            }
            Err(error) => {
                let code = match Finding::from(error.clone()).reason {
                    Reason::Overloaded => Code::Overloaded,
                    _ => Code::Device,
                };
                tracing::warn!(uid, gid, pid, purpose, count, %error, "not quoted");
                Ok(Response::Refused(code, error.to_string()))
            }
        }
    }

    /// Measures an event to its end, whether somebody waits for it or not.
    async fn measure(&self, event: Event) -> Response {
        let (uid, gid, pid) = (self.peer.uid(), self.peer.gid(), self.peer.pid());
        let kind = event.kind().to_owned();
        match self.source.measure(event).await {
            Ok(count) => {
                tracing::info!(uid, gid, pid, kind, count, "measured");
                Response::Events(count)
            }
            Err(error) => {
                tracing::warn!(uid, gid, pid, kind, %error, "not measured");
                Response::Refused(Code::Device, error.to_string())
            }
        }
    }

    /// Waits for another event for as long as the client is there, in bounded time.
    async fn watch(&mut self, known: u64) -> Result<Response, Closed> {
        tokio::select! {
            biased;
            count = self.source.moved(known) => Ok(Response::Events(count)),
            _ = self.ending.wait_for(|ending| *ending) => Ok(Response::Events(known)),
            () = tokio::time::sleep(self.limits.watch) => Ok(Response::Events(known)),
            why = leaving(&self.stream) => Err(why),
        }
    }

    fn refused(&self, code: Code, why: String) -> Response {
        tracing::warn!(uid = self.peer.uid(), pid = self.peer.pid(), why, "refused");
        Response::Refused(code, why)
    }

    fn status(&self) -> Status {
        let (platform, stats) = (self.quoter.platform(), self.quoter.stats());
        Status {
            tee: platform.tee,
            driver: platform.driver.to_owned(),
            emulated: platform.emulated,
            health: stats.health.to_string(),
            waiting: stats.waiting as u64,
            quotes: stats.solo_quotes,
            event_log: self.source.platform().event_log,
        }
    }
}
