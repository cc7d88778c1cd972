//! HTTP on a stream of a hop: each request is looked at by itself.
//!
//! ```text
//! io -> serve -> request (checked) -> headers (stripped, set) -> upstream -> workload
//!                                        body <- answer <-
//! ```
//!
//! The guarantees are those of [`forward`](crate::forward): the stream was permitted,
//! no byte moves after it was cut, and the rounds of the hop come first.

mod attempts;
mod body;
mod exchange;
mod head_time;
mod headers;
mod io;
mod line;
mod request;
mod routed;
mod serve;
mod tasks;
mod upstream;
mod way;

pub(crate) use routed::{RetryBudget, serve as serve_routed};
pub(crate) use serve::serve;
