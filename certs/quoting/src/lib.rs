//! # Quoting: binders to quotes
//!
//! **Enters**: the contexts of keys and the cores of sessions that must be
//! proved. **Leaves**: evidence over them, and for a session the proof that its
//! binder is a leaf of the quoted tree.
//!
//! **Guaranteed**: one call at a time on the device; nothing is quoted but
//! hashes that this crate makes, under the label of their purpose; the queue is
//! bounded and fair between peers; a device that hangs fails those who wait, and
//! does not wedge the queue. When to quote is decided without a clock and
//! without I/O.
//!
//! ```text
//! key, session -> Quoter -> Schedule -> Source: the local device, or the broker
//! ```

// What is quoted and measured, and by whom.
mod event;
mod source;
mod subject;

// When it is quoted.
mod schedule;

// The handle, and the task that owns the device.
mod error;
mod quoter;
mod stats;

// The same across a process boundary.
pub mod broker;

pub use error::{QuoteError, SourceError};
pub use event::{Event, Measuring, Moving};
pub use quoter::{Proof, Quoted, Quoter, QuotingTask};
pub use schedule::{Class, Options, Refused, Schedule, Step, Ticket, Urgency};
pub use source::{Local, Platform, Quoting, Source};
pub use stats::{BATCH_BUCKETS, Health, Stats};
pub use subject::{Batch, Key, MAX_LEAVES, Subject};
