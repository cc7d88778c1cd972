//! The session protocol: two machines, a wire in memory, and simulated time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub, reason = "test code")]

#[path = "../common/mod.rs"]
mod common;
mod pump;

mod attacks;
mod endings;
mod gate;
mod malformed;
mod properties;
mod renewal;
mod rounds;
mod table;
