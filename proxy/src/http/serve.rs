//! One stream of a hop on which HTTP is spoken, from its first byte to its end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use countersign_config::kinds::service::AppProtocol;
use countersign_evidence::{Denial, Finding, Reason};
use h2::{RecvStream, SendStream};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::exchange::{Served, answer};
use super::head_time::HeadTime;
use super::io::{self, Io};
use super::line::{Common, Line};
use super::tasks::Tasks;
use super::upstream::Upstream;
use super::way::Way;
use crate::context::Context;
use crate::forward::denial;
use crate::live::{Cause, Stream, draining};
use crate::policy::Permitted;

/// How long a peer may go on speaking after the end of what we say.
pub(super) const HEARING_OUT: Duration = Duration::from_secs(5);
/// What a request body may have on its way, on one stream and on all of a connection:
/// what the windows of the hop leave room for.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;
pub(super) const SEND_BUFFER: usize = 256 << 10;
/// Streams that a caller reset and that we have not looked at yet, and those that we
/// reset because of it: more end the connection (CVE-2023-44487, CVE-2025-8671).
pub(super) const RESETS_PENDING: usize = 20;
pub(super) const RESETS_OURS: usize = 128;

/// Serves requests until the caller has ended, or the stream is cut. What does not
/// end in order ends by a reset on both sides.
pub(crate) async fn serve(
    permitted: Permitted,
    mut send: SendStream<Bytes>,
    recv: RecvStream,
    workload: (SocketAddr, AppProtocol),
    ctx: &Arc<Context>,
) -> Result<(), Denial> {
    let (io, pump) = io::pair(&permitted, recv);
    let (hop, stream) = (permitted.hop.clone(), Arc::clone(&permitted.stream));
    let tasks = Tasks::new(Some(&stream), ctx);
    let peer = hop.peer();
    let common = Arc::new(Common {
        role: hop.role,
        client: hop.address,
        series: ctx.metrics.requests(hop.me.as_str(), &peer, hop.role),
        source: peer,
        destination: hop.me.to_string(),
        port: stream.port,
        stream: Some(Arc::clone(&stream)),
    });
    let (address, protocol) = workload;
    let served = Arc::new(Served {
        permitted,
        ctx: Arc::clone(ctx),
        protocol,
        upstream: Upstream::new(Way::Workload(address), tasks.clone(), ctx),
        tasks: tasks.clone(),
        common,
        stamp: ArcSwapOption::empty(),
    });
    let window = hop.session.as_ref().map(|session| &session.window);
    let ended = {
        let requests = async {
            connection(io, served).await;
            tasks.ended().await;
            Ok(())
        };
        let both = async {
            tokio::try_join!(requests, pump.run(&mut send, window))?;
            // Who does not stop is not waited for.
            let _ = timeout(HEARING_OUT, pump.hear_out()).await;
            Ok(())
        };
        tokio::select! {
            biased;
            () = stream.cut.cancelled() => Err(stream.cut.cause().map_or_else(draining, Cause::denial)),
            result = both => result.map_err(|broken| denial(&broken)),
            () = silence(&stream, ctx.limits.idle_timeout) => Err(idle(ctx.limits.idle_timeout)),
        }
    };
    if ended.is_err() {
        tasks.abandon();
        send.send_reset(h2::Reason::CANCEL);
    }
    // Nobody holds the stream any more when it is said to be over.
    tasks.ended().await;
    ended
}

/// Resolves when no byte has moved for so long.
async fn silence(stream: &Stream, limit: Duration) {
    let moved = || stream.received.load(Ordering::Relaxed).wrapping_add(stream.sent.load(Ordering::Relaxed));
    let mut before = moved();
    loop {
        sleep(limit).await;
        let now = moved();
        if now == before {
            return;
        }
        before = now;
    }
}

fn idle(limit: Duration) -> Denial {
    Finding::new(Reason::Timeout, "stream", "a byte now and then", format!("none in {limit:?}")).into()
}

/// Finds out which HTTP it is, and serves it.
async fn connection(mut io: Io, served: Arc<Served>) {
    let (ctx, limits) = (Arc::clone(&served.ctx), served.ctx.limits.http.clone());
    let common = Arc::clone(&served.common);
    match io.begins().await {
        Ok(true) => {}
        Ok(false) => {
            // Who says nothing is told nothing; who is gone hears nothing.
            let _ = io.shutdown().await;
            return;
        }
        Err(_) => return,
    }
    let Ok(Ok(is_http2)) = timeout(limits.header_timeout, io.is_http2()).await else { return };
    let io = TokioIo::new(io);
    let tasks = served.tasks.clone();
    let hop = served.permitted.hop.clone();
    let leaving = async {
        tokio::select! {
            () = ctx.drain.beginning() => {}
            () = hop.drain_begins() => {}
        }
    };
    let heads = HeadTime { stream: Arc::clone(&served.permitted.stream), limit: limits.header_timeout };
    let service = service_fn(move |request| answer(Arc::clone(&served), request));
    let result = if is_http2 {
        let connection = http2::Builder::new(tasks)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(limits.header_bytes)
            .max_concurrent_streams(limits.requests_per_connection)
            .max_pending_accept_reset_streams(RESETS_PENDING)
            .max_local_error_reset_streams(RESETS_OURS)
            .auto_date_header(false)
            .serve_connection(io, service);
        until_left(connection, leaving).await
    } else {
        let bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
        let connection = http1::Builder::new()
            .timer(heads)
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(bytes)
            .auto_date_header(false)
            .serve_connection(io, service)
            .with_upgrades();
        until_left(connection, leaving).await
    };
    if let Err(error) = result {
        unserved(&error, &common);
    }
}

/// A request that hyper refused before we saw it.
pub(super) fn unserved(error: &hyper::Error, common: &Arc<Common>) {
    tracing::debug!(peer.address = %common.client, %error, "HTTP ended");
    let refused = |reason, what: &str| Denial::from(Finding::new(reason, "request", what, error.to_string()));
    if error.is_parse_too_large() {
        Line::unreadable(common, 431, refused(Reason::RequestTooLarge, "a head of bounded length"));
    } else if error.is_parse() {
        Line::unreadable(common, 400, refused(Reason::BadRequest, "HTTP"));
    } else if error.is_timeout() {
        Line::unreadable(common, 0, refused(Reason::Timeout, "a head in time"));
    }
}

/// A connection that can be told to end after what it has begun.
pub(super) trait Leaves: Future<Output = hyper::Result<()>> {
    fn leave(self: Pin<&mut Self>);
}

impl<I, S, B> Leaves for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> Leaves for http2::Connection<I, S, E>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

pub(super) async fn until_left(
    connection: impl Leaves,
    leaving: impl Future<Output = ()>,
) -> hyper::Result<()> {
    tokio::pin!(connection, leaving);
    tokio::select! {
        biased;
        result = &mut connection => return result,
        () = &mut leaving => connection.as_mut().leave(),
    }
    connection.await
}
