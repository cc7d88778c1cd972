//! Collateral in pieces that verifications rest on, each by itself: what is
//! published about one platform does not touch the others.

use std::collections::BTreeMap;

use super::Collateral;
use crate::amd::{Owner, owner_of};
use crate::anchors::Fingerprint;
use crate::claims::{Body, Claims, IntelPlatform, SnpClaims, SnpSigningKey, Tee, Window};
use crate::dependencies::{Content, Fact, Name};
use crate::intel::collateral::{Endorsed, is_signer};
use crate::intel::pck::is_pck;
use crate::x509::Certificate;

const KIND: &str = "collateral";

/// The certificates that issue others or sign documents.
const AUTHORITIES: &str = "authorities";
/// PCK certificates, for quotes that come without.
const PCKS: &str = "pck";
/// Certificates of keys of cloud providers.
const VLEKS: &str = "vlek";

/// The certificates of the keys of one chip: Turin's hardware IDs have eight bytes.
fn chip(id: &[u8; 8]) -> String {
    format!("chip {}", hex::encode(id))
}

fn lists(root: &Fingerprint) -> String {
    format!("crl @{root}")
}

fn tcb_info(tee: Tee, fmspc: [u8; 6], root: &Fingerprint) -> String {
    format!("tcbInfo {tee} {} @{root}", hex::encode(fmspc))
}

fn qe_identity(tee: Tee, root: &Fingerprint) -> String {
    format!("qeIdentity {tee} @{root}")
}

fn family(certificate: &Certificate) -> Option<String> {
    if certificate.is_ca() || is_signer(certificate) {
        return Some(AUTHORITIES.to_owned());
    }
    if is_pck(certificate) {
        return Some(PCKS.to_owned());
    }
    owner_of(certificate).map(|owner| match owner {
        Owner::Chip(id) => chip(&id),
        Owner::Provider => VLEKS.to_owned(),
    })
}

fn endorsed<T>(piece: &Endorsed<T>) -> Vec<u8> {
    let chain = piece.path.certificates.iter().flat_map(|c| c.fingerprint().0);
    piece.digest.into_iter().chain(chain).chain(bytes(piece.window)).collect()
}

fn bytes(window: Window) -> impl Iterator<Item = u8> {
    window.from.to_be_bytes().into_iter().chain(window.until.to_be_bytes())
}

impl Collateral {
    /// Everything in it that a verification can rest on.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let mut families: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut add = |name: String, bytes: &mut dyn Iterator<Item = u8>| {
            families.entry(name).or_default().extend(bytes);
        };
        for certificate in &self.certificates {
            if let Some(name) = family(certificate) {
                add(name, &mut certificate.fingerprint().0.into_iter());
            }
        }
        for crl in &self.crls {
            add(lists(&crl.root()), &mut crl.digest().iter().copied().chain(bytes(crl.window())));
        }
        for info in &self.tcb_infos {
            let name = tcb_info(info.document.tee, info.document.fmspc, &info.path.root);
            add(name, &mut endorsed(info).into_iter());
        }
        for identity in &self.qe_identities {
            let name = qe_identity(identity.document.tee, &identity.path.root);
            add(name, &mut endorsed(identity).into_iter());
        }
        let fact = |(name, bytes): (String, Vec<u8>)| Fact {
            name: Name::new(KIND, &name),
            content: Content::of(&bytes),
        };
        families.into_iter().map(fact).collect()
    }
}

impl Claims {
    /// The names of the [facts](Collateral::facts) of the collateral by which
    /// they were verified.
    #[must_use]
    pub fn collateral(&self) -> Vec<Name> {
        let mut names = vec![AUTHORITIES.to_owned(), lists(&self.root)];
        let mut intel = |platform: &IntelPlatform| {
            names.push(PCKS.to_owned());
            names.push(tcb_info(self.tee, platform.fmspc, &self.root));
            names.push(qe_identity(self.tee, &self.root));
        };
        match &self.body {
            Body::Tdx(c) => intel(&c.platform),
            Body::Sgx(c) => intel(&c.platform),
            Body::SevSnp(c) => names.push(of_key(c)),
        }
        names.into_iter().map(|name| Name::new(KIND, &name)).collect()
    }
}

fn of_key(report: &SnpClaims) -> String {
    match (report.signing_key, report.chip_id.first_chunk()) {
        (SnpSigningKey::Vcek, Some(id)) => chip(id),
        _ => VLEKS.to_owned(),
    }
}
