//! PEM (RFC 7468), lenient about white space and what lies between the blocks.

use base64::Engine as _;

use super::MAX_CERTIFICATE;
use crate::finding::Finding;
use crate::reason::Reason;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// One PEM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PemBlock<'a> {
    /// `CERTIFICATE`, `X509 CRL`.
    pub(crate) label: &'a str,
    /// The decoded content.
    pub(crate) der: Vec<u8>,
}

/// Whether the bytes look like PEM.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(BEGIN.as_bytes())
}

/// Reads up to `limit` PEM blocks; more than that is an error. Zero bytes at
/// the end, which C programs leave behind chains in quotes, are ignored.
pub(crate) fn pem_blocks(bytes: &[u8], limit: usize) -> Result<Vec<PemBlock<'_>>, Finding> {
    let malformed = |what: &str| Finding::new(Reason::Malformed, "PEM", "PEM blocks", what);
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let text = bytes.get(..end).unwrap_or_default();
    let mut rest = std::str::from_utf8(text).map_err(|_| malformed("bytes that are not text"))?;
    let mut blocks = Vec::new();
    while let Some((_, after)) = rest.split_once(BEGIN) {
        if blocks.len() == limit {
            return Err(Finding::new(Reason::Oversized, "PEM", format!("at most {limit} blocks"), "more"));
        }
        let (label, after) = after.split_once(DASHES).ok_or_else(|| malformed("an unfinished label"))?;
        let (body, after) = after.split_once("-----END ").ok_or_else(|| malformed("an unfinished block"))?;
        let (end, after) = after.split_once(DASHES).ok_or_else(|| malformed("an unfinished end"))?;
        if end != label {
            return Err(malformed("a block that ends under another label"));
        }
        let mut compact = Vec::with_capacity(body.len().min(2 * MAX_CERTIFICATE));
        compact.extend(body.bytes().filter(|b| !b.is_ascii_whitespace()));
        let der = base64::engine::general_purpose::STANDARD
            .decode(compact)
            .map_err(|_| malformed("a block that is not base64"))?;
        blocks.push(PemBlock { label, der });
        rest = after;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_other_text_and_zeros_at_the_end() {
        let text = b"x\n-----BEGIN A-----\nAQID\n-----END A-----\r\n-----BEGIN X509 CRL-----BA==\n-----END X509 CRL-----\n\0";
        let blocks = pem_blocks(text, 2).unwrap();
        assert_eq!(blocks[0], PemBlock { label: "A", der: vec![1, 2, 3] });
        assert_eq!(blocks[1], PemBlock { label: "X509 CRL", der: vec![4] });
        assert_eq!(pem_blocks(text, 1).unwrap_err().reason, Reason::Oversized);
    }

    #[test]
    fn damaged_blocks_are_malformed() {
        for text in [
            "-----BEGIN A",
            "-----BEGIN A-----\nAQ",
            "-----BEGIN A-----\n!!\n-----END A-----",
            "-----BEGIN A-----\nAQ==\n-----END B-----",
        ] {
            assert_eq!(pem_blocks(text.as_bytes(), 9).unwrap_err().reason, Reason::Malformed, "{text}");
        }
    }
}
