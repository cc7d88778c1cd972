//! An attested certificate request.
#![no_main]

use countersign_ratls::csr::AttestedRequest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = AttestedRequest::parse(data);
});
