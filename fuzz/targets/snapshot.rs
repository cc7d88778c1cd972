//! The snapshot on a proxy's disk.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = countersign_wire::Unverified::decode(data);
});
