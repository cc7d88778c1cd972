//! The bytes of one application on a dedicated hop.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use countersign_ratls::peer::Role;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::line::Broken;
use super::record::{self, HEAD, Kind, Reader};
use super::window::{Receiving, Sending};
use super::{LARGEST, SMALLEST};
use crate::policy::Permitted;

/// What waits is kept in pieces of this size.
const CHUNK: usize = 64 << 10;
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

    /// How the application's connection failed, if it has. Whoever may neither read
    /// from it nor write to it learns that in no other way.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.socket.take_error().unwrap_or_else(Some)
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
            self.backlog.push(reader.front(n));
            reader.pass(n);
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

/// What an application has not taken yet. It is copied, for a piece of a buffer keeps
/// all of that: who cuts his records well would have us hold many times the window.
#[derive(Debug, Default)]
struct Backlog {
    /// All are full but the last.
    chunks: VecDeque<Vec<u8>>,
    /// How much of the first one the application has.
    at: usize,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.chunks.back().is_none_or(|last| last.len() >= CHUNK) {
                self.chunks.push_back(Vec::with_capacity(CHUNK));
            }
            let Some(last) = self.chunks.back_mut() else { return };
            let (some, rest) = bytes.split_at_checked(CHUNK - last.len()).unwrap_or((bytes, &[]));
            last.extend_from_slice(some);
            bytes = rest;
        }
    }

    /// What waits, oldest first.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.at;
        self.chunks.iter().map(move |chunk| chunk.get(std::mem::take(&mut at)..).unwrap_or_default())
    }

    fn write(&self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces()) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        let slices = slices.get(..used).unwrap_or_default();
        Poll::Ready(ready!(Pin::new(socket).poll_write_vectored(cx, slices)))
    }

    fn pass(&mut self, n: usize) {
        self.at += n;
        while let Some(first) = self.chunks.front() {
            if self.at < first.len() {
                return;
            }
            self.at -= first.len();
            self.chunks.pop_front();
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(backlog: &Backlog) -> Vec<u8> {
        backlog.pieces().flatten().copied().collect()
    }

    #[test]
    fn what_waits_keeps_its_order() {
        let (mut backlog, mut all) = (Backlog::default(), Vec::new());
        for (i, length) in [10_000, 1, CHUNK - 10_001, 1, 3 * CHUNK, 4095, 7].into_iter().enumerate() {
            let piece = vec![u8::try_from(i).unwrap(); length];
            backlog.push(&piece);
            all.extend(piece);
        }
        assert_eq!(waiting(&backlog), all);
        let mut passed = 0;
        for n in [1, 10_000, CHUNK, CHUNK - 10_001, 5] {
            backlog.pass(n);
            passed += n;
            assert!(waiting(&backlog) == all[passed..], "{passed}");
        }
        backlog.push(&[9]);
        all.push(9);
        assert!(waiting(&backlog) == all[passed..]);
        backlog.pass(all.len() - passed);
        assert!(backlog.is_empty());
        assert_eq!((backlog.at, backlog.chunks.capacity()), (0, 0));
    }

    #[test]
    fn what_waits_takes_no_more_memory_than_its_bytes_however_they_come() {
        // A piece of each read, and the rest of it is the session's.
        let (mut reader, mut backlog, mut waits) = (Reader::default(), Backlog::default(), 0);
        for length in [4096, 1].into_iter().cycle().take(1000) {
            reader.buffer().reserve(LARGEST);
            reader.buffer().extend_from_slice(&record::head(Kind::Data, length));
            reader.buffer().extend_from_slice(&vec![7; length]);
            assert_eq!(reader.part(), Ok(Some(record::Part::Data(length))));
            backlog.push(reader.front(length));
            reader.pass(length);
            waits += length;
        }
        let allocated: usize = backlog.chunks.iter().map(Vec::capacity).sum();
        assert!(allocated < waits + CHUNK, "{allocated} for {waits}");
        assert!(reader.buffer().capacity() <= 2 * LARGEST, "{}", reader.buffer().capacity());
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
