//! What the peer refused us with.
//!
//! In TLS 1.3 a client is done before the server has judged it: a refusal comes
//! as an alert later, which the layers above would not keep.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use countersign_evidence::{Denial, Finding};
use countersign_ratls::tls::peer_refusal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was heard from the peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    refusal: Arc<OnceLock<Finding>>,
}

impl Heard {
    /// The refusal of the peer, if there was one, else `other`.
    pub(crate) fn explain(&self, other: Denial) -> Denial {
        self.refusal.get().map_or(other, |refusal| Denial::from(refusal.clone()))
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
