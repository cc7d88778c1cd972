//! Endorsements of the vendors: what they publish about platforms.
//!
//! Collateral is appraised once, when it arrives: signatures, chains and marks.
//! After that a verification only looks things up and compares times.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustls_pki_types::UnixTime;

use crate::anchors::{Anchors, Fingerprint, RootKind};
use crate::bytes::sha256;
use crate::claims::{Tee, Window};
use crate::finding::Finding;
use crate::intel::collateral::{Endorsed, Kind, QeIdentity, Signed, TcbInfo, invalid, is_signer};
use crate::reason::Reason;
use crate::x509::{ALL_ALGORITHMS, Certificate, Crl, INTEL_ALGORITHMS, Path, find_path};

mod families;
mod intake;
mod revocation;
mod shelf;
use self::intake::Intake;
pub(crate) use self::revocation::Revocation;
use self::shelf::Certified;
pub use self::shelf::{Shelf, Stock};

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
#[derive(Clone, Debug)]
pub struct Collateral {
    /// SHA-256 over everything that a verification sees of it: for caches and logs.
    id: [u8; 32],
    /// The same over what paths are found among.
    paths_id: [u8; 32],
    anchors: Anchors,
    certificates: Vec<Arc<Certificate>>,
    crls: Vec<Arc<Crl>>,
    tcb_infos: Vec<Arc<Endorsed<TcbInfo>>>,
    qe_identities: Vec<Arc<Endorsed<QeIdentity>>>,
    /// When the first of the pieces that were not issued yet is issued.
    renewed_at: u64,
    /// By piece: the index of the item that it came from, and the end of the piece.
    origins: BTreeMap<String, (usize, u64)>,
    certified: Arc<Certified>,
}

