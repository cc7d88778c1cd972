//! The collection that we make: profile `ratls-mesh/1` (3-attestation, section 1.3).
//!
//! ```cddl
//! { "__cmwc_t" => PROFILE, "ctx" => [ctx media type, bstr .cbor key-ctx],
//!   "cpu" => [media type, bstr, 4], ? "evlog", ? "gpu0".."gpu15", ? "tpm", ? "wid", ? "ear" }
//! ```

use countersign_evidence::{Finding, Reason};

use crate::binding::{KeyContext, ReportData, key_report_data};
use crate::cbor::{self, Order, Writer};
use crate::cmw::{COLLECTION_TYPE, Cmw, Collection, Kind, Label, Record, indicator};

/// The value of `__cmwc_t`.
pub const PROFILE: &str = "tag:countersign.dev,2026:ratls-mesh/cmw#1";

/// The media type of the `ctx` entry.
pub const CONTEXT_TYPE: &str = "application/vnd.countersign.ratls-mesh-ctx+cbor";

const FIELD: &str = "cmw";

/// A collection of this profile, read from deterministic CBOR. The key binding
/// is not checked yet: see [`Native::report_data`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Native<'a> {
    /// What the evidence was made for.
    pub context: KeyContext<'a>,
    /// The media type of the primary evidence.
    pub media_type: &'a str,
    /// The primary evidence.
    pub evidence: &'a [u8],
    /// Media type and bytes of the event log, authenticated by replay.
    pub event_log: Option<(&'a str, &'a [u8])>,
    context_bytes: &'a [u8],
    companions: Vec<(&'a str, &'a [u8])>,
}

/// The collection of primary evidence, and of the event log (media type and
/// bytes) that goes with it.
#[must_use]
pub fn encode(
    context: &[u8],
    media_type: &str,
    evidence: &[u8],
    event_log: Option<(&str, &[u8])>,
) -> Vec<u8> {
    let log = event_log.map_or(0, |(kind, value)| kind.len() + value.len());
    let size = context.len() + media_type.len() + evidence.len() + log + 176;
    let mut writer = Writer(Vec::with_capacity(size));
    // The order of the encoded keys: shorter ones first.
    writer.map(3 + usize::from(event_log.is_some()));
    writer.text("cpu").array(3).text(media_type).bytes(evidence).uint(indicator::EVIDENCE.into());
    writer.text("ctx").array(2).text(CONTEXT_TYPE).bytes(context);
    if let Some((kind, value)) = event_log {
        writer.text("evlog").array(2).text(kind).bytes(value);
    }
    writer.text(COLLECTION_TYPE).text(PROFILE);
    writer.0
}

impl<'a> Native<'a> {
    /// Reads a collection. The caller has bounded its size.
    ///
    /// # Errors
    /// When it is not deterministic CBOR, or not of this profile.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Finding> {
        cbor::check(FIELD, bytes, Order::Deterministic)?;
        let Cmw::Collection(Collection { kind, entries }) = Cmw::decode(bytes)? else {
            return Err(unsupported("cmw", "a collection of this profile", "a record"));
        };
        if kind.as_deref() != Some(PROFILE) {
            return Err(unsupported(COLLECTION_TYPE, PROFILE, kind.as_deref().unwrap_or("none")));
        }
        let (mut context, mut primary, mut event_log, mut companions) = (None, None, None, Vec::new());
        for entry in entries {
            let Label::Text(label) = &entry.label else {
                return Err(unsupported("cmw label", "text", &format!("{:?}", entry.label)));
            };
            let Cmw::Record(record) = entry.content else {
                return Err(unsupported(label, "a record", "a collection"));
            };
            // Read from borrowed CBOR: labels borrow as well.
            let std::borrow::Cow::Borrowed(label) = *label else { continue };
            match label {
                "ctx" => context = Some(record),
                "cpu" => primary = Some(record),
                "evlog" => event_log = Some(content(Some(record), label, None)?),
                // Made from the evidence, hence not bound by it; signed by its issuer.
                "ear" => {}
                _ if is_companion(label) => companions.push((label, entry.encoded)),
                // Nothing unbound rides along.
                _ => return Err(unsupported("cmw label", "a label of this profile", label)),
            }
        }
        let context_bytes = content(context, "ctx", None)?;
        let (context_type, context_bytes) = context_bytes;
        if context_type != CONTEXT_TYPE {
            return Err(unsupported("cmw ctx", CONTEXT_TYPE, context_type));
        }
        let (media_type, evidence) = content(primary, "cpu", Some(indicator::EVIDENCE))?;
        let context = KeyContext::decode(context_bytes)?;
        Ok(Self { context, media_type, evidence, event_log, context_bytes, companions })
    }

    /// The report data that the primary evidence must carry.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        key_report_data(self.context_bytes, &self.companions)
    }
}

/// Evidence that the primary evidence vouches for.
fn is_companion(label: &str) -> bool {
    let gpu = label.strip_prefix("gpu").and_then(|index| index.parse::<u8>().ok().map(|n| (index, n)));
    matches!(label, "tpm" | "wid") || gpu.is_some_and(|(index, n)| n < 16 && index == n.to_string())
}

