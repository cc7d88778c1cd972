//! Intel SGX and TDX: DCAP quotes (Intel SGX DCAP Quote Generation and TDX DCAP
//! Quote Generation library references).

pub mod tcb;

/// A quote, parsed but not verified.
#[derive(Clone, Debug)]
pub struct Quote<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
}
