//! Seventh stage: bytes between a workload's socket and a stream of a hop.
//!
//! Back-pressure is that of HTTP/2: from the socket only as much is read as the
//! peer's window takes, and the peer's window opens only as the socket takes
//! what came. A connection that is idle holds no buffer. The rounds of the hop
//! have a share of the window that no stream takes.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use countersign_evidence::{Denial, Finding, Reason};
use h2::{RecvStream, SendStream};
use prometheus::IntCounter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::RwLockReadGuard;

use countersign_ratls::peer::Role;

use crate::policy::Permitted;
use crate::session::window::{Calls, Window};

/// Buffers grow while they are filled: many connections are small, few are bulk.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 256 << 10;

/// Why forwarding ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("workload: {0}")]
    Workload(#[from] io::Error),
    #[error("hop: {0}")]
    Hop(#[from] h2::Error),
    #[error("hop: the stream ended early")]
    Closed,
}

impl Broken {
    pub(crate) fn reset(reset: Result<h2::Reason, h2::Error>) -> Self {
        reset.map_or_else(Self::Hop, |_| Self::Closed)
    }
}

/// Where bytes of one direction are counted.
struct Count<'a> {
    stream: &'a AtomicU64,
    series: &'a IntCounter,
}

impl Count<'_> {
    fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.stream.fetch_add(bytes, Ordering::Relaxed);
        self.series.inc_by(bytes);
    }
}

/// Forwards until both directions have ended, or one has broken, or the stream
/// is cut. What does not end in order ends by a reset on both sides.
pub(crate) async fn run(
    permitted: &Permitted,
    mut socket: TcpStream,
    mut send: SendStream<Bytes>,
    recv: RecvStream,
) -> Result<(), Denial> {
    let window = permitted.hop.session.as_ref().map(|session| &session.window);
    let stream = &permitted.stream;
    let series = &permitted.hop.series;
    let received = Count { stream: &stream.received, series: &series.received };
    let sent = Count { stream: &stream.sent, series: &series.sent };
    // On the called side the hop brings the caller's bytes; on the calling side the socket does.
    let (from_hop, from_socket) = match permitted.hop.role {
        Role::Client => (received, sent),
        Role::Server => (sent, received),
    };
    let ended = {
        let (read, write) = socket.split();
        let both = async {
            tokio::try_join!(to_hop(read, &mut send, window, &from_socket), to_socket(recv, write, &from_hop))
        };
        tokio::select! {
            biased;
            () = stream.cut.cancelled() => {
                Err(stream.cut.cause().map_or_else(crate::live::draining, crate::live::Cause::denial))
            }
            result = both => result.map(|_| ()).map_err(|broken| denial(&broken)),
        }
    };
    if ended.is_err() {
        send.send_reset(h2::Reason::CANCEL);
        countersign_net::abort(socket);
    }
    ended
}

pub(crate) fn denial(broken: &Broken) -> Denial {
    Finding::new(Reason::ConnectFailed, "stream", "an orderly end", broken.to_string()).into()
}

/// From the workload's socket to the hop, until the workload has said all.
async fn to_hop(
    mut socket: ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    window: Option<&Window>,
    count: &Count<'_>,
) -> Result<(), Broken> {
    let mut size = SMALLEST;
    let mut calls = window.map(Window::calls);
    loop {
        // An idle stream neither holds a buffer nor keeps window from others.
        tokio::select! {
            ready = socket.readable() => ready?,
            reset = poll_fn(|cx| send.poll_reset(cx)) => return Err(Broken::reset(reset)),
        }
        let _turn = tokio::select! {
            biased;
            turn = turn(window) => turn,
            reset = poll_fn(|cx| send.poll_reset(cx)) => return Err(Broken::reset(reset)),
        };
        send.reserve_capacity(size);
        let room = tokio::select! {
            biased;
            room = poll_fn(|cx| send.poll_capacity(cx)) => room.ok_or(Broken::Closed)??.min(size),
            // The rounds come first.
            () = called(&mut calls) => 0,
        };
        if room == 0 {
            send.reserve_capacity(0);
            continue;
        }
        let mut buffer = BytesMut::with_capacity(room);
        match read_once(&mut socket, &mut (&mut buffer).limit(room)).await {
            Some(Ok(0)) => {
                send.reserve_capacity(0);
                send.send_data(Bytes::new(), true)?;
                return Ok(());
            }
            Some(Ok(read)) => {
                count.add(read);
                send.send_data(buffer.freeze(), false)?;
                size = if read == size {
                    (size * 4).min(LARGEST)
                } else if read < size / 4 {
                    (size / 4).max(SMALLEST)
                } else {
                    size
                };
            }
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
        send.reserve_capacity(0);
    }
}

/// One read, or nothing if there is nothing to read. Unlike `try_read_buf` it knows that
/// less than was asked for is all, and spares the system call that would say so.
async fn read_once(
    socket: &mut ReadHalf<'_>,
    buffer: &mut (impl BufMut + Send),
) -> Option<io::Result<usize>> {
    poll_fn(|cx| {
        Poll::Ready(match pin!(socket.read_buf(buffer)).poll(cx) {
            Poll::Ready(read) => Some(read),
            Poll::Pending => None,
        })
    })
    .await
}

/// Waits for the turn to ask for window, where there are rounds.
pub(crate) async fn turn(window: Option<&Window>) -> Option<RwLockReadGuard<'_, ()>> {
    match window {
        Some(window) => Some(window.turn().await),
        None => None,
    }
}

/// Waits until the turn is to be given back.
pub(crate) async fn called(calls: &mut Option<Calls>) {
    match calls {
        Some(calls) => calls.next().await,
        None => std::future::pending().await,
    }
}

/// From the hop to the workload's socket, until the peer has said all.
async fn to_socket(mut recv: RecvStream, mut socket: WriteHalf<'_>, count: &Count<'_>) -> Result<(), Broken> {
    while let Some(data) = recv.data().await {
        let data = data?;
        socket.write_all(&data).await?;
        count.add(data.len());
        recv.flow_control().release_capacity(data.len())?;
    }
    // The workload may have closed already.
    match socket.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error.into()),
        _ => Ok(()),
    }
}
