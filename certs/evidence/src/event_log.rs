//! Event logs: what was measured into the runtime registers of a guest.
//!
//! A quote shows what the registers hold, which is a hash over everything that
//! was ever measured into them. The log says what that was, and is believed as
//! far as it reproduces the registers: a *prefix* of it must land exactly on
//! the quoted values. The entries behind that prefix were measured after the
//! quote; they are ignored and not appraised, for nothing vouches for them yet
//! (3-attestation, section 4.3).
//!
//! Three forms are understood, each by its media type: [our own](native) for
//! RTMR 3, the log of the firmware ([TCG](tcg), from the ACPI table CCEL), and
//! that of dstack guests.

mod dstack;
pub mod native;
pub mod tcg;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA384};

pub use self::dstack::digest as dstack_digest;
use crate::finding::Finding;
use crate::reason::Reason;

/// The media types of event log records.
pub mod media_type {
    /// Our own log of RTMR 3.
    pub const RUNTIME: &str = "application/vnd.countersign.runtime-log+cbor";
    /// The crypto-agile log of the firmware, as the ACPI table CCEL shows it.
    pub const CCEL: &str = "application/vnd.countersign.ccel";
    /// The JSON log of a dstack guest.
    pub const DSTACK: &str = "application/vnd.countersign.dstack-event-log+json";
}

/// The media type of a log of unknown origin, by its beginning.
#[must_use]
pub const fn sniff(log: &[u8]) -> &'static str {
    match log {
        // An array in JSON, with the white space that files have; one in CBOR.
        [b'[' | b' ' | b'\n' | b'\r' | b'\t', ..] => media_type::DSTACK,
        [0x80..=0x9b, ..] => media_type::RUNTIME,
        _ => media_type::CCEL,
    }
}

/// No event log is larger, in bytes: a message of a session round is not either.
pub const MAX_LOG: usize = 256 << 10;
/// The most entries of one log. Boots of real machines write 20 to 120.
pub const MAX_EVENTS: usize = 2048;
/// The longest name of a kind of event, in characters.
pub const MAX_KIND: usize = 128;

/// The runtime register that is left to the guest's software.
pub const RUNTIME_REGISTER: usize = 3;

/// The value of a register.
pub type Register = [u8; 48];

const FIELD: &str = "event log";

/// An event that was measured into RTMR 3.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its place in the log, from 0.
    pub index: u64,
    /// What kind of event it is, as its log says.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// What the register was extended with.
    #[serde(serialize_with = "hex::serialize")]
    pub digest: Register,
    /// Whether the digest covers the kind. In a log of the firmware it does
    /// not: there the kind is a claim, and only the digest is measured.
    #[serde(skip)]
    pub kind_measured: bool,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' with digest {}", self.kind, hex::encode(self.digest))
    }
}

/// How far a log has been replayed: what a verifier keeps of a peer, so that
/// the next round sends and replays only what is new. The default is the
/// beginning, with registers of zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterState {
    next: u64,
    runtime: Runtime,
    events: Arc<[Event]>,
}

/// The value of RTMR 3, with a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Runtime(Register);

impl Default for Runtime {
    fn default() -> Self {
        Self([0; 48])
    }
}

impl RegisterState {
    /// The entry from which on the next log may start. Later entries only are
    /// to be asked for, if the peer can send a part.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The value of RTMR 3 that the log leads to.
    #[must_use]
    pub const fn register(&self) -> &Register {
        &self.runtime.0
    }

    /// Everything that was measured into RTMR 3 since its beginning.
    #[must_use]
    pub const fn events(&self) -> &Arc<[Event]> {
        &self.events
    }
}

/// An entry of a log of any form.
struct Entry<'a> {
    /// The RTMR that is extended; `None` when the entry extends nothing.
    register: Option<usize>,
    digest: Register,
    kind: std::borrow::Cow<'a, str>,
    kind_measured: bool,
}

/// Replays a log until the registers are those of the quote, and returns how
/// far that was. Our own log starts at entry [`previous.next()`](RegisterState::next)
/// with the register as it was then; the other forms are sent and replayed as a whole.
///
/// # Errors
/// When the log is malformed, over a limit or of an unknown form; and
/// [`Reason::EventLogMismatch`] when no prefix of it lands on the registers.
pub fn replay(
    media_type: &str,
    log: &[u8],
    rtmr: &[Register; 4],
    previous: &RegisterState,
) -> Result<RegisterState, Finding> {
    if log.len() > MAX_LOG {
        return Err(oversized(format!("at most {MAX_LOG} bytes"), format!("{} bytes", log.len())));
    }
    match media_type {
        // A log of RTMR 3 says nothing about the others, which are compared by value.
        media_type::RUNTIME => {
            // Other forms are known as a whole only, and start anew.
            let start = RegisterState::default();
            let previous = if previous.next == 0 { &start } else { previous };
            let mut replay = Replay::new(rtmr, Some(RUNTIME_REGISTER), previous);
            native::read(log, |entry| replay.entry(&entry))?;
            replay.finish(true)
        }
        media_type::CCEL => {
            let mut replay = Replay::new(rtmr, None, &RegisterState::default());
            tcg::read(log, |entry| replay.entry(&entry))?;
            replay.finish(false)
        }
        media_type::DSTACK => {
            let mut replay = Replay::new(rtmr, None, &RegisterState::default());
            dstack::read(log, |entry| replay.entry(&entry))?;
            replay.finish(false)
        }
        other => Err(Finding::new(
            Reason::UnsupportedFormat,
            "media type of the event log",
            format!("'{}', '{}' or '{}'", media_type::RUNTIME, media_type::CCEL, media_type::DSTACK),
            format!("'{}'", other.chars().take(80).collect::<String>().escape_debug()),
        )),
    }
}

