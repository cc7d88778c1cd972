//! Bodies on their way, piece by piece: the next one is read when the last one is taken.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use countersign_net::Abort;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::headers;
use super::line::Line;
use super::upstream::Lease;
use crate::policy::PermittedRequest;

/// Why the body of a request does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the caller: {0}")]
    Caller(#[from] hyper::Error),
    #[error("the body is longer than the limit")]
    TooLong,
}

/// How far the body of a request has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    complete: AtomicBool,
    too_long: AtomicBool,
}

impl Progress {
    /// Whether all of it was read.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether it was given up for its length.
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long.load(Ordering::Acquire)
    }
}

/// The body of a request: of bounded length, and without fields that are ours behind it.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// None when there is nothing.
    inner: Option<Incoming>,
    left: u64,
    count: Arc<AtomicU64>,
    progress: Arc<Progress>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, limit: Option<u64>, count: Arc<AtomicU64>) -> Self {
        let inner = Some(inner).filter(|inner| !inner.is_end_stream());
        let body = Self { inner, left: limit.unwrap_or(u64::MAX), count, progress: Arc::default() };
        body.progress.complete.store(body.inner.is_none(), Ordering::Release);
        body
    }

    /// Nothing, as often as it is asked for.
    pub(super) fn nothing() -> Self {
        let body = Self { inner: None, left: 0, count: Arc::default(), progress: Arc::default() };
        body.progress.complete.store(true, Ordering::Release);
        body
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let me = &mut *self;
        let Some(inner) = &mut me.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx)).transpose()?;
        let ended = inner.is_end_stream();
        let Some(mut frame) = frame else {
            me.progress.complete.store(true, Ordering::Release);
            return Poll::Ready(None);
        };
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            let Some(left) = me.left.checked_sub(length) else {
                me.progress.too_long.store(true, Ordering::Release);
                return Poll::Ready(Some(Err(BodyError::TooLong)));
            };
            me.left = left;
            me.count.fetch_add(length, Ordering::Relaxed);
        }
        if let Some(trailers) = frame.trailers_mut() {
            headers::strip_ours(trailers);
        }
        if ended || frame.is_trailers() {
            me.progress.complete.store(true, Ordering::Release);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Why the body of an answer does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the workload: {0}")]
    Workload(#[from] hyper::Error),
    #[error("the request was cut")]
    Cut,
}

/// The body of an answer. With it the request ends.
#[derive(Debug)]
pub(super) struct AnswerBody {
    inner: Option<Incoming>,
    line: Option<Line>,
    /// The connection to the workload, which is free again afterwards.
    lease: Option<Lease>,
    watch: Option<Watch>,
    /// Set when it breaks off.
    abort: Option<Abort>,
}

/// Whether the request may go on.
struct Watch {
    permit: Arc<PermittedRequest>,
    /// Made when there is something to wait for.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("permit", &self.permit).finish_non_exhaustive()
    }
}

impl Watch {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let permit = &self.permit;
        let wait = || {
            let permit = Arc::clone(permit);
            Box::pin(async move { permit.cut().await }) as _
        };
        self.cut.get_or_insert_with(wait).as_mut().poll(cx)
    }
}

impl AnswerBody {
    /// What the workload says.
    pub(super) fn of(
        inner: Incoming,
        line: Line,
        permit: Option<PermittedRequest>,
        lease: Option<Lease>,
    ) -> Self {
        let watch = permit.map(|permit| Watch { permit: Arc::new(permit), cut: None });
        Self { inner: Some(inner), line: Some(line), lease, watch, abort: None }
    }

    /// The same; if it breaks off, the connection ends by a reset.
    pub(super) fn or_reset(mut self, abort: &Abort) -> Self {
        self.abort = Some(abort.clone());
        self
    }

    /// Nothing more.
    pub(super) const fn empty(line: Line) -> Self {
        Self { inner: None, line: Some(line), lease: None, watch: None, abort: None }
    }

    /// Nothing more, of a request that goes on in another protocol.
    pub(super) const fn silent() -> Self {
        Self { inner: None, line: None, lease: None, watch: None, abort: None }
    }

    fn complete(&mut self) {
        if let Some(line) = &mut self.line {
            line.done();
        }
        if let Some(lease) = self.lease.take() {
            lease.free();
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let cut = self.watch.as_ref().is_some_and(|watch| watch.permit.is_cut());
        let polled = if cut { Poll::Pending } else { Pin::new(inner).poll_frame(cx) };
        match (polled, &mut self.watch) {
            (Poll::Pending, Some(watch)) => {
                ready!(watch.poll_cut(cx));
                if let Some(line) = &mut self.line {
                    line.refused(&watch.permit.cause());
                }
                Poll::Ready(Some(Err(AnswerError::Cut)))
            }
            (polled, _) => polled.map_err(AnswerError::from),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let me = &mut *self;
        let frame = ready!(me.poll_inner(cx)).transpose().inspect_err(|_| {
            if let Some(abort) = &me.abort {
                abort.set();
            }
        })?;
        if let (Some(frame), Some(line)) = (&frame, &mut me.line) {
            line.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            if let Some(trailers) = frame.trailers_ref() {
                line.trailers(trailers);
            }
        }
        // Behind trailers nothing comes, and nobody asks.
        if frame.as_ref().is_none_or(Frame::is_trailers) {
            me.complete();
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // Who knows the length does not ask for the end.
        if self.is_end_stream() {
            self.complete();
        }
    }
}
