//! What is said on the socket. Read strictly: what encodes to other bytes than
//! were read is refused, so that there is one way to say a thing.

use std::convert::Infallible;
use std::sync::Arc;

use countersign_attester::Produced;
use countersign_evidence::claims::Tee;
use countersign_evidence::event_log::native::Log;
use countersign_evidence::evidence::media_type;
use countersign_evidence::{Finding, Reason};
use countersign_ratls::binding::SessionCore;
use minicbor::decode;
use minicbor::{Decoder, Encoder};

use crate::event::Event;
use crate::subject::{MAX_LEAVES, Subject};

const VERSION: u64 = 1;
/// A context has a hash, a challenge and a SPIFFE ID of at most 2048 bytes.
const MAX_CONTEXT: usize = 4096;
/// Cores, each with its head, and room for the rest.
pub(super) const MAX_REQUEST: usize = MAX_LEAVES * 66 + 1024;
/// Evidence of at most 128 KiB, with its certificates, and an event log.
pub(super) const MAX_RESPONSE: usize = 1 << 20;
/// The most bytes of a text.
const MAX_TEXT: usize = 1024;

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// What the broker is.
    Status,
    /// Evidence.
    Evidence(Subject),
    /// Measure an event.
    Measure(Event),
    /// Say when the number of measured events is another than this.
    Watch(u64),
}

/// What the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// What the broker is.
    Status(Status),
    /// Evidence.
    Evidence(Produced),
    /// How many events were measured since the guest started.
    Events(u64),
    /// No.
    Refused(Code, String),
}

/// What a broker is, and how it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The kind of TEE.
    pub tee: Tee,
    /// The driver behind the broker.
    pub driver: String,
    /// Whether the platform is emulated.
    pub emulated: bool,
    /// How the device does.
    pub health: String,
    /// How many requests wait.
    pub waiting: u64,
    /// How many quotes it has made.
    pub quotes: u64,
    /// Whether evidence comes with a log of what was measured at runtime.
    pub event_log: bool,
}

/// Why a broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request is none.
    Malformed,
    /// Whoever asks may not.
    Denied,
    /// There is too much to do.
    Overloaded,
    /// The device fails or does not answer.
    Device,
}

impl Code {
    const ALL: [(Self, u64); 4] =
        [(Self::Malformed, 1), (Self::Denied, 2), (Self::Overloaded, 3), (Self::Device, 4)];

    fn number(self) -> u64 {
        Self::ALL.iter().find(|(code, _)| *code == self).map_or(0, |(_, number)| *number)
    }
}

impl Request {
    /// Deterministic CBOR.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        written(|e| match self {
            Self::Status => head(e, 2, 0),
            Self::Evidence(Subject::Key(key)) => {
                head(e, 3, 1)?;
                e.u8(3)?.bytes(key.context())?;
                Ok(())
            }
            Self::Evidence(Subject::Sessions(batch)) => {
                head(e, 3, 2)?;
                e.u8(3)?.array(batch.cores().len() as u64)?;
                batch.cores().iter().try_for_each(|core| e.bytes(core.as_bytes()).map(drop))
            }
            Self::Measure(event) => {
                head(e, 4, 3)?;
                e.u8(3)?.str(event.kind())?.u8(4)?.bytes(event.content())?;
                Ok(())
            }
            Self::Watch(known) => {
                head(e, 3, 4)?;
                e.u8(3)?.u64(*known)?;
                Ok(())
            }
        })
    }

    /// Reads what [`Request::encode`] writes.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Finding> {
        const FIELD: &str = "broker request";
        sized(FIELD, bytes, MAX_REQUEST)?;
        let mut d = Decoder::new(bytes);
        let (entries, kind) = begin(FIELD, &mut d)?;
        let request = match (kind, entries) {
            (0, 2) => Self::Status,
            (1, 3) => {
                let context = field(FIELD, &mut d, 3, |d| d.bytes())?;
                sized("key context", context, MAX_CONTEXT)?;
                Self::Evidence(Subject::key(context)?)
            }
            (2, 3) => {
                let cores = field(FIELD, &mut d, 3, cores)?;
                Self::Evidence(Subject::sessions(cores)?)
            }
            (3, 4) => {
                let kind = field(FIELD, &mut d, 3, |d| d.str())?;
                Self::Measure(Event::new(kind, field(FIELD, &mut d, 4, |d| d.bytes())?)?)
            }
            (4, 3) => Self::Watch(field(FIELD, &mut d, 3, |d| d.u64())?),
            _ => return Err(malformed(FIELD, "another kind")),
        };
        canonical(FIELD, bytes, &request.encode())?;
        Ok(request)
    }
}

fn cores(d: &mut Decoder<'_>) -> Result<Vec<SessionCore>, decode::Error> {
    let count = d.array()?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MAX_LEAVES);
    let count = count.ok_or_else(|| decode::Error::message("too many cores"))?;
    let mut cores = Vec::with_capacity(count);
    for _ in 0..count {
        let core = d.bytes()?.try_into().map_err(|_| decode::Error::message("a core has 64 bytes"))?;
        cores.push(SessionCore::from_bytes(core));
    }
    Ok(cores)
}

