//! Quotes, reports, certificate tables, tsm-reports, in every coding that is sniffed.
#![no_main]

use countersign_evidence::{Anchors, Collateral, Evidence, UnixTime, verify};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(evidence) = Evidence::sniff(data) {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_795_219_200));
        let _ = verify(&evidence, &Collateral::default(), &Anchors::built_in(), now, None, &mut ());
    }
});
