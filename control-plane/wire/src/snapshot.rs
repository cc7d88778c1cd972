//! Snapshots: everything that a proxy decides by, of one generation, signed.
//!
//! The signature is ECDSA P-256 with SHA-256 over
//!
//! ```text
//! u8(len L) ‖ L ‖ u8(len td) ‖ td ‖ u64(generation) ‖ u32(count)
//!           ‖ count × ( u16(len name) ‖ name ‖ SHA-256(body) )          big endian, sorted by name
//! ```
//!
//! with L = `countersign/v1/snapshot`: the construction of 3-attestation section
//! 1.3, so that no signature of another purpose can be taken for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use bytes::Bytes;
use countersign_evidence::{Finding, Reason};
use countersign_ratls::{Bundle, TrustDomain};
use prost::Message;
use zeroize::Zeroizing;

use crate::name::is_well_formed;
use crate::{MAX_BODY, MAX_ENTRIES, MAX_SNAPSHOT, proto};

const LABEL: &[u8] = b"countersign/v1/snapshot";

/// SHA-256 of a body: the version of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version([u8; 32]);

/// One thing that a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    version: Version,
    body: Bytes,
}

/// Entries by name. Names and bodies are shared between generations.
pub type Entries = BTreeMap<Arc<str>, Entry>;

/// A snapshot whose signature holds. Immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    generation: u64,
    entries: Entries,
    signature: Bytes,
    kid: String,
}

/// A snapshot as it was received or read, of which nothing may be believed.
#[derive(Clone, Debug)]
pub struct Unverified {
    trust_domain: TrustDomain,
    generation: u64,
    entries: Entries,
    signature: Bytes,
    kid: String,
}

/// Why a snapshot is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes or messages do not have the form of a snapshot.
    #[error("the snapshot is malformed: {0}")]
    Malformed(String),
    /// A limit of this crate is exceeded.
    #[error("the snapshot has {presented} {what}, the limit is {limit}")]
    Oversized {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// What was there.
        presented: usize,
    },
    /// It is for another trust domain than the bundle.
    #[error("the snapshot is for trust domain {presented}, not {expected}")]
    TrustDomain {
        /// The bundle's.
        expected: TrustDomain,
        /// The snapshot's.
        presented: TrustDomain,
    },
    /// The bundle has no such key.
    #[error("the trust bundle has no snapshot key {kid:?}")]
    UnknownKey {
        /// The key that is named.
        kid: String,
    },
    /// The signature does not hold.
    #[error("the signature of generation {generation} does not hold under snapshot key {kid:?}")]
    BadSignature {
        /// The generation that is claimed.
        generation: u64,
        /// The key that is named.
        kid: String,
    },
    /// It is older than what is in use.
    #[error("generation {presented} was offered after {current}: somebody rolls policy back")]
    Rollback {
        /// The generation in use.
        current: u64,
        /// The one that was offered.
        presented: u64,
    },
    /// Other content under the generation in use.
    #[error("generation {generation} was offered again with other content")]
    Conflict {
        /// The generation.
        generation: u64,
    },
    /// The random number generator or the signature operation failed.
    #[error("cannot {0}")]
    Crypto(&'static str),
}

impl SnapshotError {
    /// The error as every refusal is shown.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let (reason, expected) = match self {
            Self::Malformed(_) => (Reason::Malformed, "a well-formed snapshot".to_owned()),
            Self::Oversized { limit, what, .. } => (Reason::Oversized, format!("at most {limit} {what}")),
            Self::TrustDomain { expected, .. } => (Reason::SnapshotUntrusted, expected.to_string()),
            Self::UnknownKey { .. } | Self::BadSignature { .. } => {
                (Reason::SnapshotUntrusted, "a snapshot key of the trust bundle".to_owned())
            }
            Self::Rollback { current, .. } => (Reason::SnapshotRollback, format!("at least {current}")),
            Self::Conflict { .. } => {
                (Reason::SnapshotRollback, "the content that was signed before".to_owned())
            }
            Self::Crypto(_) => (Reason::Internal, "a working cryptographic library".to_owned()),
        };
        Finding::new(reason, "snapshot", expected, self.to_string())
    }
}

