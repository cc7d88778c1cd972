//! What live hops rest on: which of them a change concerns.
//!
//! Hops are found by the facts that their verdicts rest on, and by whom they are
//! between. To judge again costs as much as there are hops that a new view affects;
//! of the others, each pair of ends is asked once whether it is spoken of.

use std::collections::{BTreeSet, HashMap};

use countersign_config::Changes;
use countersign_evidence::Dependencies;
use countersign_evidence::dependencies::Name;
use countersign_ratls::SpiffeId;

/// What the verdict about the peer of one hop rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    /// On whose behalf it was reached.
    pub me: SpiffeId,
    /// About whom; `None` when nobody knows.
    pub peer: Option<SpiffeId>,
    /// The verdict by the certificate.
    pub certificate: Dependencies,
    /// The verdict by the last proof, if there was one.
    pub proof: Option<Dependencies>,
}

impl Basis {
    fn verdicts(&self) -> impl Iterator<Item = &Dependencies> {
        std::iter::once(&self.certificate).chain(&self.proof)
    }

    /// The names of all facts; `None` when they are not known.
    fn names(&self) -> Option<Vec<Name>> {
        let mut names = Vec::new();
        for verdict in self.verdicts() {
            names.extend(verdict.facts()?.iter().map(|fact| fact.name));
        }
        Some(names)
    }

    fn is_affected(&self, changes: &Changes<'_>) -> bool {
        let Some(peer) = &self.peer else { return true };
        self.verdicts().any(|verdict| changes.affects(verdict, &self.me, peer))
    }
}

/// The hops by what they rest on.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<u64, Basis>,
    by_fact: HashMap<Name, BTreeSet<u64>>,
    by_ends: HashMap<(SpiffeId, SpiffeId), BTreeSet<u64>>,
    /// Of which nobody knows what they rest on: every change affects them.
    opaque: BTreeSet<u64>,
}

impl Index {
    /// Puts a hop where changes of its basis will find it, and nowhere else.
    pub(super) fn set(&mut self, hop: u64, basis: Basis) {
        if self.entries.get(&hop) == Some(&basis) {
            return;
        }
        self.remove(hop);
        match (&basis.peer, basis.names()) {
            (Some(peer), Some(names)) => {
                for name in names {
                    self.by_fact.entry(name).or_default().insert(hop);
                }
                self.by_ends.entry((basis.me.clone(), peer.clone())).or_default().insert(hop);
            }
            _ => _ = self.opaque.insert(hop),
        }
        self.entries.insert(hop, basis);
    }

    /// Forgets a hop.
    pub(super) fn remove(&mut self, hop: u64) {
        let Some(basis) = self.entries.remove(&hop) else { return };
        self.opaque.remove(&hop);
        for name in basis.names().into_iter().flatten() {
            take(&mut self.by_fact, &name, hop);
        }
        if let Some(peer) = basis.peer {
            take(&mut self.by_ends, &(basis.me, peer), hop);
        }
    }

    /// Whether a hop is in here with this basis.
    pub(super) fn says(&self, hop: u64, basis: &Basis) -> bool {
        self.entries.get(&hop) == Some(basis)
    }

    /// Whether nothing is left in it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.by_fact.is_empty()
            && self.by_ends.is_empty()
            && self.opaque.is_empty()
    }

    /// The hops about whose peers another verdict may be due.
    pub(super) fn affected(&self, changes: &Changes<'_>) -> BTreeSet<u64> {
        let resting = changes.names().filter_map(|name| self.by_fact.get(name)).flatten();
        // A policy that is new has a say where nothing rests on it yet.
        let ends = self.by_ends.iter().filter(|_| changes.bring_policies());
        let spoken_of = ends.filter(|((me, peer), _)| changes.bring_policies_to(me, peer));
        let mut hops: BTreeSet<u64> = resting.chain(spoken_of.flat_map(|(_, hops)| hops)).copied().collect();
        // Who was judged by the new view meanwhile need not be judged again.
        hops.retain(|hop| self.entries.get(hop).is_none_or(|basis| basis.is_affected(changes)));
        if !changes.is_empty() {
            hops.extend(&self.opaque);
        }
        hops
    }

    /// The hops whose calls may be decided otherwise.
    pub(super) fn calls(&self, changes: &Changes<'_>) -> BTreeSet<u64> {
        let ends = self.by_ends.iter().filter(|((me, _), _)| changes.affects_calls(me));
        ends.flat_map(|(_, hops)| hops).chain(&self.opaque).copied().collect()
    }
}

fn take<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<u64>>, key: &K, hop: u64) {
    if let Some(hops) = map.get_mut(key) {
        hops.remove(&hop);
        if hops.is_empty() {
            map.remove(key);
        }
    }
}
