//! What is wrong with a document, and where.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted; somebody should look.
    Warning,
}

/// One problem of a document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The file as the operator named it; `-` for standard input.
    pub file: String,
    /// From 1; 0 when there is no position.
    pub line: u64,
    /// From 1; 0 when there is no position.
    pub column: u64,
    /// The place in the document, for example `spec.anyOf[0].tdx.tcbStatus`.
    pub path: String,
    /// What is wrong, with the value that was found and what would be accepted.
    pub message: String,
    /// What to do, for example the nearest known name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}