impl Version {
    /// The version of a body.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let mut version = [0; 32];
        version.copy_from_slice(digest::digest(&digest::SHA256, body).as_ref());
        Self(version)
    }

    /// From lower-case hexadecimal.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut version = [0; 32];
        hex::decode_to_slice(text, &mut version).ok()?;
        (!text.bytes().any(|b| b.is_ascii_uppercase())).then_some(Self(version))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Entry {
    /// An entry; its version is computed.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self { version: Version::of(&body), body }
    }

    /// SHA-256 of the body.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    pub(crate) fn read(entry: proto::Entry) -> Result<(Arc<str>, Self), SnapshotError> {
        if !is_well_formed(&entry.name) {
            return Err(SnapshotError::Malformed(
                "an entry's name is empty, too long or not printable".into(),
            ));
        }
        if entry.body.len() > MAX_BODY {
            return Err(SnapshotError::Oversized {
                what: "bytes in one entry",
                limit: MAX_BODY,
                presented: entry.body.len(),
            });
        }
        let read = Self::new(entry.body);
        if Version::parse(&entry.version) != Some(read.version) {
            return Err(SnapshotError::Malformed(format!(
                "{} does not have the version it names",
                entry.name
            )));
        }
        Ok((entry.name.into(), read))
    }

    pub(crate) fn write(&self, name: &str) -> proto::Entry {
        proto::Entry { name: name.to_owned(), version: self.version.to_string(), body: self.body.clone() }
    }
}

/// Checks the limits of a whole set of entries.
pub(crate) fn check_limits(entries: &Entries) -> Result<(), SnapshotError> {
    if entries.len() > MAX_ENTRIES {
        return Err(SnapshotError::Oversized {
            what: "entries",
            limit: MAX_ENTRIES,
            presented: entries.len(),
        });
    }
    let total: usize = entries.values().map(|e| e.body.len()).sum();
    if total > MAX_SNAPSHOT {
        return Err(SnapshotError::Oversized { what: "bytes", limit: MAX_SNAPSHOT, presented: total });
    }
    if let Some((_, entry)) = entries.iter().find(|(_, e)| e.body.len() > MAX_BODY) {
        let presented = entry.body.len();
        return Err(SnapshotError::Oversized { what: "bytes in one entry", limit: MAX_BODY, presented });
    }
    if let Some(name) = entries.keys().find(|name| !is_well_formed(name)) {
        return Err(SnapshotError::Malformed(format!("{name:?} cannot be the name of an entry")));
    }
    Ok(())
}

/// What is signed, see the module's page. Lengths fit: names are bounded by
/// [`MAX_NAME`](crate::MAX_NAME), trust domains by 255, entries by [`MAX_ENTRIES`].
#[allow(clippy::cast_possible_truncation, reason = "bounded, see above")]
fn signed_bytes(trust_domain: &TrustDomain, generation: u64, entries: &Entries) -> Vec<u8> {
    let names: usize = entries.keys().map(|name| name.len() + 34).sum();
    let mut out = Vec::with_capacity(LABEL.len() + trust_domain.as_str().len() + names + 14);
    out.push(LABEL.len() as u8);
    out.extend_from_slice(LABEL);
    out.push(trust_domain.as_str().len() as u8);
    out.extend_from_slice(trust_domain.as_str().as_bytes());
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    for (name, entry) in entries {
        out.extend_from_slice(&(name.len() as u16).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&entry.version.0);
    }
    out
}

impl Snapshot {
    /// Signs a set of entries as `generation`.
    ///
    /// # Errors
    /// When a limit is exceeded or signing fails.
    pub fn sign(
        trust_domain: TrustDomain,
        generation: u64,
        entries: Entries,
        key: &SnapshotKey,
    ) -> Result<Self, SnapshotError> {
        check_limits(&entries)?;
        let signature = key.sign(&signed_bytes(&trust_domain, generation, &entries))?;
        Ok(Self { trust_domain, generation, entries, signature, kid: key.kid.clone() })
    }

    /// The trust domain that it is for.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its generation, from 1.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Everything in it.
    #[must_use]
    pub const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The name of the key that signed it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) const fn signature(&self) -> &Bytes {
        &self.signature
    }

    /// Whether `self` may follow `current`: its generation is greater, or it is the same.
    ///
    /// # Errors
    /// `Rollback` or `Conflict`.
    pub fn may_follow(&self, current: &Self) -> Result<(), SnapshotError> {
        if self.generation < current.generation {
            let (current, presented) = (current.generation, self.generation);
            return Err(SnapshotError::Rollback { current, presented });
        }
        if self.generation == current.generation && self.entries != current.entries {
            return Err(SnapshotError::Conflict { generation: self.generation });
        }
        Ok(())
    }

    /// For the disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::StoredSnapshot {
            trust_domain: self.trust_domain.as_str().to_owned(),
            generation: self.generation,
            entries: self.entries.iter().map(|(name, entry)| entry.write(name)).collect(),
            signature: self.signature.clone(),
            kid: self.kid.clone(),
        }
        .encode_to_vec()
    }
}

