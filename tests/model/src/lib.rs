//! # A model of `ratls-mesh/1`
//!
//! The session protocol with symbolic cryptography and an attacker who owns the
//! network, searched to the end within bounds. docs/security-argument.md says in
//! words what is shown, and what is not.
//!
//! **Enters**: a [`world::World`] (who is there, what the attacker has, bounds)
//! and the defences that are taken out. **Leaves**: the number of states, or a
//! shortest run that breaks an invariant.
//!
//! **Guaranteed**: every run of a world within its bounds is looked at, up to
//! collisions of 64-bit fingerprints of states. The attacker says whatever
//! follows from what he heard and has; what an honest end would refuse at once
//! is left out, because an end that gave up plays no further part.
//!
//! ```text
//!  worlds, cases ── mesh (states, steps) ─┬─ session   an honest end
//!        |             |                  ├─ attacker  what he can say
//!      check        invariants            '─ trace     a run in words
//!        '── page: the generated parts of docs/security-argument.md
//! ```
//!
//! # Where it is in the code
//!
//! The model is by hand; nothing is generated from it or it from the code. Names
//! are those of `countersign_ratls`:
//!
//! | here | there |
//! |---|---|
//! | [`session::Session`], [`session::Session::start`], [`session::Session::receive`] | `session::Endpoint`, `new`, `receive` |
//! | `Session::ask`, `appraise`, [`session::Session::expected`] | `session::challenger` |
//! | `Session::accept_challenge`, [`session::Session::answer`], `hear` | `session::prover` |
//! | [`session::Session::renew`], `adopt`; [`terms::Statement`] | `session::renewal`; `binding::session::IdentityStatement` |
//! | `Session::advance`, `compare`, [`terms::Summary`] | `session::endpoint::gate`, `binding::session::open_hash` |
//! | [`terms::Context`], [`terms::Binder`] | `binding::session::SessionContext`, `SessionCore` |
//! | [`terms::Frame`] | `session::message`, `session::frame` |
//! | `Mesh::connect` | the judges inside of the TLS handshake (`tls::verifier`, `config::view`), the check of the ALPN |
//! | a quote's platform, [`defences::Defence::Platforms`] | `evidence::policy`: `platforms` |
#![allow(clippy::cast_possible_truncation, reason = "counts of two or three")]

mod attacker;
pub mod cases;
pub mod check;
pub mod defences;
pub mod invariants;
pub mod mesh;
pub mod page;
pub mod session;
pub mod terms;
pub mod trace;
pub mod world;
pub mod worlds;
