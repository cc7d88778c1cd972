//! Why the control plane cannot start or go on.

use std::io;
use std::path::{Path, PathBuf};

use countersign_evidence::{Denial, Finding};
use countersign_wire::SnapshotError;

use crate::store::StoreError;

/// Why the control plane cannot start or go on. Always our own fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What we wanted, with the path or address.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The store.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// A file of the state directory that is not what it should be.
    #[error("{path}: {why}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate, a key or evidence.
    #[error("{0}")]
    Finding(#[from] Finding),
    /// A refusal by our own rules.
    #[error("{0}")]
    Denied(#[from] Denial),
    /// A snapshot.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The attester.
    #[error(transparent)]
    Attester(#[from] countersign_attester::Error),
    /// The server.
    #[error("server: {0}")]
    Server(#[from] tonic::transport::Error),
    /// A task of ours ended, which it must not.
    #[error("task {0} ended before shutdown")]
    Task(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }

    pub(crate) fn state(path: &Path, why: impl Into<String>) -> Self {
        Self::State { path: path.to_owned(), why: why.into() }
    }
}
