//! # Attester: this machine to evidence bytes
//!
//! **Enters**: 64 bytes of report data. **Leaves**: Evidence as the value of a
//! CMW record, or an error that says precisely what is missing.
//!
//! **Guaranteed**: every driver detects itself without side effects; emulated
//! platforms produce byte-true evidence under a vendor PKI of their own, which
//! only a policy that names its root accepts.

mod configfs_tsm;
pub mod emulated;
mod gramine;
mod ioctl;
mod machine;
mod pause;
mod runtime_log;
mod sev_guest;
mod tdx_guest;

pub use pause::{Pause, Sleep};

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use countersign_evidence::claims::Tee;
use countersign_evidence::event_log;
use countersign_evidence::event_log::native::{Log, Record};

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
    /// Whether evidence comes with a log of what was measured at runtime.
    fn keeps_event_log(&self) -> bool {
        false
    }
    /// Measures an event into the runtime register, for good: every verifier
    /// learns of it with the next evidence. Returns how many there are.
    ///
    /// # Errors
    /// When the platform cannot, or did not. It may have been measured all the
    /// same if this process ends before the answer.
    fn extend(&self, event: &Record<'_>) -> Result<u64, Error> {
        let _ = event;
        let missing =
            "events cannot be measured: this needs an Intel TDX guest, and who quotes must own the \
                       runtime register"
                .to_owned();
        Err(Error::Unavailable { driver: self.driver(), missing })
    }
    /// Calls `listener` after each event with how many there are: what we last
    /// proved is not the whole truth any more.
    fn on_extended(&self, listener: Listener) {
        let _ = listener;
    }
}

/// Somebody who wants to know that an event was measured. Must not block.
pub type Listener = Arc<dyn Fn(u64) + Send + Sync>;

/// Evidence as the value of a CMW record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced {
    /// One of [`countersign_evidence::evidence::media_type`].
    pub media_type: &'static str,
    /// The value of the record.
    pub value: Vec<u8>,
    /// What was measured at runtime, taken after the quote: its end may be newer.
    pub event_log: Option<Arc<Log>>,
}

impl Produced {
    /// Evidence without a log.
    #[must_use]
    pub const fn new(media_type: &'static str, value: Vec<u8>) -> Self {
        Self { media_type, value, event_log: None }
    }

    /// Media type and bytes of the log from this entry on, as it is conveyed.
    #[must_use]
    pub fn event_log_from(&self, entry: u64) -> Option<(&'static str, Vec<u8>)> {
        Some((event_log::media_type::RUNTIME, self.event_log.as_ref()?.record(entry)?))
    }
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

/// The drivers, fastest first. For TDX the kernel's own interface comes second:
/// it looks once a second whether the host has answered.
#[derive(Clone, Copy)]
enum Driver {
    TdxGuest,
    ConfigfsTsm(Tee),
    SevGuest,
    Gramine,
}

const DRIVERS: [Driver; 5] = [
    Driver::TdxGuest,
    Driver::ConfigfsTsm(Tee::Tdx),
    Driver::ConfigfsTsm(Tee::SevSnp),
    Driver::SevGuest,
    Driver::Gramine,
];

impl Driver {
    fn detect(self, root: &Path) -> Detection {
        match self {
            Self::TdxGuest => tdx_guest::detect(root),
            Self::ConfigfsTsm(tee) => configfs_tsm::detect(root, tee),
            Self::SevGuest => sev_guest::detect(root),
            Self::Gramine => gramine::detect(root),
        }
    }

    fn open(self, root: &Path) -> Result<Arc<dyn Attester>, Error> {
        match self {
            Self::TdxGuest => tdx_guest::open(root),
            Self::ConfigfsTsm(tee) => Ok(configfs_tsm::open(root, tee)),
            Self::SevGuest => sev_guest::open(root),
            Self::Gramine => Ok(gramine::open(root)),
        }
    }
}

/// Asks every driver about the machine whose file system starts at `root`
/// (`/`, or a fake tree in tests). The usable drivers come first, the fastest
/// of them at the very front.
#[must_use]
pub fn detect(root: &Path) -> Vec<Detection> {
    let mut detections: Vec<_> = DRIVERS.iter().map(|driver| driver.detect(root)).collect();
    detections.sort_by_key(|detection| !detection.missing.is_empty());
    detections
}

/// Opens the first driver that is ready.
///
/// # Errors
/// When none is, with what each of them misses.
pub fn open(root: &Path) -> Result<Arc<dyn Attester>, Error> {
    let mut missing = Vec::new();
    for driver in DRIVERS {
        let detection = driver.detect(root);
        if detection.missing.is_empty() {
            match driver.open(root) {
                Ok(attester) => return Ok(attester),
                Err(error) => missing.push(error.to_string()),
            }
        } else {
            // The first of them is what to provide first; all are in `countersign doctor`.
            let what = detection.missing.first().map_or("not usable", String::as_str);
            missing.push(format!("{} ({}): {what}", detection.driver, detection.tee));
        }
    }
    let missing = format!(
        "no TEE can be used on this machine; `countersign doctor` says what each driver misses, and for a \
         test an emulated platform needs none: `attester.emulated` of a bootstrap file, `--emulated DIR` of \
         countersign-broker\n  {}",
        missing.join("\n  ")
    );
    Err(Error::Unavailable { driver: "attester", missing })
}

/// What is missing to measure events at runtime, and to keep their log.
#[must_use]
pub fn detect_runtime_log(root: &Path) -> Detection {
    runtime_log::detect(root)
}

/// Opens the first driver that is ready. When the machine can measure events as
/// well, evidence comes with a log of them, which is kept in `directory`: one
/// process of a guest can do so.
///
/// # Errors
/// As [`open`].
pub fn open_measuring(root: &Path, directory: &Path) -> Result<Arc<dyn Attester>, Error> {
    let attester = open(root)?;
    if attester.tee() != Tee::Tdx {
        return Ok(attester);
    }
    runtime_log::attach(Arc::clone(&attester), root, directory).or_else(|why| {
        tracing::info!(%why, "no event log; peers whose policies look at runtime events refuse this guest");
        Ok(attester)
    })
}

#[cfg(test)]
mod tests;
