//! The tasks of one stream: connections to the workload, requests of HTTP/2,
//! upgraded connections. Each ends with the stream.

use std::sync::Arc;

use countersign_net::Abort;
use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::live::Stream;

/// Where the tasks of a stream, or of a connection of the workload, run.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stream: Option<Arc<Stream>>,
    /// Told before a connection to the workload is dropped, so that it ends by a
    /// reset: what was cut must not look like an orderly end.
    abort: Abort,
    end: CancellationToken,
    ctx: Arc<Context>,
}

impl Tasks {
    pub(super) fn new(stream: Option<&Arc<Stream>>, ctx: &Arc<Context>) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stream: stream.cloned(),
            abort: Abort::default(),
            end: CancellationToken::new(),
            ctx: Arc::clone(ctx),
        }
    }

    /// What resets the connections to the workload.
    pub(super) const fn abort(&self) -> &Abort {
        &self.abort
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let me = self.clone();
        self.tracker.spawn(async move {
            let _watch = Watch(&me.ctx);
            tokio::pin!(task);
            tokio::select! {
                biased;
                () = cut(me.stream.as_deref()) => me.abort.set(),
                () = me.end.cancelled() => {}
                () = &mut task => {}
            }
        });
    }

    /// Ends all tasks, and the connections to the workload by a reset.
    pub(super) fn abandon(&self) {
        self.abort.set();
        self.end.cancel();
    }

    /// Resolves when the last task has ended. Cancel-safe.
    pub(super) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Resolves when the stream is cut, if there is one.
async fn cut(stream: Option<&Stream>) {
    match stream {
        Some(stream) => stream.cut.cancelled().await,
        None => std::future::pending().await,
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// A task that panics makes the proxy unready.
struct Watch<'a>(&'a Context);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.task_lost("HTTP");
        }
    }
}
