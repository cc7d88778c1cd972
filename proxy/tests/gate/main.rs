//! The proof of the gate. A hostile peer stalls, lies or goes away in each state
//! of the machine, in each way. Watched are both ends of what a leak would need:
//! the socket of the workload, and the words of the proxy on the hop.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test"
)]

mod called;
mod calling;
mod http2;
mod stalls;
mod states;
#[path = "../support/mod.rs"]
mod support;
