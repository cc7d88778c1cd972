//! AMD products and TCB versions.

/// The families of EPYC processors that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub enum Product {
    Milan,
    Genoa,
    Turin,
}

/// A TCB version. Compared component by component, never as an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub struct TcbVersion {
    /// Turin and later; 0 before.
    pub fmc: u8,
    pub bootloader: u8,
    pub tee: u8,
    pub snp: u8,
    pub microcode: u8,
}
