//! HTTP/2 on a hop: windows, limits, and whether the peer is alive.
//!
//! The window of a stream is what one bulk stream needs for full speed, and that of
//! a connection four times as much, so that one slow stream cannot stop the others.
//! That four cannot stop the rounds is the business of the side that sends
//! ([`window`](crate::session::window)).

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_evidence::{Denial, Finding, Reason};
use h2::{Ping, PingPong, client, server};
use tokio::time::{sleep, timeout};

use crate::live::Hop;
use crate::rounds::LAST_WORDS;

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
        // And one for the rounds.
        .max_concurrent_streams(streams.saturating_add(1))
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
    silent(ping, PING_EVERY, PONG_WITHIN).await;
}

async fn silent(ping: Option<PingPong>, every: Duration, within: Duration) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        sleep(every).await;
        if !matches!(timeout(within, ping.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// The end of a hop, whose connection is to be dropped next. If it was cut, the
/// peer is told why, for as long as that may take: when the last stream is gone,
/// so that nothing of an application is moved for it. `rounds` say it, and end
/// (`said`) with the channel, which must stay until it is written; `connection`
/// moves what there is to be moved.
pub(crate) async fn farewell<C, T>(
    hop: &Hop,
    mut rounds: Pin<&mut impl Future<Output = C>>,
    mut said: Option<C>,
    mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
) {
    if hop.has_last_words() {
        let telling = async {
            hop.emptied().await;
            poll_fn(|cx| {
                if said.is_none()
                    && let Poll::Ready(channel) = rounds.as_mut().poll(cx)
                {
                    said = Some(channel);
                }
                let over = connection(cx).is_ready();
                let done = over || (said.is_some() && hop.outlet.is_flushed());
                if done { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        };
        // Best effort: whoever does not listen will not know.
        let _ = timeout(LAST_WORDS, telling).await;
    }
    if hop.cut.cause().is_some() {
        hop.hang_up();
    }
}

/// The connection ended with `error`. Who resets it has a reason, and may have said it.
pub(crate) async fn hear_out<C>(error: &h2::Error, rounds: Pin<&mut impl Future<Output = C>>) {
    if error.get_io().is_some_and(|io| io.kind() == ErrorKind::ConnectionReset) {
        // What has come is there; nothing else will.
        let _ = timeout(LAST_WORDS, rounds).await;
    }
}

pub(crate) fn broken(error: &h2::Error) -> Denial {
    Finding::new(Reason::ConnectFailed, "hop", "HTTP/2 that works", error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};

    const SOON: Duration = Duration::from_millis(1);
    const NEVER: Duration = Duration::from_secs(3600);
    /// Type and flags of a PING that is no answer (RFC 9113, section 6.7).
    const PING: [u8; 2] = [6, 0];

    /// A client's connection over `io`, which runs by itself, and its pings.
    async fn pings(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Option<PingPong> {
        let (request, mut connection) = client().handshake::<_, Bytes>(io).await.unwrap();
        let pings = connection.ping_pong();
        tokio::spawn(async move {
            let _request = request;
            connection.await
        });
        pings
    }

    #[tokio::test]
    async fn a_peer_that_holds_the_connection_and_says_nothing_is_given_up() {
        let (near, _far) = duplex(1 << 16);
        silent(pings(near).await, SOON, SOON).await;
    }

    #[tokio::test]
    async fn a_peer_that_answers_is_asked_again_and_again_and_kept_until_it_is_gone() {
        let (near, far) = duplex(1 << 16);
        let (mut tap, peer) = duplex(1 << 16);
        let peer = tokio::spawn(async move {
            let mut connection = server(1).handshake::<_, Bytes>(peer).await.unwrap();
            while connection.accept().await.is_some() {}
        });
        let silence = tokio::spawn(silent(pings(near).await, SOON, NEVER));
        // Between both: what the peer is sent is looked at, frame by frame.
        let (mut from_client, mut to_client) = tokio::io::split(far);
        let mut preface = [0; 24];
        from_client.read_exact(&mut preface).await.unwrap();
        tap.write_all(&preface).await.unwrap();
        let (mut from_peer, mut to_peer) = tokio::io::split(tap);
        let answers = tokio::spawn(async move { tokio::io::copy(&mut from_peer, &mut to_client).await });
        let mut asked = 0;
        while asked < 5 {
            let mut head = [0; 9];
            from_client.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; usize::try_from(length).unwrap()];
            from_client.read_exact(&mut body).await.unwrap();
            asked += u32::from(head[3..5] == PING);
            to_peer.write_all(&[&head[..], &body].concat()).await.unwrap();
        }
        // Each but the last was answered, or there would have been no next one.
        assert!(!silence.is_finished());
        answers.abort();
        peer.abort();
        drop((from_client, to_peer));
        silence.await.unwrap();
    }
}