/// A replay in progress.
struct Replay<'q> {
    quoted: &'q [Register; 4],
    /// The only register that the log is about, if it is one.
    only: Option<usize>,
    registers: [Register; 4],
    next: u64,
    entries: usize,
    events: Vec<Event>,
    before: Arc<[Event]>,
    /// Where the prefix ended: the following entry, and how many new events it has.
    landed: Option<(u64, usize)>,
}

impl<'q> Replay<'q> {
    fn new(quoted: &'q [Register; 4], only: Option<usize>, previous: &RegisterState) -> Self {
        let mut replay = Self {
            quoted,
            only,
            registers: [[0; 48], [0; 48], [0; 48], previous.runtime.0],
            next: previous.next,
            entries: 0,
            events: Vec::new(),
            before: Arc::clone(&previous.events),
            landed: None,
        };
        replay.land();
        replay
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Finding> {
        self.entries += 1;
        if self.entries.saturating_add(self.before.len()) > MAX_EVENTS {
            return Err(oversized(format!("at most {MAX_EVENTS} entries"), "more".to_owned()));
        }
        let index = self.next;
        self.next = self.next.saturating_add(1);
        // The tail is read for its form and not looked at.
        let (None, Some(number)) = (self.landed, entry.register) else { return Ok(()) };
        let Some(register) = self.registers.get_mut(number) else { return Ok(()) };
        extend(register, &entry.digest);
        if number == RUNTIME_REGISTER {
            self.events.push(Event {
                index,
                kind: entry.kind.as_ref().into(),
                digest: entry.digest,
                kind_measured: entry.kind_measured,
            });
        }
        self.land();
        Ok(())
    }

    /// Notes the first prefix that lands on the quote.
    fn land(&mut self) {
        if self.differing().is_none() {
            self.landed = Some((self.next, self.events.len()));
        }
    }

    /// The first register that is not as quoted, with both values.
    fn differing(&self) -> Option<(usize, &Register, &Register)> {
        let pairs = self.registers.iter().zip(self.quoted).enumerate();
        pairs
            .filter(|(number, _)| self.only.is_none_or(|only| only == *number))
            .find_map(|(number, (ours, quoted))| (ours != quoted).then_some((number, ours, quoted)))
    }

    /// `partial`: whether the next log may start where this one ended.
    fn finish(self, partial: bool) -> Result<RegisterState, Finding> {
        let Some((next, events)) = self.landed else {
            return Err(self.mismatch());
        };
        let Self { registers: [.., runtime], before, events: mut new, .. } = self;
        new.truncate(events);
        // Nothing new is the usual case, and shares what there is.
        let events = if new.is_empty() { before } else { before.iter().cloned().chain(new).collect() };
        let next = if partial { next } else { 0 };
        Ok(RegisterState { next, runtime: Runtime(runtime), events })
    }

    fn mismatch(&self) -> Finding {
        let (number, ours, quoted) = self.differing().unwrap_or((RUNTIME_REGISTER, &[0; 48], &[0; 48]));
        mismatch(
            FIELD,
            format!("entries whose replay lands on the quoted rtmr[{number}], {}", hex::encode(quoted)),
            format!("{} entries up to number {} that end at {}", self.entries, self.next, hex::encode(ours)),
        )
    }
}

/// What extending does to a register: `SHA-384(register ‖ digest)`.
pub fn extend(register: &mut Register, digest: &Register) {
    let mut context = Context::new(&SHA384);
    context.update(register);
    context.update(digest);
    register.copy_from_slice(context.finish().as_ref());
}

/// SHA-384 over the parts one after the other.
fn sha384(parts: &[&[u8]]) -> Register {
    let mut context = Context::new(&SHA384);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 48];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The name of a kind of event: what a log line and a policy can show.
fn check_kind(kind: &str) -> Result<(), Finding> {
    let fits = (1..=MAX_KIND).contains(&kind.len()) && kind.bytes().all(|c| c.is_ascii_graphic());
    if fits {
        return Ok(());
    }
    Err(malformed(
        "type of an event",
        format!("1 to {MAX_KIND} visible ASCII characters"),
        format!("'{}'", kind.chars().take(80).collect::<String>().escape_debug()),
    ))
}

fn oversized(expected: String, presented: String) -> Finding {
    Finding::new(Reason::Oversized, FIELD, expected, presented)
}

fn mismatch(field: &str, expected: String, presented: String) -> Finding {
    Finding::new(Reason::EventLogMismatch, field, expected, presented)
}

fn malformed(field: &str, expected: impl Into<String>, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::Malformed, field, expected, presented)
}
