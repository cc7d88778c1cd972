//! RATS Conceptual Message Wrappers (RFC 9999): records, tags, collections, in
//! CBOR and JSON. What anybody may send; the form that we make is in
//! [`crate::native`].

use std::borrow::Cow;

use countersign_evidence::{Finding, Reason};

use crate::cbor::{self, Fault, Item, Order, Reader, TAG_OID};
use crate::cmw_json;

/// The most entries of one collection.
pub const MAX_ENTRIES: usize = 64;

/// The deepest nesting of collections.
pub const MAX_DEPTH: usize = 4;

/// The key that names the type of a collection.
pub const COLLECTION_TYPE: &str = "__cmwc_t";

const FIELD: &str = "cmw";

/// A wrapper in one of its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmw<'a> {
    /// One message.
    Record(Record<'a>),
    /// Several, with labels.
    Collection(Collection<'a>),
}

/// One conceptual message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the value is.
    pub kind: Kind<'a>,
    /// The message.
    pub value: Cow<'a, [u8]>,
    /// The `ind` bits, when they are given: see [`indicator`].
    pub indicator: Option<u32>,
}

/// Bits of a record's `ind`.
pub mod indicator {
    /// Evidence.
    pub const EVIDENCE: u32 = 1 << 2;
    /// Attestation results.
    pub const ATTESTATION_RESULTS: u32 = 1 << 3;
}

/// The type of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A media type.
    MediaType(Cow<'a, str>),
    /// A CoAP content format, also when it was conveyed as a CBOR tag.
    ContentFormat(u16),
}

/// Several messages with labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection<'a> {
    /// `__cmwc_t`, a URI or the hexadecimal digits of an OID's contents.
    pub kind: Option<Cow<'a, str>>,
    /// The entries, at least one, in the order in which they came.
    pub entries: Vec<Entry<'a>>,
}

/// An entry of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its label.
    pub label: Label<'a>,
    /// The message, or a nested collection.
    pub content: Cmw<'a>,
    /// The CBOR bytes of the content as they came; empty for JSON.
    pub encoded: &'a [u8],
}

/// The label of an entry. Labels in JSON are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label<'a> {
    /// A number from 0.
    Uint(u64),
    /// -1 - n.
    Negative(u64),
    /// Text.
    Text(Cow<'a, str>),
}

impl<'a> Cmw<'a> {
    /// Reads a wrapper; the first byte tells the form (RFC 9999 section 3.4).
    ///
    /// # Errors
    /// When it is malformed, not in definite shortest CBOR, or over a limit.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Finding> {
        match bytes {
            [b'[' | b'{', ..] => cmw_json::decode(bytes),
            [0x82 | 0x83 | 0x9f | 0xa0..=0xbb | 0xbf | 0xda, ..] => {
                let mut reader = cbor::check(FIELD, bytes, Order::Any)?;
                cbor_item(&mut reader, 0)
            }
            [] => Err(Finding::new(Reason::Truncated, FIELD, "a record or a collection", "no bytes")),
            [other, ..] => {
                let presented = format!("first byte {other:#04x}");
                Err(Finding::new(Reason::UnsupportedFormat, FIELD, "a record or a collection", presented))
            }
        }
    }
}

fn cbor_item<'a>(reader: &mut Reader<'a>, depth: usize) -> Result<Cmw<'a>, Finding> {
    match next(reader)? {
        Item::Array(count @ (2 | 3)) => cbor_record(reader, count == 3).map(Cmw::Record),
        Item::Tag(tag) => cbor_tag(reader, tag).map(Cmw::Record),
        Item::Map(count) => cbor_collection(reader, count, depth).map(Cmw::Collection),
        other => Err(malformed("array of 2 or 3, tag, or map", format!("{other:?}"))),
    }
}

fn cbor_record<'a>(reader: &mut Reader<'a>, with_indicator: bool) -> Result<Record<'a>, Finding> {
    let kind = match next(reader)? {
        Item::Text(text) => Kind::MediaType(media_type(text.into())?),
        Item::Uint(n) => content_format(n)?,
        other => return Err(malformed("media type or content format", format!("{other:?}"))),
    };
    let Item::Bytes(value) = next(reader)? else {
        return Err(malformed("value as byte string", "another type"));
    };
    let indicator = match with_indicator {
        false => None,
        true => match next(reader)? {
            Item::Uint(bits) => Some(indicator_bits(bits)?),
            other => return Err(malformed("ind as bits", format!("{other:?}"))),
        },
    };
    Ok(Record { kind, value: value.into(), indicator })
}

