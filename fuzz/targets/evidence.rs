//! Quotes, reports, certificate tables, tsm-reports, in every coding that is
//! sniffed, under the collateral of their vendor.
#![no_main]

use std::sync::LazyLock;

use countersign_evidence::collateral::Marks;
use countersign_evidence::{Collateral, Evidence, amd, verify};
use countersign_fuzz::{VENDOR, anchors, now};

static COLLATERAL: LazyLock<Collateral> = LazyLock::new(|| {
    let items = VENDOR.collateral(now()).expect("an emulated vendor publishes");
    Collateral::appraise(&items, &anchors(), &mut Marks::default(), now()).collateral
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(evidence) = Evidence::sniff(data) {
        let _ = verify(&evidence, &COLLATERAL, &anchors(), now(), None, &mut ());
        if let Evidence::Amd(attestation) = &evidence {
            let _ = amd::examine(attestation, &COLLATERAL, &anchors(), now());
        }
    }
});
