//! CBOR as this crate needs it: a deterministic writer, and a checking reader.
//!
//! The reader works on bytes that strangers sent before anybody judged them, so
//! it is the whole subset and nothing more: definite lengths, shortest heads,
//! no duplicate keys, bounded depth, no trailing bytes, no floats. It borrows
//! and allocates nothing but the keys of the maps it checks.

use std::cmp::Ordering;

use countersign_evidence::{Finding, Reason};

/// The deepest nesting of arrays, maps and tags.
pub(crate) const MAX_DEPTH: usize = 8;

/// Tag 111: an object identifier (RFC 9090).
pub(crate) const TAG_OID: u64 = 111;

const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;

/// Writes preferred serialisation (RFC 8949 section 4.1); the caller orders maps.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    fn head(&mut self, major: u8, n: u64) -> &mut Self {
        let bytes = n.to_be_bytes();
        let (info, count) = match n {
            0..24 => {
                self.0.push(major << 5 | bytes.last().copied().unwrap_or_default());
                return self;
            }
            24..0x100 => (24, 1),
            0x100..0x1_0000 => (25, 2),
            0x1_0000..0x1_0000_0000 => (26, 4),
            _ => (27, 8),
        };
        self.0.push(major << 5 | info);
        self.0.extend(bytes.iter().skip(8 - count));
        self
    }
    pub(crate) fn uint(&mut self, n: u64) -> &mut Self {
        self.head(UINT, n)
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.head(BYTES, bytes.len() as u64).raw(bytes)
    }
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.head(TEXT, text.len() as u64).raw(text.as_bytes())
    }
    pub(crate) fn array(&mut self, entries: usize) -> &mut Self {
        self.head(ARRAY, entries as u64)
    }
    pub(crate) fn map(&mut self, entries: usize) -> &mut Self {
        self.head(MAP, entries as u64)
    }
    pub(crate) fn null(&mut self) -> &mut Self {
        self.head(SIMPLE, 22)
    }
    /// Bytes that are CBOR already.
    pub(crate) fn raw(&mut self, cbor: &[u8]) -> &mut Self {
        self.0.extend_from_slice(cbor);
        self
    }
}

/// What an item is, with its content where that is cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Uint(u64),
    /// -1 - n
    Negative(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    /// This many items follow.
    Array(usize),
    /// This many pairs follow.
    Map(usize),
    /// One item follows.
    Tag(u64),
    Bool(bool),
    Null,
}

/// Whether map keys must be in the order of RFC 8949 section 4.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Any,
    Deterministic,
}

/// Reads items one after the other from bytes that [`check`] has accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// Checks that `bytes` are exactly one item in the subset. With
/// [`Order::Deterministic`], decoding and encoding again would give the same bytes.
pub(crate) fn check<'a>(field: &'static str, bytes: &'a [u8], order: Order) -> Result<Reader<'a>, Finding> {
    let mut reader = Reader::new(bytes);
    skip(&mut reader, order, 0).map_err(|fault| fault.finding(field))?;
    if !reader.rest.is_empty() {
        return Err(Fault::Trailing(reader.rest.len()).finding(field));
    }
    Ok(Reader::new(bytes))
}

impl<'a> Reader<'a> {
    /// Of bytes that are one checked item.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next item.
    pub(crate) fn next(&mut self) -> Result<Item<'a>, Fault> {
        let (&first, rest) = self.rest.split_first().ok_or(Fault::Truncated)?;
        let (major, info) = (first >> 5, first & 31);
        let count = match info {
            0..24 => 0,
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            31 => return Err(Fault::Indefinite),
            _ => return Err(Fault::Reserved),
        };
        let (argument, rest) = rest.split_at_checked(count).ok_or(Fault::Truncated)?;
        self.rest = rest;
        let n = if count == 0 {
            u64::from(info)
        } else {
            argument.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        if major == SIMPLE {
            return match first & 31 {
                20 => Ok(Item::Bool(false)),
                21 => Ok(Item::Bool(true)),
                22 => Ok(Item::Null),
                _ => Err(Fault::Simple),
            };
        }
        let least = match count {
            0 => 0,
            1 => 24,
            2 => 0x100,
            4 => 0x1_0000,
            _ => 0x1_0000_0000,
        };
        if n < least {
            return Err(Fault::LongHead);
        }
        Ok(match major {
            UINT => Item::Uint(n),
            NEGATIVE => Item::Negative(n),
            BYTES => Item::Bytes(self.take(n)?),
            TEXT => Item::Text(std::str::from_utf8(self.take(n)?).map_err(|_| Fault::Utf8)?),
            ARRAY => Item::Array(self.count(n)?),
            MAP => Item::Map(self.count(n)?),
            _ => Item::Tag(n),
        })
    }

    /// The bytes of the next item, which is passed over.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.rest;
        skip(self, Order::Any, 0)?;
        Ok(start.get(..start.len() - self.rest.len()).unwrap_or_default())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        let n = usize::try_from(n).map_err(|_| Fault::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A count of items is at most the bytes that are left, since each has one.
    fn count(&self, n: u64) -> Result<usize, Fault> {
        usize::try_from(n).ok().filter(|n| *n <= self.rest.len()).ok_or(Fault::Truncated)
    }
}

fn skip(reader: &mut Reader<'_>, order: Order, depth: usize) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::Deep);
    }
    match reader.next()? {
        Item::Array(count) => (0..count).try_for_each(|_| skip(reader, order, depth + 1)),
        Item::Tag(_) => skip(reader, order, depth + 1),
        Item::Map(count) => skip_map(reader, order, depth, count),
        _ => Ok(()),
    }
}

