//! A socket inside other layers (TLS, HTTP/2) that can be told to end with a reset.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::ahead::Ahead;

/// Tells a [`Severable`] socket that it has been cut.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cut: AtomicBool,
    /// The system did not take the last write: its bytes wait in our memory.
    full: AtomicBool,
}

impl Abort {
    /// No byte is read or written from now on, and closing sends a reset.
    pub fn set(&self) {
        self.0.cut.store(true, Ordering::Release);
    }

    /// Whether the socket has been cut.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }

    /// Whether bytes wait in our memory because the system takes none.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.full.load(Ordering::Acquire)
    }

    fn took<T>(&self, written: Poll<T>) -> Poll<T> {
        self.0.full.store(written.is_pending(), Ordering::Release);
        written
    }

    fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

/// A TCP stream that stops at once when its [`Abort`] is set.
#[derive(Debug)]
pub struct Severable {
    socket: TcpStream,
    ahead: Ahead,
    abort: Abort,
}

impl Severable {
    /// Wraps a socket.
    #[must_use]
    pub fn new(socket: TcpStream, abort: Abort) -> Self {
        Self { socket, ahead: Ahead::default(), abort }
    }
}

impl Drop for Severable {
    fn drop(&mut self) {
        if self.abort.is_set() {
            // A socket that is gone already needs no reset.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Severable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.abort.check()?;
        let this = &mut *self;
        this.ahead.poll_read(&mut this.socket, cx, buf)
    }
}

impl AsyncWrite for Severable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.abort.check()?;
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.abort.took(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.abort.check()?;
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.abort.took(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.abort.check()?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abort, connect, listen};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_severed_socket_moves_no_byte_and_resets_its_peer() {
        let (mut client, server) = pair().await;
        let flag = Abort::default();
        let mut server = Severable::new(server, flag.clone());
        server.write_all(b"a").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'a');
        flag.set();
        assert_eq!(server.write_all(b"b").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        drop(server);
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_socket_says_when_the_system_takes_no_more() {
        let (mut client, server) = pair().await;
        let flag = Abort::default();
        let mut server = Severable::new(server, flag.clone());
        server.write_all(b"a").await.unwrap();
        assert!(!flag.is_full());
        let much = vec![0; 64 << 20];
        let (writing, mut read) = (server.write_all(&much), vec![0; 1 << 20]);
        tokio::pin!(writing);
        while !flag.is_full() {
            tokio::select! {
                biased;
                _ = &mut writing => panic!("64 MiB that nobody reads"),
                () = std::future::ready(()) => {}
            }
        }
        tokio::select! {
            _ = &mut writing => {}
            () = async { while client.read(&mut read).await.unwrap() > 0 {} } => panic!("an end"),
        }
        assert!(!flag.is_full());
    }

    #[tokio::test]
    async fn nothing_is_lost_or_moved_by_reading_ahead_and_a_cut_holds_for_what_was_read() {
        let (mut client, server) = pair().await;
        let flag = Abort::default();
        let mut server = Severable::new(server, flag.clone());
        // No two pieces of it are alike.
        let said: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        let (sent, mut heard) = (said.clone(), Vec::new());
        let client = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client
        });
        // As TLS asks: little at a time, and other amounts now and then.
        let mut some = vec![0; 5000];
        while heard.len() < said.len() - 20_000 {
            let asked = if heard.len() % 3 == 0 { 4096 } else { 5000 };
            let read = server.read(&mut some[..asked]).await.unwrap();
            heard.extend_from_slice(&some[..read]);
        }
        assert!(heard == said[..heard.len()]);
        flag.set();
        assert_eq!(server.read(&mut some).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        client.await.unwrap();
    }

    #[tokio::test]
    async fn an_untouched_socket_ends_in_order_and_an_aborted_one_by_reset() {
        let (mut client, server) = pair().await;
        drop(Severable::new(server, Abort::default()));
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (mut client, server) = pair().await;
        abort(server);
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
