//! HTTP/2 on a hop: windows, limits, and whether the peer is alive.
//!
//! The window of a connection is four times that of a stream, so that one slow
//! stream cannot stop the others.

use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use h2::{Ping, PingPong, client, server};
use tokio::time::{sleep, timeout};

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME: u32 = 1 << 20;
const HEADER_LIST: u32 = 64 << 10;
/// What one stream may have in the queue towards the peer.
const SEND_BUFFER: usize = 512 << 10;
/// A peer that is silent is asked after this time, and given up after that.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// The reason of a refusal, on the answer to a CONNECT.
pub(crate) const REASON_HEADER: &str = "countersign-reason";

pub(crate) fn server(streams: u32) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_streams(streams)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

pub(crate) fn client() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false);
    builder
}

/// Resolves when the peer no longer answers.
pub(crate) async fn silence(ping: Option<PingPong>) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        if !matches!(timeout(PONG_WITHIN, ping.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

pub(crate) fn broken(error: &h2::Error) -> Denial {
    Finding::new(Reason::ConnectFailed, "hop", "HTTP/2 that works", error.to_string()).into()
}
