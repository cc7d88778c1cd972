//! The broker: the one process of a guest that may open the quoting device
//! (3-attestation, A14).
//!
//! Whoever can open the device can have anything quoted, also what proves a
//! session that ends elsewhere. The broker narrows this: it listens on a socket,
//! serves the users that its operator lists, and makes each report data itself,
//! under the label of the purpose. Who may use the socket can still have any key
//! or session of his choice quoted; that is what a proxy is for, and why only
//! the proxy may quote. Whoever measures events is somebody else, and may do
//! nothing but that.
//!
//! One connection carries one request and one answer, each as a length (four
//! bytes, big endian) and deterministic CBOR:
//!
//! ```text
//! request  = { 1: 1, 2: 0 }                              what are you
//!          | { 1: 1, 2: 1, 3: bstr }                     evidence over the key of this key-ctx
//!          | { 1: 1, 2: 2, 3: [1*1024 bstr .size 64] }   evidence over the sessions of these cores
//!          | { 1: 1, 2: 3, 3: tstr, 4: bstr }            measure an event: type, content
//!          | { 1: 1, 2: 4, 3: uint }                     say when there are not so many events
//! answer   = { 1: 1, 2: 0, 3: tstr, 4: tstr, 5: bool, 6: tstr, 7: uint, 8: uint, 9: bool }
//!              TEE, driver, emulated, health, waiting, quotes, whether there is an event log
//!          | { 1: 1, 2: 1, 3: tstr, 4: bstr, ? 5: bstr } media type, evidence, event log
//!          | { 1: 1, 2: 2, 3: uint, 4: tstr }            code, why not
//!          | { 1: 1, 2: 3, 3: uint }                     how many events there are
//! ```

mod access;
mod client;
mod frame;
mod message;
mod server;
mod socket;

pub use access::{Access, Who};
pub use client::Client;
pub use message::{Code, Request, Response, Status};
pub use server::{Limits, Server};
pub use socket::Socket;
