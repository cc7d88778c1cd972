//! Names of entries: `resource/<Kind>/<namespace>/<name>`, `collateral/<item>`,
//! `bundle/<trust domain>`.

use std::fmt;

use countersign_config::{Key, Kind};

use crate::MAX_NAME;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryName {
    /// A resource. The namespace of a `TrustDomain` is empty.
    Resource(Key),
    /// A piece of vendor collateral, by the name of its item.
    Collateral(String),
    /// The bundle of a trust domain.
    Bundle(String),
}

impl EntryName {
    /// Reads a name. `None` when it is none of the forms, or too long.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !is_well_formed(text) {
            return None;
        }
        let (form, rest) = text.split_once('/')?;
        match form {
            "collateral" => Some(Self::Collateral(rest.to_owned())),
            "bundle" => Some(Self::Bundle(rest.to_owned())),
            "resource" => {
                let mut parts = rest.split('/');
                let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
                if parts.next().is_some() {
                    return None;
                }
                let kind = Kind::ALL.into_iter().find(|k| k.name() == kind)?;
                Some(Self::Resource(Key { kind, namespace: namespace.to_owned(), name: name.to_owned() }))
            }
            _ => None,
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(Key { kind, namespace, name }) => {
                write!(f, "resource/{}/{namespace}/{name}", kind.name())
            }
            Self::Collateral(item) => write!(f, "collateral/{item}"),
            Self::Bundle(trust_domain) => write!(f, "bundle/{trust_domain}"),
        }
    }
}

/// Whether a name may travel: printable ASCII, not empty, bounded. Forms that
/// this build does not know travel too; a newer control plane may send them.
#[must_use]
pub fn is_well_formed(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_were_written() {
        for text in [
            "resource/AttestationPolicy/payments/ledger-peers",
            "resource/TrustDomain//prod.example",
            "collateral/intel/tcb-info.json",
            "bundle/prod.example",
        ] {
            assert_eq!(EntryName::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn other_names_are_not_read() {
        let long = format!("collateral/{}", "x".repeat(MAX_NAME));
        for text in ["", "resource", "resource/Nothing/a/b", "resource/TrustDomain/a", "secret/x", &long] {
            assert_eq!(EntryName::parse(text), None, "{text}");
        }
        assert_eq!(EntryName::parse("resource/TrustDomain/a/b/c"), None);
        assert_eq!(EntryName::parse("collateral/with\nnewline"), None);
    }
}
