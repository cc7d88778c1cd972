//! The records of a dedicated hop (docs/session.md): `u8 type || u32be length || payload`.
//! Machines without I/O.

use bytes::{Buf, BytesMut};
use countersign_evidence::{Finding, Reason};

/// Type and length.
pub const HEAD: usize = 5;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of the application.
    Data,
    /// Bytes of the session protocol, which cuts them into frames by itself.
    Attest,
    /// Which port is called; once, by the client.
    Connect,
    /// What became of that; once, by the server.
    Answer,
    /// So many bytes of data are with the application now.
    Credit,
    /// The sender's application has said all.
    End,
    /// The stream is over, and not in order.
    Reset,
}

impl Kind {
    /// Every kind, by its byte from 0.
    pub const ALL: [Self; 7] =
        [Self::Data, Self::Attest, Self::Connect, Self::Answer, Self::Credit, Self::End, Self::Reset];

    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Attest => 1,
            Self::Connect => 2,
            Self::Answer => 3,
            Self::Credit => 4,
            Self::End => 5,
            Self::Reset => 6,
        }
    }

    /// The name, for findings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Attest => "attest",
            Self::Connect => "connect",
            Self::Answer => "answer",
            Self::Credit => "credit",
            Self::End => "end",
            Self::Reset => "reset",
        }
    }

    /// The shortest and the longest payload. What is not passed on as it comes is short.
    #[must_use]
    pub const fn sizes(self) -> (usize, usize) {
        match self {
            Self::Data | Self::Attest => (1, 256 << 10),
            Self::Connect => (7, 2 << 10),
            Self::Answer => (6, 256),
            Self::Credit => (4, 4),
            Self::End | Self::Reset => (0, 0),
        }
    }
}

/// The head of a record.
#[must_use]
pub fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind.byte(), a, b, c, d]
}

/// Writes a whole record.
pub(super) fn write(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    out.extend_from_slice(&head(kind, payload.len()));
    out.extend_from_slice(payload);
}

fn parse(bytes: [u8; HEAD]) -> Result<(Kind, usize), Finding> {
    let [kind, length @ ..] = bytes;
    let Some(kind) = Kind::ALL.into_iter().find(|known| known.byte() == kind) else {
        return Err(malformed("type", "0 to 6", kind.to_string()));
    };
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let (shortest, longest) = kind.sizes();
    if !(shortest..=longest).contains(&length) {
        let expected = format!("{shortest} to {longest} bytes in {}", kind.name());
        return Err(malformed("length", expected, length.to_string()));
    }
    Ok((kind, length))
}

pub(super) fn malformed(field: &str, expected: impl Into<String>, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::BadRequest, format!("record, {field}"), expected, presented)
}

/// A call, as the client asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// How many bytes the server may send that it has no credit for yet.
    pub window: u32,
    /// `HOST:PORT`, as of a CONNECT request.
    pub authority: String,
    /// The way so far (RFC 7239).
    pub forwarded: Option<String>,
    /// The trace (W3C Trace Context).
    pub traceparent: Option<String>,
}

impl Connect {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = self.window.to_be_bytes().to_vec();
        payload.extend_from_slice(self.authority.as_bytes());
        for (name, value) in [("forwarded", &self.forwarded), ("traceparent", &self.traceparent)] {
            if let Some(value) = value {
                payload.extend_from_slice(format!("\n{name}: {value}").as_bytes());
            }
        }
        payload
    }

    /// Reads a payload: a window, a line with the authority, and lines `name: value`,
    /// of which those with other names are for later versions.
    ///
    /// # Errors
    /// `bad-request`.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let (window, text) = window(payload, "connect")?;
        let text = text_of(text, "connect")?;
        let mut lines = text.split('\n');
        let authority = lines.next().unwrap_or_default().to_owned();
        let mut connect = Self { window, authority, ..Self::default() };
        for line in lines {
            let Some((name, value)) = line.split_once(": ") else {
                return Err(malformed("connect", "lines of NAME: VALUE", "another one"));
            };
            let slot = match name {
                "forwarded" => &mut connect.forwarded,
                "traceparent" => &mut connect.traceparent,
                _ => continue,
            };
            if slot.replace(value.to_owned()).is_some() {
                return Err(malformed("connect", format!("{name} once"), "twice"));
            }
        }
        Ok(connect)
    }
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As of HTTP: 200, and the reason's for a refusal.
    pub status: u16,
    /// How many bytes the client may send that it has no credit for yet.
    pub window: u32,
    /// The code of the reason of a refusal.
    pub reason: Option<String>,
}

