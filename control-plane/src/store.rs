//! The store: keys, values, revisions, and a watch.
//!
//! The interface is what an embedded file and a replicated store have in common.
//! All that the control plane keeps lies under prefixes of it: `resource/` the
//! resources, `state/` the generation and the collateral marks, `issued/` what
//! was issued to which platform.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

/// A value with the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key.
    pub key: String,
    /// The revision of the store that wrote it, from 1.
    pub revision: u64,
    /// The value.
    pub body: Bytes,
}

/// Everything under a prefix at one revision of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the whole store.
    pub revision: u64,
    /// Sorted by key.
    pub items: Vec<Stored>,
}

/// One change. A commit makes all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The value; `None` deletes.
    pub body: Option<Bytes>,
    /// The revision that the key must have now, 0 for absent; `None` for any.
    pub expect: Option<u64>,
}

/// Why the store refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key does not have the revision that was expected: read again.
    #[error("{key} is at revision {found}, {expected} was expected")]
    Conflict {
        /// The key.
        key: String,
        /// What the change expected.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The file cannot be opened, read or written.
    #[error("{0}")]
    Backend(String),
    /// A value that this program did not write.
    #[error("{key} is damaged: {why}")]
    Damaged {
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// A store. Calls block for a disk write at most.
pub trait Store: Send + Sync + fmt::Debug {
    /// One value.
    ///
    /// # Errors
    /// When the store fails.
    fn get(&self, key: &str) -> Result<Option<Stored>, StoreError>;

    /// All values whose key begins with `prefix`.
    ///
    /// # Errors
    /// When the store fails.
    fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Makes all changes durably, or none. Returns the new revision.
    ///
    /// # Errors
    /// `Conflict`, or when the store fails.
    fn commit(&self, changes: &[Change]) -> Result<u64, StoreError>;

    /// The revision of the last commit that changed something under `prefix`.
    /// Readers list again when it is newer than what they listed.
    fn watch(&self, prefix: &str) -> watch::Receiver<u64>;
}

impl Change {
    /// Writes `body` if the key has revision `expect`.
    pub fn put(key: impl Into<String>, body: impl Into<Bytes>, expect: Option<u64>) -> Self {
        Self { key: key.into(), body: Some(body.into()), expect }
    }

    /// Deletes the key.
    pub fn delete(key: impl Into<String>) -> Self {
        Self { key: key.into(), body: None, expect: None }
    }
}

/// Values: eight bytes of revision, then the body.
const DATA: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("data");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const CURRENT_FORMAT: u64 = 1;

/// The embedded store: one file.
pub struct Embedded {
    database: Database,
    watchers: Mutex<Vec<(String, watch::Sender<u64>)>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embedded")
    }
}

impl Embedded {
    /// Opens the file or makes it, readable for us alone. A file that another
    /// process has open, or that a crash damaged beyond repair, is refused.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let mut builder = Database::builder();
        builder.set_cache_size(16 << 20);
        let database = builder.create_file(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Backend(format!(
                "another process has {} open: one control plane for each stateDir",
                path.display()
            )),
            other => failed(other),
        })?;
        let transaction = database.begin_write().map_err(failed)?;
        {
            transaction.open_table(DATA).map_err(failed)?;
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let format = meta.get(FORMAT).map_err(failed)?.map(|guard| guard.value());
            match format {
                Some(CURRENT_FORMAT) => {}
                None => {
                    meta.insert(FORMAT, CURRENT_FORMAT).map_err(failed)?;
                }
                Some(other) => {
                    return Err(StoreError::Backend(format!("format {other} is not {CURRENT_FORMAT}")));
                }
            }
        }
        transaction.commit().map_err(failed)?;
        Ok(Self { database, watchers: Mutex::default() })
    }

    fn announce(&self, changes: &[Change], revision: u64) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|(_, sender)| !sender.is_closed());
        for (prefix, sender) in watchers.iter() {
            if changes.iter().any(|change| change.key.starts_with(prefix)) {
                sender.send_replace(revision);
            }
        }
    }
}

impl Store for Embedded {
    fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let data = transaction.open_table(DATA).map_err(failed)?;
        data.get(key).map_err(failed)?.map(|value| decode(key, value.value())).transpose()
    }

    fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let data = transaction.open_table(DATA).map_err(failed)?;
        let meta = transaction.open_table(META).map_err(failed)?;
        let revision = meta.get(REVISION).map_err(failed)?.map_or(0, |guard| guard.value());
        let mut items = Vec::new();
        for row in data.range(prefix..).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            items.push(decode(key.value(), value.value())?);
        }
        Ok(Listing { revision, items })
    }

    fn commit(&self, changes: &[Change]) -> Result<u64, StoreError> {
        let transaction = self.database.begin_write().map_err(failed)?;
        let revision = {
            let mut data = transaction.open_table(DATA).map_err(failed)?;
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let revision = meta.get(REVISION).map_err(failed)?.map_or(0, |guard| guard.value()) + 1;
            for change in changes {
                let key = change.key.as_str();
                if let Some(expected) = change.expect {
                    let found = match data.get(key).map_err(failed)? {
                        Some(value) => decode(key, value.value())?.revision,
                        None => 0,
                    };
                    if found != expected {
                        // Dropping the transaction undoes what was changed before.
                        return Err(StoreError::Conflict { key: key.to_owned(), expected, found });
                    }
                }
                match &change.body {
                    Some(body) => {
                        let value = [&revision.to_be_bytes(), body.as_ref()].concat();
                        data.insert(key, value.as_slice()).map_err(failed)?;
                    }
                    None => {
                        data.remove(key).map_err(failed)?;
                    }
                }
            }
            meta.insert(REVISION, revision).map_err(failed)?;
            revision
        };
        transaction.commit().map_err(failed)?;
        self.announce(changes, revision);
        Ok(revision)
    }

    fn watch(&self, prefix: &str) -> watch::Receiver<u64> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, receiver) = watch::channel(0);
        watchers.push((prefix.to_owned(), sender));
        receiver
    }
}

fn decode(key: &str, value: &[u8]) -> Result<Stored, StoreError> {
    let Some((revision, body)) = value.split_first_chunk::<8>() else {
        return Err(StoreError::Damaged { key: key.to_owned(), why: "too short".to_owned() });
    };
    let revision = u64::from_be_bytes(*revision);
    Ok(Stored { key: key.to_owned(), revision, body: Bytes::copy_from_slice(body) })
}

fn failed(error: impl fmt::Display) -> StoreError {
    StoreError::Backend(error.to_string())
}
