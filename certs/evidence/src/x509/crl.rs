//! Certificate revocation lists.

use std::collections::HashSet;

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::{Algorithms, Certificate, magnitude, seconds};
use crate::anchors::Fingerprint;
use crate::claims::Window;
use crate::finding::Finding;
use crate::reason::Reason;

/// The largest revocation list that is looked at, in bytes.
const MAX_CRL: usize = 4 * 1024 * 1024;

/// A revocation list whose signature was verified.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    issuer: Box<[u8]>,
    signer: Fingerprint,
    signer_name: String,
    number: u64,
    window: Window,
    revoked: HashSet<Box<[u8]>>,
}

impl Crl {
    /// The issuer of a DER-encoded list, as a DER Name. Not verified.
    pub(crate) fn peek_issuer(der: &[u8]) -> Result<Vec<u8>, Finding> {
        parse(der).map(|crl| crl.tbs_cert_list.issuer.as_raw().to_vec())
    }

    /// Parses a complete list and verifies that `issuer` signed it. The issuer
    /// itself must have been validated by the caller.
    pub(crate) fn verify(der: &[u8], issuer: &Certificate, algorithms: Algorithms) -> Result<Self, Finding> {
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
            signer: issuer.fingerprint(),
            signer_name: issuer.common_name().to_owned(),
            number: number.unwrap_or(0),
            window: Window { from: seconds(list.this_update.timestamp()), until: seconds(next.timestamp()) },
            revoked: list.revoked_certificates.iter().map(|r| magnitude(r.raw_serial()).into()).collect(),
        })
    }

    /// The issuer as a DER Name.
    pub(crate) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// The fingerprint of the certificate that signed it.
    pub(crate) const fn signer(&self) -> Fingerprint {
        self.signer
    }

    /// The common name of the certificate that signed it.
    pub(crate) fn signer_name(&self) -> &str {
        &self.signer_name
    }

    /// The low 64 bits of the CRL number; 0 when there is none.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// thisUpdate to nextUpdate.
    pub(crate) const fn window(&self) -> Window {
        self.window
    }

    /// Whether the list names this certificate.
    pub(crate) fn revokes(&self, certificate: &Certificate) -> bool {
        certificate.issuer() == self.issuer() && self.revoked.contains(certificate.serial())
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
