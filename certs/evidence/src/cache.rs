//! What need not be verified twice.
//!
//! Certificate chains by their content and the collateral they were verified
//! under. Nothing outlives what it was derived from: the key contains the
//! collateral's id, each value carries its own window of time, and times,
//! roots and revocation are looked at again on every use. The signature of a
//! quoting enclave's report, which is the same in all quotes of one platform, is
//! remembered by everything that it is a function of.

use std::fmt;
use std::sync::Arc;

use crate::amd::chain::ChainCache;
use crate::intel::PckChain;

/// SHA-256 over all that a value was derived from.
pub(crate) type Key = [u8; 32];

/// A bounded cache of verified chains. Shared by reference.
pub struct Cache {
    pub(crate) amd: ChainCache,
    pub(crate) pck: quick_cache::sync::Cache<Key, Arc<PckChain>>,
    pub(crate) qe_reports: quick_cache::sync::Cache<Key, ()>,
}

impl Cache {
    /// A cache of at most `entries` chains of each vendor.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self {
            amd: ChainCache::new(entries),
            pck: quick_cache::sync::Cache::new(entries),
            qe_reports: quick_cache::sync::Cache::new(entries),
        }
    }
}

impl Default for Cache {
    /// A cache for the platforms of a large cluster.
    fn default() -> Self {
        Self::new(1024)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("pck", &self.pck.len()).finish()
    }
}
