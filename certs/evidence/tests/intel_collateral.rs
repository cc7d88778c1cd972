//! What is missing, old, foreign or revoked among Intel's collateral has its own
//! reason, and nothing about it is remembered wrongly.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod intel_samples;
mod oracle;

use countersign_evidence::cache::Cache;
use countersign_evidence::collateral::{Appraised, Item, Mark, Marks};
use countersign_evidence::intel::Quote;
use countersign_evidence::{Anchors, Collateral, Evidence, Finding, Reason, verify};
use intel_samples::{appraise, at, files, ours};

fn collateral(items: &[Item], marks: &mut Marks, now: u64) -> Appraised {
    Collateral::appraise(items, &Anchors::built_in(), marks, at(now))
}

#[test]
fn each_piece_that_is_missing_has_its_reason() {
    let (sample, items) = files();
    for (missing, reason) in [
        (None, None),
        (Some("tcbInfo"), Some(Reason::CollateralMissing)),
        (Some("qeIdentity"), Some(Reason::CollateralMissing)),
        (Some("rootCrl"), Some(Reason::CrlMissing)),
        (Some("pckCrl"), Some(Reason::CrlMissing)),
        (Some("pckChain"), Some(Reason::CrlMissing)),
        (Some("tcbChain"), Some(Reason::CollateralMissing)),
    ] {
        let rest: Vec<_> = items.iter().filter(|i| Some(i.name.as_str()) != missing).cloned().collect();
        let appraised = collateral(&rest, &mut Marks::default(), sample.now);
        let result = ours(&sample.quote, &appraised.collateral, sample.now);
        assert_eq!(result.err().map(|f| f.reason), reason, "without {missing:?}");
    }
}

#[test]
fn both_forms_of_the_same_collateral_give_the_same_inventory() {
    let (sample, items) = files();
    let file = appraise(sample.name, &sample.file, sample.now);
    let files = collateral(&items, &mut Marks::default(), sample.now);
    assert_eq!(files.refused, []);
    assert_eq!(file.inventory(), files.collateral.inventory());
    assert_eq!(file.inventory().len(), 7, "3 certificates, 2 CRLs, TCB info, QE identity");
}

#[test]
fn changed_collateral_is_refused_byte_by_byte() {
    let (sample, items) = files();
    for (n, item) in items.iter().enumerate().take(4) {
        for at in (0..item.bytes.len()).step_by(item.bytes.len() / 40).skip(1) {
            let mut changed = items.clone();
            changed[n].bytes[at] ^= 2;
            let appraised = collateral(&changed, &mut Marks::default(), sample.now);
            assert_eq!(appraised.refused.len(), 1, "{} byte {at}", item.name);
            assert!(ours(&sample.quote, &appraised.collateral, sample.now).is_err());
        }
    }
}

#[test]
fn what_is_older_than_its_mark_is_a_rollback() {
    let (sample, items) = files();
    let mut marks = Marks::default();
    assert_eq!(collateral(&items, &mut marks, sample.now).refused, []);
    assert_eq!(marks.newest.len(), 4);
    assert_eq!(collateral(&items, &mut marks, sample.now).refused, [], "the same issue again is no rollback");
    for key in marks.newest.clone().into_keys() {
        for newer in [|m: &mut Mark| m.number += 1, |m: &mut Mark| m.issued += 1] {
            let mut marks = marks.clone();
            newer(marks.newest.get_mut(&key).unwrap());
            let refused = collateral(&items, &mut marks, sample.now).refused;
            let reasons: Vec<_> = refused.iter().map(|(_, f)| (f.reason, f.field.as_str())).collect();
            assert_eq!(reasons, [(Reason::CollateralRollback, key.as_str())]);
        }
    }
}

#[test]
fn collateral_of_the_future_neither_moves_marks_nor_is_used() {
    let (sample, items) = files();
    let mut marks = Marks::default();
    let long_ago = 1_600_000_000;
    let appraised = collateral(&items, &mut marks, long_ago);
    assert_eq!(marks, Marks::default());
    let refused = ours(&sample.quote, &appraised.collateral, long_ago).unwrap_err();
    assert_eq!(refused.reason, Reason::CertificateNotYetValid);
}

#[test]
fn without_anchors_nothing_is_admitted() {
    let (sample, items) = files();
    let nobody = Anchors::new(vec![], vec![]);
    let appraised = Collateral::appraise(&items, &nobody, &mut Marks::default(), at(sample.now));
    let reasons: Vec<_> = appraised.refused.iter().map(|(_, f)| f.reason).collect();
    assert_eq!(reasons, [Reason::UntrustedRoot; 4]);
}

#[test]
fn a_cached_chain_is_judged_anew_each_time() {
    let (sample, items) = files();
    let full = collateral(&items, &mut Marks::default(), sample.now).collateral;
    let cache = Cache::default();
    let evidence = Evidence::Intel(Quote::parse(&sample.quote).unwrap());
    let judge = |anchors: &Anchors, now| -> Result<_, Finding> {
        verify(&evidence, &full, anchors, at(now), Some(&cache), &mut ())
    };
    let first = judge(&Anchors::built_in(), sample.now).unwrap();
    assert_eq!(judge(&Anchors::built_in(), sample.now).unwrap(), first);
    let expired = judge(&Anchors::built_in(), first.window.until + 1).unwrap_err();
    assert_eq!(expired.reason, Reason::CollateralExpired);
    let old = judge(&Anchors::built_in(), 4_000_000_000).unwrap_err();
    assert_eq!(old.reason, Reason::CertificateExpired);
    let nobody = judge(&Anchors::new(vec![], vec![]), sample.now).unwrap_err();
    assert_eq!(nobody.reason, Reason::UntrustedRoot);
}
