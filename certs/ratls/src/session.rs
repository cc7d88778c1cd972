//! The session protocol `ratls-mesh/1`: fresh evidence, bound to this very TLS
//! session, before the first application byte and again in every round
//! (3-attestation section 4; as implemented: docs/session.md).
//!
//! **Enters**: what this end knows of a TLS connection ([`Channel`]), what our
//! policy demands of the peer ([`Demands`]), bytes from the peer, time, random
//! numbers. **Leaves**: [`Action`]s for a driver that does the I/O.
//!
//! **Guaranteed**: one [`Endpoint`] for either role, no I/O, no clock; nothing
//! of the verifier's view comes from the peer but its nonce; every frame has a
//! cap that is checked before it is buffered; whatever is not expected ends the
//! hop. The machine keeps hashes, not evidence.
//!
//! ```text
//!            bytes ─ frame ─ message ─ endpoint ─┬─ prover      (we answer challenges)
//!  driver  <──────── actions ────────────'       ├─ challenger  (we challenge the peer)
//!                                                └─ renewal     (a new certificate, either way)
//! ```

// The wire.
pub mod collection;
mod fields;
pub mod frame;
pub mod message;
mod reason;

// The machine.
mod action;
mod challenger;
mod common;
mod ending;
mod endpoint;
mod prover;
mod receive;
mod renewal;
mod state;
mod terms;

pub use countersign_evidence::policy::Level;

pub use crate::binding::Ekm;
pub use action::{Acceptance, Accepted, Action, Cut, Drain, Proof, QuoteRequest, Quoted, Received};
pub use endpoint::Endpoint;
pub use reason::{Ending, WireReason};
pub use state::{Direction, Phase, State};
pub use terms::{
    Channel, Demands, EXPORTER_LABEL, Moment, Offer, OnFailure, Party, Random, SecureRandom, Side, Wanted,
};
