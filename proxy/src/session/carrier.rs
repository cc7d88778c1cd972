//! What carries the frames of a session: the TLS stream before the gate opens,
//! stream 1 of HTTP/2 afterwards.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once.
const READ: usize = 16 << 10;

/// What happened on a carrier.
#[derive(Debug)]
pub(crate) enum Event {
    /// Everything that was said is on its way.
    Written,
    /// Bytes of the peer.
    Read(Bytes),
    /// The peer has ended it, or it broke.
    Ended(Option<io::Error>),
}

/// A two-way channel for bytes.
pub(crate) trait Carrier {
    /// Whether there is nothing left to be written.
    fn is_idle(&self) -> bool;

    /// Takes `bytes` to be written. The carrier must be idle.
    fn say(&mut self, bytes: BytesMut);

    /// Writes. Ready when everything is on its way.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads some bytes; none at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>>;

    /// Writes and, if `listening`, reads, until something has happened. Cancel-safe.
    async fn exchange(&mut self, listening: bool) -> Event {
        poll_fn(|cx| {
            if !self.is_idle()
                && let Poll::Ready(written) = self.poll_write(cx)
            {
                return Poll::Ready(
                    written.map_or_else(|error| Event::Ended(Some(error)), |()| Event::Written),
                );
            }
            if !listening {
                return Poll::Pending;
            }
            Poll::Ready(match ready!(self.poll_read(cx)) {
                Ok(bytes) if bytes.is_empty() => Event::Ended(None),
                Ok(bytes) => Event::Read(bytes),
                Err(error) => Event::Ended(Some(error)),
            })
        })
        .await
    }
}

/// The TLS stream itself.
#[derive(Debug)]
pub(crate) struct Raw<S> {
    stream: S,
    out: BytesMut,
    flushed: bool,
    space: Vec<u8>,
}

impl<S> Raw<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, out: BytesMut::new(), flushed: true, space: vec![0; READ] }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Carrier for Raw<S> {
    fn is_idle(&self) -> bool {
        self.flushed
    }

    fn say(&mut self, bytes: BytesMut) {
        self.flushed = bytes.is_empty();
        self.out = bytes;
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        // TLS has its own buffer.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut buffer = ReadBuf::new(&mut self.space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    }
}

/// Stream 1 of HTTP/2, whose windows bound what is under way.
#[derive(Debug)]
pub(crate) struct StreamOne {
    send: SendStream<Bytes>,
    recv: RecvStream,
    out: Bytes,
}

impl StreamOne {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, out: Bytes::new() }
    }
}

impl Carrier for StreamOne {
    fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    fn say(&mut self, bytes: BytesMut) {
        self.out = bytes.freeze();
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            self.send.reserve_capacity(self.out.len());
            let window = match ready!(self.send.poll_capacity(cx)) {
                Some(window) => window.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
            let part = self.out.split_to(window.min(self.out.len()));
            self.send.send_data(part, false).map_err(io::Error::other)?;
        }
        self.send.reserve_capacity(0);
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        // A reset ends the stream whether or not anything is to be read.
        match ready!(self.recv.poll_data(cx)) {
            None => Poll::Ready(Ok(Bytes::new())),
            Some(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Some(Ok(data)) => {
                self.recv.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
                Poll::Ready(Ok(data))
            }
        }
    }
}
