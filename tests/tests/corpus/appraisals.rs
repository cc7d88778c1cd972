//! Collateral of cases, each distinct set appraised once for each time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use countersign_evidence::anchors::INTEL_SGX_ROOT;
use countersign_evidence::cache::Cache;
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::{Anchors, Claims, Collateral, Evidence, Finding, Fingerprint, UnixTime, verify};

use crate::der;
use crate::manifest::Corpus;

/// A set of collateral at a time.
pub(crate) struct Appraisal {
    pub(crate) collateral: Collateral,
    /// The built-in roots, and the test roots among the collateral.
    pub(crate) anchors: Anchors,
    /// Whether a test root was admitted.
    pub(crate) test_root: bool,
    /// Whether the current certificate of Intel's root is among the collateral.
    pub(crate) has_intel_root: bool,
    /// What was refused, for messages.
    pub(crate) refused: Vec<(String, Finding)>,
    pub(crate) now: UnixTime,
}

/// Collateral by paths and time, in seconds.
type Known = HashMap<(Vec<String>, u64), Rc<Appraisal>>;

/// Appraises the collateral of a corpus.
pub(crate) struct Appraisals<'c> {
    pub(crate) corpus: &'c Corpus,
    known: RefCell<Known>,
    /// Verified chains, as the product keeps them.
    cache: Cache,
}

impl<'c> Appraisals<'c> {
    pub(crate) fn new(corpus: &'c Corpus) -> Self {
        Self { corpus, known: RefCell::default(), cache: Cache::default() }
    }

    /// These files at this time.
    pub(crate) fn of(&self, paths: &[&str], now: UnixTime) -> Result<Rc<Appraisal>, String> {
        let key = (paths.iter().map(|&p| p.to_owned()).collect(), now.as_secs());
        if let Some(known) = self.known.borrow().get(&key) {
            return Ok(Rc::clone(known));
        }
        let appraisal = Rc::new(self.appraise(paths, now)?);
        self.known.borrow_mut().insert(key, Rc::clone(&appraisal));
        Ok(appraisal)
    }

    fn appraise(&self, paths: &[&str], now: UnixTime) -> Result<Appraisal, String> {
        let items = self.items(paths)?;
        let (mut anchors, mut test_root) = (Anchors::built_in(), false);
        for path in self.corpus.collateral(&["test-trust-anchor"]) {
            if let Some(item) = items.iter().find(|item| item.name == path) {
                for root in der::certificates(&item.bytes)? {
                    anchors.admit_vendor(Fingerprint::of(&root));
                    test_root = true;
                }
            }
        }
        let is_root = |item: &Item| {
            der::certificates(&item.bytes)
                .is_ok_and(|c| c.iter().any(|c| Fingerprint::of(c) == INTEL_SGX_ROOT))
        };
        let has_intel_root = items.iter().any(is_root);
        let appraised = Collateral::appraise(&items, &anchors, &mut Marks::default(), now);
        let (collateral, refused) = (appraised.collateral, appraised.refused);
        Ok(Appraisal { collateral, anchors, test_root, has_intel_root, refused, now })
    }

    /// Files as items of collateral.
    pub(crate) fn items(&self, paths: &[&str]) -> Result<Vec<Item>, String> {
        let item = |path: &&str| Ok(Item { name: (*path).to_owned(), bytes: self.corpus.read(path)? });
        paths.iter().map(item).collect()
    }

    /// Every set of collateral that the cases of these kinds use, at the times
    /// of those cases.
    pub(crate) fn all(&self, kinds: &[&str]) -> Vec<Rc<Appraisal>> {
        let mut all: Vec<Rc<Appraisal>> = Vec::new();
        for sample in self.corpus.samples().iter().filter(|s| kinds.iter().any(|k| s.kind().contains(k))) {
            for case in sample.cases() {
                // Broken cases fail where they are evaluated.
                let instants = case.instants().unwrap_or_default();
                let appraisal = instants.first().and_then(|now| self.of(&case.collateral(), *now).ok());
                if let Some(appraisal) = appraisal
                    && !all.iter().any(|known| Rc::ptr_eq(known, &appraisal))
                {
                    all.push(appraisal);
                }
            }
        }
        all
    }

    /// Verifies without a cache of chains, then twice with one: all must agree.
    /// What is accepted is so neither without its root nor after its window,
    /// however well it is known.
    pub(crate) fn verify(
        &self,
        evidence: &Evidence<'_>,
        appraisal: &Appraisal,
    ) -> Result<Result<Claims, Finding>, String> {
        let run = |cache| {
            let Appraisal { collateral, anchors, now, .. } = appraisal;
            verify(evidence, collateral, anchors, *now, cache, &mut ()).map(|claims| (*claims).clone())
        };
        let first = run(None);
        for again in ["into the cache", "from the cache"] {
            let other = run(Some(&self.cache));
            if other != first {
                return Err(format!("{again}: {} instead of {}", outcome(&other), outcome(&first)));
            }
        }
        let Ok(claims) = &first else { return Ok(first) };
        let Appraisal { collateral, anchors, now, .. } = appraisal;
        let nobody = Anchors::new(Vec::new(), Vec::new());
        let late = UnixTime::since_unix_epoch(Duration::from_secs(claims.window.until.saturating_add(1)));
        for (what, anchors, now) in [("without its root", &nobody, *now), ("after its window", anchors, late)]
        {
            if verify(evidence, collateral, anchors, now, Some(&self.cache), &mut ()).is_ok() {
                return Err(format!("accepted {what}"));
            }
        }
        Ok(first)
    }
}

/// An outcome in a few words.
pub(crate) fn outcome(outcome: &Result<Claims, Finding>) -> String {
    match outcome {
        Ok(_) => "accepted".to_owned(),
        Err(finding) => format!("refused: {finding}"),
    }
}