fn skip_map(reader: &mut Reader<'_>, order: Order, depth: usize, count: usize) -> Result<(), Fault> {
    let mut keys = Vec::new();
    let mut last: Option<&[u8]> = None;
    for _ in 0..count {
        let start = reader.rest;
        skip(reader, order, depth + 1)?;
        let key = start.get(..start.len() - reader.rest.len()).unwrap_or_default();
        // Heads are shortest, so equal keys are equal bytes. In order they are
        // neighbours, and nothing need be remembered of a large map.
        match order {
            Order::Deterministic => match last.map(|last| last.cmp(key)) {
                Some(Ordering::Greater) => return Err(Fault::Unordered),
                Some(Ordering::Equal) => return Err(Fault::Duplicate),
                _ => last = Some(key),
            },
            Order::Any => keys.push(key),
        }
        skip(reader, order, depth + 1)?;
    }
    keys.sort_unstable();
    if keys.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(Fault::Duplicate);
    }
    Ok(())
}

/// Why bytes are not in the subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Truncated,
    Trailing(usize),
    Indefinite,
    Reserved,
    Simple,
    Utf8,
    Deep,
    LongHead,
    Unordered,
    Duplicate,
}

impl Fault {
    pub(crate) fn finding(self, field: &str) -> Finding {
        let (reason, expected, presented) = match self {
            Self::Truncated => {
                (Reason::Truncated, "a complete CBOR item".to_owned(), "its beginning".to_owned())
            }
            Self::Trailing(n) => {
                (Reason::Malformed, "one CBOR item".to_owned(), format!("{n} bytes after it"))
            }
            Self::Indefinite => {
                (Reason::NonCanonical, "definite lengths".to_owned(), "an indefinite length".to_owned())
            }
            Self::Reserved => {
                (Reason::Malformed, "CBOR".to_owned(), "a reserved additional information".to_owned())
            }
            Self::Simple => (Reason::Malformed, "no floats and simple values".to_owned(), "one".to_owned()),
            Self::Utf8 => (Reason::Malformed, "text in UTF-8".to_owned(), "other bytes".to_owned()),
            Self::Deep => (Reason::Oversized, format!("at most {MAX_DEPTH} levels"), "more".to_owned()),
            Self::LongHead => {
                (Reason::NonCanonical, "shortest lengths".to_owned(), "a longer one".to_owned())
            }
            Self::Unordered => {
                (Reason::NonCanonical, "sorted map keys".to_owned(), "another order".to_owned())
            }
            Self::Duplicate => (Reason::Malformed, "no duplicate map keys".to_owned(), "one".to_owned()),
        };
        Finding::new(reason, field, expected, presented)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(hex: &str, order: Order) -> Option<Reason> {
        check("test", &hex::decode(hex).unwrap(), order).err().map(|finding| finding.reason)
    }

    #[test]
    fn heads_are_written_shortest() {
        for (n, hex) in [
            (0, "00"),
            (23, "17"),
            (24, "1818"),
            (255, "18ff"),
            (256, "190100"),
            (65535, "19ffff"),
            (65536, "1a00010000"),
            (u64::MAX, "1bffffffffffffffff"),
        ] {
            let mut writer = Writer::default();
            writer.uint(n);
            assert_eq!(hex::encode(&writer.0), hex);
            assert_eq!(Reader::new(&writer.0).next(), Ok(Item::Uint(n)));
        }
    }

    #[test]
    fn what_is_not_deterministic_is_refused() {
        for (hex, any, deterministic) in [
            ("a201020304", None, None),
            ("a203040102", None, Some(Reason::NonCanonical)),
            ("a201020103", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("a2616101616102", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("1817", Some(Reason::NonCanonical), Some(Reason::NonCanonical)),
            ("5f4101ff", Some(Reason::NonCanonical), Some(Reason::NonCanonical)),
            ("9fff", Some(Reason::NonCanonical), Some(Reason::NonCanonical)),
            ("bfff", Some(Reason::NonCanonical), Some(Reason::NonCanonical)),
            ("0000", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("f97e00", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("f818", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("61ff", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("1c", Some(Reason::Malformed), Some(Reason::Malformed)),
            ("", Some(Reason::Truncated), Some(Reason::Truncated)),
            ("43aabb", Some(Reason::Truncated), Some(Reason::Truncated)),
            ("5bffffffffffffffff00", Some(Reason::Truncated), Some(Reason::Truncated)),
            ("9bffffffffffffffff00", Some(Reason::Truncated), Some(Reason::Truncated)),
            ("bbffffffffffffffff00", Some(Reason::Truncated), Some(Reason::Truncated)),
        ] {
            assert_eq!(reason(hex, Order::Any), any, "{hex}");
            assert_eq!(reason(hex, Order::Deterministic), deterministic, "{hex}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_notices() {
        let nested = |head: u8, n: usize| [vec![head; n], vec![0]].concat();
        for head in [0x81, 0xc1] {
            assert!(check("test", &nested(head, MAX_DEPTH), Order::Any).is_ok());
            for n in [MAX_DEPTH + 1, 10_000] {
                let finding = check("test", &nested(head, n), Order::Any).unwrap_err();
                assert_eq!(finding.reason, Reason::Oversized);
            }
        }
    }
}
