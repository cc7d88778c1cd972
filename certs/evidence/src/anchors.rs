//! Which vendor roots end a chain.

use std::fmt;

/// SHA-256 of a certificate's DER encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a DER-encoded certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(crate::bytes::sha256(der))
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).ok().map(|()| Self(out))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The roots at which a verification may end.
///
/// A verification needs to know where chains may end; whether a particular
/// policy admits that root is decided again at appraisal, from
/// [`Claims::root`](crate::Claims). So this is the union over all policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors {
    vendor: Vec<Fingerprint>,
    emulated: Vec<Fingerprint>,
}

/// What kind of root a chain ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    /// A vendor of hardware, or somebody whom an operator names as one.
    Vendor,
    /// A root of emulated platforms.
    Emulated,
}

/// Intel SGX Root CA (also the root of TDX).
pub const INTEL_SGX_ROOT: Fingerprint =
    fingerprint("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3");
/// AMD Root Key of Milan.
pub const ARK_MILAN: Fingerprint =
    fingerprint("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd");
/// AMD Root Key of Genoa, Bergamo and Siena.
pub const ARK_GENOA: Fingerprint =
    fingerprint("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1");
/// AMD Root Key of Turin.
pub const ARK_TURIN: Fingerprint =
    fingerprint("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a");

/// The vendor roots that are built in.
pub const BUILT_IN: [Fingerprint; 4] = [INTEL_SGX_ROOT, ARK_MILAN, ARK_GENOA, ARK_TURIN];

impl Default for Anchors {
    fn default() -> Self {
        Self { vendor: BUILT_IN.to_vec(), emulated: Vec::new() }
    }
}

impl Anchors {
    /// The built-in vendor roots.
    #[must_use]
    pub fn built_in() -> Self {
        Self::default()
    }

    /// Exactly these roots.
    #[must_use]
    pub fn new(vendor: Vec<Fingerprint>, emulated: Vec<Fingerprint>) -> Self {
        Self { vendor, emulated }
    }

    /// Adds a vendor root.
    pub fn admit_vendor(&mut self, root: Fingerprint) {
        if !self.vendor.contains(&root) {
            self.vendor.push(root);
        }
    }

    /// Adds a root of emulated platforms.
    pub fn admit_emulated(&mut self, root: Fingerprint) {
        if !self.emulated.contains(&root) {
            self.emulated.push(root);
        }
    }

    /// All of them, vendors' first.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Fingerprint> {
        self.vendor.iter().chain(&self.emulated)
    }

    /// What this root is, if a chain may end there at all. A root that is named
    /// both as a vendor's and as emulated counts as emulated.
    #[must_use]
    pub fn kind(&self, root: &Fingerprint) -> Option<RootKind> {
        if self.emulated.contains(root) {
            Some(RootKind::Emulated)
        } else if self.vendor.contains(root) {
            Some(RootKind::Vendor)
        } else {
            None
        }
    }
}

const fn fingerprint(hex: &str) -> Fingerprint {
    const fn digit(c: u8) -> u8 {
        match c {
            b'0'..=b'9' => c - b'0',
            _ => c - b'a' + 10,
        }
    }
    let mut rest = hex.as_bytes();
    let mut out = [0; 32];
    let mut todo: &mut [u8] = &mut out;
    while let ([high, low, tail @ ..], [byte, left @ ..]) = (rest, todo) {
        *byte = digit(*high) << 4 | digit(*low);
        rest = tail;
        todo = left;
    }
    Fingerprint(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_what_they_say() {
        assert!(INTEL_SGX_ROOT.to_string().starts_with("44a0196b"));
        assert!(ARK_TURIN.to_string().ends_with("dd3f6a"));
    }

    #[test]
    fn a_root_named_both_ways_is_emulated() {
        let mut anchors = Anchors::built_in();
        anchors.admit_emulated(ARK_MILAN);
        assert_eq!(anchors.kind(&ARK_MILAN), Some(RootKind::Emulated));
        assert_eq!(anchors.kind(&ARK_GENOA), Some(RootKind::Vendor));
        assert_eq!(anchors.kind(&Fingerprint([0; 32])), None);
    }
}
