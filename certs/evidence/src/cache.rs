//! What need not be verified twice.
//!
//! Certificate chains by their content and what they were verified under: of
//! Intel the certificates and roots, of AMD all collateral. Nothing outlives what
//! it was derived from: each value carries its own window of time, and times,
//! roots and revocation are looked at again on every use. Two signatures are
//! remembered by everything that they are a function of, so that a new list of
//! revoked certificates has none of them verified again: of a quoting enclave's
//! report, which is the same in all quotes of one platform, and of the
//! certificate of an endorsement key.

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
