//! Emulated platforms: TDX, SGX and SEV-SNP machines with a vendor of their own.
//!
//! A [`Vendor`] stands in for Intel and AMD at once: it is a PKI that is
//! generated on this machine, the collateral that the vendors publish, and a
//! factory of machines. The evidence has the bytes of genuine evidence, so that
//! tests and demonstrations run the code that verifies hardware; what it lacks
//! is a root that anybody trusts. Only a policy that names the vendor's roots
//! under `emulatedRoots` accepts it.
//!
//! ```text
//! Vendor ─┬─ collateral(now) ─ Vec<Item>
//!         ├─ tdx(TdxSpec) ── Attester ─ quote v4, v5
//!         ├─ sgx(SgxSpec) ── Attester ─ quote v3
//!         └─ snp(SnpSpec) ── Attester ─ report v3, v5 with VCEK or VLEK
//! ```

mod amd;
mod collateral;
mod intel;
mod key;
mod quote;
mod report;
mod spec;
mod store;
mod text;
mod vendor;
mod x509;

pub use collateral::{CollateralSpec, SvnLevel, TcbLevel};
pub use quote::{EmulatedSgx, EmulatedTdx};
pub use report::EmulatedSnp;
pub use spec::{
    CPU_SVN, EventSpec, FMSPC, IntelPlatform, PCE_SVN, QE_MR_SIGNER, SgxSpec, SnpCertificateSpec, SnpSpec,
    TEE_TCB_SVN, TdxSpec,
};
pub use vendor::Vendor;
pub use x509::Serial;

/// The driver's name.
const DRIVER: &str = "emulated";

#[cfg(test)]
mod tests;
