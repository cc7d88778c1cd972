//! How long the head of a request may take.
//!
//! Hyper asks its timer for one deadline each time that it waits for a head, and so
//! would close a connection that is kept alive and idle. The time of a head begins
//! with its first byte; how long a connection may be idle is decided elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use crate::live::Stream;

/// The timer of a server of HTTP/1.1, which uses it for nothing else.
#[derive(Clone, Debug)]
pub(super) struct HeadTime {
    pub(super) stream: Arc<Stream>,
    pub(super) limit: Duration,
}

impl Timer for HeadTime {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let seen = self.stream.received.load(Ordering::Relaxed);
        Box::pin(Head { stream: Arc::clone(&self.stream), limit: self.limit, seen, until: None })
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }
}

/// Resolves when a head that has begun took too long.
struct Head {
    stream: Arc<Stream>,
    limit: Duration,
    /// What was read before it.
    seen: u64,
    until: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sleep for Head {}

impl Future for Head {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        if me.stream.received.load(Ordering::Relaxed) == me.seen {
            // The first byte wakes who reads, and he asks again.
            return Poll::Pending;
        }
        let limit = me.limit;
        me.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}
