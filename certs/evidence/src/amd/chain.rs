//! From an endorsement key's certificate to the vendor's root: ARK signs ASK
//! (or ASVK), which signs the VCEK (or VLEK).

use std::sync::Arc;

use aws_lc_rs::signature::ParsedPublicKey;

use crate::amd::Attestation;
use crate::amd::certs::{CertificateKind, Vek};
use crate::anchors::{Anchors, Fingerprint};
use crate::claims::{SnpSigningKey, Window};
use crate::collateral::{Collateral, Revocation};
use crate::finding::{Finding, timestamp};
use crate::reason::Reason;
use crate::x509::{self, AMD_ALGORITHMS, Certificate};

/// Authorities of one name that are looked at.
const MAX_ISSUERS: usize = 8;

/// An endorsement key whose chain was verified.
#[derive(Debug)]
pub(crate) struct Endorsed {
    pub(crate) vek: Vek,
    pub(crate) key: ParsedPublicKey,
    pub(crate) issuer: Arc<Issuer>,
    /// When all certificates and CRLs are valid.
    pub(crate) window: Window,
}

/// An ASK or ASVK whose chain was verified.
#[derive(Debug)]
pub(crate) struct Issuer {
    certificates: Vec<Arc<Certificate>>,
    pub(crate) root: Fingerprint,
    pub(crate) crl_checked: bool,
    window: Window,
}

impl Issuer {
    fn subject(&self) -> &[u8] {
        self.certificates.first().map_or(&[], |ask| ask.subject())
    }

    /// Whether the root says of itself that its platforms are emulated.
    pub(crate) fn is_emulated(&self) -> bool {
        x509::is_emulated(&self.certificates)
    }
}

type Key = ([u8; 32], [u8; 32]);

/// Verified chains, by certificate and by the collateral under which they were
/// verified. Only what a trusted root vouches for gets in.
#[derive(Debug)]
pub(crate) struct ChainCache {
    veks: quick_cache::sync::Cache<Key, Arc<Endorsed>>,
    issuers: quick_cache::sync::Cache<Key, Arc<Issuer>>,
    /// Who signed which endorsement key's certificate: nothing but these two decides.
    issued: quick_cache::sync::Cache<Key, ()>,
}

impl ChainCache {
    /// A cache of at most `entries` endorsement keys.
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            veks: quick_cache::sync::Cache::new(entries),
            issuers: quick_cache::sync::Cache::new(64),
            issued: quick_cache::sync::Cache::new(entries),
        }
    }
}

impl Default for ChainCache {
    fn default() -> Self {
        Self::new(1024)
    }
}

/// What a chain is verified against.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) collateral: &'a Collateral,
    pub(crate) anchors: &'a Anchors,
    /// Seconds since the epoch.
    pub(crate) now: u64,
    pub(crate) cache: Option<&'a ChainCache>,
}

