//! The evidence inside a CMW (RFC 9999) that came as a file.

use countersign_evidence::{Finding, Reason};
use countersign_ratls::cmw::{Cmw, Kind};

/// The deepest nesting that is looked into; the decoder has its own limit.
const DEPTH: usize = 4;

/// The media type and value of the first record that could be evidence.
pub(crate) fn evidence_of(bytes: &[u8]) -> Result<(String, Vec<u8>), Finding> {
    first(&Cmw::decode(bytes)?, DEPTH).ok_or_else(|| {
        Finding::new(Reason::EvidenceMissing, "cmw", "a record of evidence that we verify", "none")
    })
}

fn first(cmw: &Cmw<'_>, depth: usize) -> Option<(String, Vec<u8>)> {
    match cmw {
        Cmw::Record(record) => match &record.kind {
            Kind::MediaType(media_type) => {
                let known = countersign_evidence::Evidence::parse(media_type, &record.value).is_ok();
                known.then(|| (media_type.to_string(), record.value.to_vec()))
            }
            Kind::ContentFormat(_) => None,
        },
        Cmw::Collection(collection) => {
            let depth = depth.checked_sub(1)?;
            collection.entries.iter().find_map(|entry| first(&entry.content, depth))
        }
    }
}
