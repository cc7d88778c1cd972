//! What operators write: resources, and the files that processes start from.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(resources) = countersign_config::parse("fuzz.yaml", text) {
        for resource in &resources {
            // What is stored and sent reads back as it was.
            assert_eq!(countersign_config::Resource::from_json(&resource.to_json()).as_ref(), Ok(resource));
        }
        let _ = countersign_config::resource::check_set(&resources);
    }
    let _ = countersign_config::bootstrap::validate("fuzz.yaml", text);
});
