//! Intel SGX and TDX: DCAP quotes (Intel SGX DCAP Quote Generation and TDX DCAP
//! Quote Generation library references).

pub(crate) mod collateral;
pub(crate) mod pck;
mod quote;
pub mod tcb;
mod verify;

pub use self::pck::PckFacts;
pub use self::quote::{CertificationData, Quote, QuoteBody, SgxReport, TdReport};
pub(crate) use self::verify::{PckChain, verify};
