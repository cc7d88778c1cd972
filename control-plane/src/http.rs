//! The three plain HTTP/1.1 ports: admin, metrics, readiness.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Connections of one port.
const MAX_CONNECTIONS: usize = 64;
/// A connection lives at most this long: probes and scrapers open new ones.
const LIFETIME: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.into().into_bytes() }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        let mut body = value.to_string().into_bytes();
        body.push(b'\n');
        Self { status: StatusCode::OK, kind: "application/json", body }
    }

    pub(crate) fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "not found\n")
    }

    /// For verbs that change something.
    pub(crate) fn post_only() -> Self {
        Self::text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n")
    }
}

/// Whether a request to the admin port comes from a program of this host, and
/// not from a page in a browser of it (a foreign name that resolves to this
/// host, a form that posts here).
pub(crate) fn from_this_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "" | "localhost" | "127.0.0.1" | "[::1]") && !headers.contains_key(header::ORIGIN)
}

/// Answers requests until shutdown.
pub(crate) async fn serve<H>(
    listener: TcpListener,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    H: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let socket = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = socket else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Above the limit a connection is closed at once.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let handler = Arc::clone(&handler);
        tasks.spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&*handler, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(socket), service);
            let _ = tokio::time::timeout(LIFETIME, connection).await;
        });
    }
}

fn answer(
    handler: &(impl Fn(&Request<Incoming>) -> Answer + ?Sized),
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let Answer { status, kind, body } = handler(request);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
