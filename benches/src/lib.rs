//! # Benchmarks
//!
//! Five kinds, and none is a test:
//!
//! * `counts`: instructions of one operation under callgrind, compared with the
//!   limits in `limits.txt`. They do not depend on how busy the machine is, so
//!   they gate.
//! * `verify`, `handshake`: CPU time of an operation as a ratio to a floor that is
//!   measured in the same run, in turn. They are reported, never asserted.
//! * `quoting`: how often the device of a server with many hops is asked, and how
//!   long a new hop waits for its quote.
//! * `cut`: how long an operator waits for a revocation, with real processes.
//! * `revoke`: how long a proxy with many live hops takes to enforce a change.

pub mod fixture;
pub mod measure;
pub mod peers;
pub mod revoke;