impl Default for Collateral {
    /// None at all.
    fn default() -> Self {
        Self {
            id: [0; 32],
            paths_id: [0; 32],
            anchors: Anchors::default(),
            certificates: Vec::new(),
            crls: Vec::new(),
            tcb_infos: Vec::new(),
            qe_identities: Vec::new(),
            renewed_at: u64::MAX,
            origins: BTreeMap::new(),
            certified: Arc::default(),
        }
    }
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
        items.iter().enumerate().for_each(|(index, item)| intake.sort(index, item));
        let certificates = intake.certificates.iter().map(|(_, c)| Arc::clone(c)).collect();
        let from = intake.certificates.iter().map(|(index, c)| (c.fingerprint(), *index)).collect();
        let certified = Arc::new(Certified::new(from));
        let mut out = Self { anchors: anchors.clone(), certificates, certified, ..Self::default() };
        let signers = out.signers();
        let now = now.as_secs();
        let mut refused = intake.refused;
        let name = |index: usize| items.get(index).map(|item| item.name.clone()).unwrap_or_default();
        let lists = out.admit_crls(intake.crls, &signers, marks, now);
        refused.extend(lists.into_iter().map(|(index, finding)| (name(index), finding)));
        for (index, kind, body, signature) in intake.signed {
            let signed = Signed { kind, body: &body, signature };
            out.admit_signed((index, &signed), &signers, marks, now)
                .unwrap_or_else(|f| refused.push((name(index), f)));
        }
        (out.paths_id, out.id) = out.digests();
        Appraised { collateral: out, refused }
    }

    /// The certificates that may sign lists or documents, each with its path:
    /// found once, however many things there are to be signed. Sorts all
    /// certificates so that those with a path come before others of their name,
    /// which could use up what a search tries, and vendors before emulations.
    fn signers(&mut self) -> Vec<Signer> {
        let anchors = &self.anchors;
        let rank = |root: &Fingerprint| match anchors.kind(root) {
            Some(RootKind::Vendor) => 0,
            Some(RootKind::Emulated) => 1,
            None => 2,
        };
        self.certificates.sort_by_key(|c| rank(&c.fingerprint()));
        let pool = &self.certificates;
        let signers: Vec<_> = pool
            .iter()
            .filter(|c| c.is_ca() || is_signer(c))
            .map(|c| {
                let algorithms = if is_signer(c) { INTEL_ALGORITHMS } else { ALL_ALGORITHMS };
                Signer { certificate: Arc::clone(c), path: find_path(c, pool, anchors, algorithms) }
            })
            .collect();
        let ranks: HashMap<_, _> = signers
            .iter()
            .filter_map(|s| Some((s.certificate.fingerprint(), rank(&s.path.as_ref().ok()?.root))))
            .collect();
        self.certificates.sort_by_key(|c| ranks.get(&c.fingerprint()).copied().unwrap_or(2));
        signers
    }

    fn admit_signed(
        &mut self,
        (index, signed): (usize, &Signed<'_>),
        signers: &[Signer],
        marks: &mut Marks,
        now: u64,
    ) -> Result<(), Finding> {
        let signers = signers.iter().filter(|s| is_signer(&s.certificate));
        let missing = || invalid("signature", "a TCB signing certificate among the collateral", "none");
        match signed.kind {
            Kind::TcbInfo => {
                let info = TcbInfo::parse(signed.body)?;
                each_root(
                    signers,
                    missing,
                    |path| signed.verify(path),
                    |signer, path| {
                        let new = signed.endorse(info.clone(), signer, path, info.window);
                        self.admit_tcb_info((index, new), marks, now)
                    },
                )
            }
            Kind::QeIdentity => {
                let identity = QeIdentity::parse(signed.body)?;
                each_root(
                    signers,
                    missing,
                    |path| signed.verify(path),
                    |signer, path| {
                        let new = signed.endorse(identity.clone(), signer, path, identity.window);
                        self.admit_qe_identity((index, new), marks, now)
                    },
                )
            }
        }
    }

    fn admit_tcb_info(
        &mut self,
        (index, new): (usize, Endorsed<TcbInfo>),
        marks: &mut Marks,
        now: u64,
    ) -> Result<(), Finding> {
        let info = &new.document;
        let key = format!("tcbInfo {} {} @{}", info.tee, hex::encode(info.fmspc), new.path.root);
        let issue = |i: &TcbInfo| Mark { number: u64::from(i.evaluation_number), issued: i.window.from };
        marks.admit(&key, issue(info), now)?;
        self.renewed_at = self.renewed_at.min(in_future(info.window.from, now));
        let about =
            |e: &Endorsed<TcbInfo>| (e.document.tee, e.document.fmspc, e.document.pce_id, e.path.root);
        // Of two versions of one issue the later one says more.
        let rank = |e: &Endorsed<TcbInfo>| {
            let mark = issue(&e.document);
            (mark.issued <= now, mark, e.document.version)
        };
        let (piece, origin) = (format!("{key} {}", hex::encode(info.pce_id)), (index, new.window.until));
        match self.tcb_infos.iter_mut().find(|old| about(old) == about(&new)) {
            Some(old) if rank(old) < rank(&new) => *old = Arc::new(new),
            Some(_) => return Ok(()),
            None => self.tcb_infos.push(Arc::new(new)),
        }
        self.origins.insert(piece, origin);
        Ok(())
    }

    fn admit_qe_identity(
        &mut self,
        (index, new): (usize, Endorsed<QeIdentity>),
        marks: &mut Marks,
        now: u64,
    ) -> Result<(), Finding> {
        let key = format!("qeIdentity {} @{}", new.document.tee, new.path.root);
        let issue = |i: &QeIdentity| Mark { number: u64::from(i.evaluation_number), issued: i.window.from };
        marks.admit(&key, issue(&new.document), now)?;
        self.renewed_at = self.renewed_at.min(in_future(new.document.window.from, now));
        let rank = |e: &Endorsed<QeIdentity>| {
            let mark = issue(&e.document);
            (mark.issued <= now, mark)
        };
        let same = |old: &Endorsed<QeIdentity>| {
            old.document.tee == new.document.tee && old.path.root == new.path.root
        };
        let origin = (index, new.window.until);
        match self.qe_identities.iter_mut().find(|old| same(old)) {
            Some(old) if rank(old) < rank(&new) => *old = Arc::new(new),
            Some(_) => return Ok(()),
            None => self.qe_identities.push(Arc::new(new)),
        }
        self.origins.insert(key, origin);
        Ok(())
    }

    /// The same items come to other collateral under other anchors or marks, or
    /// at another time, so that their bytes are not what it is.
    fn digests(&self) -> ([u8; 32], [u8; 32]) {
        let anchored = |root: &Fingerprint| {
            [&root.0[..], &[u8::from(self.anchors.kind(root) == Some(RootKind::Emulated))]].concat()
        };
        let mut text = Vec::new();
        for root in self.anchors.roots() {
            text.extend(anchored(root));
        }
        for certificate in &self.certificates {
            text.push(b'c');
            text.extend(certificate.fingerprint().0);
        }
        let paths = sha256(&text);
        let crls = self.crls.iter().map(|c| (b'r', *c.digest(), c.root()));
        let infos = self.tcb_infos.iter().map(|e| (b't', e.digest, e.path.root));
        let identities = self.qe_identities.iter().map(|e| (b'q', e.digest, e.path.root));
        for (kind, digest, root) in crls.chain(infos).chain(identities) {
            text.push(kind);
            text.extend(digest);
            text.extend(root.0);
        }
        (paths, sha256(&text))
    }

    /// TCB infos of this kind for this platform, whatever root they end in.
    pub(crate) fn tcb_infos(&self, tee: Tee) -> impl Iterator<Item = &Arc<Endorsed<TcbInfo>>> {
        self.tcb_infos.iter().filter(move |info| info.document.tee == tee)
    }

    /// The certificates that may have issued others.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.iter().filter(|certificate| certificate.is_ca())
    }

    /// The identity of the quoting enclave for this kind of TEE.
    pub(crate) fn qe_identity(&self, tee: Tee, root: Fingerprint) -> Option<&Arc<Endorsed<QeIdentity>>> {
        self.qe_identities.iter().find(|e| e.document.tee == tee && e.path.root == root)
    }

    /// SHA-256 over everything that a verification sees of it: certificates and
    /// anchors, and the lists and documents that were admitted.
    #[must_use]
    pub const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// SHA-256 over certificates and anchors: the path of a certificate depends on
    /// nothing else of it, and is the same when a list of revoked ones is replaced.
    pub(crate) const fn paths_id(&self) -> &[u8; 32] {
        &self.paths_id
    }

    /// When its items come to something else: a piece of them that was issued
    /// later than when they were appraised (by a clock that is ahead of ours) is
    /// not in use until they are appraised again. `None` when there is none. That
    /// a piece ends changes nothing here: what was verified by it ends with it.
    #[must_use]
    pub const fn renewed_at(&self) -> Option<u64> {
        if self.renewed_at == u64::MAX { None } else { Some(self.renewed_at) }
    }

    /// Whether it is at `now` still what its items come to.
    #[must_use]
    pub const fn is_current(&self, now: UnixTime) -> bool {
        now.as_secs() < self.renewed_at
    }

    /// All certificates that came with the items, each once, of all vendors.
    /// They are parsed; a path through them must still be validated, with
    /// [`find_path`](crate::x509::find_path).
    pub(crate) fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }

    /// When the first piece of each kind ends, by the kinds of an inventory.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<&'static str, u64> {
        let certificates = self.certificates.iter().map(|c| ("certificate", c.window()));
        let crls = self.crls.iter().map(|crl| ("crl", crl.window()));
        let tcb_infos = self.tcb_infos.iter().map(|info| ("tcbInfo", info.window));
        let qe_identities = self.qe_identities.iter().map(|identity| ("qeIdentity", identity.window));
        let mut ends = BTreeMap::new();
        for (kind, window) in certificates.chain(crls).chain(tcb_infos).chain(qe_identities) {
            ends.entry(kind)
                .and_modify(|end: &mut u64| *end = window.until.min(*end))
                .or_insert(window.until);
        }
        ends
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