impl Unverified {
    pub(crate) const fn new(
        trust_domain: TrustDomain,
        generation: u64,
        entries: Entries,
        signature: Bytes,
        kid: String,
    ) -> Self {
        Self { trust_domain, generation, entries, signature, kid }
    }

    /// Reads what [`Snapshot::encode`] wrote.
    ///
    /// # Errors
    /// When it is malformed or exceeds a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        // Names and versions on top of the bodies.
        let limit = MAX_SNAPSHOT + (16 << 20);
        if bytes.len() > limit {
            return Err(SnapshotError::Oversized { what: "bytes", limit, presented: bytes.len() });
        }
        let stored = proto::StoredSnapshot::decode(bytes)
            .map_err(|_| SnapshotError::Malformed("not a stored snapshot".into()))?;
        let trust_domain = TrustDomain::parse(&stored.trust_domain)
            .map_err(|finding| SnapshotError::Malformed(finding.to_string()))?;
        let mut entries = Entries::new();
        for entry in stored.entries {
            let (name, entry) = Entry::read(entry)?;
            if entries.insert(Arc::clone(&name), entry).is_some() {
                return Err(SnapshotError::Malformed(format!("{name} is there twice")));
            }
        }
        check_limits(&entries)?;
        Ok(Self::new(trust_domain, stored.generation, entries, stored.signature, stored.kid))
    }

    /// Checks the signature by the snapshot keys of `bundle`.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn verify(self, bundle: &Bundle) -> Result<Snapshot, SnapshotError> {
        let Self { trust_domain, generation, entries, signature, kid } = self;
        if trust_domain != bundle.trust_domain {
            let expected = bundle.trust_domain.clone();
            return Err(SnapshotError::TrustDomain { expected, presented: trust_domain });
        }
        let Some((_, point)) = bundle.snapshot_keys.iter().find(|(name, _)| *name == kid) else {
            return Err(SnapshotError::UnknownKey { kid });
        };
        check_limits(&entries)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(&signed_bytes(&trust_domain, generation, &entries), &signature)
            .map_err(|_| SnapshotError::BadSignature { generation, kid: kid.clone() })?;
        Ok(Snapshot { trust_domain, generation, entries, signature, kid })
    }
}

/// The key that signs snapshots. The bundle carries its public half.
pub struct SnapshotKey {
    pair: EcdsaKeyPair,
    kid: String,
}

impl fmt::Debug for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SnapshotKey {
    /// A new key.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub fn generate() -> Result<Self, SnapshotError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(Self::from_pair)
            .map_err(|_| SnapshotError::Crypto("generate a snapshot key"))
    }

    /// Reads PKCS#8 DER.
    ///
    /// # Errors
    /// When it is not a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SnapshotError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map(Self::from_pair)
            .map_err(|_| SnapshotError::Crypto("read the snapshot key"))
    }

    /// PKCS#8 DER, to be stored.
    ///
    /// # Errors
    /// When the library cannot export it.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SnapshotError> {
        self.pair
            .to_pkcs8v1()
            .map(|document| Zeroizing::new(document.as_ref().to_vec()))
            .map_err(|_| SnapshotError::Crypto("export the snapshot key"))
    }

    /// The name and the uncompressed point, as in `Bundle::snapshot_keys`.
    #[must_use]
    pub fn public(&self) -> (String, Vec<u8>) {
        (self.kid.clone(), self.pair.public_key().as_ref().to_vec())
    }

    fn from_pair(pair: EcdsaKeyPair) -> Self {
        let digest = digest::digest(&digest::SHA256, pair.public_key().as_ref());
        let kid = hex::encode(digest.as_ref().first_chunk::<8>().unwrap_or(&[0; 8]));
        Self { pair, kid }
    }

    fn sign(&self, message: &[u8]) -> Result<Bytes, SnapshotError> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| Bytes::copy_from_slice(signature.as_ref()))
            .map_err(|_| SnapshotError::Crypto("sign the snapshot"))
    }
}
