//! What operators write.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = countersign_config::parse("fuzz.yaml", text);
});
