//! AMD SEV-SNP attestation reports (SEV-SNP Firmware ABI specification, 56860).

pub mod tcb;

/// A report with the certificates that came along, parsed but not verified.
#[derive(Clone, Debug)]
pub struct Attestation<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
}
