//! The revocation lists of one issuer, seen together.
//!
//! An issuer can have several lists at a time that do not say what sets them
//! apart: AMD's root signs one about the keys of chips and one about those of
//! cloud providers. A newer list therefore takes the place of an older one only
//! when it revokes at least the same: no revocation that was signed gets lost,
//! whichever lists are at hand.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Collateral, Mark, Marks, Signer, each_root, in_future};
use crate::anchors::Fingerprint;
use crate::claims::Window;
use crate::finding::Finding;
use crate::intel::collateral::invalid;
use crate::x509::{ALL_ALGORITHMS, Certificate, Crl};

/// Lists of one issuer that are kept: the newest.
const MAX_LISTS: usize = 8;

/// What the lists of one issuer say.
pub(crate) struct Revocation<'c> {
    first: &'c Arc<Crl>,
    others: Vec<&'c Arc<Crl>>,
    /// The second before another list of the issuer is in use as well.
    complete_until: u64,
}

impl<'c> Revocation<'c> {
    fn lists(&self) -> impl Iterator<Item = &'c Arc<Crl>> {
        std::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// When all lists are current, and there is no other to ask. Nothing tells
    /// which of them is about whom, so none may be out of date: who withholds a
    /// list would otherwise hide behind the other.
    pub(crate) fn window(&self) -> Window {
        let all = Window { from: 0, until: self.complete_until };
        self.lists().fold(all, |all, list| all.intersect(list.window()))
    }

    /// The common name of who signed them.
    pub(crate) fn signer_name(&self) -> &'c str {
        self.first.signer_name()
    }

    /// Whether one of them names this certificate. That it did so once is
    /// enough: nobody takes a revocation back.
    pub(crate) fn revokes(&self, certificate: &Certificate) -> bool {
        self.lists().any(|list| list.revokes(certificate))
    }
}

impl Collateral {
    /// The revocation lists that the name and key of `issuer` signed under this
    /// root. Their signer's path to the root and their signatures were verified.
    /// Their window must still be compared with the time.
    pub(crate) fn revocation(
        &self,
        issuer: &Certificate,
        root: Fingerprint,
        now: u64,
    ) -> Option<Revocation<'_>> {
        let all = || self.crls.iter().filter(|crl| crl.root() == root && crl.is_signed_by(issuer));
        // One from the future counts from then on, unless there is no other.
        let mut lists: Vec<_> = all().filter(|crl| crl.issued() <= now).collect();
        if lists.is_empty() {
            lists = all().collect();
        }
        let first = lists.pop()?;
        let ahead = all().map(|crl| crl.issued()).filter(|issued| *issued > now).min();
        let complete_until = ahead.map_or(u64::MAX, |issued| issued.saturating_sub(1));
        Some(Revocation { first, others: lists, complete_until })
    }

    /// Verifies lists, and keeps those that say something. Returns what is
    /// refused, by the index of its item.
    pub(super) fn admit_crls(
        &mut self,
        items: Vec<(usize, Vec<u8>)>,
        signers: &[Signer],
        marks: &mut Marks,
        now: u64,
    ) -> Vec<(usize, Finding)> {
        let mut refused = Vec::new();
        let mut verified = Vec::new();
        for (item, der) in items {
            match verify(&der, signers) {
                Ok(lists) => verified.extend(lists.into_iter().map(|list| (item, list))),
                Err(finding) => refused.push((item, finding)),
            }
        }
        // Of several lists in use the newest decides whether somebody went back.
        let mut newest: HashMap<String, Mark> = HashMap::new();
        for (_, list) in verified.iter().filter(|(_, list)| list.issued() <= now) {
            let mark = newest.entry(key(list)).or_default();
            *mark = issue(list).max(*mark);
        }
        verified.sort_by_key(|(_, list)| std::cmp::Reverse((list.issued(), list.number())));
        for (item, list) in verified {
            let key = key(&list);
            let ahead = newest.get(&key).is_some_and(|newest| marks.reached(&key, *newest));
            let admitted = match issue(&list) {
                own if list.issued() <= now && ahead && !marks.reached(&key, own) => Ok(()),
                own => marks.admit(&key, own, now),
            };
            match admitted {
                Ok(()) => self.keep(item, list, now),
                Err(finding) => refused.push((item, finding)),
            }
        }
        refused
    }

    fn keep(&mut self, item: usize, new: Crl, now: u64) {
        self.renewed_at = self.renewed_at.min(in_future(new.issued(), now));
        let same = |old: &Arc<Crl>| old.root() == new.root() && old.has_signer_of(&new);
        let replaces = |one: &Crl, other: &Crl| {
            // What is not in use yet takes nobody's place.
            (one.issued() <= now || other.issued() > now) && one.covers(other)
        };
        if self.crls.iter().any(|old| same(old) && replaces(old, &new)) {
            return;
        }
        let origins = &mut self.origins;
        self.crls.retain(|old| {
            let superfluous = same(old) && replaces(&new, old);
            if superfluous {
                origins.remove(&piece(old));
            }
            !superfluous
        });
        if self.crls.iter().filter(|old| same(old)).count() < MAX_LISTS {
            origins.insert(piece(&new), (item, new.window().until));
            self.crls.push(Arc::new(new));
        }
    }
}

/// A list under every root that its signer has a path to.
fn verify(der: &[u8], signers: &[Signer]) -> Result<Vec<Crl>, Finding> {
    let issuer = Crl::peek_issuer(der)?;
    let issuers = signers.iter().filter(|s| s.certificate.is_ca() && s.certificate.subject() == issuer);
    let missing = || invalid("CRL", "a certificate of its issuer among the collateral", "none");
    let mut lists = Vec::new();
    each_root(
        issuers,
        missing,
        |path| Crl::verify(der, path, ALL_ALGORITHMS),
        |list, _| {
            lists.push(list);
            Ok(())
        },
    )?;
    Ok(lists)
}

fn key(list: &Crl) -> String {
    format!("crl {} @{}", list.signer_name(), list.root())
}

fn piece(list: &Crl) -> String {
    format!("crl {} @{}", hex::encode(list.digest()), list.root())
}

fn issue(list: &Crl) -> Mark {
    Mark { number: list.number(), issued: list.issued() }
}
