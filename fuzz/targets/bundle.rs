//! A trust bundle.
#![no_main]

use countersign_ratls::{Bundle, TrustDomain};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(trust_domain) = TrustDomain::parse("fuzz.example") {
        let _ = Bundle::parse(trust_domain, data);
    }
});
