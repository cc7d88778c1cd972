//! Binding evidence to keys and sessions (profile `ratls-mesh/1`).
//!
//! Every hash starts with a length-prefixed label, so that a value made for one
//! purpose has no meaning for another, nor in any other RA-TLS format
//! (3-attestation, sections 1.3 and 4.2).

use std::borrow::Cow;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Algorithm, Context, SHA256, SHA512};
use countersign_evidence::{Finding, Reason};

use crate::cbor::{self, Item, Order, Writer};
use crate::spiffe::SpiffeId;

pub mod session;

pub use session::{Ekm, SessionContext, SessionCore};

/// SHA-256.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    digest(&SHA256, &[data])
}

/// SHA-512.
pub(crate) fn sha512(data: &[u8]) -> [u8; 64] {
    digest(&SHA512, &[data])
}

/// SHA-256 over parts, as if they were one.
pub(crate) fn sha256_parts<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    parts.for_each(|part| context.update(part));
    fixed(context)
}

fn digest<const N: usize>(algorithm: &'static Algorithm, parts: &[&[u8]]) -> [u8; N] {
    let mut context = Context::new(algorithm);
    parts.iter().for_each(|part| context.update(part));
    fixed(context)
}

/// `N` is the length of the context's algorithm at each call.
fn fixed<const N: usize>(context: Context) -> [u8; N] {
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or([0; N])
}

