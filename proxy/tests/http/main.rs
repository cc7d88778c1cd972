//! HTTP through two proxies, on a port whose protocol is declared.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test"
)]

mod curl;
mod cuts;
mod decided;
mod limits;
mod refused;
mod requests;
mod routed;
mod spoken;
#[path = "../support/mod.rs"]
mod support;
mod two;
