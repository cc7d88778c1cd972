//! The event log of dstack guests: a JSON array of the firmware's and the
//! guest's events, registers counted from 0.
//!
//! The digest of a runtime event is SHA-384 over
//! `type (4 bytes, little endian) ‖ ":" ‖ name ‖ ":" ‖ payload`. A name with a
//! colon would leave open where it ends, and is refused.

use serde::Deserialize;

use super::{Entry, FIELD, Register, check_kind, malformed, mismatch, sha384};
use crate::finding::Finding;
use crate::reason::Reason;

/// The type of the events that the guest's software measures.
const RUNTIME_EVENT: u32 = 0x0800_0001;

#[derive(Deserialize)]
struct Item<'a> {
    imr: u32,
    event_type: u32,
    #[serde(borrow, default)]
    digest: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    event_payload: std::borrow::Cow<'a, str>,
    #[serde(default = "first_version")]
    version: u32,
}

const fn first_version() -> u32 {
    1
}

/// The digest of a runtime event.
#[must_use]
pub fn digest(name: &str, payload: &[u8]) -> Register {
    sha384(&[&RUNTIME_EVENT.to_le_bytes(), b":", name.as_bytes(), b":", payload])
}

pub(super) fn read(
    log: &[u8],
    mut each: impl FnMut(Entry<'_>) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let items: Vec<Item<'_>> = serde_json::from_slice(log).map_err(|e| match e.is_eof() {
        true => Finding::new(Reason::Truncated, FIELD, "a complete JSON array", "its beginning"),
        false => malformed(FIELD, "a JSON array of events", e.to_string()),
    })?;
    for item in items {
        let register = usize::try_from(item.imr).ok().filter(|n| *n < 4);
        if register.is_none() {
            return Err(malformed("imr of an event", "0 to 3", item.imr.to_string()));
        }
        let (digest, kind) = match item.event_type {
            RUNTIME_EVENT => (runtime(&item)?, item.event),
            other => (bytes::<48>("digest of an event", &item.digest)?, format!("{other:#010x}").into()),
        };
        each(Entry { register, digest, kind, kind_measured: item.event_type == RUNTIME_EVENT })?;
    }
    Ok(())
}

/// The digest of a runtime event, which the log may leave out.
fn runtime(item: &Item<'_>) -> Result<Register, Finding> {
    if item.version != 1 {
        let (expected, presented) = ("1", item.version.to_string());
        return Err(Finding::new(Reason::UnsupportedVersion, "version of an event", expected, presented));
    }
    check_kind(&item.event)?;
    if item.event.contains(':') {
        return Err(malformed("event", "a name without ':'", format!("'{}'", item.event.escape_debug())));
    }
    let payload = hex::decode(&*item.event_payload)
        .map_err(|e| malformed("event_payload", "hexadecimal digits", e.to_string()))?;
    let expected = digest(&item.event, &payload);
    if !item.digest.is_empty() {
        let presented = bytes::<48>("digest of an event", &item.digest)?;
        if presented != expected {
            return Err(mismatch("digest of an event", hex::encode(expected), hex::encode(presented)));
        }
    }
    Ok(expected)
}

fn bytes<const N: usize>(field: &str, text: &str) -> Result<[u8; N], Finding> {
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out)
        .map_err(|e| malformed(field, format!("{N} bytes in hexadecimal digits"), e.to_string()))?;
    Ok(out)
}
