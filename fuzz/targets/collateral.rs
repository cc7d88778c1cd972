//! TCB info, QE identities, CRLs and certificates as they come from a server,
//! beside genuine ones.
#![no_main]

use std::sync::LazyLock;

use countersign_evidence::Collateral;
use countersign_evidence::collateral::{Item, Marks};
use countersign_fuzz::{VENDOR, anchors, now};

static GENUINE: LazyLock<Vec<Item>> =
    LazyLock::new(|| VENDOR.collateral(now()).expect("an emulated vendor publishes"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut items = vec![Item { name: "fuzz".to_owned(), bytes: data.to_vec() }];
    // The certificates, without which nothing is admitted.
    items.extend(GENUINE.iter().filter(|item| item.name.ends_with(".pem")).cloned());
    let appraised = Collateral::appraise(&items, &anchors(), &mut Marks::default(), now());
    let _ = appraised.collateral.inventory();
});
