//! A stream of which some bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that first yields what was read ahead of its turn.
#[derive(Debug)]
pub(crate) struct Rest<S> {
    ahead: BytesMut,
    stream: S,
}

impl<S> Rest<S> {
    pub(crate) const fn new(ahead: BytesMut, stream: S) -> Self {
        Self { ahead, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rest<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let some = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..some).unwrap_or_default());
        self.ahead.advance(some);
        if self.ahead.is_empty() {
            // Never needed again: a hop may live for a day.
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rest<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut rest = Rest::new(BytesMut::from(&b"PRI * HT"[..]), near);
        far.write_all(b"TP/2.0").await.unwrap();
        let mut read = Vec::new();
        for _ in 0..14 {
            read.push(rest.read_u8().await.unwrap());
        }
        assert_eq!(read, b"PRI * HTTP/2.0");
        rest.write_all(b"SETTINGS").await.unwrap();
        rest.flush().await.unwrap();
        let mut written = [0; 8];
        far.read_exact(&mut written).await.unwrap();
        assert_eq!(&written, b"SETTINGS");
    }
}
