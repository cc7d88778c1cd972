//! # Control plane: policy store, identity issuance, distribution
//!
//! **Enters**: resources from operators, vendor collateral from a directory,
//! attested certificate requests and acknowledgements from proxies. **Leaves**:
//! signed snapshots with a growing generation, X.509-SVIDs that carry the
//! evidence they were issued for, and the status of every proxy.
//!
//! **Guaranteed**: a set of documents with an error changes nothing; what was
//! admitted survives a crash; a generation that anybody has seen is never given
//! to other content; an SVID's ID comes from policy, its evidence was appraised
//! over a fresh challenge, and its issuance is written down before it leaves;
//! every caller is judged in the handshake, and a proxy again whenever policy changes.
//!
//! ```text
//! operator ─ admit ─ store ─ cut ─ mesh ─ proxies ─ status
//!                      └──── issue ─ SVIDs
//! ```

pub mod clock;
mod error;
mod files;
pub mod process;

mod keep;
mod platforms;
pub mod store;

pub mod admit;
mod authority;
mod collateral;
mod enrol;
mod resources;

mod cut;

mod caller;
mod challenge;
mod explain;
mod issue;
mod mesh;
mod operator;
mod own;
mod pin;
mod serve;
mod watchers;

mod admin;
mod http;
pub mod metrics;
mod ready;
mod status;

mod plane;

pub use authority::{BUNDLE, OPERATOR};
pub use clock::Clock;
pub use error::Error;
pub use keep::Issued;
pub use pin::ATTESTATION;
pub use plane::{Addresses, Bound, Handle, Options, build};