/// A label that separates domains: 1 to 32 ASCII characters.
#[derive(Clone, Copy, Debug)]
struct Label(&'static str);

impl Label {
    const fn new(text: &'static str) -> Self {
        assert!(!text.is_empty() && text.len() <= 32 && text.is_ascii());
        Self(text)
    }

    /// `D64(L, m)`, the message in parts.
    fn d64(self, parts: &[&[u8]]) -> [u8; 64] {
        self.digest(&SHA512, parts)
    }

    /// `D32(L, m)`, the message in parts.
    fn d32(self, parts: &[&[u8]]) -> [u8; 32] {
        self.digest(&SHA256, parts)
    }

    fn digest<const N: usize>(self, algorithm: &'static Algorithm, parts: &[&[u8]]) -> [u8; N] {
        let mut context = Context::new(algorithm);
        context.update(&(self.0.len() as u64).to_be_bytes()[7..]);
        context.update(self.0.as_bytes());
        parts.iter().for_each(|part| context.update(part));
        fixed(context)
    }
}

const KEY_CORE: Label = Label::new("ratls-mesh/v1/key-core");
const KEY: Label = Label::new("ratls-mesh/v1/key");
const COMPANION: Label = Label::new("ratls-mesh/v1/companion");
const SESSION_CORE: Label = Label::new("ratls-mesh/v1/session-core");
const SESSION: Label = Label::new("ratls-mesh/v1/session");
const GPU: Label = Label::new("ratls-mesh/v1/gpu");
const TPM: Label = Label::new("ratls-mesh/v1/tpm");
const MTREE: Label = Label::new("ratls-mesh/v1/mtree");
const IDENTITY: Label = Label::new("ratls-mesh/v1/identity");
const OPEN: Label = Label::new("ratls-mesh/v1/open");

/// The report data that evidence must carry, from the verifier's own view.
///
/// There is no empty one, and it is compared as a whole in constant time: the
/// failures of others were an expected value that was absent, or a prefix (A4).
#[derive(Clone, PartialEq, Eq)]
pub struct ReportData([u8; 64]);

impl ReportData {
    /// Whether the evidence carries exactly this.
    ///
    /// # Errors
    /// `binding-mismatch`.
    pub fn check(&self, presented: &[u8; 64]) -> Result<(), Finding> {
        verify_slices_are_equal(&self.0, presented).map_err(|_| {
            Finding::new(Reason::BindingMismatch, "report_data", hex::encode(self.0), hex::encode(presented))
        })
    }

    /// The bytes to quote.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// SHA-256 of `data`, then 32 zero bytes: what CCC and Gramine have in common.
    pub(crate) fn sha256_then_zeros(data: &[u8]) -> Self {
        let mut out = [0; 64];
        out.iter_mut().zip(sha256(data)).for_each(|(to, from)| *to = from);
        Self(out)
    }
}

impl std::fmt::Debug for ReportData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What key evidence is made for: `key-ctx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyContext<'a> {
    /// SHA-256 of the DER SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// The challenge of the issuing CA, or empty. Has a meaning only to that CA.
    pub challenge: Cow<'a, [u8]>,
    /// The SPIFFE ID, where it was known.
    pub id: Option<Cow<'a, str>>,
}

/// The sizes of a challenge that is not empty.
pub const CHALLENGE_SIZES: std::ops::RangeInclusive<usize> = 16..=64;

impl<'a> KeyContext<'a> {
    /// Deterministic CBOR.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(4).uint(1).uint(1).uint(2).bytes(&self.spki_sha256).uint(3).bytes(&self.challenge).uint(4);
        match &self.id {
            Some(id) => writer.text(id),
            None => writer.null(),
        };
        writer.0
    }

    /// Reads exactly what [`KeyContext::encode`] writes.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Finding> {
        const FIELD: &str = "cmw ctx";
        let wrong = || {
            Finding::new(Reason::Malformed, FIELD, "{1: 1, 2: bstr32, 3: bstr, 4: tstr/null}", "another map")
        };
        let mut reader = cbor::check(FIELD, bytes, Order::Deterministic)?;
        let mut next = || reader.next().map_err(|fault| fault.finding(FIELD));
        let mut items = [Item::Null; 9];
        for item in &mut items {
            *item = next()?;
        }
        let [
            Item::Map(4),
            Item::Uint(1),
            version,
            Item::Uint(2),
            Item::Bytes(spki),
            Item::Uint(3),
            Item::Bytes(challenge),
            Item::Uint(4),
            id,
        ] = items
        else {
            return Err(wrong());
        };
        if version != Item::Uint(1) {
            return Err(Finding::new(
                Reason::UnsupportedVersion,
                "cmw ctx version",
                "1",
                format!("{version:?}"),
            ));
        }
        if !challenge.is_empty() && !CHALLENGE_SIZES.contains(&challenge.len()) {
            let presented = format!("{} bytes", challenge.len());
            return Err(Finding::new(
                Reason::Malformed,
                "cmw ctx challenge",
                "empty, or 16 to 64 bytes",
                presented,
            ));
        }
        Ok(Self {
            spki_sha256: spki.try_into().map_err(|_| wrong())?,
            challenge: Cow::Borrowed(challenge),
            id: match id {
                Item::Null => None,
                Item::Text(id) => Some(Cow::Borrowed(id)),
                _ => return Err(wrong()),
            },
        })
    }

    /// Whether this was made for the key with `spki_sha256`, and if it names an
    /// ID, for `id`.
    ///
    /// # Errors
    /// `binding-mismatch`.
    pub fn check(&self, spki_sha256: &[u8; 32], id: Option<&SpiffeId>) -> Result<(), Finding> {
        if verify_slices_are_equal(&self.spki_sha256, spki_sha256).is_err() {
            let (expected, presented) = (hex::encode(spki_sha256), hex::encode(self.spki_sha256));
            return Err(Finding::new(Reason::BindingMismatch, "cmw ctx public key", expected, presented));
        }
        match &self.id {
            Some(bound) if id.map(SpiffeId::as_str) != Some(bound) => {
                let expected = id.map_or("none", SpiffeId::as_str);
                Err(Finding::new(Reason::BindingMismatch, "cmw ctx SPIFFE ID", expected, bound.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// `CH`: commits to the entries of a collection that the primary evidence
/// vouches for, each as its label and its bytes. The order does not matter.
#[must_use]
pub fn companion_hash(entries: &[(&str, &[u8])]) -> [u8; 64] {
    COMPANION.d64(&[&companion_set(entries)])
}

fn companion_set(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_unstable_by_key(|(label, _)| label.as_bytes());
    let mut writer = Writer::default();
    writer.array(sorted.len());
    for (label, entry) in sorted {
        writer.array(2).text(label).bytes(&sha512(entry));
    }
    writer.0
}

/// The report data of evidence in a certificate or request: binds the key.
/// `context` are the bytes of the [`KeyContext`] as transmitted.
#[must_use]
pub fn key_report_data(context: &[u8], companions: &[(&str, &[u8])]) -> ReportData {
    let core = KEY_CORE.d64(&[context]);
    ReportData(KEY.d64(&[&core, &companion_hash(companions)]))
}

/// The report data of a batch of `size` binders with this root ([`crate::merkle`]).
#[must_use]
pub fn batch_report_data(size: u64, root: &[u8; 64]) -> ReportData {
    ReportData(MTREE.d64(&[&size.to_be_bytes(), root]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle;

    /// The vectors of the profile, from the file when it is there and from
    /// [`VECTORS`] always.
    const VECTORS: &str = include_str!("../vectors.json");

    fn vectors() -> Vec<serde_json::Value> {
        let file = std::env::var_os("COUNTERSIGN_VECTORS").map_or_else(
            || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/vectors.json"),
            |path| {
                let path = std::path::PathBuf::from(path);
                if path.is_dir() { path.join("vectors.json") } else { path }
            },
        );
        let outside = std::fs::read_to_string(file).ok();
        std::iter::once(VECTORS.to_owned())
            .chain(outside)
            .map(|text| serde_json::from_str(&text).unwrap())
            .collect()
    }

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    fn is(value: &serde_json::Value, computed: &[u8]) {
        assert_eq!(value.as_str().unwrap(), hex::encode(computed));
    }

    #[test]
    fn key_bindings_are_those_of_the_vectors() {
        for vector in vectors() {
            let key = &vector["key"];
            let ctx = bytes(&key["ctx"]);
            let context = KeyContext::decode(&ctx).unwrap();
            assert_eq!(context.encode(), ctx);
            assert_eq!((context.challenge.as_ref(), &context.id), (&[0xc0; 32][..], &None));
            let companions: &[(&str, &[u8])] = &[("wid", &[1, 2, 3])];
            is(&key["K"], &KEY_CORE.d64(&[&ctx]));
            is(&key["companion"], &companion_set(companions));
            is(&key["CH"], &companion_hash(companions));
            is(&key["report_data"], key_report_data(&ctx, companions).as_bytes());
            is(&vector["companion_empty"]["cbor"], &companion_set(&[]));
            is(&vector["companion_empty"]["CH"], &companion_hash(&[]));
        }
    }

    #[test]
    fn session_binders_are_those_of_the_vectors() {
        for vector in vectors() {
            let vector = &vector["session"];
            let context = SessionContext {
                attester_is_server: true,
                quic: false,
                alpn: b"ratls-h2/1",
                ekm: &Ekm::new([0x55; 32].into()),
                client_spki_sha256: &[0x66; 32],
                server_spki_sha256: &[0x77; 32],
                hellos: &session::hello_hash(&bytes(&vector["hello_c"]), &bytes(&vector["hello_s"])),
                challenge: &bytes(&vector["challenge"]),
                attester_nonce: &[0xbb; 32],
                round: 0,
                previous: None,
                client_id: "spiffe://example.org/c",
                server_id: "spiffe://example.org/s",
            };
            is(&vector["ctx"], &context.encode());
            let core = context.core();
            is(&vector["K"], core.as_bytes());
            is(&vector["gpu_nonce_0"], &core.gpu_nonce(0));
            is(&vector["tpm_qualifying"], &core.tpm_qualifying_data());
            let companions: &[(&str, &[u8])] = &[("wid", b"WID"), ("gpu0", b"GPU")];
            is(&vector["CH"], &companion_hash(companions));
            is(&vector["B"], core.binder(companions).as_bytes());
        }
    }

    #[test]
    fn batches_are_those_of_the_vectors() {
        for vector in vectors() {
            let tree = &vector["mtree"];
            let leaves: Vec<[u8; 64]> = tree["leaves"]
                .as_array()
                .unwrap()
                .iter()
                .map(|leaf| bytes(leaf).try_into().unwrap())
                .collect();
            let root = merkle::root(&leaves).unwrap();
            is(&tree["root"], &root);
            let proof = merkle::proof(0, &leaves).unwrap();
            assert_eq!(proof.len(), tree["proof_0"].as_array().unwrap().len());
            proof
                .iter()
                .zip(tree["proof_0"].as_array().unwrap())
                .for_each(|(node, expected)| is(expected, node));
            assert_eq!(merkle::root_from_proof(0, 3, &leaves[0], &proof).unwrap(), root);
            is(&tree["report_data"], batch_report_data(3, &root).as_bytes());
        }
    }

    #[test]
    fn a_flipped_bit_in_any_byte_of_the_report_data_is_refused() {
        let expected = key_report_data(b"context", &[]);
        assert!(expected.check(expected.as_bytes()).is_ok());
        for at in 0..64 {
            for bit in 0..8 {
                let mut presented = *expected.as_bytes();
                presented[at] ^= 1 << bit;
                assert_eq!(expected.check(&presented).unwrap_err().reason, Reason::BindingMismatch);
            }
        }
        assert!(expected.check(&[0; 64]).is_err());
    }

    #[test]
    fn key_contexts_in_any_other_form_are_refused() {
        let good = KeyContext {
            spki_sha256: [7; 32],
            challenge: Cow::Borrowed(&[1; 16]),
            id: Some(Cow::Borrowed("spiffe://td/a")),
        };
        let encoded = good.encode();
        assert_eq!(KeyContext::decode(&encoded).unwrap(), good);
        for end in 0..encoded.len() {
            assert!(KeyContext::decode(&encoded[..end]).is_err());
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = encoded.clone();
            bytes[at] = byte;
            KeyContext::decode(&bytes).unwrap_err().reason
        };
        assert_eq!(with(2, 2), Reason::UnsupportedVersion);
        assert_eq!(with(1, 0), Reason::Malformed);
        assert_eq!(with(0, 0xa5), Reason::Truncated);
        let short = KeyContext { challenge: Cow::Borrowed(&[1; 15]), ..good.clone() }.encode();
        assert!(KeyContext::decode(&short).is_err());
        assert!(KeyContext::decode(&[encoded.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn a_context_for_another_key_or_id_is_refused() {
        let id = SpiffeId::parse("spiffe://td/a").unwrap();
        let other = SpiffeId::parse("spiffe://td/b").unwrap();
        let mut context = KeyContext { spki_sha256: [7; 32], challenge: Cow::Borrowed(&[]), id: None };
        assert!(context.check(&[7; 32], Some(&id)).is_ok());
        assert_eq!(context.check(&[8; 32], Some(&id)).unwrap_err().reason, Reason::BindingMismatch);
        context.id = Some(Cow::Borrowed("spiffe://td/a"));
        assert!(context.check(&[7; 32], Some(&id)).is_ok());
        assert!(context.check(&[7; 32], Some(&other)).is_err());
        assert!(context.check(&[7; 32], None).is_err());
    }
}