impl Answer {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = self.window.to_be_bytes().to_vec();
        payload.extend_from_slice(&self.status.to_be_bytes());
        payload.extend_from_slice(self.reason.as_deref().unwrap_or_default().as_bytes());
        payload
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// `bad-request`.
    pub fn decode(payload: &[u8]) -> Result<Self, Finding> {
        let (window, rest) = window(payload, "answer")?;
        let Some((status, reason)) = rest.split_first_chunk() else {
            return Err(malformed("answer", "a status", "nothing"));
        };
        let reason = text_of(reason, "answer")?;
        let reason = (!reason.is_empty()).then(|| reason.to_owned());
        Ok(Self { status: u16::from_be_bytes(*status), window, reason })
    }
}

fn window<'a>(payload: &'a [u8], field: &str) -> Result<(u32, &'a [u8]), Finding> {
    let (window, rest) =
        payload.split_first_chunk().ok_or_else(|| malformed(field, "a window", "nothing"))?;
    Ok((u32::from_be_bytes(*window), rest))
}

/// Printable ASCII, and the ends of lines.
fn text_of<'a>(bytes: &'a [u8], field: &str) -> Result<&'a str, Finding> {
    let fits = bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n'));
    let text = std::str::from_utf8(bytes).ok().filter(|_| fits);
    text.ok_or_else(|| malformed(field, "printable ASCII", "other bytes"))
}

/// What comes next in the bytes of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many bytes at the front are the application's: pass them on.
    Data(usize),
    /// So many bytes at the front are the session's.
    Attest(usize),
    /// A whole record.
    Connect(Connect),
    /// A whole record.
    Answer(Answer),
    /// A whole record.
    Credit(u32),
    /// A whole record.
    End,
    /// A whole record.
    Reset,
}

/// Finds the records in bytes as they come. Type and length are checked when their
/// five bytes are there; of a record that is not passed on as it comes no more is
/// kept than the longest one has.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// The record whose payload comes, and how much of it does.
    open: Option<(Kind, usize)>,
}

impl Reader {
    /// Where bytes of the peer are put.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// What stands at the front; `None` when more bytes are needed to know. Says the
    /// same again for what was not passed.
    ///
    /// # Errors
    /// `bad-request`: the stream is of no use any more.
    pub fn part(&mut self) -> Result<Option<Part>, Finding> {
        let (kind, length) = match self.open {
            Some(open) => open,
            None => {
                let Some(head) = self.buffer.first_chunk() else { return Ok(None) };
                let open = parse(*head)?;
                self.buffer.advance(HEAD);
                self.open = Some(open);
                open
            }
        };
        match kind {
            Kind::Data | Kind::Attest => {
                let here = length.min(self.buffer.len());
                let part = if kind == Kind::Data { Part::Data(here) } else { Part::Attest(here) };
                return Ok((here > 0).then_some(part));
            }
            _ => {}
        }
        let Some(payload) = self.buffer.get(..length) else { return Ok(None) };
        let part = match kind {
            Kind::Connect => Part::Connect(Connect::decode(payload)?),
            Kind::Answer => Part::Answer(Answer::decode(payload)?),
            Kind::End => Part::End,
            Kind::Reset => Part::Reset,
            _ => Part::Credit(window(payload, "credit")?.0),
        };
        self.pass(length);
        Ok(Some(part))
    }

