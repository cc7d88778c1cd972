//! # RA-TLS: evidence in X.509, and TLS that insists on it
//!
//! **Enters**: keys, evidence, a trust domain's bundle, and somebody who judges
//! peers. **Leaves**: certificates that carry evidence bound to their key, and
//! rustls configurations that refuse a peer in the handshake with a TLS alert.
//!
//! **Guaranteed**: TLS 1.3 only, no resumption, no tickets, no early data, the
//! application protocol is agreed; a peer is judged on every handshake; the
//! evidence binds the very key that the handshake proved. State machines here
//! take the time as a value and do no I/O.

pub mod binding;
pub mod bundle;
pub mod ca;
mod cbor;
mod certificate;
pub mod cmw;
mod cmw_json;
pub mod csr;
mod der;
pub mod embedded;
pub mod extension;
pub mod identity;
mod jwks;
pub mod key;
pub mod merkle;
pub mod native;
pub mod peer;
pub mod rotation;
mod signature;
pub mod spiffe;
pub mod svid;
#[cfg(test)]
mod testing;
pub mod tls;

pub use bundle::Bundle;
pub use ca::Authority;
pub use identity::Identity;
pub use peer::{Admission, Judge, Presented};
pub use spiffe::{IdPattern, SpiffeId, TrustDomain};
