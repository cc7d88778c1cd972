//! The payload of a frame: a deterministic CBOR map with numbers as keys.
//!
//! Keys from 128 on are for later versions and ignored; a lower one that is not
//! known changes the meaning of what is, and is refused (section 4.1).

use countersign_evidence::{Finding, Reason};

use super::message::Inclusion;
use crate::cbor::{self, Item, Order, Reader, Writer};
use crate::cmw;

/// The most entries of a list of media types.
pub(super) const MAX_TYPES: usize = 16;

/// The most keys of a payload.
const MAX_KEYS: usize = 32;

/// The first key that may be unknown.
const FIRST_OPTIONAL: u64 = 128;

/// No frame has more known keys.
const SLOTS: usize = 10;

/// The values of a payload by their keys.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    frame: &'static str,
    values: [Option<&'a [u8]>; SLOTS],
}

impl<'a> Fields<'a> {
    /// Reads a payload whose known keys are `1..=last`.
    pub(super) fn read(frame: &'static str, payload: &'a [u8], last: u64) -> Result<Self, Finding> {
        let mut reader = cbor::check(frame, payload, Order::Deterministic)?;
        let fault = |fault: cbor::Fault| fault.finding(frame);
        let mut fields = Self { frame, values: [None; SLOTS] };
        let Item::Map(count) = reader.next().map_err(fault)? else {
            return Err(fields.malformed("a map", "another type"));
        };
        if count > MAX_KEYS {
            let expected = format!("at most {MAX_KEYS} keys");
            return Err(Finding::new(Reason::Oversized, frame, expected, count.to_string()));
        }
        for _ in 0..count {
            let Item::Uint(key) = reader.next().map_err(fault)? else {
                return Err(fields.malformed("keys that are unsigned numbers", "another one"));
            };
            let value = reader.raw().map_err(fault)?;
            if key >= FIRST_OPTIONAL {
                continue;
            }
            let slot = usize::try_from(key).ok().filter(|_| (1..=last).contains(&key));
            let Some(slot) = slot.and_then(|slot| fields.values.get_mut(slot)) else {
                return Err(fields.malformed("known keys, or such from 128 on", &format!("key {key}")));
            };
            *slot = Some(value);
        }
        Ok(fields)
    }

    pub(super) fn malformed(&self, expected: &str, presented: &str) -> Finding {
        Finding::new(Reason::Malformed, format!("frame {}", self.frame), expected, presented)
    }

    fn wrong(&self, key: usize, expected: &str) -> Finding {
        Finding::new(Reason::Malformed, format!("frame {}, key {key}", self.frame), expected, "another value")
    }

    fn value(&self, key: usize) -> Option<Reader<'a>> {
        self.values.get(key).copied().flatten().map(Reader::new)
    }

    fn item(&self, key: usize, expected: &str) -> Result<(Item<'a>, Reader<'a>), Finding> {
        let Some(mut reader) = self.value(key) else {
            let field = format!("frame {}, key {key}", self.frame);
            return Err(Finding::new(Reason::Malformed, field, expected, "nothing"));
        };
        let item = reader.next().map_err(|fault| fault.finding(self.frame))?;
        Ok((item, reader))
    }

    pub(super) fn has(&self, key: usize) -> bool {
        self.value(key).is_some()
    }

    pub(super) fn uint(&self, key: usize) -> Result<u64, Finding> {
        const EXPECTED: &str = "an unsigned number";
        match self.item(key, EXPECTED)?.0 {
            Item::Uint(number) => Ok(number),
            _ => Err(self.wrong(key, EXPECTED)),
        }
    }

    pub(super) fn optional_uint(&self, key: usize) -> Result<Option<u64>, Finding> {
        self.has(key).then(|| self.uint(key)).transpose()
    }

    pub(super) fn bytes(&self, key: usize) -> Result<&'a [u8], Finding> {
        const EXPECTED: &str = "a byte string";
        match self.item(key, EXPECTED)?.0 {
            Item::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong(key, EXPECTED)),
        }
    }

    pub(super) fn array<const N: usize>(&self, key: usize) -> Result<[u8; N], Finding> {
        self.bytes(key)?.try_into().map_err(|_| self.wrong(key, &format!("{N} bytes")))
    }

    /// A list of media types, bounded.
    pub(super) fn types(&self, key: usize) -> Result<Vec<String>, Finding> {
        let expected = format!("at most {MAX_TYPES} media types");
        let (Item::Array(count @ ..=MAX_TYPES), mut reader) = self.item(key, &expected)? else {
            return Err(self.wrong(key, &expected));
        };
        let mut types = Vec::with_capacity(count);
        for _ in 0..count {
            match reader.next() {
                Ok(Item::Text(text)) => types.push(cmw::media_type(text.into())?.into_owned()),
                _ => return Err(self.wrong(key, &expected)),
            }
        }
        Ok(types)
    }

    /// A list of byte strings, from 1 to `most`.
    pub(super) fn list(&self, key: usize, most: usize) -> Result<Vec<&'a [u8]>, Finding> {
        let expected = format!("1 to {most} byte strings");
        let (Item::Array(count), mut reader) = self.item(key, &expected)? else {
            return Err(self.wrong(key, &expected));
        };
        if count == 0 || count > most {
            return Err(self.wrong(key, &expected));
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            match reader.next() {
                Ok(Item::Bytes(bytes)) => list.push(bytes),
                _ => return Err(self.wrong(key, &expected)),
            }
        }
        Ok(list)
    }

    /// `[index, size, [* bstr64]]`, where there is one.
    pub(super) fn proof(&self, key: usize) -> Result<Option<Inclusion>, Finding> {
        /// A tree of 2^16 leaves has paths of 16 nodes.
        const MAX_PATH: usize = 16;
        const EXPECTED: &str = "[index, size, [at most 16 nodes of 64 bytes]]";
        if !self.has(key) {
            return Ok(None);
        }
        let wrong = || self.wrong(key, EXPECTED);
        let (Item::Array(3), mut reader) = self.item(key, EXPECTED)? else { return Err(wrong()) };
        let (Ok(Item::Uint(index)), Ok(Item::Uint(size)), Ok(Item::Array(count @ ..=MAX_PATH))) =
            (reader.next(), reader.next(), reader.next())
        else {
            return Err(wrong());
        };
        let mut path = Vec::with_capacity(count);
        for _ in 0..count {
            match reader.next() {
                Ok(Item::Bytes(node)) => path.push(node.try_into().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
        }
        Ok(Some(Inclusion { index, size, path }))
    }
}

impl Writer {
    pub(super) fn types(&mut self, types: &[String]) -> &mut Self {
        self.array(types.len());
        types.iter().fold(self, |writer, text| writer.text(text))
    }
}