/// Media type and value of a record that must be there.
pub(crate) fn content<'a>(
    record: Option<Record<'a>>,
    label: &str,
    indicator: Option<u32>,
) -> Result<(&'a str, &'a [u8]), Finding> {
    use std::borrow::Cow::Borrowed;
    match record {
        Some(Record { kind: Kind::MediaType(Borrowed(kind)), value: Borrowed(value), indicator: ind })
            if ind == indicator =>
        {
            Ok((kind, value))
        }
        Some(other) => {
            let presented = format!("{:?} with ind {:?}", other.kind, other.indicator);
            Err(unsupported(label, &format!("a media type with ind {indicator:?}"), &presented))
        }
        None => Err(Finding::new(Reason::Malformed, format!("cmw {label}"), "one entry", "none")),
    }
}

fn unsupported(field: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::UnsupportedFormat, field, expected, presented)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Vec<u8> {
        KeyContext { spki_sha256: [7; 32], challenge: (&[1; 32][..]).into(), id: None }.encode()
    }

    #[test]
    fn what_is_written_is_read() {
        let (context, evidence) = (context(), vec![9; 5000]);
        for event_log in [None, Some(("application/y", &[8; 300][..]))] {
            let bytes = encode(&context, "application/x", &evidence, event_log);
            let native = Native::decode(&bytes).unwrap();
            assert_eq!((native.media_type, native.evidence), ("application/x", evidence.as_slice()));
            assert_eq!((native.context.encode(), native.event_log), (context.clone(), event_log));
            assert_eq!(native.report_data(), key_report_data(&context, &[]), "the log is not bound");
        }
    }

    #[test]
    fn what_a_stranger_names_things_writes_no_log() {
        let line = "\n2026-11-21T15:00:00Z  INFO admitted spiffe://x.example/a\u{1b}[2K".repeat(800);
        let label = |label: &str| {
            let mut writer = Writer::default();
            writer.map(2).text(COLLECTION_TYPE).text(PROFILE);
            writer.text(label).array(2).text("a/b").bytes(&[1]);
            writer.0
        };
        let kind = |kind: &str| {
            let mut writer = Writer::default();
            writer.map(2).text("cpu").array(3).text("a/b").bytes(&[1]).uint(4);
            writer.text(COLLECTION_TYPE).text(kind);
            writer.0
        };
        let media_type = encode(&context(), &line, &[1], None);
        for bytes in [label(&line), kind(&line), media_type] {
            let Err(finding) = Native::decode(&bytes) else { continue };
            let told = finding.to_string();
            assert!(!told.contains(char::is_control), "{told}");
            assert!(told.chars().count() < 3000, "{told}");
            assert!(finding.field.len() + finding.presented.len() < 2500, "{finding:?}");
        }
    }

    #[test]
    fn companions_are_bound_and_strangers_are_refused() {
        let with = |label: &str| {
            let mut writer = Writer::default();
            writer.map(4);
            writer.text("cpu").array(3).text("a/b").bytes(&[1]).uint(4);
            writer.text("ctx").array(2).text(CONTEXT_TYPE).bytes(&context());
            // Sorts after ctx and before __cmwc_t for the labels below.
            writer.text(label).raw(&[0x82, 0x00, 0x40]);
            writer.text(COLLECTION_TYPE).text(PROFILE);
            writer.0
        };
        let entry: &[u8] = &[0x82, 0x00, 0x40];
        for label in ["tpm", "wid", "gpu0", "gpu15"] {
            let bytes = with(label);
            let bound = Native::decode(&bytes).unwrap().report_data();
            assert_eq!(bound, key_report_data(&context(), &[(label, entry)]));
        }
        assert_eq!(Native::decode(&with("ear")).unwrap().report_data(), key_report_data(&context(), &[]));
        // An event log is a record with a media type.
        assert_eq!(Native::decode(&with("evlog")).unwrap_err().reason, Reason::UnsupportedFormat);
        for label in ["gpu", "gpu16", "gpu00", "gpu+1", "other", "cpu2"] {
            assert_eq!(
                Native::decode(&with(label)).unwrap_err().reason,
                Reason::UnsupportedFormat,
                "{label}"
            );
        }
    }

    #[test]
    fn other_orders_and_other_profiles_are_refused() {
        let mut unordered = Writer::default();
        unordered.map(3).text(COLLECTION_TYPE).text(PROFILE);
        unordered.text("cpu").array(3).text("a/b").bytes(&[1]).uint(4);
        unordered.text("ctx").array(2).text(CONTEXT_TYPE).bytes(&context());
        assert_eq!(Native::decode(&unordered.0).unwrap_err().reason, Reason::NonCanonical);

        let bytes = encode(&context(), "a/b", &[1], None);
        let mut other = bytes.clone();
        *other.last_mut().unwrap() = b'2';
        assert_eq!(Native::decode(&other).unwrap_err().reason, Reason::UnsupportedFormat);
        for end in 0..bytes.len() {
            assert!(Native::decode(&bytes[..end]).is_err());
        }
    }
}
