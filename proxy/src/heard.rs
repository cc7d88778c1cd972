//! What the peer refused us with.
//!
//! In TLS 1.3 a client is done before the server has judged it: a refusal comes
//! as an alert later, which the layers above would not keep.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use countersign_evidence::Finding;
use countersign_ratls::tls::peer_refusal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at most, in KiB, to hear a refusal behind it.
const MOST_UNREAD: usize = 64;

/// What was heard from the peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    refusal: Arc<OnceLock<Finding>>,
}

impl Heard {
    /// The refusal of the peer, if there was one.
    pub(crate) fn refusal(&self) -> Option<&Finding> {
        self.refusal.get()
    }

    fn note(&self, error: &io::Error) {
        if let Some(refusal) = peer_refusal(error) {
            // The first one counts.
            let _ = self.refusal.set(refusal);
        }
    }
}

/// A stream on which we listen for the refusal.
#[derive(Debug)]
pub(crate) struct Listening<S> {
    inner: S,
    heard: Heard,
}

impl<S> Listening<S> {
    pub(crate) fn new(inner: S) -> (Self, Heard) {
        let heard = Heard::default();
        (Self { inner, heard: heard.clone() }, heard)
    }
}

impl<S: AsyncRead + Unpin> Listening<S> {
    /// Nothing can be written any more. Whoever refused us said why before it hung
    /// up, and the layers above read no more: else it would depend on which of both
    /// came first what our log says.
    fn hear_out(&mut self, cx: &mut Context<'_>) {
        let mut space = [0; 1 << 10];
        for _ in 0..MOST_UNREAD {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Err(error)) => return self.heard.note(&error),
                _ => return,
            }
        }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(written, Poll::Ready(Err(_))) && self.heard.refusal().is_none() {
            self.hear_out(cx);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &polled {
            self.heard.note(error);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::Reason;
    use tokio::io::AsyncWriteExt as _;

    /// A connection that the peer has refused and reset.
    struct Reset(Vec<io::Result<Vec<u8>>>);

    impl AsyncRead for Reset {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(self.0.pop().unwrap_or(Ok(Vec::new())).map(|bytes| buf.put_slice(&bytes)))
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_refusal_is_heard_though_writing_fails_before_it_is_read() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::AccessDenied);
        let refusal = io::Error::new(io::ErrorKind::InvalidData, alert);
        let (mut stream, heard) = Listening::new(Reset(vec![Err(refusal), Ok(b"frames".to_vec())]));
        assert!(stream.write_all(b"preface").await.is_err());
        assert_eq!(heard.refusal().unwrap().reason, Reason::PeerRefused);
        let (mut stream, heard) = Listening::new(Reset(Vec::new()));
        assert!(stream.write_all(b"preface").await.is_err());
        assert!(heard.refusal().is_none());
    }
}
