//! SPIFFE IDs (SPIFFE-ID specification, section 2), trust domains, patterns.

use std::fmt;

use countersign_evidence::Finding;

/// A trust domain: `[a-z0-9.-_]`, 1 to 255 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

/// `spiffe://trust-domain/path`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(String);

/// An exact SPIFFE ID, or one that ends in `/*` and covers everything below; `*` covers all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdPattern(String);

impl TrustDomain {
    /// Checks the grammar.
    ///
    /// # Errors
    /// `svid-invalid` with the character or length that is wrong.
    pub fn parse(text: &str) -> Result<Self, Finding> {
        let _ = text;
        todo!()
    }
    /// The name, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Checks the grammar (path may be empty: a trust domain's own ID).
    ///
    /// # Errors
    /// `svid-invalid` with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Finding> {
        let _ = text;
        todo!()
    }
    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        todo!()
    }
    /// The path with its leading slash, or empty.
    #[must_use]
    pub fn path(&self) -> &str {
        todo!()
    }
}

impl IdPattern {
    /// Checks the grammar.
    ///
    /// # Errors
    /// `svid-invalid` with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Finding> {
        let _ = text;
        todo!()
    }
    /// Whether the pattern covers `id`.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let _ = id;
        todo!()
    }
    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