/// `TN(cf) = 1668546817 + (cf / 255) * 256 + cf % 255` (RFC 9277 section 4.3).
const TN_FIRST: u64 = 1_668_546_817;

fn cbor_tag<'a>(reader: &mut Reader<'a>, tag: u64) -> Result<Record<'a>, Finding> {
    let format = tag.checked_sub(TN_FIRST).filter(|n| n % 256 < 255).map(|n| n / 256 * 255 + n % 256);
    let kind = format.and_then(|n| content_format(n).ok());
    let kind = kind.ok_or_else(|| malformed("a tag of a content format", tag.to_string()))?;
    match next(reader)? {
        Item::Bytes(value) => Ok(Record { kind, value: value.into(), indicator: None }),
        _ => Err(malformed("value as byte string", "another type")),
    }
}

fn cbor_collection<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    depth: usize,
) -> Result<Collection<'a>, Finding> {
    bounded(count, depth)?;
    let mut collection = Collection { kind: None, entries: Vec::with_capacity(count) };
    for _ in 0..count {
        let label = match next(reader)? {
            Item::Text(COLLECTION_TYPE) => {
                collection.kind = Some(cbor_collection_type(reader)?);
                continue;
            }
            Item::Text(text) => Label::Text(text.into()),
            Item::Uint(n) => Label::Uint(n),
            Item::Negative(n) => Label::Negative(n),
            other => return Err(malformed("label as integer or text", format!("{other:?}"))),
        };
        let encoded = reader.clone().raw().map_err(fault)?;
        let content = cbor_item(reader, depth + 1)?;
        collection.entries.push(Entry { label, content, encoded });
    }
    not_empty(collection)
}

fn cbor_collection_type<'a>(reader: &mut Reader<'a>) -> Result<Cow<'a, str>, Finding> {
    match next(reader)? {
        Item::Text(uri) => Ok(uri.into()),
        Item::Tag(TAG_OID) => match next(reader)? {
            Item::Bytes(oid) => Ok(hex::encode(oid).into()),
            _ => Err(malformed("collection type as OID", "another type")),
        },
        other => Err(malformed("collection type as URI or OID", format!("{other:?}"))),
    }
}

pub(crate) fn media_type(text: Cow<'_, str>) -> Result<Cow<'_, str>, Finding> {
    let fits = text.contains('/') && text.len() <= 255 && text.chars().all(|c| matches!(c, ' '..='~'));
    if fits { Ok(text) } else { Err(malformed("a media type", "another text")) }
}

pub(crate) fn content_format(n: u64) -> Result<Kind<'static>, Finding> {
    let format = u16::try_from(n).map_err(|_| malformed("content format of 16 bits", n.to_string()))?;
    Ok(Kind::ContentFormat(format))
}

pub(crate) fn indicator_bits(bits: u64) -> Result<u32, Finding> {
    u32::try_from(bits).map_err(|_| malformed("ind of 32 bits", bits.to_string()))
}

/// Whether a collection of `count` entries may stand at this depth.
pub(crate) fn bounded(count: usize, depth: usize) -> Result<(), Finding> {
    if depth >= MAX_DEPTH {
        let expected = format!("at most {MAX_DEPTH} levels");
        return Err(Finding::new(Reason::Oversized, "cmw collection", expected, "more"));
    }
    if count > MAX_ENTRIES {
        let expected = format!("at most {MAX_ENTRIES} entries");
        return Err(Finding::new(Reason::Oversized, "cmw collection", expected, count.to_string()));
    }
    Ok(())
}

pub(crate) fn not_empty(collection: Collection<'_>) -> Result<Collection<'_>, Finding> {
    match collection.entries.is_empty() {
        true => Err(malformed("a collection of at least one entry", "an empty one")),
        false => Ok(collection),
    }
}

pub(crate) fn malformed(expected: &str, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::Malformed, FIELD, expected, presented)
}

fn next<'a>(reader: &mut Reader<'a>) -> Result<Item<'a>, Finding> {
    reader.next().map_err(fault)
}

