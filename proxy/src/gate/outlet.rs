//! What may still leave a hop that is cut: its last words, and no byte of an application.
//!
//! HTTP/2 queues bytes of streams in several places, and a hop is cut by whoever
//! learns the reason, at any moment. So the last place before TLS knows where in
//! the frames it stands (RFC 9113, section 4.1), or in the records of a dedicated
//! hop, and stops there.

use std::sync::atomic::{AtomicBool, Ordering};

use countersign_ratls::peer::Role;

use super::Framing;
use crate::opaque::record;

/// The first bytes of a client (RFC 9113, section 3.4).
const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
/// The stream of the rounds.
const ROUNDS: u32 = 1;

/// The switch.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    shut: AtomicBool,
    flushed: AtomicBool,
}

impl Outlet {
    /// From now on no frame with bytes of an application begins or goes on.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// Whether everything that was written is out of our hands.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.load(Ordering::Acquire)
    }

    pub(super) fn writes(&self) {
        self.flushed.store(false, Ordering::Release);
    }

    pub(super) fn flushed(&self) {
        self.flushed.store(true, Ordering::Release);
    }
}

/// Where in the frames of HTTP/2, or in the records of a dedicated hop, a writer stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// Of which the first so many bytes are used.
    length: usize,
    /// Bytes that are no head: of the preface, or of the payload of a frame.
    left: usize,
    /// Whether they are an application's.
    application: bool,
    head: [u8; HEAD],
    have: usize,
}

impl Frames {
    /// At the beginning of what we say to a peer in this role.
    pub(crate) const fn of(framing: Framing, peer: Role) -> Self {
        let (length, left) = match (framing, peer) {
            (Framing::Dedicated, _) => (record::HEAD, 0),
            (Framing::Plain | Framing::Shared, Role::Server) => (HEAD, PREFACE),
            (Framing::Plain | Framing::Shared, Role::Client) => (HEAD, 0),
        };
        Self { length, left, application: false, head: [0; HEAD], have: 0 }
    }

    /// These bytes were written.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.step(bytes);
        }
    }

    /// How many of `bytes` stand before the next one of an application.
    pub(super) fn before_application(mut self, bytes: &[u8]) -> usize {
        let (mut rest, mut before) = (bytes, 0);
        while !rest.is_empty() && !self.application {
            if self.left == 0 && self.have == 0 {
                before = bytes.len() - rest.len();
            }
            rest = self.step(rest);
        }
        // A frame of an application is left out with its head.
        if self.application { before } else { bytes.len() }
    }

    /// Goes on to the end of the bytes, of a head or of a payload.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.left > 0 {
            let (_, rest) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
            self.left -= bytes.len() - rest.len();
            self.application &= self.left > 0;
            return rest;
        }
        let missing = self.head.get_mut(self.have..self.length).unwrap_or_default();
        let (head, rest) = bytes.split_at_checked(missing.len()).unwrap_or((bytes, &[]));
        missing.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        self.have += head.len();
        if self.have == self.length {
            self.have = 0;
            let is_application = if self.length == HEAD { self.frame() } else { self.record() };
            self.application = is_application && self.left > 0;
        }
        rest
    }

    /// A frame of HTTP/2 begins: whether it is of a stream that is an application's.
    fn frame(&mut self) -> bool {
        let [a, b, c, kind, _, stream @ ..] = self.head;
        self.left = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        kind == DATA && stream != ROUNDS
    }

    /// A record begins: whether it is an application's.
    fn record(&mut self) -> bool {
        let [kind, a, b, c, d, ..] = self.head;
        self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        kind == record::Kind::Data.byte()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), &vec![7; payload]].concat()
    }

    #[test]
    fn bytes_of_applications_are_found_wherever_the_writes_are_split() {
        let innocent = [frame(4, 0, 6), frame(1, 3, 40), frame(0, 1, 100), frame(0, 5, 0)].concat();
        let all = [&innocent[..], &frame(0, 3, 30), &frame(3, 3, 4)].concat();
        for split in 0..=innocent.len() {
            let mut frames = Frames::of(Framing::Shared, Role::Client);
            frames.advance(&all[..split]);
            assert_eq!(frames.before_application(&all[split..]), innocent.len() - split, "{split}");
        }
        // In the middle of one, head included, nothing more may be written.
        for split in innocent.len() + 1..innocent.len() + 39 {
            let mut frames = Frames::of(Framing::Shared, Role::Client);
            frames.advance(&all[..split]);
            assert_eq!(frames.before_application(&all[split..]), 0, "{split}");
        }
        let mut frames = Frames::of(Framing::Shared, Role::Client);
        frames.advance(&all[..innocent.len() + 39]);
        assert_eq!(frames.before_application(&all[innocent.len() + 39..]), 13);
    }

    #[test]
    fn a_client_begins_with_its_preface() {
        let said = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 6), &frame(0, 3, 1)].concat();
        for split in 0..39 {
            let mut frames = Frames::of(Framing::Shared, Role::Server);
            frames.advance(&said[..split]);
            assert_eq!(frames.before_application(&said[split..]), 39 - split);
        }
    }

    #[test]
    fn records_of_applications_are_found_as_frames_are() {
        let record =
            |kind: record::Kind, length: usize| [&record::head(kind, length)[..], &vec![7; length]].concat();
        let innocent = [record(record::Kind::Connect, 30), record(record::Kind::Attest, 300)].concat();
        let all = [&innocent[..], &record(record::Kind::Data, 9), &record(record::Kind::End, 0)].concat();
        for role in [Role::Client, Role::Server] {
            for split in 0..all.len() {
                let mut frames = Frames::of(Framing::Dedicated, role);
                frames.advance(&all[..split]);
                let left = match split {
                    _ if split <= innocent.len() => innocent.len() - split,
                    _ if split < innocent.len() + 14 => 0,
                    _ => all.len() - split,
                };
                assert_eq!(frames.before_application(&all[split..]), left, "{split}");
            }
        }
    }
}
