//! Intel SGX and TDX: DCAP quotes (Intel SGX DCAP Quote Generation and TDX DCAP
//! Quote Generation library references).

mod chain;
pub(crate) mod collateral;
pub(crate) mod pck;
mod quote;
pub mod tcb;
mod verify;

pub(crate) use self::chain::PckChain;
pub use self::pck::PckFacts;
pub use self::quote::{CertificationData, Quote, QuoteBody, SgxReport, TdReport};
pub(crate) use self::verify::verify;