impl Context<'_> {
    fn key(&self, certificate: Fingerprint) -> Key {
        (certificate.0, *self.collateral.id())
    }

    fn holds(&self, root: &Fingerprint, window: Window) -> bool {
        window.contains(self.now) && self.anchors.kind(root).is_some()
    }

    /// The key with this fingerprint, if its chain was verified before and still holds.
    pub(crate) fn known(&self, vek: Fingerprint) -> Option<Arc<Endorsed>> {
        let endorsed = self.cache?.veks.get(&self.key(vek))?;
        self.holds(&endorsed.issuer.root, endorsed.window).then_some(endorsed)
    }

    /// Verifies the chain of `vek` at [`Context::now`], through the authorities
    /// of the collateral or those that came with the report.
    pub(crate) fn verify(&self, vek: Vek, attestation: &Attestation<'_>) -> Result<Arc<Endorsed>, Finding> {
        let issuer = self.issuer(&vek, attestation)?;
        issued_by(&vek, &issuer, self.cache)?;
        verify_time(&vek.certificate, self.now)?;
        let mut window = issuer.window.intersect(vek.certificate.window());
        let ask = issuer.certificates.first();
        let root = issuer.root;
        if let Some(crl) = ask.and_then(|ask| self.collateral.revocation(ask, root, self.now)) {
            window = window.intersect(verify_crl(&crl, &vek.certificate, self.now)?);
        }
        let key = vek.key()?;
        let endorsed = Arc::new(Endorsed { vek, key, issuer, window });
        if let Some(cache) = self.cache {
            cache.veks.insert(self.key(endorsed.vek.certificate.fingerprint()), Arc::clone(&endorsed));
        }
        Ok(endorsed)
    }

    /// The verified authority that `vek` names as its issuer. Certificates that
    /// came with the report are only parsed when nothing else helps.
    fn issuer(&self, vek: &Vek, attestation: &Attestation<'_>) -> Result<Arc<Issuer>, Finding> {
        let came_along = attestation.certificate(CertificateKind::Ask).map(Fingerprint::of);
        let known = came_along.and_then(|ask| self.known_issuer(ask));
        if let Some(issuer) = known.filter(|i| i.subject() == vek.certificate.issuer()) {
            return Ok(issuer);
        }
        match self.find_issuer(vek, &[]) {
            Err(_) if came_along.is_some() => self.find_issuer(vek, &attestation.authorities()?),
            result => result,
        }
    }

    fn known_issuer(&self, ask: Fingerprint) -> Option<Arc<Issuer>> {
        let issuer = self.cache?.issuers.get(&self.key(ask))?;
        self.holds(&issuer.root, issuer.window).then_some(issuer)
    }

    fn find_issuer(&self, vek: &Vek, local: &[Arc<Certificate>]) -> Result<Arc<Issuer>, Finding> {
        let mut failure = None;
        for candidate in self.candidates(vek, local) {
            if let Some(issuer) = self.known_issuer(candidate.fingerprint()) {
                return Ok(issuer);
            }
            match self.verify_issuer(&candidate, local) {
                Ok(issuer) => {
                    let issuer = Arc::new(issuer);
                    if let Some(cache) = self.cache {
                        cache.issuers.insert(self.key(candidate.fingerprint()), Arc::clone(&issuer));
                    }
                    return Ok(issuer);
                }
                Err(finding) => failure = failure.or(Some(finding)),
            }
        }
        Err(failure.unwrap_or_else(|| missing("ASK certificate", &vek.certificate)))
    }

    fn candidates(&self, vek: &Vek, local: &[Arc<Certificate>]) -> Vec<Arc<Certificate>> {
        let all = local.iter().chain(self.collateral.authorities());
        all.filter(|c| c.is_ca() && c.subject() == vek.certificate.issuer())
            .take(MAX_ISSUERS)
            .cloned()
            .collect()
    }

    fn verify_issuer(&self, ask: &Arc<Certificate>, local: &[Arc<Certificate>]) -> Result<Issuer, Finding> {
        let all = local.iter().chain(self.collateral.authorities());
        let above = all.filter(|c| c.is_self_issued() && c.subject() == ask.issuer());
        let above: Vec<_> = above.take(MAX_ISSUERS).cloned().collect();
        if above.is_empty() {
            return Err(missing("ARK certificate", ask));
        }
        let path = x509::find_path(ask, &above, self.anchors, AMD_ALGORITHMS)?;
        let mut window = path.window;
        let mut crl_checked = true;
        for certificate in &path.certificates {
            verify_time(certificate, self.now)?;
        }
        for (certificate, issuer) in path.certificates.iter().zip(path.certificates.iter().skip(1)) {
            match self.collateral.revocation(issuer, path.root, self.now) {
                Some(crl) => window = window.intersect(verify_crl(&crl, certificate, self.now)?),
                None => crl_checked = false,
            }
        }
        Ok(Issuer { certificates: path.certificates, root: path.root, crl_checked, window })
    }

    /// Checks signatures up to a trusted root, whatever the time.
    pub(crate) fn verify_issuance(&self, vek: &Vek, attestation: &Attestation<'_>) -> Result<(), Finding> {
        let local = attestation.authorities()?;
        let mut failure = None;
        for ask in self.candidates(vek, &local) {
            let then = Context { now: ask.window().from, ..*self };
            match then.verify_issuer(&ask, &local).and_then(|issuer| issued_by(vek, &issuer, None)) {
                Ok(()) => return Ok(()),
                Err(finding) => failure = failure.or(Some(finding)),
            }
        }
        Err(failure.unwrap_or_else(|| missing("ASK certificate", &vek.certificate)))
    }
}

