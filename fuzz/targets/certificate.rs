//! A peer's certificate: SVID profile, CMW and foreign extensions, key binding;
//! and what `countersign inspect` reads from it.
#![no_main]

use countersign_ratls::{Presented, embedded};
use rustls_pki_types::CertificateDer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Presented::parse(&[CertificateDer::from(data)]);
    let _ = embedded::find(&CertificateDer::from(data));
});
