//! Everything that is said on a dedicated hop, over TLS: records of the session and
//! of the one stream, in both directions, by one task.
//!
//! Of what is to be said the session comes first, then answers and credit, then data,
//! all in one buffer and one write. What comes is read whether or not the application
//! reads: it is bounded by the window, and the session's records are behind nothing
//! else.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use countersign_evidence::Finding;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use super::flow::{Flow, fitting};
use super::record::{self, Answer, Connect, Kind, Part, Reader};
use super::{LARGEST, SMALLEST};
use crate::gate::Rest;
use crate::policy::Permitted;

/// What the session says is cut into records of this size.
const SPOKEN: usize = 4 << 10;
/// And so much of it may stand before anything else.
const SPOKEN_AT_ONCE: usize = 16 << 10;

/// Why a stream ends before both sides were done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("workload: {0}")]
    Workload(io::Error),
    #[error("hop: {0}")]
    Hop(io::Error),
    #[error("hop: the connection ended early")]
    Truncated,
    #[error("hop: the stream ended early")]
    Reset,
    #[error("no byte in {0:?}")]
    Idle(std::time::Duration),
    #[error("{0}")]
    Format(Finding),
}

/// What happened on a line.
#[derive(Debug)]
pub(super) enum Event {
    /// The peer calls.
    Connect(Connect),
    /// The peer answers our call.
    Answer(Answer),
    /// Both applications have said and heard everything.
    Over,
}

/// The one record that may come next besides those of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    Connect,
    Answer,
    /// None, or those of the stream, once there is one.
    Stream,
}

/// The line of one hop.
#[derive(Debug)]
pub(super) struct Line<S> {
    stream: Rest<S>,
    /// The way to the session, while it listens.
    session: Option<DuplexStream>,
    reader: Reader,
    /// How much is read at once.
    reading: usize,
    /// What is being written, from `at` on; if it has data, it ends with them.
    out: Vec<u8>,
    at: usize,
    data: Option<usize>,
    /// Records that are to be written next.
    control: Vec<u8>,
    unflushed: bool,
    expects: Expects,
    flow: Option<Flow>,
    /// The peer has ended the connection, or it broke.
    ended: Option<Option<io::Error>>,
    /// And it was at an end.
    hung_up: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn new(stream: Rest<S>, session: DuplexStream, expects: Expects) -> Self {
        Self {
            stream,
            session: Some(session),
            reader: Reader::default(),
            reading: SMALLEST,
            out: Vec::new(),
            at: 0,
            data: None,
            control: Vec::new(),
            unflushed: false,
            expects,
            flow: None,
            ended: None,
            hung_up: false,
        }
    }

    /// Has a record written.
    pub(super) fn say(&mut self, kind: Kind, payload: &[u8]) {
        record::write(&mut self.control, kind, payload);
    }

    /// From now on the bytes of an application flow. The peer takes `window` of them
    /// before it gives credit.
    pub(super) fn flow(&mut self, permitted: Permitted, socket: TcpStream, window: u32) {
        self.flow = Some(Flow::new(permitted, socket, window));
    }

    /// The bytes of the application that were carried so far.
    pub(super) fn carried(&self) -> u64 {
        self.flow.as_ref().map_or(0, Flow::carried)
    }

