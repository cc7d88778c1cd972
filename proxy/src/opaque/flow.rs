//! The bytes of one application on a dedicated hop.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use countersign_ratls::peer::Role;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::line::Broken;
use super::record::{self, HEAD, Kind, Reader};
use super::window::{Receiving, Sending};
use super::{LARGEST, SMALLEST};
use crate::policy::Permitted;

/// A shorter piece is copied behind the one before, so that what waits is not mostly
/// bookkeeping.
const PIECE: usize = 4 << 10;
/// Pieces that are written at once.
const AT_ONCE: usize = 16;

/// Between the socket of an application and the records of a hop.
#[derive(Debug)]
pub(super) struct Flow {
    permitted: Permitted,
    socket: TcpStream,
    pub(super) sending: Sending,
    receiving: Receiving,
    /// How long the next record may be, head included.
    size: usize,
    backlog: Backlog,
    /// Our application has said all, and the peer is told.
    said_all: bool,
    /// The peer's has.
    heard_all: bool,
    /// And ours knows.
    shut: bool,
}

impl Flow {
    pub(super) fn new(permitted: Permitted, socket: TcpStream, window: u32) -> Self {
        Self {
            permitted,
            socket,
            sending: Sending::new(window),
            receiving: Receiving::default(),
            size: SMALLEST,
            backlog: Backlog::default(),
            said_all: false,
            heard_all: false,
            shut: false,
        }
    }

    /// Both sockets have had everything, and both proxies know.
    pub(super) const fn is_over(&self) -> bool {
        self.said_all && self.sending.is_done() && self.shut && self.receiving.is_done()
    }

    /// The peer needs nothing more from us: it may end the connection.
    pub(super) const fn may_end(&self) -> bool {
        self.said_all && self.sending.is_done() && self.heard_all
    }

    /// Whether the application has had everything.
    pub(super) const fn is_shut(&self) -> bool {
        self.shut
    }

    /// Whether it must not go on.
    pub(super) fn is_cut(&self) -> bool {
        self.permitted.stream.cut.cause().is_some()
    }

    /// Ends the application's connection by a reset. The stream is none any more.
    pub(super) fn abort(self) {
        countersign_net::abort(self.socket);
    }

    /// The bytes that were carried so far.
    pub(super) fn carried(&self) -> u64 {
        let stream = &self.permitted.stream;
        stream.sent.load(Ordering::Relaxed).wrapping_add(stream.received.load(Ordering::Relaxed))
    }

    /// The credit that the peer has to get now.
    pub(super) fn credit(&mut self) -> Option<u32> {
        self.receiving.due(self.heard_all && self.backlog.is_empty())
    }

