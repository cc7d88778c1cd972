//! # Wire: what control plane, proxies and operators say to each other
//!
//! **Enters**: messages of the other side. **Leaves**: signed [`Snapshot`]s of
//! everything a proxy decides by, and what each proxy made of them.
//!
//! **Guaranteed**: a [`Snapshot`] only exists signed or verified; its generation
//! only grows, a lower one or another content under the same one is refused;
//! only the difference travels; at most one snapshot is unanswered, later ones
//! merge. Sizes and counts are bounded. [`client::Subscription`] and
//! [`server::Session`] do no I/O and know no time.
//!
//! ```text
//! server::Session ── Update* SnapshotComplete ──> client::Subscription ── Snapshot ── convert ── config::Inputs
//!        ^────────── Hello, Ack, InUse ──────────────────'
//! ```

pub mod name;
pub mod snapshot;

pub mod client;
pub mod server;

pub mod convert;
pub mod refusal;

/// The messages and services, generated from `proto/countersign.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction)]
pub mod proto {
    tonic::include_proto!("countersign.v1alpha1");
}

pub use name::EntryName;
pub use snapshot::{Snapshot, SnapshotError, SnapshotKey, Unverified, Version};

/// The application protocol of the control plane's port: gRPC is HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// The largest message that either side accepts, bytes.
pub const MAX_MESSAGE: usize = 8 << 20;
/// The most entries in a snapshot.
pub const MAX_ENTRIES: usize = 10_000;
/// The longest name of an entry, bytes.
pub const MAX_NAME: usize = 512;
/// The largest body of an entry, bytes. Revocation lists are the largest that is genuine.
pub const MAX_BODY: usize = 4 << 20;
/// The most bytes of bodies in a snapshot.
pub const MAX_SNAPSHOT: usize = 64 << 20;
/// The most hops in one report of what they prove.
pub const MAX_REPORTED_HOPS: usize = 256;
/// The most refusals in one report.
pub const MAX_REPORTED_REFUSALS: usize = 96;
/// The longest denial in a report, JSON, bytes.
pub const MAX_REPORTED_DENIAL: usize = 4096;
/// The longest that a proxy is asked to report, seconds: who watches on asks again.
pub const MAX_WATCH: u32 = 60;
/// The longest reason for which an entry is rejected, bytes.
pub const MAX_REASON: usize = 2048;
