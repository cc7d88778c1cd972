//! What carries the frames of a session: the TLS stream before the gate opens,
//! stream 1 of HTTP/2 afterwards.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use countersign_ratls::tls::peer_refusal;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::window::{RESERVE, Speaker, Window};

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
                let Err(error) = written else { return Poll::Ready(Event::Written) };
                // Who refuses us says why before it hangs up, and what it said can be read
                // when nothing can be written any more.
                return Poll::Ready(match self.poll_read(cx) {
                    Poll::Ready(Ok(bytes)) if listening && !bytes.is_empty() => Event::Read(bytes),
                    Poll::Ready(Err(told)) if peer_refusal(&told).is_some() => Event::Ended(Some(told)),
                    _ => Event::Ended(Some(error)),
                });
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

/// The TLS stream itself; on a dedicated hop the way to its records.
#[derive(Debug)]
pub(crate) struct Raw<S> {
    stream: S,
    out: BytesMut,
    flushed: bool,
    space: Vec<u8>,
}

impl<S> Raw<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self::reading(stream, READ)
    }

    /// Which reads at most so much at once.
    pub(crate) fn reading(stream: S, most: usize) -> Self {
        Self { stream, out: BytesMut::new(), flushed: true, space: vec![0; most] }
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
    speaker: Speaker,
}

impl StreamOne {
    pub(crate) fn new(mut send: SendStream<Bytes>, recv: RecvStream, window: &Window) -> Self {
        send.reserve_capacity(RESERVE);
        Self { send, recv, out: Bytes::new(), speaker: window.speaker() }
    }

    /// Gives the others their turn once the reserve is in hand again.
    fn poll_refill(&mut self, cx: &mut Context<'_>) {
        while self.speaker.speaks() && self.out.is_empty() {
            if self.send.capacity() >= RESERVE {
                self.speaker.done();
            } else if !matches!(self.send.poll_capacity(cx), Poll::Ready(Some(Ok(_)))) {
                // Not yet, or never more: then the hop ends.
                return;
            }
        }
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
        ready!(self.speaker.poll_speak(cx));
        while !self.out.is_empty() {
            self.send.reserve_capacity(self.out.len().max(RESERVE));
            // What is in hand is not announced again.
            let mut window = self.send.capacity();
            if window == 0 {
                window = match ready!(self.send.poll_capacity(cx)) {
                    Some(window) => window.map_err(io::Error::other)?,
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                };
            }
            let part = self.out.split_to(window.min(self.out.len()));
            self.send.send_data(part, false).map_err(io::Error::other)?;
        }
        self.send.reserve_capacity(RESERVE);
        self.poll_refill(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.poll_refill(cx);
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};

    /// As large as a frame can be.
    const FRAME: usize = 256 << 10;
    const FRAMES: usize = 8;

    /// Takes what window it gets, as forwarding does, for a reader that does not read.
    async fn fill(mut stream: SendStream<Bytes>, window: &Window) {
        let mut calls = window.calls();
        loop {
            let _turn = window.turn().await;
            stream.reserve_capacity(16 << 10);
            tokio::select! {
                biased;
                room = poll_fn(|cx| stream.poll_capacity(cx)) => {
                    stream.send_data(vec![0; room.unwrap().unwrap()].into(), false).unwrap();
                }
                () = calls.next() => {}
            }
            stream.reserve_capacity(0);
        }
    }

    /// Over windows as HTTP/2 begins with, of which the readers of a stream hold all they can.
    #[tokio::test]
    async fn frames_of_any_length_pass_a_stream_whose_reader_does_not_read() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let peer = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (one, mut respond) = connection.accept().await.unwrap().unwrap();
            let _answer = respond.send_response(Response::new(()), false).unwrap();
            let (_stuck, _respond) = connection.accept().await.unwrap().unwrap();
            let mut one = one.into_body();
            let reading = async {
                let mut read = 0;
                while read < FRAMES * FRAME {
                    let data = one.data().await.unwrap().unwrap();
                    one.flow_control().release_capacity(data.len()).unwrap();
                    read += data.len();
                }
            };
            tokio::select! {
                () = reading => {}
                _ = connection.accept() => panic!("the end of the connection"),
            }
        });
        let (mut requests, connection) = h2::client::handshake(near).await.unwrap();
        let connection = tokio::spawn(connection);
        let (response, send) = requests.send_request(Request::new(()), false).unwrap();
        let window = Window::default();
        let mut one = StreamOne::new(send, response.await.unwrap().into_body(), &window);
        let (_response, stuck) = requests.send_request(Request::new(()), false).unwrap();
        let speaking = async {
            for _ in 0..FRAMES {
                one.say(BytesMut::zeroed(FRAME));
                let said = one.exchange(true).await;
                assert!(matches!(said, Event::Written), "{said:?}");
                // The others have their turn in between, if it is theirs.
                tokio::task::yield_now().await;
            }
            one.exchange(true).await
        };
        tokio::select! {
            biased;
            read = peer => read.unwrap(),
            () = fill(stuck, &window) => {}
            end = speaking => panic!("{end:?}"),
        }
        connection.abort();
    }
}
