//! Tags and lengths of DER, for the few structures that x509-parser does not know.

use countersign_evidence::{Finding, Reason};

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const CONTEXT_0: u8 = 0xa0;

/// The tag and contents of the one value that `der` is.
pub(crate) fn only<'a>(field: &str, der: &'a [u8]) -> Result<(u8, &'a [u8]), Finding> {
    match next(field, der)? {
        (tag, contents, []) => Ok((tag, contents)),
        (.., rest) => {
            let presented = format!("{} bytes after it", rest.len());
            Err(Finding::new(Reason::Malformed, field, "one DER value", presented))
        }
    }
}

/// The contents of the one value that `der` is, with this tag.
pub(crate) fn only_of<'a>(field: &str, tag: u8, der: &'a [u8]) -> Result<&'a [u8], Finding> {
    match only(field, der)? {
        (found, contents) if found == tag => Ok(contents),
        (found, _) => Err(wrong_tag(field, tag, found)),
    }
}

/// The contents of the next value, with this tag, and the rest.
pub(crate) fn next_of<'a>(field: &str, tag: u8, der: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Finding> {
    match next(field, der)? {
        (found, contents, rest) if found == tag => Ok((contents, rest)),
        (found, ..) => Err(wrong_tag(field, tag, found)),
    }
}

/// Tag, contents and rest. Lengths must be shortest (X.690 section 10.1).
fn next<'a>(field: &str, der: &'a [u8]) -> Result<(u8, &'a [u8], &'a [u8]), Finding> {
    let truncated = || Finding::new(Reason::Truncated, field, "a complete DER value", "its beginning");
    let malformed = |presented| Finding::new(Reason::Malformed, field, "a DER value", presented);
    let [tag, length, rest @ ..] = der else { return Err(truncated()) };
    if tag & 0x1f == 0x1f {
        return Err(malformed("a long tag"));
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f)).ok_or_else(truncated)?;
            let n = bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
            if n < 0x80 || bytes.first() == Some(&0) {
                return Err(malformed("a length that is not shortest"));
            }
            (n, rest)
        }
        _ => return Err(malformed("a length that is indefinite or too large")),
    };
    let (contents, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
    Ok((*tag, contents, rest))
}

fn wrong_tag(field: &str, expected: u8, presented: u8) -> Finding {
    Finding::new(Reason::Malformed, field, format!("tag {expected:#04x}"), format!("tag {presented:#04x}"))
}
