//! # Benchmarks
//!
//! None is a test:
//!
//! * `counts`: instructions of one operation under callgrind, compared with the
//!   limits in `limits.txt`. They do not depend on how busy the machine is, so
//!   they gate.
//! * `verify`, `handshake`: CPU time of an operation as a ratio to a floor that is
//!   measured in the same run, in turn. They are reported, never asserted.
//! * `gate`: CPU time of the session protocol, each side apart.
//! * `quoting`: how often the device of a server with many hops is asked, and how
//!   long a new hop waits for its quote.
//! * `rounds`: what a request notices of a thousand hops that prove themselves again
//!   and again beside it, and what such a hop holds in memory, with real processes.
//! * `cut`: how long an operator waits for a revocation, with real processes.
//! * `revoke`: how long a proxy with many live hops takes to enforce a change.

pub mod demo;
pub mod fixture;
pub mod hop;
pub mod measure;
pub mod peers;
pub mod revoke;
