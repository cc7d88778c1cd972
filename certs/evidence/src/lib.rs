//! # Evidence: bytes to verified claims to a verdict
//!
//! **Enters**: the bytes of a piece of attestation Evidence, the collateral
//! that its vendor publishes, the roots that somebody trusts, a policy with its
//! Reference Values, and a point in time. **Leaves**: a [`Verdict`] that lists
//! every mismatch, or a [`Finding`] that says why the bytes prove nothing.
//!
//! **Guaranteed**: no I/O, no clock, no global state, no panic; the same inputs
//! give the same outcome, so that a decision can be repeated offline from what
//! was logged. Sizes and depths are bounded before anything is allocated.
//! Signatures and chains are checked before a measurement is looked at, and
//! [`Claims`] can only be made by [`verify`], and get runtime events only by the
//! replay of a log that lands on the quoted registers.
//!
//! The way of the data, in the order of the modules:
//!
//! ```text
//! bytes ─ evidence ─┬─ intel ─┐
//!                   └─ amd  ──┴─ Claims ─ appraise(policy, references) ─ Verdict
//!            collateral ─┘        │
//! event log ─ replay ─────────────┘
//! ```

pub mod amd;
pub mod anchors;
pub mod appraise;
mod bytes;
pub mod cache;
pub mod claims;
pub mod collateral;
pub mod dependencies;
pub mod event_log;
pub mod evidence;
pub mod finding;
pub mod floor;
pub mod intel;
pub mod observe;
pub mod policy;
pub mod reason;
pub mod verdict;
mod x509;

pub use anchors::{Anchors, Fingerprint};
pub use appraise::appraise;
pub use claims::Claims;
pub use collateral::Collateral;
pub use dependencies::Dependencies;
pub use event_log::RegisterState;
pub use evidence::{Evidence, verify, verify_again};
pub use finding::{Denial, Finding};
pub use floor::Floor;
pub use policy::{Policy, PolicyRef, References};
pub use reason::Reason;
pub use rustls_pki_types::UnixTime;
pub use verdict::Verdict;
