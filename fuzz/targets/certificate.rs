//! A peer's certificate: SVID profile, CMW and foreign extensions, key binding.
#![no_main]

use countersign_ratls::Presented;
use rustls_pki_types::CertificateDer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Presented::parse(&[CertificateDer::from(data)]);
});
