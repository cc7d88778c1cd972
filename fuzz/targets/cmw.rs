//! Conceptual message wrappers in every form, and the media types inside.
#![no_main]

use countersign_evidence::Evidence;
use countersign_ratls::cmw::{Cmw, Kind, Record};
use countersign_ratls::native::Native;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Cmw::Record(Record { kind: Kind::MediaType(kind), value, .. })) = Cmw::decode(data) {
        let _ = Evidence::parse(&kind, &value);
    }
    if let Ok(native) = Native::decode(data) {
        let _ = (native.report_data(), Evidence::parse(native.media_type, native.evidence));
    }
});
