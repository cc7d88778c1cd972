//! AMD SEV-SNP attestation reports (SEV-SNP Firmware ABI specification, 56860).

mod certs;
pub(crate) mod chain;
pub mod report;
pub mod tcb;
mod verify;

use std::borrow::Cow;
use std::sync::Arc;

pub use certs::{CertificateKind, encode_table};
pub(crate) use certs::{Owner, owner_of};
pub use report::{REPORT_SIZE, Report};
pub(crate) use verify::verify;
pub use verify::{Examination, examine};

use crate::finding::Finding;
use crate::x509::Certificate;

/// A report with the certificates that came along, parsed but not verified.
#[derive(Clone, Debug)]
pub struct Attestation<'a> {
    report: Box<Report>,
    certificates: Vec<(CertificateKind, Cow<'a, [u8]>)>,
}

impl<'a> Attestation<'a> {
    /// A report and DER certificates.
    #[must_use]
    pub fn new(report: Report, certificates: Vec<(CertificateKind, Cow<'a, [u8]>)>) -> Self {
        Self { report: Box::new(report), certificates }
    }

    /// Parses a report and, if there is one, the GHCB certificate table that
    /// the host handed out with it.
    ///
    /// # Errors
    /// When either is malformed.
    pub fn parse(report: &[u8], table: Option<&'a [u8]>) -> Result<Self, Finding> {
        let report = Report::parse(report)?;
        let certificates = certs::parse_table(table.unwrap_or_default())?;
        Ok(Self::new(report, certificates.into_iter().map(|(kind, der)| (kind, Cow::from(der))).collect()))
    }

    /// The report.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The certificate of this kind that came along, as DER.
    #[must_use]
    pub fn certificate(&self, kind: CertificateKind) -> Option<&[u8]> {
        self.certificates.iter().find(|(k, _)| *k == kind).map(|(_, der)| &**der)
    }

    /// The same, independent of the bytes that it was parsed from.
    #[must_use]
    pub fn into_owned(self) -> Attestation<'static> {
        let certificates =
            self.certificates.into_iter().map(|(kind, der)| (kind, Cow::from(der.into_owned()))).collect();
        Attestation { report: self.report, certificates }
    }

    /// The certificates of authorities that came along.
    fn authorities(&self) -> Result<Vec<Arc<Certificate>>, Finding> {
        [CertificateKind::Ask, CertificateKind::Ark]
            .into_iter()
            .filter_map(|kind| self.certificate(kind))
            .map(|der| Certificate::parse(der).map(Arc::new))
            .collect()
    }
}
