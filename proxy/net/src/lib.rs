//! # Net: sockets and the limits of this process
//!
//! **Enters**: addresses. **Leaves**: listening and connected sockets with the
//! options that a long-lived proxied connection needs, and a socket that can be
//! told to end with a reset.
//!
//! **Guaranteed**: no unsafe code; a socket from here notices a dead machine within
//! half a minute of unacknowledged data, and within half an hour of silence;
//! a hop that is at rest holds no buffer.

mod ahead;
mod process;
mod severable;
mod socket;

pub use process::{Hardening, descriptors, harden, step_back};
pub use severable::{Abort, Severable};
pub use socket::{abort, connect, listen, listen_alone, original_destination, tune};
