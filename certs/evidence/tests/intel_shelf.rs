//! What a directory loses stays in use, and what it should not bring back does not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod intel_samples;
mod oracle;

use countersign_evidence::collateral::{Item, Marks, Shelf};
use countersign_evidence::{Anchors, Collateral};
use intel_samples::{at, files, ours};

/// A set of files, the shelf beside it, and what both come to at `now`.
fn settle(shelf: &mut Shelf, marks: &mut Marks, files: &[Item], now: u64) -> (Collateral, Vec<String>, bool) {
    let stock = shelf.stock(files);
    let appraised = Collateral::appraise(&stock.items, &Anchors::built_in(), marks, at(now));
    let kept = stock.kept(&appraised.collateral, at(now)).iter().map(|item| item.name.clone()).collect();
    let changed = shelf.settle(&stock, &appraised.collateral, at(now));
    (appraised.collateral, kept, changed)
}

#[test]
fn each_file_that_goes_is_kept_and_comes_back() {
    let (sample, files) = files();
    for gone in 0..files.len() {
        let (mut shelf, mut marks) = (Shelf::default(), Marks::default());
        let (whole, kept, changed) = settle(&mut shelf, &mut marks, &files, sample.now);
        assert!(kept.is_empty() && changed);
        let mut rest = files.clone();
        let lost = rest.remove(gone).name;
        let (collateral, kept, _) = settle(&mut shelf, &mut marks, &rest, sample.now);
        assert_eq!(collateral.inventory(), whole.inventory(), "without {lost}");
        ours(&sample.quote, &collateral, sample.now).unwrap();
        assert_eq!(kept, [lost]);
        let (_, kept, _) = settle(&mut shelf, &mut marks, &files, sample.now);
        assert!(kept.is_empty(), "{kept:?}");
    }
    // All at once, over a restart, under names that are taken by something else.
    let (mut shelf, mut marks) = (Shelf::default(), Marks::default());
    settle(&mut shelf, &mut marks, &files, sample.now);
    let mut shelf = Shelf::new(shelf.items().to_vec());
    let damaged: Vec<_> = files.iter().map(|f| Item { name: f.name.clone(), bytes: b"?".to_vec() }).collect();
    let (collateral, kept, _) = settle(&mut shelf, &mut marks, &damaged, sample.now);
    ours(&sample.quote, &collateral, sample.now).unwrap();
    assert!(kept.iter().all(|name| name.contains('~')) && kept.len() == files.len(), "{kept:?}");
}

#[test]
fn nothing_is_kept_beyond_its_end() {
    let (sample, files) = files();
    let (mut shelf, mut marks) = (Shelf::default(), Marks::default());
    let (whole, _, _) = settle(&mut shelf, &mut marks, &files, sample.now);
    let end = whole.ends()["tcbInfo"];
    let rest: Vec<_> = files.iter().filter(|file| file.name != "tcbInfo").cloned().collect();
    let (_, kept, _) = settle(&mut shelf, &mut marks, &rest, end);
    assert!(kept.contains(&"tcbInfo".to_owned()), "{kept:?}");
    let (collateral, kept, changed) = settle(&mut shelf, &mut marks, &rest, end + 1);
    assert!(!kept.contains(&"tcbInfo".to_owned()) && changed, "{kept:?}");
    assert!(shelf.items().iter().all(|item| item.name != "tcbInfo"));
    assert!(ours(&sample.quote, &collateral, end + 1).is_err());
}
