//! Bounded reading of untrusted bytes, and hashes.

use crate::finding::Finding;
use crate::reason::Reason;

/// SHA-256.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref());
    out
}

/// Reads a byte string from front to back. Nothing is read past its end, and a
/// structure that is longer than the bytes is a [`Reason::Truncated`] finding
/// that names the field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `N` bytes.
    pub(crate) fn take<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Finding> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(self.truncated(field, N));
        };
        self.rest = rest;
        Ok(head)
    }

    /// The next `n` bytes.
    pub(crate) fn slice(&mut self, field: &'static str, n: usize) -> Result<&'a [u8], Finding> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(self.truncated(field, n));
        };
        self.rest = rest;
        Ok(head)
    }

    /// The next 16 bits, least significant byte first.
    pub(crate) fn u16_le(&mut self, field: &'static str) -> Result<u16, Finding> {
        self.take(field).map(|b| u16::from_le_bytes(*b))
    }

    /// The next 32 bits, least significant byte first.
    pub(crate) fn u32_le(&mut self, field: &'static str) -> Result<u32, Finding> {
        self.take(field).map(|b| u32::from_le_bytes(*b))
    }

    /// The next 64 bits, least significant byte first.
    pub(crate) fn u64_le(&mut self, field: &'static str) -> Result<u64, Finding> {
        self.take(field).map(|b| u64::from_le_bytes(*b))
    }

    /// How many bytes have not been read.
    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn truncated(&self, field: &'static str, wanted: usize) -> Finding {
        Finding::new(
            Reason::Truncated,
            field,
            format!("{wanted} bytes"),
            format!("{} bytes left", self.remaining()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_names_the_field_that_is_cut() {
        let mut reader = Reader::new(&[2, 0, 3, 0, 0, 0, 9, 8]);
        assert_eq!(reader.u16_le("b"), Ok(2));
        assert_eq!(reader.u32_le("c"), Ok(3));
        let cut = reader.u64_le("reported_tcb").unwrap_err();
        assert_eq!((cut.reason, cut.field.as_str()), (Reason::Truncated, "reported_tcb"));
        assert_eq!(reader.remaining(), 2, "a failed read takes nothing");
        assert_eq!(reader.slice("d", usize::MAX).unwrap_err().reason, Reason::Truncated);
        assert_eq!(reader.slice("d", 1), Ok(&[9][..]));
        assert_eq!(reader.take("e"), Ok(&[8]));
        assert_eq!(reader.remaining(), 0);
    }
}
