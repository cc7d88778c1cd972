//! Intel SGX and TDX: DCAP quotes (Intel SGX DCAP Quote Generation and TDX DCAP
//! Quote Generation library references).

pub mod tcb;

/// A quote, parsed but not verified.
#[derive(Clone, Debug)]
pub struct Quote<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
}

use crate::finding::Finding;
use crate::reason::Reason;

impl<'a> Quote<'a> {
    /// Stub.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Finding> {
        let _ = Self { bytes: bytes.into() };
        Err(Finding::new(Reason::UnsupportedFormat, "quote", "", ""))
    }
    /// Stub.
    pub fn parse_owned(bytes: Vec<u8>) -> Result<Quote<'static>, Finding> {
        let _ = bytes;
        Err(Finding::new(Reason::UnsupportedFormat, "quote", "", ""))
    }
    /// Stub.
    pub fn into_owned(self) -> Quote<'static> {
        Quote { bytes: self.bytes.into_owned().into() }
    }
    /// Stub.
    pub fn report_data(&self) -> &[u8; 64] {
        &[0; 64]
    }
    /// Stub.
    pub const fn tee(&self) -> crate::claims::Tee {
        crate::claims::Tee::Tdx
    }
}

pub(crate) fn verify<O: crate::observe::Observer>(
    _: &Quote<'_>,
    _: &crate::Collateral,
    _: &crate::Anchors,
    _: crate::UnixTime,
    _: Option<&crate::cache::Cache>,
    _: &mut O,
) -> Result<crate::Claims, Finding> {
    Err(Finding::new(Reason::UnsupportedFormat, "quote", "", ""))
}
