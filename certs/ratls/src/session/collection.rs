//! The collection of an Evidence frame: as in a certificate ([`crate::native`]),
//! without `ctx`, since the verifier knows by itself what it was made for.
//!
//! ```text
//! { "cpu" => [media type, bstr, 4], ? "evlog" => [media type, bstr], "__cmwc_t" => PROFILE }
//! ```
//!
//! `evlog` is authenticated by replay to the quoted registers and is not among
//! the companions that the binder covers (section 4.3).

use countersign_evidence::{Finding, Reason};

use crate::cbor::{self, Order, Writer};
use crate::cmw::{COLLECTION_TYPE, Cmw, Collection, Label, Record, indicator};
use crate::native::{PROFILE, content};

const FIELD: &str = "cmw";

/// What a session's collection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Media type and bytes of the evidence.
    pub cpu: (&'a str, &'a [u8]),
    /// Media type and bytes of the event log.
    pub event_log: Option<(&'a str, &'a [u8])>,
}

impl<'a> Parts<'a> {
    /// Deterministic CBOR.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let log = self.event_log.map_or(0, |(kind, value)| kind.len() + value.len());
        let mut writer = Writer(Vec::with_capacity(self.cpu.0.len() + self.cpu.1.len() + log + 128));
        writer.map(2 + usize::from(self.event_log.is_some()));
        // The order of the encoded keys: shorter ones first.
        let (kind, value) = self.cpu;
        writer.text("cpu").array(3).text(kind).bytes(value).uint(indicator::EVIDENCE.into());
        if let Some((kind, value)) = self.event_log {
            writer.text("evlog").array(2).text(kind).bytes(value);
        }
        writer.text(COLLECTION_TYPE).text(PROFILE);
        writer.0
    }

    /// Reads a collection. The caller has bounded its size.
    ///
    /// # Errors
    /// When it is not deterministic CBOR, or not of this profile.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Finding> {
        cbor::check(FIELD, bytes, Order::Deterministic)?;
        let Cmw::Collection(Collection { kind, entries }) = Cmw::decode(bytes)? else {
            return Err(unsupported(FIELD, "a collection of this profile", "a record"));
        };
        if kind.as_deref() != Some(PROFILE) {
            return Err(unsupported(COLLECTION_TYPE, PROFILE, kind.as_deref().unwrap_or("none")));
        }
        let (mut cpu, mut event_log) = (None, None);
        for entry in entries {
            let (Label::Text(label), Cmw::Record(record)) = (&entry.label, entry.content) else {
                return Err(unsupported(FIELD, "records with text labels", "another entry"));
            };
            let slot: &mut Option<Record<'a>> = match &**label {
                "cpu" => &mut cpu,
                "evlog" => &mut event_log,
                // Nothing unbound rides along, and nothing that was not asked for.
                _ => return Err(unsupported("cmw label", "cpu or evlog", label)),
            };
            *slot = Some(record);
        }
        Ok(Self {
            cpu: content(cpu, "cpu", Some(indicator::EVIDENCE))?,
            event_log: event_log.map(|record| content(Some(record), "evlog", None)).transpose()?,
        })
    }
}

fn unsupported(field: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::UnsupportedFormat, field, expected, presented)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for event_log in [None, Some(("application/y", &[7; 300][..]))] {
            let parts = Parts { cpu: ("application/x", &[9; 5000]), event_log };
            assert_eq!(Parts::decode(&parts.encode()).unwrap(), parts);
        }
    }

    #[test]
    fn a_collection_of_a_certificate_or_with_anything_else_is_refused() {
        let context = [1, 2, 3];
        let certificate = crate::native::encode(&context, "a/b", &[1], None);
        assert_eq!(Parts::decode(&certificate).unwrap_err().reason, Reason::UnsupportedFormat);
        for label in ["gpu0", "tpm", "wid", "ear", "other"] {
            let mut writer = Writer::default();
            writer.map(3).text("cpu").array(3).text("a/b").bytes(&[1]).uint(4);
            writer.text(label).array(2).text("a/b").bytes(&[1]);
            writer.text(COLLECTION_TYPE).text(PROFILE);
            assert_eq!(Parts::decode(&writer.0).unwrap_err().reason, Reason::UnsupportedFormat, "{label}");
        }
        let mut without = Writer::default();
        without.map(1).text(COLLECTION_TYPE).text(PROFILE);
        assert!(Parts::decode(&without.0).is_err());
        let bytes = Parts { cpu: ("a/b", &[1]), event_log: None }.encode();
        for end in 0..bytes.len() {
            assert!(Parts::decode(&bytes[..end]).is_err());
        }
        assert!(Parts::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}
