//! The resources in the store, parsed once for each revision of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_config::{Key, Resource};
use countersign_wire::EntryName;

use crate::store::{Store, StoreError};

/// Where resources lie in the store; after it comes the rest of the entry's name.
pub(crate) const PREFIX: &str = "resource/";

/// A resource with the revision of the store that wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) revision: u64,
    pub(crate) resource: Arc<Resource>,
}

/// Everything at one revision of the store.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) revision: u64,
    /// By the name of the entry, which is the key in the store.
    pub(crate) resources: BTreeMap<String, Kept>,
}

/// Reads resources.
#[derive(Debug)]
pub(crate) struct Resources {
    store: Arc<dyn Store>,
    parsed: Mutex<BTreeMap<String, Kept>>,
}

/// The name of a resource's entry, which is its key in the store.
pub(crate) fn name(key: &Key) -> String {
    EntryName::Resource(key.clone()).to_string()
}

impl Resources {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, parsed: Mutex::default() }
    }

    pub(crate) fn load(&self) -> Result<Set, StoreError> {
        let listing = self.store.list(PREFIX)?;
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resources = BTreeMap::new();
        for stored in listing.items {
            let kept = match parsed.get(&stored.key) {
                Some(kept) if kept.revision == stored.revision => kept.clone(),
                _ => {
                    let damaged = |why: String| StoreError::Damaged { key: stored.key.clone(), why };
                    let json = std::str::from_utf8(&stored.body).map_err(|e| damaged(e.to_string()))?;
                    let resource = Resource::from_json(json).map_err(|problems| {
                        damaged(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
                    })?;
                    Kept { revision: stored.revision, resource: Arc::new(resource) }
                }
            };
            resources.insert(stored.key, kept);
        }
        parsed.clone_from(&resources);
        Ok(Set { revision: listing.revision, resources })
    }
}
