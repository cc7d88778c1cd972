//! # Attester: this machine to evidence bytes
//!
//! **Enters**: 64 bytes of report data. **Leaves**: Evidence as the value of a
//! CMW record, or an error that says precisely what is missing.
//!
//! **Guaranteed**: every driver detects itself without side effects; emulated
//! platforms produce byte-true evidence under a vendor PKI of their own, which
//! only a policy that names its root accepts.

pub mod emulated;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use countersign_evidence::claims::Tee;

/// Somebody who can quote. Calls block (an ioctl, a file, a vsock round trip)
/// for 3 ms to 1 s: async callers use a blocking thread.
pub trait Attester: Send + Sync + fmt::Debug {
    /// The kind of TEE.
    fn tee(&self) -> Tee;
    /// The driver, for logs: `configfs-tsm`, `sev-guest`, `emulated`, ...
    fn driver(&self) -> &'static str;
    /// Whether the platform is emulated.
    fn emulated(&self) -> bool {
        false
    }
    /// Evidence over `report_data`.
    ///
    /// # Errors
    /// When the device refuses, is busy for too long, or answers nonsense.
    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error>;
}

/// Evidence as the value of a CMW record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    /// One of [`countersign_evidence::evidence::media_type`].
    pub media_type: &'static str,
    /// The value of the record.
    pub value: Vec<u8>,
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device is not there or not usable.
    #[error("{driver}: {missing}")]
    Unavailable {
        /// The driver.
        driver: &'static str,
        /// What is missing, and how to provide it.
        missing: String,
    },
    /// The device failed.
    #[error("{driver}: {what}: {source}")]
    Io {
        /// The driver.
        driver: &'static str,
        /// The operation, with the path.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The device answered something that it must not.
    #[error("{driver}: {0}", driver = .1)]
    Protocol(String, &'static str),
    /// A cryptographic operation of an emulated platform failed.
    #[error("emulated: cannot {0}")]
    Crypto(&'static str),
}

/// What a driver found on this machine.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Detection {
    /// The driver.
    pub driver: &'static str,
    /// The kind of TEE it quotes for.
    pub tee: Tee,
    /// What is missing, in the order in which to provide it; empty when ready.
    pub missing: Vec<String>,
}

/// Asks every driver about the machine whose file system starts at `root`
/// (`/`, or a fake tree in tests). The fastest usable driver comes first.
#[must_use]
pub fn detect(root: &Path) -> Vec<Detection> {
    let _ = root;
    todo!()
}

/// Opens the first driver that is ready.
///
/// # Errors
/// When none is, with what each of them misses.
pub fn open(root: &Path) -> Result<Arc<dyn Attester>, Error> {
    let _ = root;
    todo!()
}
