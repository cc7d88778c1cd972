//! Endorsements of the vendors: what they publish about platforms.
//!
//! Collateral is appraised once, when it arrives: signatures, chains and marks.
//! After that a verification only looks things up and compares times.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::anchors::Anchors;
use crate::claims::Window;
use crate::finding::Finding;
use crate::x509::{Certificate, Crl};

/// A file as it was fetched: its content says what it is.
///
/// Understood are, each as DER or PEM where that applies: certificates and
/// chains, CRLs; signed TCB info and QE identity as JSON (Intel PCS v4); the
/// JSON collateral file of dcap-qvl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it came from, for messages.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The newest issue of each piece that was ever in use: nothing older is
/// accepted again (3-attestation, A13).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Marks {
    /// By kind and subject, for example `tcbInfo tdx 90c06f000000`, the issue
    /// number (tcbEvaluationDataNumber, CRL number) and the issue time.
    pub newest: BTreeMap<String, Mark>,
}

/// An issue of a piece of collateral.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Mark {
    /// tcbEvaluationDataNumber or CRL number (its low 64 bits); 0 when there is none.
    pub number: u64,
    /// issueDate or thisUpdate, seconds since the epoch.
    pub issued: u64,
}

/// Collateral whose signatures have been verified.
#[derive(Clone, Debug, Default)]
pub struct Collateral {
    /// SHA-256 over the items it was made from: what it is, for caches and logs.
    id: [u8; 32],
    certificates: Vec<Arc<Certificate>>,
    crls: Vec<Arc<Crl>>,
}

/// What came of appraising a set of items.
#[derive(Clone, Debug, Default)]
pub struct Appraised {
    /// What can be used.
    pub collateral: Collateral,
    /// The items that cannot, with the reason; the others are used all the same.
    pub refused: Vec<(String, Finding)>,
}

/// One line of an inventory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `tcbInfo`, `qeIdentity`, `crl`, `certificate`.
    pub kind: &'static str,
    /// What it is about, for example `tdx fmspc 90c06f000000`.
    pub subject: String,
    /// When it may be used.
    pub window: Window,
    /// Whether it ends in an emulated root.
    pub emulated: bool,
}

impl Collateral {
    /// Appraises `items`: verifies each signature and chain, keeps the newest
    /// issue of each piece, refuses what is older than `marks` and moves them.
    ///
    /// Items that are expired at `now` are kept with their window (a
    /// verification then says `collateral-expired` and for how long).
    #[must_use]
    pub fn appraise(items: &[Item], anchors: &Anchors, marks: &mut Marks, now: UnixTime) -> Appraised {
        let _ = (items, anchors, marks, now);
        todo!()
    }

    /// SHA-256 over what it was made from.
    #[must_use]
    pub const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// All certificates that came with the items, each once, of all vendors.
    /// They are parsed; a path through them must still be validated, with
    /// [`find_path`](crate::x509::find_path).
    pub(crate) fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }

    /// The newest revocation list that `issuer` signed, whose issuer's path to
    /// an anchor and signature were verified. Its window must still be compared
    /// with the time, and its root with that of the chain in question.
    pub(crate) fn crl_for(&self, issuer: &Certificate) -> Option<&Arc<Crl>> {
        self.crls.iter().find(|crl| crl.signer() == issuer.fingerprint())
    }

    /// Everything that is in it, sorted.
    #[must_use]
    pub fn inventory(&self) -> Vec<Entry> {
        todo!()
    }
}
