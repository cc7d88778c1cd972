//! Collateral that was good and whose file is gone.
//!
//! A directory of collateral is filled by jobs that fail, copy in the wrong
//! order and are interrupted. A piece that was verified stays true until it
//! ends, so it stays in use until then, or until a newer issue takes its place
//! (3-attestation, A13). Nothing is weakened by that: whoever can empty a
//! directory could at most take a newer revocation list away.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use rustls_pki_types::UnixTime;

use super::{Collateral, Item};
use crate::anchors::Fingerprint;
use crate::bytes::sha256;
use crate::x509::{ALL_ALGORITHMS, Certificate, find_path};

/// The most items that are kept without a file, and their bytes together.
const MAX_KEPT: usize = 256;
const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// Items to fall back on: those that were in use when somebody looked last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    items: Vec<Item>,
}

/// Items that came, and behind them what the shelf has besides.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    /// All of them, to be appraised together. Names are unique if they came so.
    pub items: Vec<Item>,
    came: usize,
}

impl Shelf {
    /// With what was on it at another time.
    #[must_use]
    pub const fn new(items: Vec<Item>) -> Self {
        Self { items }
    }

    /// What is on it.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// `items`, and what the shelf has besides.
    #[must_use]
    pub fn stock(&self, items: &[Item]) -> Stock {
        let (came, mut all) = (items.len(), items.to_vec());
        for kept in &self.items {
            if items.iter().any(|item| item.bytes == kept.bytes) {
                continue;
            }
            let mut kept = kept.clone();
            if all.iter().any(|item| item.name == kept.name) {
                let digest = sha256(&kept.bytes);
                let (short, _) = digest.split_at(4);
                kept.name = format!("{}~{}", kept.name, hex::encode(short));
            }
            all.push(kept);
        }
        Stock { items: all, came }
    }

    /// Keeps what `collateral`, which `stock` came to, uses at `now`, and
    /// forgets the rest. Returns whether that is something else than before.
    pub fn settle(&mut self, stock: &Stock, collateral: &Collateral, now: UnixTime) -> bool {
        let mut room = MAX_KEPT_BYTES;
        let used = collateral.items_in_use(now);
        let used = used.into_iter().filter_map(|index| stock.items.get(index)).take(MAX_KEPT);
        let fits = used.take_while(|item| {
            let left = room.checked_sub(item.bytes.len());
            room = left.unwrap_or_default();
            left.is_some()
        });
        let items: Vec<_> = fits.cloned().collect();
        let changed = self.items != items;
        self.items = items;
        changed
    }
}

impl Stock {
    /// The items that did not come and are in use all the same.
    #[must_use]
    pub fn kept<'s>(&'s self, collateral: &Collateral, now: UnixTime) -> Vec<&'s Item> {
        let used = collateral.items_in_use(now).into_iter().filter(|index| *index >= self.came);
        used.filter_map(|index| self.items.get(index)).collect()
    }

    /// Whether an item of this name came, and was not only kept.
    #[must_use]
    pub fn came(&self, name: &str) -> bool {
        self.items.iter().take(self.came).any(|item| item.name == name)
    }
}

/// Where certificates came from.
#[derive(Debug, Default)]
pub(super) struct Certified {
    /// The index of the item of each.
    from: HashMap<Fingerprint, usize>,
    /// The same and the end of those that are in use, found when somebody asks.
    used: OnceLock<Vec<(usize, u64)>>,
}

impl Certified {
    pub(super) fn new(from: HashMap<Fingerprint, usize>) -> Self {
        Self { from, used: OnceLock::new() }
    }
}

impl Collateral {
    /// The items, by index, from which something came that is in use and does
    /// not end before `now`. A certificate is in use when it leads to an anchor;
    /// of equal pieces the first is.
    #[must_use]
    pub fn items_in_use(&self, now: UnixTime) -> BTreeSet<usize> {
        let Certified { from, used } = &*self.certified;
        let certificates = used.get_or_init(|| {
            let leads = |c: &&Arc<Certificate>| {
                find_path(c, &self.certificates, &self.anchors, ALL_ALGORITHMS).is_ok()
            };
            let leading = self.certificates.iter().filter(leads);
            leading.filter_map(|c| Some((*from.get(&c.fingerprint())?, c.window().until))).collect()
        });
        let pieces = self.origins.values().chain(certificates);
        pieces.filter(|(_, until)| now.as_secs() <= *until).map(|(item, _)| *item).collect()
    }
}
