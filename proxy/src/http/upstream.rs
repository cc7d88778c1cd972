//! Connections on which requests are asked: of the workload, or of a peer's workload
//! through a hop. Each belongs to one connection of a caller: whatever a caller makes
//! of a connection, no other caller's requests go over it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_evidence::{Denial, Finding, Reason};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::body::{Progress, RequestBody};
use super::tasks::Tasks;
use super::way::{Held, Socket, Way};
use crate::context::Context;
use crate::inbound::overloaded;

/// How much of an answer may be on its way.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

type One = http1::SendRequest<RequestBody>;
type Two = http2::SendRequest<RequestBody>;

/// Whoever answers, as one connection of a caller reaches him.
#[derive(Debug)]
pub(super) struct Upstream {
    way: Way,
    ctx: Arc<Context>,
    tasks: Tasks,
    /// HTTP/1.1: the connection that no request uses. A caller of HTTP/1.1 has one
    /// request at a time.
    idle: Arc<Mutex<Option<One>>>,
    /// HTTP/2: one connection for all requests.
    shared: Mutex<Option<Two>>,
    /// Whose turn it is to make it.
    dialling: Semaphore,
}

/// A connection that a request uses.
#[derive(Debug)]
pub(super) struct Lease {
    idle: Arc<Mutex<Option<One>>>,
    connection: One,
    progress: Arc<Progress>,
}

impl Lease {
    /// The answer is complete: so is the use, if all of the request was read.
    pub(super) fn free(self) {
        if self.progress.is_complete() {
            *lock(&self.idle) = Some(self.connection);
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) denial: Denial,
    /// The request, if nobody has seen any of it.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
}

impl Failed {
    fn unsent(denial: Denial, request: Request<RequestBody>) -> Self {
        Self { denial, unsent: Some(Box::new(request)) }
    }
}

impl Upstream {
    pub(super) fn new(way: Way, tasks: Tasks, ctx: &Arc<Context>) -> Self {
        Self {
            way,
            ctx: Arc::clone(ctx),
            tasks,
            idle: Arc::default(),
            shared: Mutex::default(),
            dialling: Semaphore::new(1),
        }
    }

    /// How it is reached.
    pub(super) const fn way(&self) -> &Way {
        &self.way
    }

    /// Asks over HTTP/1.1.
    pub(super) async fn ask_one(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let progress = request.body().progress();
        loop {
            let kept = lock(&self.idle).take();
            let is_kept = kept.is_some();
            let dialled = match kept {
                Some(connection) => Ok(connection),
                None => self.dial_one().await,
            };
            let mut connection = match dialled {
                Ok(connection) => connection,
                Err(denial) => return Err(Failed::unsent(denial, request)),
            };
            if let Err(error) = connection.ready().await {
                // What was kept was closed.
                if is_kept {
                    continue;
                }
                return Err(Failed::unsent(self.broken(&error, &progress), request));
            }
            match connection.try_send_request(request).await {
                Ok(response) => {
                    return Ok((response, Lease { idle: Arc::clone(&self.idle), connection, progress }));
                }
                Err(mut error) => match error.take_message() {
                    // It closed in between, and has seen nothing of this request.
                    Some(unsent) if is_kept => request = unsent,
                    unsent => {
                        let denial = self.broken(error.error(), &progress);
                        return Err(Failed { denial, unsent: unsent.map(Box::new) });
                    }
                },
            }
        }
    }

    /// Asks over HTTP/2.
    pub(super) async fn ask_two(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        let progress = request.body().progress();
        loop {
            let (mut connection, is_kept) = match self.two().await {
                Ok(two) => two,
                Err(denial) => return Err(Failed::unsent(denial, request)),
            };
            if let Err(error) = connection.ready().await {
                if is_kept {
                    self.forget();
                    continue;
                }
                return Err(Failed::unsent(self.broken(&error, &progress), request));
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => {
                        self.forget();
                        request = unsent;
                    }
                    unsent => {
                        let denial = self.broken(error.error(), &progress);
                        return Err(Failed { denial, unsent: unsent.map(Box::new) });
                    }
                },
            }
        }
    }

    /// The connection that all requests share, and whether it was there before.
    async fn two(&self) -> Result<(Two, bool), Denial> {
        if let Some(connection) = self.shared() {
            return Ok((connection, true));
        }
        let _turn = self.dialling.acquire().await.map_err(|_| overloaded())?;
        if let Some(connection) = self.shared() {
            return Ok((connection, true));
        }
        let connection = self.dial_two().await?;
        *lock(&self.shared) = Some(connection.clone());
        Ok((connection, false))
    }

    fn shared(&self) -> Option<Two> {
        lock(&self.shared).clone().filter(|connection| !connection.is_closed())
    }

    /// The shared connection takes no more requests.
    fn forget(&self) {
        *lock(&self.shared) = None;
    }

    async fn dial_one(&self) -> Result<One, Denial> {
        let (socket, held) = self.dial().await?;
        let limit = usize::try_from(self.ctx.limits.http.header_bytes).unwrap_or(usize::MAX);
        let built = http1::Builder::new().max_buf_size(limit).handshake(TokioIo::new(socket)).await;
        let (connection, task) = built.map_err(|error| self.way.unreachable(&error.to_string()))?;
        // Whoever asks is told how it ended.
        self.tasks.spawn(held.hold(async move { drop(task.with_upgrades().await) }));
        Ok(connection)
    }

    async fn dial_two(&self) -> Result<Two, Denial> {
        let (socket, held) = self.dial().await?;
        let built = http2::Builder::new(self.tasks.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(self.ctx.limits.http.header_bytes)
            .handshake(TokioIo::new(socket))
            .await;
        let (connection, task) = built.map_err(|error| self.way.unreachable(&error.to_string()))?;
        self.tasks.spawn(held.hold(async move { drop(task.await) }));
        Ok(connection)
    }

    async fn dial(&self) -> Result<(Socket, Held), Denial> {
        self.way.dial(self.tasks.abort(), &self.ctx).await
    }

    /// Why there is no answer.
    fn broken(&self, error: &hyper::Error, progress: &Progress) -> Denial {
        if progress.is_too_long() {
            let expected = format!("at most {} bytes", self.ctx.limits.http.body_bytes.unwrap_or(u64::MAX));
            return Finding::new(Reason::RequestTooLarge, "body", expected, "more").into();
        }
        self.way.silent(&error.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
