//! The snapshot on a proxy's disk, and what is read from one.
#![no_main]

use countersign_fuzz::TRUST_DOMAIN;
use countersign_ratls::{Bundle, TrustDomain};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(trust_domain) = TrustDomain::parse(TRUST_DOMAIN) else { return };
    let Ok(bundle) = Bundle::parse(trust_domain, b"{\"keys\":[]}") else { return };
    if let Ok(snapshot) = countersign_wire::Unverified::decode(data) {
        let _ = snapshot.verify(&bundle);
    }
});
