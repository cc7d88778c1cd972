//! The second framing of a hop (`ratls-tcp/1`, docs/session.md): one stream of one
//! application, on a connection of its own. For bulk data: without the windows,
//! queues and copies of HTTP/2, at the price of a handshake and a proof for each
//! connection.
//!
//! Gate, registration, permission, rounds and cuts are those of every hop. What stands
//! in the stream afterwards is [`record`]s, and one task moves all of them:
//!
//! ```text
//! serve, dial -> run -> line (TLS <-> records) -> flow (records <-> the application's socket)
//!                 '---> rounds (the session)
//! ```

pub mod record;

mod dial;
mod flow;
mod line;
mod run;
mod serve;
mod window;

pub(crate) use dial::{Carried, Dialer};
pub(crate) use serve::serve;

/// Buffers grow while they are filled: many connections are small, few are bulk. A
/// record fills TLS records (RFC 8446, section 5.1) with its head.
const SMALLEST: usize = 4 << 10;
const LARGEST: usize = 256 << 10;