    /// The first `n` bytes.
    #[must_use]
    pub fn front(&self, n: usize) -> &[u8] {
        self.buffer.get(..n).unwrap_or(&self.buffer)
    }

    /// The first `n` bytes of what [`Reader::part`] showed are done with.
    pub fn pass(&mut self, n: usize) {
        let n = n.min(self.buffer.len());
        self.buffer.advance(n);
        self.open = match self.open {
            Some((kind, left)) if left > n => Some((kind, left - n)),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        write(&mut record, kind, payload);
        record
    }

    /// The parts in `bytes`, which come `size` at a time; bytes are put together again.
    fn parts(bytes: &[u8], size: usize) -> Result<(Vec<Part>, Vec<u8>), Finding> {
        let (mut reader, mut parts, mut passed) = (Reader::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            reader.buffer().extend_from_slice(piece);
            while let Some(part) = reader.part()? {
                match part {
                    Part::Data(n) | Part::Attest(n) => {
                        passed.extend_from_slice(reader.front(n));
                        reader.pass(n);
                    }
                    other => parts.push(other),
                }
            }
        }
        Ok((parts, passed))
    }

    #[test]
    fn records_are_found_however_their_bytes_come() {
        let connect = Connect {
            window: 1 << 20,
            authority: "ledger:8443".to_owned(),
            forwarded: Some("for=\"10.0.0.1:5\"".to_owned()),
            traceparent: None,
        };
        let answer = Answer { status: 403, window: 0, reason: Some("port-not-offered".to_owned()) };
        let all = [
            record(Kind::Connect, &connect.encode()),
            record(Kind::Attest, &[1; 300]),
            record(Kind::Answer, &answer.encode()),
            record(Kind::Data, &[2; 70_000]),
            record(Kind::Credit, &7_u32.to_be_bytes()),
            record(Kind::End, &[]),
            record(Kind::Reset, &[]),
        ]
        .concat();
        let expected =
            [Part::Connect(connect), Part::Answer(answer), Part::Credit(7), Part::End, Part::Reset];
        let bytes = [vec![1; 300], vec![2; 70_000]].concat();
        for size in [1, 3, 5, 7, 1000, 70_005, usize::MAX] {
            let (found, passed) = parts(&all, size).unwrap();
            assert_eq!(found, expected, "{size}");
            assert!(passed == bytes, "{size}");
        }
    }

    #[test]
    fn a_record_of_another_form_is_refused_by_its_head() {
        for kind in 7..=255 {
            assert!(parts(&[kind, 0, 0, 0, 1], 1).is_err(), "{kind}");
        }
        for kind in Kind::ALL {
            let (shortest, longest) = kind.sizes();
            assert!(parts(&head(kind, longest), 5).is_ok(), "{kind:?}");
            assert!(parts(&head(kind, longest + 1), 5).is_err(), "{kind:?}");
            assert!(parts(&head(kind, u32::MAX as usize), 5).is_err(), "{kind:?}");
            if let Some(less) = shortest.checked_sub(1) {
                assert!(parts(&head(kind, less), 5).is_err(), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_a_call_says_is_text_in_lines() {
        let decode = |text: &str| Connect::decode(&[&[0, 0, 0, 9], text.as_bytes()].concat());
        let connect = decode("a:1\nlater: x\ntraceparent: t\nforwarded: f").unwrap();
        assert_eq!((connect.window, connect.authority.as_str()), (9, "a:1"));
        assert_eq!((connect.traceparent.as_deref(), connect.forwarded.as_deref()), (Some("t"), Some("f")));
        for text in ["a:1\n", "a:1\nx", "a:1\nforwarded: a\nforwarded: b", "a:\u{e4}", "a:1\r\nx: y", "a\0:1"]
        {
            assert!(decode(text).is_err(), "{text:?}");
        }
    }
}