    /// Puts a record behind what is in `out`: what the application says, as much as
    /// there is and may be sent, or that it has said all. Where the data begins.
    pub(super) fn gather(
        &mut self,
        out: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Result<Option<usize>, Broken> {
        let room = self.sending.room().min(self.size - HEAD);
        if self.said_all || room == 0 {
            return Ok(None);
        }
        // Without anything to be read there is no buffer.
        while self.socket.poll_read_ready(cx).map_err(Broken::Workload)?.is_ready() {
            let at = out.len();
            out.reserve_exact(HEAD + room);
            out.extend_from_slice(&[0; HEAD]);
            let read = std::pin::pin!(self.socket.read_buf(&mut (&mut *out).limit(room))).poll(cx);
            match read {
                Poll::Pending => out.truncate(at),
                Poll::Ready(Ok(0)) => {
                    out.truncate(at);
                    record::write(out, Kind::End, &[]);
                    self.said_all = true;
                    return Ok(None);
                }
                Poll::Ready(Ok(read)) => {
                    if let Some(head) = out.get_mut(at..at + HEAD) {
                        head.copy_from_slice(&record::head(Kind::Data, read));
                    }
                    self.sending.sent(read);
                    self.count(read, false);
                    self.size = fitting(self.size, HEAD + read);
                    return Ok(Some(at));
                }
                Poll::Ready(Err(error)) => {
                    out.truncate(at);
                    return Err(Broken::Workload(error));
                }
            }
        }
        Ok(None)
    }

    /// Gives the first `n` bytes of `reader` to the application. What it does not
    /// take waits here, so that what comes behind it does not.
    pub(super) fn deliver(
        &mut self,
        reader: &mut Reader,
        mut n: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        if self.heard_all {
            return Err(Broken::Format(record::malformed("data", "nothing behind the end", "data")));
        }
        self.receiving.arrived(n).map_err(Broken::Format)?;
        while n > 0 && self.backlog.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.socket).poll_write(cx, reader.front(n)) else {
                break;
            };
            let written = some(written)?;
            reader.pass(written);
            self.taken(written);
            n -= written;
        }
        if n > 0 {
            self.backlog.push(reader.take(n));
        }
        Ok(())
    }

    /// The peer's application has said all.
    pub(super) fn end(&mut self) -> Result<(), Broken> {
        match std::mem::replace(&mut self.heard_all, true) {
            true => Err(Broken::Format(record::malformed("end", "one", "a second one"))),
            false => Ok(()),
        }
    }

    /// Gives the application what waits for it. Whether anything moved.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let mut moved = false;
        while !self.backlog.is_empty() && !self.is_cut() {
            let written = self.backlog.write(&mut self.socket, cx);
            let Poll::Ready(written) = written else { return Ok(moved) };
            let written = some(written)?;
            self.backlog.pass(written);
            self.taken(written);
            moved = true;
        }
        if self.heard_all && !self.shut && self.backlog.is_empty() {
            match Pin::new(&mut self.socket).poll_shutdown(cx) {
                // It may have closed already.
                Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::NotConnected => {
                    return Err(Broken::Workload(error));
                }
                Poll::Ready(_) => (self.shut, moved) = (true, true),
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    fn taken(&mut self, n: usize) {
        self.receiving.taken(n);
        self.count(n, true);
    }

    /// Counts bytes, by where they came from.
    fn count(&self, n: usize, from_hop: bool) {
        let (stream, series) = (&self.permitted.stream, &self.permitted.hop.series);
        // On the called side the hop brings the caller's bytes; on the calling side the socket does.
        let of_caller = from_hop == (self.permitted.hop.role == Role::Client);
        let (stream, series) = match of_caller {
            true => (&stream.received, &series.received),
            false => (&stream.sent, &series.sent),
        };
        stream.fetch_add(n as u64, Ordering::Relaxed);
        series.inc_by(n as u64);
    }
}

fn some(written: io::Result<usize>) -> Result<usize, Broken> {
    match written {
        Ok(0) => Err(Broken::Workload(io::ErrorKind::WriteZero.into())),
        written => written.map_err(Broken::Workload),
    }
}

/// A buffer that was full grows, and one that was nearly empty shrinks.
pub(super) fn fitting(size: usize, used: usize) -> usize {
    if used >= size {
        (size * 4).min(LARGEST)
    } else if used < size / 4 {
        (size / 4).max(SMALLEST)
    } else {
        size
    }
}

/// What an application has not taken yet, in the pieces in which it came.
#[derive(Debug, Default)]
struct Backlog {
    pieces: VecDeque<BytesMut>,
    /// The last piece is a copy, with room for more.
    roomy: bool,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn push(&mut self, piece: BytesMut) {
        let short = piece.len() < PIECE;
        if short
            && self.roomy
            && let Some(last) = self.pieces.back_mut()
            && last.capacity() - last.len() >= piece.len()
        {
            last.extend_from_slice(&piece);
            return;
        }
        self.roomy = short;
        let piece = match short {
            true => {
                let mut copy = BytesMut::with_capacity(2 * PIECE);
                copy.extend_from_slice(&piece);
                copy
            }
            false => piece,
        };
        self.pieces.push_back(piece);
    }

    fn write(&self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        let slices = slices.get(..used).unwrap_or_default();
        Poll::Ready(ready!(Pin::new(socket).poll_write_vectored(cx, slices)))
    }

    fn pass(&mut self, mut n: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.pieces.pop_front();
        }
        self.pieces = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_keeps_its_order_and_short_pieces_share_their_memory() {
        let (mut backlog, mut all) = (Backlog::default(), Vec::new());
        for (i, length) in [10_000, 1, 1, 5000, 4095, 4096, 7].into_iter().enumerate() {
            let piece = vec![u8::try_from(i).unwrap(); length];
            backlog.push(BytesMut::from(&piece[..]));
            all.extend(piece);
        }
        assert_eq!(
            backlog.pieces.iter().map(BytesMut::len).collect::<Vec<_>>(),
            [10_000, 2, 5000, 4095, 4096, 7]
        );
        assert!(backlog.pieces.iter().flatten().eq(&all));
        backlog.pass(10_001);
        assert!(backlog.pieces.iter().flatten().eq(&all[10_001..]));
        for _ in 0..100_000 {
            backlog.push(BytesMut::from(&[9][..]));
        }
        assert!(backlog.pieces.len() < 5 + 100_000 / PIECE, "{}", backlog.pieces.len());
        backlog.pass(all.len() - 10_001 + 100_000);
        assert!(backlog.is_empty());
    }

    #[test]
    fn buffers_grow_while_they_are_filled_and_shrink_again() {
        assert_eq!(fitting(SMALLEST, SMALLEST), 4 * SMALLEST);
        assert_eq!(fitting(LARGEST, LARGEST), LARGEST);
        assert_eq!(fitting(LARGEST, LARGEST / 2), LARGEST);
        assert_eq!(fitting(LARGEST, 5), LARGEST / 4);
        assert_eq!(fitting(SMALLEST, 5), SMALLEST);
    }
}
