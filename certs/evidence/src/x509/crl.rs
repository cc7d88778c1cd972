//! Certificate revocation lists.

use std::collections::HashSet;

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::{Algorithms, Certificate, Path, magnitude, seconds};
use crate::anchors::Fingerprint;
use crate::bytes::sha256;
use crate::claims::Window;
use crate::finding::Finding;
use crate::reason::Reason;

/// The largest revocation list that is looked at, in bytes.
const MAX_CRL: usize = 4 * 1024 * 1024;

/// A revocation list whose signature was verified.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    issuer: Box<[u8]>,
    signer_key: Box<[u8]>,
    signer_name: String,
    root: Fingerprint,
    number: u64,
    window: Window,
    issued: u64,
    digest: [u8; 32],
    revoked: HashSet<Box<[u8]>>,
}

impl Crl {
    /// The issuer of a DER-encoded list, as a DER Name. Not verified.
    pub(crate) fn peek_issuer(der: &[u8]) -> Result<Vec<u8>, Finding> {
        parse(der).map(|crl| crl.tbs_cert_list.issuer.as_raw().to_vec())
    }

    /// Parses a complete list and verifies that the leaf of `path` signed it.
    pub(crate) fn verify(der: &[u8], path: &Path, algorithms: Algorithms) -> Result<Self, Finding> {
        let issuer = path.certificates.first().ok_or_else(|| invalid("CRL", "an issuer", "none"))?;
        let crl = parse(der)?;
        let list = &crl.tbs_cert_list;
        if list.issuer.as_raw() != issuer.subject() {
            return Err(invalid(
                "CRL",
                format!("issued by {}", issuer.common_name()),
                list.issuer.to_string(),
            ));
        }
        // Deltas and partitions are marked by critical extensions.
        if let Some(unknown) = list.extensions().iter().find(|e| e.critical) {
            return Err(invalid("CRL", "a complete list", format!("critical extension {}", unknown.oid)));
        }
        if crl.signature_algorithm != list.signature {
            return Err(invalid("CRL", "one signature algorithm", "two"));
        }
        if !issuer.verify(algorithms, list.as_ref(), &crl.signature_value.data) {
            return Err(invalid(
                "CRL signature",
                format!("signed by {}", issuer.common_name()),
                "another signature",
            ));
        }
        let next = list.next_update.ok_or_else(|| invalid("CRL", "a nextUpdate", "none"))?;
        let number = list.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::CRLNumber(number) => number.iter_u64_digits().next(),
            _ => None,
        });
        Ok(Self {
            issuer: list.issuer.as_raw().into(),
            signer_key: issuer.public_key().into(),
            signer_name: issuer.common_name().to_owned(),
            root: path.root,
            number: number.unwrap_or(0),
            window: Window { from: seconds(list.this_update.timestamp()), until: seconds(next.timestamp()) }
                .intersect(path.window),
            issued: seconds(list.this_update.timestamp()),
            digest: sha256(der),
            revoked: list.revoked_certificates.iter().map(|r| magnitude(r.raw_serial()).into()).collect(),
        })
    }

    /// Whether the same name and key signed another list.
    pub(crate) fn has_signer_of(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.signer_key == other.signer_key
    }

    /// Whether it makes another list of the same signer superfluous: it is no
    /// older, lasts as long, and revokes everything that the other one revokes.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.number >= other.number
            && self.issued >= other.issued
            && self.window.until >= other.window.until
            && self.revoked.is_superset(&other.revoked)
    }

    /// Whether this certificate's name and key signed it: another certificate
    /// of the same issuer counts.
    pub(crate) fn is_signed_by(&self, issuer: &Certificate) -> bool {
        *self.issuer == *issuer.subject() && *self.signer_key == *issuer.public_key()
    }

    /// The root to which the signer's path leads.
    pub(crate) const fn root(&self) -> Fingerprint {
        self.root
    }

    /// thisUpdate, seconds since the epoch.
    pub(crate) const fn issued(&self) -> u64 {
        self.issued
    }

    /// SHA-256 of the DER encoding.
    pub(crate) const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The common name of the certificate that signed it.
    pub(crate) fn signer_name(&self) -> &str {
        &self.signer_name
    }

    /// The low 64 bits of the CRL number; 0 when there is none.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// thisUpdate to nextUpdate, while the signer's path is valid.
    pub(crate) const fn window(&self) -> Window {
        self.window
    }

    /// Whether the list names this certificate.
    pub(crate) fn revokes(&self, certificate: &Certificate) -> bool {
        *certificate.issuer() == *self.issuer && self.revoked.contains(certificate.serial())
    }
}

fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, Finding> {
    if der.len() > MAX_CRL {
        return Err(Finding::new(
            Reason::Oversized,
            "CRL",
            format!("at most {MAX_CRL} bytes"),
            format!("{} bytes", der.len()),
        ));
    }
    match CertificateRevocationList::from_der(der) {
        Ok(([], crl)) => Ok(crl),
        Ok((rest, _)) => Err(invalid("CRL", "an X.509 CRL", format!("{} bytes after it", rest.len()))),
        Err(e) => Err(invalid("CRL", "an X.509 CRL", e.to_string())),
    }
}

fn invalid(field: &str, expected: impl Into<String>, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::CollateralInvalid, field, expected, presented)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sev::certs::snp::builtin::milan;

    #[test]
    fn a_list_revokes_by_issuer_and_serial_number() {
        let ask = Certificate::parse(&milan::ask().unwrap().to_der().unwrap()).unwrap();
        let mut crl = Crl {
            issuer: ask.issuer().into(),
            signer_key: Box::default(),
            signer_name: String::new(),
            root: ask.fingerprint(),
            number: 0,
            window: Window::ALWAYS,
            issued: 0,
            digest: [0; 32],
            revoked: HashSet::from([Box::from(ask.serial())]),
        };
        assert!(crl.revokes(&ask));
        crl.issuer = ask.subject().into();
        assert!(!crl.revokes(&ask), "the list of another issuer");
        crl.issuer = ask.issuer().into();
        crl.revoked.clear();
        assert!(!crl.revokes(&ask));
    }
}
