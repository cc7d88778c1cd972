//! A stream of a hop as what HTTP is read from and written to.
//!
//! What is read comes from the stream, whose window opens as it is read. What is
//! written waits in an outbox until [`pump`] has a turn for it: the rounds of the hop
//! come first ([`window`](crate::session::window)), and whoever writes HTTP need not
//! know. Once the stream is cut, nothing is read and nothing is taken any more.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use countersign_ratls::peer::Role;
use h2::{RecvStream, SendStream};
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::forward::{Broken, called, turn};
use crate::live::Stream;
use crate::policy::Permitted;
use crate::session::window::Window;

/// What may wait to be sent.
const MOST: usize = 128 << 10;

/// The first bytes of a client of HTTP/2 (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What both ends of the outbox share.
#[derive(Debug)]
struct Outbox {
    stream: Arc<Stream>,
    role: Role,
    series: [IntCounter; 2],
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: BytesMut,
    end: Option<End>,
    /// The end is on its way to the peer.
    ended: bool,
    /// Who waits for room, or for the end.
    writer: Option<Waker>,
    /// Who waits for something to be sent.
    pump: Option<Waker>,
    /// What is still to come from the peer, when nobody reads it any more.
    left: Option<RecvStream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything was said.
    Said,
    /// The writer went away in the middle.
    Gone,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These bytes moved: those of the caller, or those of the called workload.
    fn count(&self, bytes: usize, of_caller: bool) {
        let [received, sent] = &self.series;
        let (stream, series) = match of_caller {
            true => (&self.stream.received, received),
            false => (&self.stream.sent, sent),
        };
        stream.fetch_add(bytes as u64, Ordering::Relaxed);
        series.inc_by(bytes as u64);
    }

    fn check(&self) -> io::Result<()> {
        match self.stream.cut.cause() {
            Some(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            None => Ok(()),
        }
    }
}

/// What HTTP reads and writes.
#[derive(Debug)]
pub(super) struct Io {
    recv: Option<RecvStream>,
    ahead: Bytes,
    outbox: Arc<Outbox>,
}

/// What moves the written bytes to the hop.
#[derive(Debug)]
pub(super) struct Pump(Arc<Outbox>);

/// Both sides of a stream that is permitted.
pub(super) fn pair(permitted: &Permitted, recv: RecvStream) -> (Io, Pump) {
    let series = &permitted.hop.series;
    let outbox = Arc::new(Outbox {
        stream: Arc::clone(&permitted.stream),
        role: permitted.hop.role,
        series: [series.received.clone(), series.sent.clone()],
        inner: Mutex::default(),
    });
    (Io { recv: Some(recv), ahead: Bytes::new(), outbox: Arc::clone(&outbox) }, Pump(outbox))
}

impl Io {
    /// Waits for the first byte. False if there is none.
    pub(super) async fn begins(&mut self) -> io::Result<bool> {
        self.look_ahead(1).await
    }

    /// Whether the peer speaks HTTP/2, by as few bytes as tell.
    pub(super) async fn is_http2(&mut self) -> io::Result<bool> {
        loop {
            let seen = self.ahead.len().min(PREFACE.len());
            if self.ahead.get(..seen) != PREFACE.get(..seen) {
                return Ok(false);
            }
            if seen == PREFACE.len() || !self.look_ahead(seen + 1).await? {
                return Ok(seen == PREFACE.len());
            }
        }
    }