fn fault(fault: Fault) -> Finding {
    fault.finding(FIELD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::Writer;
    use crate::testing::corpus;

    fn reason(bytes: &[u8]) -> Option<Reason> {
        Cmw::decode(bytes).err().map(|finding| finding.reason)
    }

    #[test]
    fn tags_are_those_of_rfc_9277() {
        for (tag, format) in
            [(1_668_546_817, 0), (1_668_547_081, 263), (1_668_612_070, 64_999), (1_668_612_095, 65_024)]
        {
            let mut bytes = vec![0xda];
            bytes.extend(u32::to_be_bytes(tag));
            bytes.extend([0x41, 7]);
            let Ok(Cmw::Record(record)) = Cmw::decode(&bytes) else { panic!("{tag}") };
            assert_eq!((record.kind, record.value.as_ref()), (Kind::ContentFormat(format), &[7][..]));
        }
        for tag in [1_668_546_816_u32, 1_668_546_817 + 255, u32::MAX, 111] {
            let mut bytes = vec![0xda];
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0x41, 7]);
            assert!(reason(&bytes).is_some(), "{tag}");
        }
    }

    #[test]
    fn the_collections_of_the_corpus_are_read() {
        let Some(corpus) = corpus() else { return };
        for file in ["collection-cbor-ok.cbor", "collection-cbor-mixed-keys.cbor", "collection-ok.json"] {
            let bytes = std::fs::read(corpus.join("cmw").join(file)).unwrap();
            let Cmw::Collection(collection) = Cmw::decode(&bytes).unwrap() else { panic!("{file}") };
            assert!(collection.entries.len() >= 2, "{file}");
        }
    }

    #[test]
    fn both_forms_of_a_record_mean_the_same() {
        let json = Cmw::decode(br#"["application/x", "AQID", 4]"#).unwrap();
        let cbor = hex::decode("836d6170706c69636174696f6e2f784301020304").unwrap();
        assert_eq!(json, Cmw::decode(&cbor).unwrap());
        let Cmw::Record(record) = json else { panic!() };
        assert_eq!(record.indicator, Some(indicator::EVIDENCE));
    }

    #[test]
    fn what_no_wrapper_is_is_refused() {
        for (bytes, expected) in [
            (&b""[..], Reason::Truncated),
            (b"hello", Reason::UnsupportedFormat),
            (b"\x9f\xff", Reason::NonCanonical),
            (b"\xa0", Reason::Malformed),
            (b"\xa1\x01\x01", Reason::Malformed),
            (b"\xa2\x01\x82\x00\x40\x01\x82\x00\x40", Reason::Malformed),
            (b"\x82\x00\x40\x00", Reason::Malformed),
            (b"\x82\x00\x60", Reason::Malformed),
            (b"\x82\x20\x40", Reason::Malformed),
            (b"{}", Reason::Malformed),
            (b"{\"a\": [\"b/c\", \"AQ\"]", Reason::Truncated),
            (b"{\"a\": [\"b/c\", \"AQ\"], \"a\": [\"b/c\", \"AQ\"]}", Reason::Malformed),
            (b"[\"b/c\", \"AQ==\"]", Reason::Malformed),
            (b"[\"b/c\", \"AQ\", 4, 5]", Reason::Malformed),
            (b"[70000, \"AQ\"]", Reason::Malformed),
            (b"[\"b\", \"AQ\"]", Reason::Malformed),
        ] {
            assert_eq!(reason(bytes), Some(expected), "{bytes:x?}");
        }
    }

    #[test]
    fn collections_are_bounded_in_depth_and_width() {
        let mut nested = vec![0x82, 0x00, 0x40];
        for depth in 1..=MAX_DEPTH + 1 {
            nested = [&[0xa1, 0x01], nested.as_slice()].concat();
            assert_eq!(reason(&nested), (depth > MAX_DEPTH).then_some(Reason::Oversized));
        }
        let mut wide = Writer::default();
        wide.map(MAX_ENTRIES + 1);
        (0..=MAX_ENTRIES).for_each(|n| {
            wide.uint(n as u64).raw(&[0x82, 0x00, 0x40]);
        });
        assert_eq!(reason(&wide.0), Some(Reason::Oversized));
        let json = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(reason(json.as_bytes()), Some(Reason::Malformed));
    }
}
