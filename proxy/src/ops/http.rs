//! A small HTTP/1 server for operators: short requests, no bodies, everything bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Answer;
use crate::context::Context;
use crate::listener;

/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// The longest that a request may take to arrive, and a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(60);
/// Head of a request.
const BUFFER: usize = 16 << 10;

/// What a handler sees of a request.
pub(crate) struct Head {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub peer: SocketAddr,
}

pub(crate) type Handler = Arc<dyn Fn(&Head) -> Answer + Send + Sync>;

/// Serves until everything ends.
pub(crate) async fn serve(listener: TcpListener, handler: Handler, ctx: Arc<Context>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ctx.drain.forced() => break,
            Some(ended) = tasks.join_next() => {
                let ended: Result<(), tokio::task::JoinError> = ended;
                if ended.is_err_and(|error| error.is_panic()) {
                    ctx.task_lost("operators' connection");
                }
            }
            accepted = listener::accept(&listener, &limit, "operator", &ctx) => {
                tasks.spawn(connection(accepted, Arc::clone(&handler)));
            }
        }
    }
    tasks.shutdown().await;
}

async fn connection(accepted: listener::Accepted, handler: Handler) {
    let peer = accepted.peer;
    let service = service_fn(move |request: Request<Incoming>| {
        let head = Head {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
            peer,
        };
        let answer = handler(&head);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(accepted.socket), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an operator's connection ended");
    }
    drop(accepted.permit);
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    with_type(StatusCode::OK, "application/json", body)
}

pub(crate) fn with_type(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "not found\n")
}