    /// How the application's connection failed, if it has.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.flow.as_ref().and_then(Flow::failure)
    }

    /// Moves what can be moved until something happens.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
        match self.go_on(cx) {
            // Whoever shuts the outlet throws the cut next, and that says why.
            Poll::Ready(Err(Broken::Hop(_))) if self.stream.is_shut() => Poll::Pending,
            polled => polled,
        }
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
        let mut failed = None;
        // Who cut it ends it.
        while !self.flow.as_ref().is_some_and(Flow::is_cut) {
            let wrote = failed.is_none()
                && match self.push(cx) {
                    // What the peer said before that is here: why, or that it was done.
                    Err(broken @ Broken::Hop(_)) => {
                        failed = Some(broken);
                        false
                    }
                    pushed => pushed?,
                };
            let (read, event) = self.pull(cx)?;
            if let Some(event) = event {
                return Poll::Ready(Ok(event));
            }
            if self.is_over() {
                return Poll::Ready(Ok(Event::Over));
            }
            if !wrote && !read {
                if let Some(broken) = failed.filter(|_| !self.hung_up) {
                    return Poll::Ready(Err(broken));
                }
                break;
            }
        }
        self.let_go(SMALLEST);
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        let Some(flow) = &self.flow else { return false };
        if self.hung_up { flow.is_shut() } else { flow.is_over() && self.out.is_empty() && !self.unflushed }
    }

    /// Lets go of buffers that are empty.
    pub(super) fn tidy(&mut self) {
        self.let_go(usize::MAX);
    }

    /// The same of those that are not larger than this.
    fn let_go(&mut self, largest: usize) {
        if self.out.is_empty() && self.out.capacity() <= largest {
            self.out = Vec::new();
        }
        if self.reader.buffer().is_empty() && self.reading <= largest {
            *self.reader.buffer() = BytesMut::new();
        }
    }

    /// Writes, once. Whether anything moved.
    fn push(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.hung_up {
            return Ok(false);
        }
        if self.out.is_empty() {
            self.gather(cx)?;
        }
        if self.out.is_empty() {
            let flushed = self.unflushed && self.flush(cx).map_err(Broken::Hop)?.is_ready();
            return Ok(flushed);
        }
        Ok(self.write(cx).map_err(Broken::Hop)?.is_ready())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = self.out.get(self.at..).unwrap_or_default();
        self.unflushed = true;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.at += written;
        if self.at >= self.out.len() {
            self.out.clear();
            (self.at, self.data) = (0, None);
        }
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS has its own buffer.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Gathers what is to be written next.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        self.hear(cx);
        self.out.append(&mut self.control);
        if let Some(flow) = &mut self.flow {
            if let Some(credit) = flow.credit() {
                record::write(&mut self.out, Kind::Credit, &credit.to_be_bytes());
            }
            self.data = flow.gather(&mut self.out, cx)?;
        }
        Ok(())
    }

    /// What the session has to say.
    fn hear(&mut self, cx: &mut Context<'_>) {
        let mut space = [const { MaybeUninit::uninit() }; SPOKEN];
        while let Some(session) = &mut self.session
            && self.out.len() < SPOKEN_AT_ONCE
        {
            let mut some = ReadBuf::uninit(&mut space);
            match Pin::new(session).poll_read(cx, &mut some) {
                Poll::Ready(Ok(())) if !some.filled().is_empty() => {
                    record::write(&mut self.out, Kind::Attest, some.filled());
                }
                Poll::Ready(_) => self.session = None,
                Poll::Pending => return,
            }
        }
    }

    /// Reads, once, and passes on what came. Whether anything moved.
    fn pull(&mut self, cx: &mut Context<'_>) -> Result<(bool, Option<Event>), Broken> {
        let mut moved = match &mut self.flow {
            Some(flow) => flow.drain(cx)?,
            None => false,
        };
        if self.hung_up {
            return Ok((moved, None));
        }
        let Poll::Ready(event) = self.pass_on(cx, &mut moved)? else { return Ok((moved, None)) };
        if event.is_some() {
            return Ok((true, event));
        }
        if self.ended.is_none() {
            if self.fill(cx).is_pending() {
                return Ok((moved, None));
            }
            moved = true;
            match self.pass_on(cx, &mut moved)? {
                Poll::Ready(None) => {}
                Poll::Ready(event) => return Ok((true, event)),
                Poll::Pending => return Ok((true, None)),
            }
        }
        if let Some(error) = self.ended.take() {
            if !self.flow.as_ref().is_some_and(Flow::may_end) {
                return Err(error.map_or(Broken::Truncated, Broken::Hop));
            }
            (self.hung_up, moved) = (true, true);
        }
        Ok((moved, None))
    }

    /// Passes on all records that are there. Pending: those behind a record of the
    /// session, which has to take that first, and those of a stream that is cut.
    fn pass_on(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<Option<Event>, Broken>> {
        while let Some(part) = self.reader.part().map_err(Broken::Format)? {
            match (part, &mut self.flow, self.expects) {
                (Part::Attest(n), ..) => ready!(self.tell(n, cx)),
                // It was cut by another thread just now.
                (_, Some(flow), _) if flow.is_cut() => return Poll::Pending,
                (Part::Data(n), Some(flow), _) => flow.deliver(&mut self.reader, n, cx)?,
                (Part::Credit(n), Some(flow), _) => flow.sending.credited(n).map_err(Broken::Format)?,
                (Part::End, Some(flow), _) => {
                    flow.end()?;
                    flow.drain(cx)?;
                }
                (Part::Reset, _, Expects::Stream) => return Poll::Ready(Err(Broken::Reset)),
                (Part::Connect(connect), None, Expects::Connect) => {
                    self.expects = Expects::Stream;
                    return Poll::Ready(Ok(Some(Event::Connect(connect))));
                }
                (Part::Answer(answer), None, Expects::Answer) => {
                    self.expects = Expects::Stream;
                    return Poll::Ready(Ok(Some(Event::Answer(answer))));
                }
                (part, _, expects) => {
                    let expected = format!("a record for {expects:?}");
                    return Poll::Ready(Err(Broken::Format(record::malformed(
                        "order",
                        expected,
                        name(&part),
                    ))));
                }
            }
            *moved = true;
        }
        Poll::Ready(Ok(None))
    }

    /// Passes on some of the first `n` bytes to the session.
    fn tell(&mut self, n: usize, cx: &mut Context<'_>) -> Poll<()> {
        let taken = match &mut self.session {
            Some(session) => ready!(Pin::new(session).poll_write(cx, self.reader.front(n))).unwrap_or(0),
            None => 0,
        };
        if taken == 0 {
            // It is over, and so is the hop.
            self.session = None;
            self.reader.pass(n);
        }
        self.reader.pass(taken);
        Poll::Ready(())
    }

    /// Reads what there is, up to a buffer.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = self.reader.buffer().len();
        let most = before + self.reading;
        loop {
            let buffer = self.reader.buffer();
            let room = most - buffer.len();
            buffer.reserve(room);
            let mut limited = buffer.limit(room);
            let read = std::pin::pin!(self.stream.read_buf(&mut limited)).poll(cx);
            let read = match read {
                Poll::Pending => break,
                Poll::Ready(read) => read,
            };
            match read {
                Ok(read @ 1..) if read < room => {}
                Ok(1..) => break,
                Ok(_) => {
                    self.ended = Some(None);
                    break;
                }
                Err(error) => {
                    self.ended = Some(Some(error));
                    break;
                }
            }
        }
        let read = self.reader.buffer().len() - before;
        if read == 0 && self.ended.is_none() {
            return Poll::Pending;
        }
        self.reading = fitting(self.reading, read);
        Poll::Ready(())
    }

    /// No byte of an application moves any more: its connection ends by a reset.
    /// Whether anything can still be said in order: not within its data.
    pub(super) fn cease(&mut self) -> bool {
        if let Some(flow) = self.flow.take() {
            flow.abort();
        }
        let Some(data) = self.data.take() else { return true };
        self.out.truncate(data);
        if self.at > data {
            return false;
        }
        if self.at == data {
            self.out.clear();
            self.at = 0;
        }
        true
    }

    /// The application is gone, and its last bytes with it: tells the peer.
    pub(super) fn give_up(&mut self) {
        if let Some(flow) = self.flow.take() {
            flow.abort();
        }
        self.say(Kind::Reset, &[]);
    }

    /// Nothing more comes for the session.
    pub(super) fn hang_up(&mut self) {
        self.session = None;
    }

    /// Writes what is to be said besides data. Ready when all of it is on its way,
    /// though there may be more later.
    pub(super) fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.out.is_empty() {
                self.hear(cx);
                self.out.append(&mut self.control);
            }
            if self.out.is_empty() {
                return self.flush(cx);
            }
            ready!(self.write(cx))?;
        }
    }

    /// Ends the connection in order, and waits until the peer has done so: whoever
    /// closes a connection on which something comes ends it by a reset.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.hang_up();
        // What is left of a stream had its end: the application's connection has one, too.
        self.flow = None;
        std::future::poll_fn(|cx| self.poll_say(cx)).await?;
        self.stream.shutdown().await?;
        let mut rest = BytesMut::with_capacity(SMALLEST);
        while self.ended.is_none() && self.stream.read_buf(&mut rest).await? > 0 {
            rest.clear();
        }
        Ok(())
    }
}

const fn name(part: &Part) -> &'static str {
    match part {
        Part::Data(_) => Kind::Data,
        Part::Attest(_) => Kind::Attest,
        Part::Connect(_) => Kind::Connect,
        Part::Answer(_) => Kind::Answer,
        Part::Credit(_) => Kind::Credit,
        Part::End => Kind::End,
        Part::Reset => Kind::Reset,
    }
    .name()
}

#[cfg(test)]
mod tests;

const _: () = assert!(LARGEST - record::HEAD <= Kind::Data.sizes().1);
