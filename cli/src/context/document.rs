//! `operator.yaml` as the control plane writes it.
//!
//! It holds a private key, so what is wrong with it is told by line, column and
//! the names of our own fields: nothing that stands in it is repeated, neither
//! as a value nor as a snippet, for errors end in terminals, logs and tickets.

use std::fmt;
use std::path::PathBuf;

use countersign_config::document::{Entry, Node, Position, Value, read};

const FIELDS: [&str; 10] = [
    "apiVersion",
    "kind",
    "server",
    "trustDomain",
    "controlPlaneId",
    "bundle",
    "certificate",
    "key",
    "attestation",
    "collateral",
];

/// The fields that say something.
pub(super) struct Document {
    pub(super) server: String,
    pub(super) trust_domain: String,
    pub(super) control_plane_id: String,
    pub(super) bundle: String,
    pub(super) certificate: String,
    pub(super) key: String,
    /// AttestationPolicy and ReferenceValues that the control plane must satisfy.
    pub(super) attestation: Option<PathBuf>,
    /// Collateral for that.
    pub(super) collateral: Vec<PathBuf>,
}

impl Document {
    /// Reads the text; `file` is its name in messages.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, Mistake> {
        let mistake = |at: Position, what: String| Mistake { file: file.to_owned(), at, what };
        let nodes = read(file, text).map_err(|problem| {
            let at = Position { line: problem.line, column: problem.column };
            mistake(at, "not valid YAML".to_owned())
        })?;
        let [Node { at, value: Value::Map(entries) }] = nodes.as_slice() else {
            return Err(mistake(Position::default(), "is not one document with fields".to_owned()));
        };
        let fields = Fields { start: *at, entries, mistake: &mistake };
        fields.are_known()?;
        Ok(Self {
            server: fields.required("server")?,
            trust_domain: fields.required("trustDomain")?,
            control_plane_id: fields.required("controlPlaneId")?,
            bundle: fields.required("bundle")?,
            certificate: fields.required("certificate")?,
            key: fields.required("key")?,
            attestation: fields.text("attestation")?.map(PathBuf::from),
            collateral: fields.list("collateral")?.into_iter().map(PathBuf::from).collect(),
        })
    }
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Mistake {
    file: String,
    at: Position,
    what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.at.line > 0 {
            write!(f, ":{}:{}", self.at.line, self.at.column)?;
        }
        write!(
            f,
            ": not an operator's context: {} (its text is not shown: it holds a private key)",
            self.what
        )
    }
}

struct Fields<'a, M> {
    start: Position,
    entries: &'a [Entry],
    mistake: &'a M,
}

impl<M: Fn(Position, String) -> Mistake> Fields<'_, M> {
    /// What is no field of ours may be a line of the key that lost its indentation.
    fn are_known(&self) -> Result<(), Mistake> {
        match self.entries.iter().find(|entry| !FIELDS.contains(&entry.key.as_str())) {
            None => Ok(()),
            Some(entry) => {
                let accepted = FIELDS.join(", ");
                Err((self.mistake)(entry.at, format!("an unknown field, accepted: {accepted}")))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&Node> {
        self.entries.iter().find(|e| e.key == name).map(|e| &e.node).filter(|n| n.value != Value::Null)
    }

    fn text(&self, name: &str) -> Result<Option<String>, Mistake> {
        self.get(name).map(|node| self.as_text(name, node)).transpose()
    }

    fn required(&self, name: &str) -> Result<String, Mistake> {
        self.text(name)?.ok_or_else(|| (self.mistake)(self.start, format!("{name} is missing")))
    }

    fn list(&self, name: &str) -> Result<Vec<String>, Mistake> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Node { value: Value::List(items), .. }) => {
                items.iter().map(|item| self.as_text(name, item)).collect()
            }
            Some(other) => Err((self.mistake)(other.at, format!("{name} is not a list"))),
        }
    }

    fn as_text(&self, name: &str, node: &Node) -> Result<String, Mistake> {
        let text = node.as_str().map(str::to_owned);
        text.ok_or_else(|| (self.mistake)(node.at, format!("{name} is not text")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: countersign.dev/v1alpha1\nkind: OperatorContext\nserver: 127.0.0.1:1\n\
        trustDomain: prod.example\ncontrolPlaneId: spiffe://prod.example/cp\nbundle: \"{}\"\n\
        certificate: |\n  -----BEGIN CERTIFICATE-----\n  Q0VSVA==\n  -----END CERTIFICATE-----\n\
        key: |\n  -----BEGIN PRIVATE KEY-----\n  U0VDUkVUS0VZMQ\n  U0VDUkVUS0VZMg==\n  -----END PRIVATE KEY-----\n\
        attestation: policy.yaml\ncollateral: [collateral]\n";

    #[test]
    fn the_fields_are_read() {
        let document = Document::parse("o.yaml", GOOD).unwrap_or_else(|mistake| panic!("{mistake}"));
        assert_eq!(document.server, "127.0.0.1:1");
        assert!(document.key.contains("U0VDUkVUS0VZMg=="));
        assert_eq!(document.attestation, Some(PathBuf::from("policy.yaml")));
        assert_eq!(document.collateral, [PathBuf::from("collateral")]);
    }

    #[test]
    fn no_mistake_shows_a_line_of_the_key() {
        for (from, to, wanted) in [
            ("  U0VDUkVUS0VZMQ", "U0VDUkVUS0VZMQ", "not valid YAML"),
            ("  U0VDUkVUS0VZMQ", "U0VDUkVUS0VZMQ: x", "o.yaml:13:1: "),
            ("key: |", "kye: |", "o.yaml:11:1: not an operator's context: an unknown field"),
            ("key: |", "key:\n  U0VDUkVUS0VZMw: |", "o.yaml:"),
            ("key: |", "kind: |", "not valid YAML"),
            ("attestation: policy.yaml", "attestaton: policy.yaml", "o.yaml:16:1: "),
            ("attestation: policy.yaml", "attestation: {U0VDUkVUS0VZMQ: 1}", "attestation is not text"),
            ("collateral: [collateral]", "collateral: U0VDUkVUS0VZMQ", "collateral is not a list"),
            ("server: 127.0.0.1:1\n", "", "server is missing"),
            ("  -----END PRIVATE KEY-----", "-----END PRIVATE KEY-----", "not an operator's context"),
            ("kind: OperatorContext", "? U0VDUkVUS0VZMQ", "not an operator's context"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let Err(mistake) = Document::parse("o.yaml", &text) else { panic!("{to} is accepted") };
            let mistake = mistake.to_string();
            assert!(!mistake.contains("U0VD"), "{mistake}");
            assert!(mistake.contains(wanted), "{mistake}\nis not about: {wanted}");
        }
    }
}