/// The time of issue if it is still to come.
const fn in_future(issued: u64, now: u64) -> u64 {
    if issued > now { issued } else { u64::MAX }
}

/// A certificate that may sign lists or documents.
struct Signer {
    certificate: Arc<Certificate>,
    path: Result<Path, Finding>,
}

/// Admits something for every root under which one of `signers` made it: the
/// same key can be certified under several, and who certifies a vendor's key
/// under a root of his own must not take the vendor's word away.
fn each_root<'s, T>(
    signers: impl Iterator<Item = &'s Signer>,
    missing: impl FnOnce() -> Finding,
    verify: impl Fn(&Path) -> Result<T, Finding>,
    mut admit: impl FnMut(T, &Path) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let (mut roots, mut refused, mut failure) = (Vec::new(), None, None);
    for signer in signers {
        match signer.path.as_ref().map_err(Clone::clone).and_then(|path| Ok((verify(path)?, path))) {
            Ok((_, path)) if roots.contains(&path.root) => {}
            Ok((verified, path)) => {
                roots.push(path.root);
                refused = refused.or(admit(verified, path).err());
            }
            Err(finding) => failure = Some(finding),
        }
    }
    match refused.or_else(|| roots.is_empty().then(|| failure.unwrap_or_else(missing))) {
        None => Ok(()),
        Some(finding) => Err(finding),
    }
}

impl Marks {
    /// The newest time at which a vendor signed something that was in use; 0 when nothing was.
    #[must_use]
    pub fn newest_issue(&self) -> u64 {
        self.newest.values().map(|mark| mark.issued).max().unwrap_or_default()
    }

    /// Whether an issue is no older than the mark.
    fn reached(&self, key: &str, issue: Mark) -> bool {
        self.newest.get(key).is_none_or(|mark| *mark <= issue)
    }

    /// Refuses what is older than the mark, and moves the mark up. An issue
    /// from the future of `now` does not move it: a clock that was wrong once
    /// must not refuse collateral for ever.
    fn admit(&mut self, key: &str, issue: Mark, now: u64) -> Result<(), Finding> {
        if !self.reached(key, issue) {
            let mark = self.newest.get(key).copied().unwrap_or_default();
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
