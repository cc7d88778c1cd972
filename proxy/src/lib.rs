//! # Proxy: the data plane
//!
//! **Enters**: a bootstrap file, the configuration that the control plane
//! sends, connections of the workload and of peers. **Leaves**: the bytes of
//! those connections that a policy permits, and the reason for every other.
//!
//! **Guaranteed**: no byte of an application moves before both sides have
//! proved themselves for this very connection, as far as policy demands it, nor
//! after the proof has lapsed; a decision that falls against a peer later ends its
//! live hops with everything on them; each request is decided by exactly one
//! generation of the configuration; everything that a stranger can fill is bounded.
//!
//! The way of a byte, in the order of the modules; each stage takes the proof
//! of the one before, and only the stage itself can make it:
//!
//! ```text
//! listener -> handshake -> gate ----> verdict -> policy -> route -> forward -> observe
//! Accepted    Handshaken   Attested   Appraised  Permitted
//! ```

mod listener;

mod handshake;

pub mod gate;
mod session;

mod verdict;

mod policy;

pub mod route;

mod forward;

mod http;

pub mod observe;

mod balance;
pub mod explicit;
mod gather;
mod heard;
mod hop;
mod inbound;
pub mod opaque;
mod outbound;
mod pause;
mod plaintext;
mod pool;
mod pools;
mod rounds;

pub mod agent;

pub mod clock;
pub mod context;
pub mod drain;
pub mod held;
pub mod live;
pub mod platform;
pub mod readiness;

mod ops;

mod assembly;

pub use assembly::{Addresses, Bound, BuildError, build};
pub use clock::Clock;
pub use ops::LogLevel;
