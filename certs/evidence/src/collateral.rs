//! Endorsements of the vendors: what they publish about platforms.
//!
//! Collateral is appraised once, when it arrives: signatures, chains and marks.
//! After that a verification only looks things up and compares times.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::anchors::{Anchors, Fingerprint, RootKind};
use crate::bytes::sha256;
use crate::claims::{Tee, Window};
use crate::finding::Finding;
use crate::intel::collateral::{Endorsed, Kind, QeIdentity, Signed, TcbInfo, invalid, is_signer};
use crate::reason::Reason;
use crate::x509::{ALL_ALGORITHMS, Certificate, Crl, INTEL_ALGORITHMS, Path, find_path};

mod intake;
use self::intake::Intake;

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
    anchors: Anchors,
    certificates: Vec<Arc<Certificate>>,
    crls: Vec<Arc<Crl>>,
    tcb_infos: Vec<Arc<Endorsed<TcbInfo>>>,
    qe_identities: Vec<Arc<Endorsed<QeIdentity>>>,
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
        let mut intake = Intake::default();
        let mut id = Vec::with_capacity(32 * items.len());
        for item in items {
            id.extend_from_slice(&sha256(&item.bytes));
            intake.sort(item);
        }
        let mut out = Self { id: sha256(&id), anchors: anchors.clone(), ..Self::default() };
        let now = now.as_secs();
        let mut refused = intake.refused;
        out.certificates = intake.certificates;
        for (name, der) in intake.crls {
            out.admit_crl(&der, anchors, marks, now).unwrap_or_else(|f| refused.push((name, f)));
        }
        for (name, kind, body, signature) in intake.signed {
            let signed = Signed { kind, body: &body, signature };
            out.admit_signed(&signed, anchors, marks, now).unwrap_or_else(|f| refused.push((name, f)));
        }
        Appraised { collateral: out, refused }
    }

    fn admit_crl(
        &mut self,
        der: &[u8],
        anchors: &Anchors,
        marks: &mut Marks,
        now: u64,
    ) -> Result<(), Finding> {
        let issuer = Crl::peek_issuer(der)?;
        let mut failure = invalid("CRL", "a certificate of its issuer among the collateral", "none");
        for candidate in self.certificates.iter().filter(|c| c.subject() == issuer) {
            let crl = find_path(candidate, &self.certificates, anchors, ALL_ALGORITHMS)
                .and_then(|path| Crl::verify(der, &path, ALL_ALGORITHMS));
            match crl {
                Ok(crl) => {
                    let key = format!("crl {} @{}", crl.signer_name(), crl.root());
                    let mark = Mark { number: crl.number(), issued: crl.issued() };
                    marks.admit(&key, mark, now)?;
                    let same = |old: &Arc<Crl>| old.root() == crl.root() && old.issuer() == crl.issuer();
                    let rank = |c: &Crl| (c.issued() <= now, c.number(), c.issued());
                    match self.crls.iter_mut().find(|old| same(old)) {
                        Some(old) if rank(old) < rank(&crl) => *old = Arc::new(crl),
                        Some(_) => {}
                        None => self.crls.push(Arc::new(crl)),
                    }
                    return Ok(());
                }
                Err(finding) => failure = finding,
            }
        }
        Err(failure)
    }

    fn admit_signed(
        &mut self,
        signed: &Signed<'_>,
        anchors: &Anchors,
        marks: &mut Marks,
        now: u64,
    ) -> Result<(), Finding> {
        match signed.kind {
            Kind::TcbInfo => {
                let info = TcbInfo::parse(signed.body)?;
                let (signer, path) = self.signer_of(signed, anchors)?;
                let key = format!("tcbInfo {} {} @{}", info.tee, hex::encode(info.fmspc), path.root);
                let issue =
                    |i: &TcbInfo| Mark { number: u64::from(i.evaluation_number), issued: i.window.from };
                marks.admit(&key, issue(&info), now)?;
                let window = info.window.intersect(path.window);
                let new = Endorsed { document: info, signer, path, window };
                let about = |e: &Endorsed<TcbInfo>| {
                    (e.document.tee, e.document.fmspc, e.document.pce_id, e.path.root)
                };
                // Of two versions of one issue the later one says more.
                let rank = |e: &Endorsed<TcbInfo>| {
                    let mark = issue(&e.document);
                    (mark.issued <= now, mark, e.document.version)
                };
                match self.tcb_infos.iter_mut().find(|old| about(old) == about(&new)) {
                    Some(old) if rank(old) < rank(&new) => *old = Arc::new(new),
                    Some(_) => {}
                    None => self.tcb_infos.push(Arc::new(new)),
                }
            }
            Kind::QeIdentity => {
                let identity = QeIdentity::parse(signed.body)?;
                let (signer, path) = self.signer_of(signed, anchors)?;
                let key = format!("qeIdentity {} @{}", identity.tee, path.root);
                let issue =
                    |i: &QeIdentity| Mark { number: u64::from(i.evaluation_number), issued: i.window.from };
                marks.admit(&key, issue(&identity), now)?;
                let window = identity.window.intersect(path.window);
                let new = Endorsed { document: identity, signer, path, window };
                let rank = |e: &Endorsed<QeIdentity>| {
                    let mark = issue(&e.document);
                    (mark.issued <= now, mark)
                };
                let same = |old: &Endorsed<QeIdentity>| {
                    old.document.tee == new.document.tee && old.path.root == new.path.root
                };
                match self.qe_identities.iter_mut().find(|old| same(old)) {
                    Some(old) if rank(old) < rank(&new) => *old = Arc::new(new),
                    Some(_) => {}
                    None => self.qe_identities.push(Arc::new(new)),
                }
            }
        }
        Ok(())
    }

    /// The signing certificate of a document, directly under a trusted root.
    fn signer_of(&self, signed: &Signed<'_>, anchors: &Anchors) -> Result<(Arc<Certificate>, Path), Finding> {
        let mut failure = invalid("signature", "a TCB signing certificate among the collateral", "none");
        for signer in self.certificates.iter().filter(|c| is_signer(c)) {
            if !signed.is_signed_by(signer) {
                failure = invalid("signature", "signed by the TCB signing certificate", "another signature");
                continue;
            }
            let path = find_path(signer, &self.certificates, anchors, INTEL_ALGORITHMS)?;
            if path.certificates.len() != 2 {
                failure = invalid("TCB signing certificate", "issued by the root", "a longer chain");
                continue;
            }
            return Ok((Arc::clone(signer), path));
        }
        Err(failure)
    }

    /// TCB infos of this kind for this platform, whatever root they end in.
    pub(crate) fn tcb_infos(&self, tee: Tee) -> impl Iterator<Item = &Arc<Endorsed<TcbInfo>>> {
        self.tcb_infos.iter().filter(move |info| info.document.tee == tee)
    }

    /// The identity of the quoting enclave for this kind of TEE.
    pub(crate) fn qe_identity(&self, tee: Tee, root: Fingerprint) -> Option<&Arc<Endorsed<QeIdentity>>> {
        self.qe_identities.iter().find(|e| e.document.tee == tee && e.path.root == root)
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

    /// The newest revocation list that the name and key of `issuer` signed. Its
    /// issuer's path to an anchor and its signature were verified. Its window
    /// must still be compared with the time, and its root with that of the
    /// chain in question.
    pub(crate) fn crl_for(&self, issuer: &Certificate) -> Option<&Arc<Crl>> {
        self.crls.iter().find(|crl| crl.is_signed_by(issuer))
    }

    /// Everything that is in it, sorted.
    #[must_use]
    pub fn inventory(&self) -> Vec<Entry> {
        let anchors = &self.anchors;
        let emulated = |root: &Fingerprint| anchors.kind(root) == Some(RootKind::Emulated);
        let mut out = Vec::new();
        for certificate in &self.certificates {
            let root = find_path(certificate, &self.certificates, anchors, ALL_ALGORITHMS).map(|p| p.root);
            out.push(Entry {
                kind: "certificate",
                subject: certificate.common_name().to_owned(),
                window: certificate.window(),
                emulated: root.is_ok_and(|r| emulated(&r)),
            });
        }
        for crl in &self.crls {
            out.push(Entry {
                kind: "crl",
                subject: crl.signer_name().to_owned(),
                window: crl.window(),
                emulated: emulated(&crl.root()),
            });
        }
        for info in &self.tcb_infos {
            out.push(Entry {
                kind: "tcbInfo",
                subject: format!("{} fmspc {}", info.document.tee, hex::encode(info.document.fmspc)),
                window: info.window,
                emulated: emulated(&info.path.root),
            });
        }
        for identity in &self.qe_identities {
            out.push(Entry {
                kind: "qeIdentity",
                subject: identity.document.tee.to_string(),
                window: identity.window,
                emulated: emulated(&identity.path.root),
            });
        }
        out.sort_by(|a, b| (a.kind, &a.subject, a.window.from).cmp(&(b.kind, &b.subject, b.window.from)));
        out
    }
}

impl Marks {
    /// Refuses what is older than the mark, and moves the mark up. An issue
    /// from the future of `now` does not move it: a clock that was wrong once
    /// must not refuse collateral for ever.
    fn admit(&mut self, key: &str, issue: Mark, now: u64) -> Result<(), Finding> {
        let mark = self.newest.get(key).copied().unwrap_or_default();
        if issue < mark {
            return Err(Finding::new(
                Reason::CollateralRollback,
                key,
                format!("number {} of {} or newer", mark.number, mark.issued),
                format!("number {} of {}", issue.number, issue.issued),
            ));
        }
        if issue.issued <= now {
            self.newest.insert(key.to_owned(), issue);
        }
        Ok(())
    }
}
