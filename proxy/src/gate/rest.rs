//! A stream of which some bytes were read already, and on which nothing of an
//! application is written any more once its outlet is shut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::outlet::{Frames, Outlet};

/// A stream that first yields what was read ahead of its turn.
#[derive(Debug)]
pub(crate) struct Rest<S> {
    ahead: BytesMut,
    stream: S,
    outlet: Arc<Outlet>,
    frames: Frames,
}

impl<S> Rest<S> {
    pub(crate) const fn new(ahead: BytesMut, stream: S, outlet: Arc<Outlet>, frames: Frames) -> Self {
        Self { ahead, stream, outlet, frames }
    }

    /// Whether nothing of an application is written any more.
    pub(crate) fn is_shut(&self) -> bool {
        self.outlet.is_shut()
    }

    /// How much of `buf` may be written; some of it, if there is any.
    fn open_for<'a>(&self, buf: &'a [u8]) -> io::Result<&'a [u8]> {
        if !self.outlet.is_shut() {
            return Ok(buf);
        }
        match buf.get(..self.frames.before_application(buf)) {
            Some([]) if !buf.is_empty() => Err(io::ErrorKind::ConnectionAborted.into()),
            some => Ok(some.unwrap_or_default()),
        }
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
        let open = self.open_for(buf)?;
        self.outlet.writes();
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, open))?;
        self.frames.advance(open.get(..written).unwrap_or(open));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.outlet.is_shut() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        self.outlet.writes();
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or(buf);
            self.frames.advance(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.outlet.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Framing;
    use countersign_ratls::peer::Role;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const DATA_3: &[u8] = b"\0\0\x04\0\0\0\0\0\x03data";
    const DATA_1: &[u8] = b"\0\0\x03\0\0\0\0\0\x01why";

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(64);
        let (outlet, frames) = (Arc::default(), Frames::of(Framing::Shared, Role::Client));
        let mut rest = Rest::new(BytesMut::from(&b"PRI * HT"[..]), near, outlet, frames);
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
    #[tokio::test]
    async fn of_what_is_under_way_nothing_of_an_application_passes_a_shut_outlet() {
        let (near, mut far) = tokio::io::duplex(64);
        let outlet = Arc::new(Outlet::default());
        let mut rest =
            Rest::new(BytesMut::new(), near, Arc::clone(&outlet), Frames::of(Framing::Shared, Role::Client));
        rest.write_all(DATA_3).await.unwrap();
        rest.flush().await.unwrap();
        assert!(outlet.is_flushed());
        outlet.shut();
        let both = [DATA_1, DATA_3].concat();
        let refused = rest.write_all(&both).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
        let refused = rest.write_vectored(&[io::IoSlice::new(b""), io::IoSlice::new(DATA_3)]).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        drop(rest);
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.unwrap();
        assert_eq!(arrived, [DATA_3, DATA_1].concat());
    }
}