impl Response {
    /// Deterministic CBOR.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        written(|e| match self {
            Self::Status(status) => {
                head(e, 9, 0)?;
                e.u8(3)?.str(status.tee.name())?.u8(4)?.str(&status.driver)?;
                e.u8(5)?.bool(status.emulated)?.u8(6)?.str(cut(&status.health))?;
                e.u8(7)?.u64(status.waiting)?.u8(8)?.u64(status.quotes)?;
                e.u8(9)?.bool(status.event_log)?;
                Ok(())
            }
            Self::Evidence(produced) => {
                let log = produced.event_log.as_ref().and_then(|log| log.record(0));
                head(e, 4 + u64::from(log.is_some()), 1)?;
                e.u8(3)?.str(produced.media_type)?.u8(4)?.bytes(&produced.value)?;
                log.map_or(Ok(()), |log| e.u8(5)?.bytes(&log).map(drop))
            }
            Self::Events(count) => {
                head(e, 3, 3)?;
                e.u8(3)?.u64(*count)?;
                Ok(())
            }
            Self::Refused(code, why) => {
                head(e, 4, 2)?;
                e.u8(3)?.u64(code.number())?.u8(4)?.str(cut(why))?;
                Ok(())
            }
        })
    }

    /// Reads what [`Response::encode`] writes.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Finding> {
        const FIELD: &str = "broker answer";
        sized(FIELD, bytes, MAX_RESPONSE)?;
        let mut d = Decoder::new(bytes);
        let (entries, kind) = begin(FIELD, &mut d)?;
        let response = match (kind, entries) {
            (0, 9) => {
                let tee = field(FIELD, &mut d, 3, |d| d.str())?;
                let tee = [Tee::Tdx, Tee::Sgx, Tee::SevSnp].into_iter().find(|known| known.name() == tee);
                Self::Status(Status {
                    tee: tee.ok_or_else(|| malformed(FIELD, "an unknown TEE"))?,
                    driver: field(FIELD, &mut d, 4, |d| d.str())?.to_owned(),
                    emulated: field(FIELD, &mut d, 5, |d| d.bool())?,
                    health: field(FIELD, &mut d, 6, |d| d.str())?.to_owned(),
                    waiting: field(FIELD, &mut d, 7, |d| d.u64())?,
                    quotes: field(FIELD, &mut d, 8, |d| d.u64())?,
                    event_log: field(FIELD, &mut d, 9, |d| d.bool())?,
                })
            }
            (1, 4 | 5) => {
                let name = field(FIELD, &mut d, 3, |d| d.str())?;
                let media_type = [media_type::TSM_TDX, media_type::TSM_SNP, media_type::SGX_QUOTE]
                    .into_iter()
                    .find(|known| *known == name)
                    .ok_or_else(|| malformed(FIELD, "an unknown media type"))?;
                let value = field(FIELD, &mut d, 4, |d| d.bytes())?.to_vec();
                let event_log = match entries {
                    5 => Some(Arc::new(Log::decode(field(FIELD, &mut d, 5, |d| d.bytes())?)?)),
                    _ => None,
                };
                Self::Evidence(Produced { media_type, value, event_log })
            }
            (3, 3) => Self::Events(field(FIELD, &mut d, 3, |d| d.u64())?),
            (2, 4) => {
                let number = field(FIELD, &mut d, 3, |d| d.u64())?;
                let code = Code::ALL.iter().find(|(_, known)| *known == number);
                let (code, _) = code.ok_or_else(|| malformed(FIELD, "an unknown code"))?;
                Self::Refused(*code, field(FIELD, &mut d, 4, |d| d.str())?.to_owned())
            }
            _ => return Err(malformed(FIELD, "another kind")),
        };
        canonical(FIELD, bytes, &response.encode())?;
        Ok(response)
    }
}

type Writing<'a> = Encoder<&'a mut Vec<u8>>;
type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// Writing to a vector cannot fail.
fn written(write: impl FnOnce(&mut Writing<'_>) -> Written) -> Vec<u8> {
    let mut out = Vec::new();
    let _: Written = write(&mut Encoder::new(&mut out));
    out
}

fn head(e: &mut Writing<'_>, entries: u64, kind: u8) -> Written {
    e.map(entries)?.u8(1)?.u64(VERSION)?.u8(2)?.u8(kind)?;
    Ok(())
}

/// The number of entries, and the kind.
fn begin(what: &'static str, d: &mut Decoder<'_>) -> Result<(u64, u64), Finding> {
    let entries = d.map().ok().flatten().ok_or_else(|| malformed(what, "no map"))?;
    let version = field(what, d, 1, |d| d.u64())?;
    if version != VERSION {
        return Err(Finding::new(Reason::UnsupportedVersion, what, VERSION.to_string(), version.to_string()));
    }
    Ok((entries, field(what, d, 2, |d| d.u64())?))
}

/// The next entry, which must have this key.
fn field<'a, T>(
    what: &'static str,
    d: &mut Decoder<'a>,
    key: u64,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, decode::Error>,
) -> Result<T, Finding> {
    let wrong = |e: decode::Error| match e.is_end_of_input() {
        true => Finding::new(Reason::Truncated, what, "a complete message", "its beginning"),
        false => malformed(what, format!("key {key}: {e}")),
    };
    if d.u64().map_err(wrong)? != key {
        return Err(malformed(what, format!("another key than {key}")));
    }
    read(d).map_err(wrong)
}

fn sized(what: &'static str, bytes: &[u8], most: usize) -> Result<(), Finding> {
    if bytes.len() <= most {
        return Ok(());
    }
    let (expected, presented) = (format!("at most {most} bytes"), format!("{} bytes", bytes.len()));
    Err(Finding::new(Reason::Oversized, what, expected, presented))
}

fn canonical(what: &'static str, read: &[u8], again: &[u8]) -> Result<(), Finding> {
    if read == again {
        return Ok(());
    }
    Err(Finding::new(Reason::NonCanonical, what, "deterministic CBOR and nothing behind it", "other bytes"))
}

fn malformed(what: &'static str, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::Malformed, what, "a message of version 1", presented)
}

/// The beginning of a text that is too long.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
