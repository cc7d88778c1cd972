//! Our own log of RTMR 3: a deterministic CBOR array of events.
//!
//! ```cddl
//! runtime-log = [* event]
//! event = { 1: 3 /register/, 2: bstr48 /digest/, 3: tstr /type/, 4: bstr /content/ }
//! digest = SHA-384( u8(len L) ‖ L ‖ CBOR [type, content] ),  L = "ratls-mesh/v1/event"
//! ```
//!
//! The digest covers type and content, so that the register vouches for both;
//! the label keeps it apart from whatever else is measured into a register.

use std::convert::Infallible;

use minicbor::encode::Encoder;

use super::{
    Entry, FIELD, MAX_EVENTS, RUNTIME_REGISTER, Register, check_kind, extend, malformed, oversized, sha384,
};
use crate::finding::Finding;
use crate::reason::Reason;

/// The largest content of an event, in bytes. What is larger is measured by its hash.
pub const MAX_CONTENT: usize = 1024;

const LABEL: &[u8] = b"ratls-mesh/v1/event";

/// Something that happened, to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    kind: &'a str,
    content: &'a [u8],
}

impl<'a> Record<'a> {
    /// An event of this type with this content.
    ///
    /// # Errors
    /// When the type is no short visible text, or the content is too large.
    pub fn new(kind: &'a str, content: &'a [u8]) -> Result<Self, Finding> {
        check_kind(kind)?;
        if content.len() > MAX_CONTENT {
            let presented = format!("{} bytes", content.len());
            let expected = format!("at most {MAX_CONTENT} bytes");
            return Err(Finding::new(Reason::Oversized, "content of an event", expected, presented));
        }
        Ok(Self { kind, content })
    }

    /// What the register is extended with.
    #[must_use]
    pub fn digest(&self) -> Register {
        let mut message = Vec::with_capacity(self.kind.len() + self.content.len() + 8);
        let mut encoder = Encoder::new(&mut message);
        // Writing to a vector cannot fail.
        let _: Result<_, minicbor::encode::Error<Infallible>> =
            encoder.array(2).and_then(|e| e.str(self.kind)).and_then(|e| e.bytes(self.content));
        let length = u8::try_from(LABEL.len()).unwrap_or(u8::MAX);
        sha384(&[&[length], LABEL, &message])
    }

    /// The event as an entry of a log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(RUNTIME_REGISTER as u64, &self.digest(), self.kind, self.content)
    }
}

/// A log as its guest keeps it: all of it is there, and any end of it can be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    entries: Vec<u8>,
    marks: Vec<Mark>,
}

/// An entry of a [`Log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Where it ends.
    end: usize,
    /// What the register was extended with.
    digest: Register,
    /// The register after it.
    register: Register,
}

impl Log {
    /// Reads the value of a record that holds a whole log.
    ///
    /// # Errors
    /// When it is malformed or over a limit.
    pub fn decode(log: &[u8]) -> Result<Self, Finding> {
        let mut decoded = Self::default();
        for_each(log, |record| {
            decoded.push(record);
            Ok(())
        })?;
        Ok(decoded)
    }

    /// Reads entries one behind the other, without the array around them, and
    /// returns how many bytes at the end are the beginning of another entry.
    ///
    /// # Errors
    /// When anything else is malformed, or there are too many.
    pub fn from_entries(bytes: &[u8]) -> Result<(Self, usize), Finding> {
        let mut decoder = minicbor::Decoder::new(bytes);
        let mut log = Self::default();
        while decoder.position() < bytes.len() {
            match entry(bytes, &mut decoder) {
                Ok(record) if log.len() < MAX_EVENTS as u64 => log.push(&record),
                Ok(_) => return Err(oversized(format!("at most {MAX_EVENTS} entries"), "more".to_owned())),
                Err(finding) if finding.reason == Reason::Truncated => break,
                Err(finding) => return Err(finding),
            }
        }
        let torn = bytes.len().saturating_sub(log.entries.len());
        Ok((log, torn))
    }

    /// Appends an event.
    pub fn push(&mut self, record: &Record<'_>) {
        let mut register = self.marks.last().map_or([0; 48], |mark| mark.register);
        let digest = record.digest();
        extend(&mut register, &digest);
        self.entries.extend_from_slice(&record.encode());
        self.marks.push(Mark { end: self.entries.len(), digest, register });
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.marks.len() as u64
    }

    /// Whether there is no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The value of a record with the entries from `from` on; `None` when there
    /// are not as many.
    #[must_use]
    pub fn record(&self, from: u64) -> Option<Vec<u8>> {
        let skipped = usize::try_from(from).ok().filter(|n| *n <= self.marks.len())?;
        let start = match skipped.checked_sub(1) {
            Some(last) => self.marks.get(last)?.end,
            None => 0,
        };
        let entries = self.entries.get(start..)?;
        let mut out = head((self.marks.len() - skipped) as u64);
        out.extend_from_slice(entries);
        Some(out)
    }

