//! SPIFFE IDs (SPIFFE-ID specification, section 2), trust domains, patterns.

use std::fmt;

use countersign_evidence::{Finding, Reason};

const SCHEME: &str = "spiffe://";

/// SPIFFE-ID specification, section 2.3: no implementation may make longer ones.
const MAX_ID: usize = 2048;

/// SPIFFE-ID specification, section 2.1.
const MAX_TRUST_DOMAIN: usize = 255;

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
        check_trust_domain(text)?;
        Ok(Self(text.to_owned()))
    }
    /// The name, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The trust domain's own ID, `spiffe://trust-domain`.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId(format!("{SCHEME}{}", self.0))
    }
}

impl SpiffeId {
    /// Checks the grammar (path may be empty: a trust domain's own ID).
    ///
    /// # Errors
    /// `svid-invalid` with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Finding> {
        let (trust_domain, path) = split(text)?;
        check_trust_domain(trust_domain)?;
        if !path.is_empty() {
            check_path(path)?;
        }
        Ok(Self(text.to_owned()))
    }
    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().to_owned())
    }
    /// Whether the ID is of this trust domain. Unlike a comparison with
    /// [`SpiffeId::trust_domain`], this does not allocate.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_str() == trust_domain.0
    }
    /// The path with its leading slash, or empty.
    #[must_use]
    pub fn path(&self) -> &str {
        let rest = self.rest();
        rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
    }

    fn trust_domain_str(&self) -> &str {
        let rest = self.rest();
        rest.split_once('/').map_or(rest, |(trust_domain, _)| trust_domain)
    }

    fn rest(&self) -> &str {
        self.0.strip_prefix(SCHEME).unwrap_or_default()
    }
}

impl IdPattern {
    /// Checks the grammar.
    ///
    /// # Errors
    /// `svid-invalid` with the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, Finding> {
        let id = match text {
            "*" => None,
            _ => Some(text.strip_suffix("/*").unwrap_or(text)),
        };
        if let Some(id) = id {
            SpiffeId::parse(id)?;
        }
        Ok(Self(text.to_owned()))
    }
    /// Whether the pattern covers `id`.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self.0.strip_suffix('*') {
            None => self.0 == id.0,
            // The prefix ends in a slash, or is empty.
            Some(prefix) => id.0.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
        }
    }
    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&SpiffeId> for IdPattern {
    fn from(id: &SpiffeId) -> Self {
        Self(id.0.clone())
    }
}

/// Trust domain and path (with its leading slash, or empty).
fn split(text: &str) -> Result<(&str, &str), Finding> {
    if text.len() > MAX_ID {
        return Err(invalid("SPIFFE ID", format!("at most {MAX_ID} bytes"), format!("{} bytes", text.len())));
    }
    // The scheme compares case-insensitively in the specification; we refuse
    // upper case instead of folding it, so that one ID has one spelling.
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return Err(invalid("SPIFFE ID", "spiffe://trust-domain/path", quoted(text)));
    };
    Ok(rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, "")))
}

fn check_trust_domain(text: &str) -> Result<(), Finding> {
    if text.is_empty() || text.len() > MAX_TRUST_DOMAIN {
        let expected = format!("1 to {MAX_TRUST_DOMAIN} characters");
        return Err(invalid("trust domain", expected, format!("{} characters", text.len())));
    }
    match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
        None => Ok(()),
        Some(c) => {
            Err(invalid("trust domain", "characters a-z 0-9 . - _", format!("{c:?} in {}", quoted(text))))
        }
    }
}

fn check_path(path: &str) -> Result<(), Finding> {
    for segment in path.split('/').skip(1) {
        if segment.is_empty() {
            return Err(invalid("SPIFFE ID path", "no empty segment, no trailing slash", quoted(path)));
        }
        if matches!(segment, "." | "..") {
            return Err(invalid("SPIFFE ID path", "no segment . or ..", quoted(path)));
        }
        let wrong = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if let Some(c) = segment.chars().find(wrong) {
            let expected = "segments of characters a-z A-Z 0-9 . - _";
            return Err(invalid("SPIFFE ID path", expected, format!("{c:?} in {}", quoted(path))));
        }
    }
    Ok(())
}

fn invalid(field: &str, expected: impl Into<String>, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::SvidInvalid, field, expected, presented)
}

/// The start of a text that may be long and may contain anything.
fn quoted(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    let dots = if start.len() < text.len() { "..." } else { "" };
    format!("{start:?}{dots}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_split_into_trust_domain_and_path() {
        let id = SpiffeId::parse("spiffe://td.example-1_x/ns/Prod/sa/web.1-_").unwrap();
        assert_eq!(id.trust_domain().as_str(), "td.example-1_x");
        assert_eq!(id.path(), "/ns/Prod/sa/web.1-_");
        assert!(id.is_member_of(&TrustDomain::parse("td.example-1_x").unwrap()));
        let root = SpiffeId::parse("spiffe://td").unwrap();
        assert_eq!((root.trust_domain().as_str(), root.path()), ("td", ""));
        assert_eq!(root.trust_domain().id(), root);
    }

    #[test]
    fn what_the_grammar_excludes_is_refused() {
        for wrong in [
            "",
            "spiffe:/td/a",
            "SPIFFE://td/a",
            "https://td/a",
            "spiffe://",
            "spiffe:///a",
            "spiffe://TD/a",
            "spiffe://user@td/a",
            "spiffe://td:80/a",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/./a",
            "spiffe://td/a/..",
            "spiffe://td/a%20b",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td?a",
            "spiffe://td/ü",
            "spiffe://tä/a",
            "spiffe://td/a*",
            "spiffe://td/*",
        ] {
            assert_eq!(SpiffeId::parse(wrong).unwrap_err().reason, Reason::SvidInvalid, "{wrong}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_specification() {
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        assert!(TrustDomain::parse(&"a".repeat(256)).is_err());
        let id = format!("spiffe://td/{}", "a".repeat(MAX_ID - "spiffe://td/".len()));
        assert!(SpiffeId::parse(&id).is_ok());
        assert!(SpiffeId::parse(&(id + "a")).is_err());
    }

    #[test]
    fn patterns_cover_what_is_below_them_and_nothing_else() {
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        let matches = |pattern: &str, other: &str| IdPattern::parse(pattern).unwrap().matches(&id(other));
        assert!(matches("*", "spiffe://td/a"));
        assert!(matches("spiffe://td/*", "spiffe://td/a/b"));
        assert!(!matches("spiffe://td/*", "spiffe://td"));
        assert!(!matches("spiffe://td/*", "spiffe://td2/a"));
        assert!(matches("spiffe://td/ns/a/*", "spiffe://td/ns/a/b"));
        assert!(!matches("spiffe://td/ns/a/*", "spiffe://td/ns/a"));
        assert!(!matches("spiffe://td/ns/a/*", "spiffe://td/ns/ab"));
        assert!(matches("spiffe://td/a", "spiffe://td/a"));
        assert!(!matches("spiffe://td/a", "spiffe://td/A"));
    }

    #[test]
    fn a_star_stands_only_at_the_end_of_a_pattern() {
        for wrong in
            ["", "**", "*/a", "/*", "spiffe://*", "spiffe://td/*/a", "spiffe://td/a*", "spiffe://*/a"]
        {
            assert!(IdPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
