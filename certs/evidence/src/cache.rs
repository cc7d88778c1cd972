//! What need not be verified twice.
//!
//! Certificate chains and TCB evaluations by their content and the collateral
//! they were verified under. Nothing outlives what it was derived from: the key
//! contains the collateral's id, and each value carries its own window of time.

use crate::amd::chain::ChainCache;

/// A bounded cache of verified chains and TCB evaluations. Shared by reference.
#[derive(Debug, Default)]
pub struct Cache {
    pub(crate) amd: ChainCache,
}

impl Cache {
    /// A cache of at most `entries` chains.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self { amd: ChainCache::new(entries) }
    }
}