fn missing(field: &str, issued: &Certificate) -> Finding {
    Finding::new(
        Reason::CollateralMissing,
        field,
        format!("the certificate that issued {}", issued.common_name()),
        "none, neither from the peer nor in the collateral",
    )
}

/// Checks that the verified `issuer` issued `vek`: for this step it is the
/// anchor, so that only one signature is verified.
fn issued_by(vek: &Vek, issuer: &Issuer, cache: Option<&ChainCache>) -> Result<(), Finding> {
    let Some(ask) = issuer.certificates.first() else {
        return Err(Finding::new(Reason::Internal, "ASK certificate", "a chain", "none"));
    };
    // The key that signs those of cloud providers must not speak for a chip,
    // nor the other way round.
    let (signer, wanted) = (is_asvk(ask), vek.kind == SnpSigningKey::Vlek);
    if signer != wanted {
        let name = |asvk: bool| if asvk { "an ASVK" } else { "an ASK" };
        return Err(Finding::new(
            Reason::BadChain,
            format!("issuer of the {:?} certificate", vek.kind),
            name(wanted),
            format!("{}: {}", name(signer), ask.common_name()),
        ));
    }
    let pair = (vek.certificate.fingerprint().0, ask.fingerprint().0);
    if cache.is_some_and(|cache| cache.issued.get(&pair).is_some()) {
        return Ok(());
    }
    let anchor = Anchors::new(vec![ask.fingerprint()], Vec::new());
    x509::find_path(&vek.certificate, std::slice::from_ref(ask), &anchor, AMD_ALGORITHMS)?;
    if let Some(cache) = cache {
        cache.issued.insert(pair, ());
    }
    Ok(())
}

/// Whether an authority is one of keys of cloud providers: AMD names them
/// `SEV-VLEK-Milan` beside `SEV-Milan`.
fn is_asvk(ask: &Certificate) -> bool {
    ask.common_name().contains("SEV-VLEK")
}

/// Checks that `now` is inside the validity of the certificate.
pub(crate) fn verify_time(certificate: &Certificate, now: u64) -> Result<(), Finding> {
    let Window { from, until } = certificate.window();
    let reason = if now < from {
        Reason::CertificateNotYetValid
    } else if now > until {
        Reason::CertificateExpired
    } else {
        return Ok(());
    };
    Err(Finding::new(
        reason,
        format!("{} certificate", certificate.common_name()),
        format!("a time from {} to {}", timestamp(from), timestamp(until)),
        timestamp(now),
    ))
}

/// Checks that verified CRLs are current and do not list the certificate.
fn verify_crl(crl: &Revocation<'_>, certificate: &Certificate, now: u64) -> Result<Window, Finding> {
    let window = crl.window();
    let reason = if now < window.from {
        Reason::CollateralNotYetValid
    } else if now > window.until {
        Reason::CollateralExpired
    } else if crl.revokes(certificate) {
        return Err(Finding::new(
            Reason::CertificateRevoked,
            format!("{} certificate", certificate.common_name()),
            "a certificate that its issuer's CRL does not list",
            format!("serial {}", hex::encode(certificate.serial())),
        ));
    } else {
        return Ok(window);
    };
    Err(Finding::new(
        reason,
        "AMD CRL",
        format!("a time from {} to {}", timestamp(window.from), timestamp(window.until)),
        timestamp(now),
    ))
}