    /// What the entry at `index` extended the register with.
    #[must_use]
    pub fn digest(&self, index: u64) -> Option<Register> {
        self.marks.get(usize::try_from(index).ok()?).map(|mark| mark.digest)
    }

    /// The register after this many entries.
    #[must_use]
    pub fn register_after(&self, entries: u64) -> Option<Register> {
        match usize::try_from(entries).ok()?.checked_sub(1) {
            Some(last) => self.marks.get(last).map(|mark| mark.register),
            None => Some([0; 48]),
        }
    }
}

/// The head of an array.
fn head(count: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    let _: Result<_, minicbor::encode::Error<Infallible>> = Encoder::new(&mut out).array(count).map(drop);
    out
}

/// Replays a log entry by entry.
pub(super) fn read<'a>(
    log: &'a [u8],
    mut each: impl FnMut(Entry<'a>) -> Result<(), Finding>,
) -> Result<(), Finding> {
    for_each(log, |record| {
        each(Entry {
            register: Some(RUNTIME_REGISTER),
            digest: record.digest(),
            kind: record.kind.into(),
            kind_measured: true,
        })
    })
}

fn for_each<'a>(
    log: &'a [u8],
    mut each: impl FnMut(&Record<'a>) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let mut decoder = minicbor::Decoder::new(log);
    let count = decoder.array().map_err(|e| fault(&e))?.ok_or_else(indefinite)?;
    if count > MAX_EVENTS as u64 {
        return Err(oversized(format!("at most {MAX_EVENTS} entries"), count.to_string()));
    }
    for _ in 0..count {
        each(&entry(log, &mut decoder)?)?;
    }
    if decoder.position() != log.len() {
        return Err(malformed(FIELD, "one CBOR array", "bytes behind it"));
    }
    // The entries are canonical; so must be the head in front of them.
    if !log.starts_with(&head(count)) {
        return Err(non_canonical());
    }
    Ok(())
}

/// Reads an entry and sees that it is the only form of what it says.
fn entry<'a>(bytes: &'a [u8], decoder: &mut minicbor::Decoder<'a>) -> Result<Record<'a>, Finding> {
    let start = decoder.position();
    let keys = decoder.map().map_err(|e| fault(&e))?.ok_or_else(indefinite)?;
    if keys != 4 {
        return Err(malformed("entry of the event log", "a map of 4", keys.to_string()));
    }
    let key = |wanted: u64, decoder: &mut minicbor::Decoder<'a>| match decoder.u64() {
        Ok(key) if key == wanted => Ok(()),
        Ok(key) => Err(malformed("entry of the event log", format!("key {wanted}"), format!("key {key}"))),
        Err(e) => Err(fault(&e)),
    };
    key(1, decoder)?;
    let register = decoder.u64().map_err(|e| fault(&e))?;
    key(2, decoder)?;
    let digest = decoder.bytes().map_err(|e| fault(&e))?;
    key(3, decoder)?;
    let kind = decoder.str().map_err(|e| fault(&e))?;
    key(4, decoder)?;
    let record = Record::new(kind, decoder.bytes().map_err(|e| fault(&e))?)?;
    if register != RUNTIME_REGISTER as u64 {
        return Err(malformed("register of an event", RUNTIME_REGISTER.to_string(), register.to_string()));
    }
    let expected = record.digest();
    if digest != expected {
        let presented = hex::encode(digest.get(..48).unwrap_or(digest));
        return Err(super::mismatch("digest of an event", hex::encode(expected), presented));
    }
    if bytes.get(start..decoder.position()) != Some(record.encode().as_slice()) {
        return Err(non_canonical());
    }
    Ok(record)
}

fn encode(register: u64, digest: &Register, kind: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(digest.len() + kind.len() + content.len() + 16);
    let mut encoder = Encoder::new(&mut out);
    let _: Result<_, minicbor::encode::Error<Infallible>> = encoder
        .map(4)
        .and_then(|e| e.u8(1)?.u64(register)?.u8(2)?.bytes(digest)?.u8(3)?.str(kind)?.u8(4)?.bytes(content));
    out
}

fn fault(e: &minicbor::decode::Error) -> Finding {
    if e.is_end_of_input() {
        return Finding::new(Reason::Truncated, FIELD, "complete CBOR", "its beginning");
    }
    malformed(FIELD, "CBOR of a runtime log", e.to_string())
}

fn indefinite() -> Finding {
    Finding::new(Reason::NonCanonical, FIELD, "definite lengths", "an indefinite length")
}

fn non_canonical() -> Finding {
    Finding::new(Reason::NonCanonical, FIELD, "deterministic CBOR", "another encoding")
}
