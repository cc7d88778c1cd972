//! Three ports for three purposes: readiness answers on the data path's own
//! runtime, so that it tests it; admin is for this host alone; metrics may be
//! expensive. The latter two have a thread of their own, away from the traffic.

mod admin;
mod attestation;
mod http;

use std::sync::Arc;

use ::http::{Method, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use admin::LogLevel;

use crate::context::Context;

type Answer = Response<Full<Bytes>>;

/// Serves readiness until everything ends.
pub(crate) async fn readiness(listener: TcpListener, ctx: Arc<Context>) {
    let state = Arc::clone(&ctx);
    let handler = move |request: &http::Head| match (&request.method, request.path.as_str()) {
        (&Method::GET, "/healthz/ready" | "/ready") => {
            let status =
                if state.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            http::text(status, state.readiness.report())
        }
        (&Method::GET, "/healthz/live" | "/live") => http::text(StatusCode::OK, "live\n"),
        _ => http::not_found(),
    };
    http::serve(listener, Arc::new(handler), ctx).await;
}

/// Serves metrics until everything ends.
async fn metrics(listener: TcpListener, ctx: Arc<Context>) {
    let state = Arc::clone(&ctx);
    let handler = move |request: &http::Head| match (&request.method, request.path.as_str()) {
        (&Method::GET, "/metrics" | "/stats/prometheus") => match state.sampled() {
            Ok(text) => http::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => http::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => http::not_found(),
    };
    http::serve(listener, Arc::new(handler), ctx).await;
}

/// Serves admin and metrics on a thread of their own. Resolves when it has
/// ended; an error means that it ended by a panic.
pub(crate) fn spawn(
    admin: TcpListener,
    metrics_listener: TcpListener,
    level: Option<LogLevel>,
    ctx: Arc<Context>,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (admin, metrics_listener) = (admin.into_std()?, metrics_listener.into_std()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            let both = TcpListener::from_std(admin)
                .and_then(|admin| Ok((admin, TcpListener::from_std(metrics_listener)?)));
            match both {
                Ok((admin, listener)) => {
                    tokio::join!(admin::serve(admin, level, Arc::clone(&ctx)), metrics(listener, ctx));
                }
                Err(error) => tracing::error!(%error, "no admin and no metrics"),
            }
        });
        // Nobody may wait for us any more.
        let _ = done.send(());
    })?;
    Ok(ended)
}
