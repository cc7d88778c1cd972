//! What is quoted: keys and sessions, and nothing that a caller hashed himself.

use countersign_evidence::{Finding, Reason};
use countersign_ratls::binding::{KeyContext, ReportData, SessionCore, batch_report_data, key_report_data};
use countersign_ratls::merkle::{Node, Tree};

/// The most sessions that one quote speaks of.
pub const MAX_LEAVES: usize = 1024;

/// What one quote is made for. The report data follows from it and cannot be
/// chosen (3-attestation, A6 and A14).
#[derive(Clone, Debug)]
pub enum Subject {
    /// A key, by its context.
    Key(Key),
    /// Sessions, by their cores.
    Sessions(Batch),
}

/// A key, with the context that was checked.
#[derive(Clone, Debug)]
pub struct Key {
    context: Vec<u8>,
    report_data: ReportData,
}

impl Key {
    /// The bytes of the context, for a broker that hashes them itself.
    #[must_use]
    pub fn context(&self) -> &[u8] {
        &self.context
    }
}

impl Subject {
    /// The key of this context (the bytes of `key-ctx`).
    ///
    /// # Errors
    /// When the bytes are not a key context.
    pub fn key(context: &[u8]) -> Result<Self, Finding> {
        KeyContext::decode(context)?;
        let report_data = key_report_data(context, &[]);
        Ok(Self::Key(Key { context: context.to_vec(), report_data }))
    }

    /// The sessions of these cores.
    ///
    /// # Errors
    /// When there is none, or more than [`MAX_LEAVES`].
    pub fn sessions(cores: Vec<SessionCore>) -> Result<Self, Finding> {
        Batch::new(cores).map(Self::Sessions)
    }

    /// The report data.
    #[must_use]
    pub const fn report_data(&self) -> &ReportData {
        match self {
            Self::Key(key) => &key.report_data,
            Self::Sessions(batch) => &batch.report_data,
        }
    }

    /// The purpose, for logs.
    #[must_use]
    pub const fn purpose(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Sessions(_) => "session",
        }
    }

    /// How many keys or sessions it speaks of.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Key(_) => 1,
            Self::Sessions(batch) => batch.binders.len(),
        }
    }

    /// Never: an empty subject cannot be made.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sessions under one quote: one directly, several as a Merkle tree
/// (3-attestation, section 4.2).
#[derive(Clone, Debug)]
pub struct Batch {
    cores: Vec<SessionCore>,
    binders: Vec<ReportData>,
    tree: Option<Tree>,
    report_data: ReportData,
}

impl Batch {
    fn new(cores: Vec<SessionCore>) -> Result<Self, Finding> {
        let presented = cores.len();
        let wrong = || {
            let expected = format!("1 to {MAX_LEAVES} sessions");
            Finding::new(Reason::Oversized, "sessions of a quote", expected, presented.to_string())
        };
        if presented > MAX_LEAVES {
            return Err(wrong());
        }
        let binders: Vec<ReportData> = cores.iter().map(|core| core.binder(&[])).collect();
        if let [only] = binders.as_slice() {
            return Ok(Self { report_data: only.clone(), cores, binders, tree: None });
        }
        let tree = Tree::new(binders.iter().map(ReportData::as_bytes));
        let root = tree.root().ok_or_else(wrong)?;
        let report_data = batch_report_data(binders.len() as u64, &root);
        Ok(Self { cores, binders, tree: Some(tree), report_data })
    }

    /// The cores, for a broker that derives the binders itself.
    #[must_use]
    pub fn cores(&self) -> &[SessionCore] {
        &self.cores
    }

    /// The binders, in the order of the leaves.
    #[must_use]
    pub fn binders(&self) -> &[ReportData] {
        &self.binders
    }

    /// The proof of the leaf at `index`; `None` when the quote is over the only
    /// binder itself.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<Vec<Node>> {
        self.tree.as_ref()?.proof(index)
    }
}
