//! TCB info, QE identities, CRLs and certificates as they come from a server.
#![no_main]

use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::{Anchors, Collateral, UnixTime};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_795_219_200));
    let items = [Item { name: "fuzz".to_owned(), bytes: data.to_vec() }];
    let _ = Collateral::appraise(&items, &Anchors::built_in(), &mut Marks::default(), now);
});