    /// Has so many bytes at hand, if as many come.
    async fn look_ahead(&mut self, bytes: usize) -> io::Result<bool> {
        let Some(recv) = &mut self.recv else { return Ok(false) };
        while self.ahead.len() < bytes {
            match recv.data().await {
                None => return Ok(false),
                Some(data) => {
                    let data = data.map_err(io::Error::other)?;
                    self.ahead = match self.ahead.is_empty() {
                        true => data,
                        false => [&self.ahead[..], &data[..]].concat().into(),
                    };
                }
            }
        }
        Ok(true)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        me.outbox.check()?;
        let Some(recv) = &mut me.recv else { return Poll::Ready(Ok(())) };
        while me.ahead.is_empty() {
            match ready!(recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => me.ahead = data.map_err(io::Error::other)?,
            }
        }
        let part = me.ahead.split_to(me.ahead.len().min(buf.remaining()));
        buf.put_slice(&part);
        recv.flow_control().release_capacity(part.len()).map_err(io::Error::other)?;
        me.outbox.count(part.len(), me.outbox.role == Role::Client);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.outbox.check()?;
        let mut inner = self.outbox.lock();
        if inner.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = MOST.saturating_sub(inner.bytes.len());
        if room == 0 {
            inner.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut left = room;
        for mut buf in bufs.iter().map(|buf| &buf[..]) {
            let part = buf.len().min(left);
            inner.bytes.put(buf.copy_to_bytes(part));
            left -= part;
        }
        inner.pump.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(room - left))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was taken is sent as soon as the window lets it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.outbox.lock();
        if inner.end.get_or_insert(End::Said) == &End::Gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        inner.pump.take().into_iter().for_each(Waker::wake);
        if inner.ended {
            return Poll::Ready(Ok(()));
        }
        inner.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let mut inner = self.outbox.lock();
        inner.end.get_or_insert(End::Gone);
        inner.left = self.recv.take();
        inner.pump.take().into_iter().for_each(Waker::wake);
    }
}

impl Pump {
    /// How many bytes wait; none when that is all.
    fn poll_work(&self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let mut inner = self.0.lock();
        match (inner.bytes.len(), inner.end) {
            // What was written before counts: it may say why.
            (0, Some(End::Gone)) => Poll::Ready(Err(Broken::Closed)),
            (0, None) => {
                inner.pump = Some(cx.waker().clone());
                Poll::Pending
            }
            (waiting, _) => Poll::Ready(Ok(waiting)),
        }
    }

    fn take(&self, most: usize) -> Bytes {
        let mut inner = self.0.lock();
        let part = most.min(inner.bytes.len());
        let part = inner.bytes.split_to(part).freeze();
        if inner.bytes.is_empty() {
            // A connection that is idle holds no buffer.
            inner.bytes = BytesMut::new();
        }
        inner.writer.take().into_iter().for_each(Waker::wake);
        part
    }

    /// Sends what is written, until everything is said.
    pub(super) async fn run(
        &self,
        send: &mut SendStream<Bytes>,
        window: Option<&Window>,
    ) -> Result<(), Broken> {
        let mut calls = window.map(Window::calls);
        loop {
            let waiting = tokio::select! {
                biased;
                waiting = poll_fn(|cx| self.poll_work(cx)) => waiting?,
                reset = poll_fn(|cx| send.poll_reset(cx)) => return Err(Broken::reset(reset)),
            };
            if waiting == 0 {
                send.send_data(Bytes::new(), true)?;
                let mut inner = self.0.lock();
                inner.ended = true;
                inner.writer.take().into_iter().for_each(Waker::wake);
                return Ok(());
            }
            let _turn = tokio::select! {
                biased;
                turn = turn(window) => turn,
                reset = poll_fn(|cx| send.poll_reset(cx)) => return Err(Broken::reset(reset)),
            };
            send.reserve_capacity(waiting);
            let room = tokio::select! {
                biased;
                room = poll_fn(|cx| send.poll_capacity(cx)) => room.ok_or(Broken::Closed)??,
                // The rounds come first.
                () = called(&mut calls) => 0,
            };
            if room > 0 {
                let part = self.take(room);
                self.0.count(part.len(), self.0.role == Role::Server);
                send.send_data(part, false)?;
            }
            send.reserve_capacity(0);
        }
    }

    /// Hears the peer out, which has the whole answer and may still be speaking: a
    /// stream that ends before would look to it as if the answer was cut.
    pub(super) async fn hear_out(&self) {
        let left = self.0.lock().left.take();
        let Some(mut recv) = left else { return };
        while let Some(Ok(data)) = recv.data().await {
            if recv.flow_control().release_capacity(data.len()).is_err() {
                return;
            }
        }
    }
}
