//! # RA-TLS: evidence in X.509, and TLS that insists on it
//!
//! **Enters**: keys, evidence, a trust domain's bundle, and somebody who judges
//! peers. **Leaves**: certificates that carry evidence bound to their key,
//! rustls configurations that refuse a peer in the handshake with a TLS alert,
//! and the machines by which both ends of a hop prove themselves in its very
//! session, before the first byte and again while it lives ([`session`]).
//!
//! **Guaranteed**: TLS 1.3 only, no resumption, no tickets, no early data, the
//! application protocol is agreed; a peer is judged on every handshake; the
//! evidence binds the very key that the handshake proved, and that of a session
//! the session. State machines here take the time as a value and do no I/O.

// Names and keys.
pub mod key;
pub mod spiffe;

// Encodings, read strictly.
mod cbor;
pub mod certificate;
mod der;
mod signature;

// Evidence, bound to keys and sessions, and its way into certificates.
pub mod binding;
pub mod cmw;
mod cmw_json;
pub mod embedded;
pub mod extension;
pub mod merkle;
pub mod native;

// From a request to an SVID that somebody presents.
pub mod bundle;
pub mod ca;
pub mod csr;
pub mod identity;
mod jwks;
pub mod rotation;
pub mod svid;

// From a handshake to an admission.
pub mod peer;
pub mod throttle;
pub mod tls;

// From an admission to a hop that proves itself, and goes on doing so.
pub mod session;

#[cfg(test)]
mod testing;

pub use bundle::Bundle;
pub use ca::Authority;
pub use identity::Identity;
pub use peer::{Admission, Judge, Presented};
pub use spiffe::{IdPattern, SpiffeId, TrustDomain};
