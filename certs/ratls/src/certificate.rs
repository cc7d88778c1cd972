//! One way to parse a certificate, for every module, and to write one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_evidence::{Finding, Reason};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::signature;

/// Parses exactly one certificate and refuses duplicate extensions (RFC 5280
/// section 4.2). Tolerates what foreign RA-TLS certificates get wrong and what
/// means nothing here: odd object identifiers, parameters of the signature algorithm.
pub(crate) fn parse<'a>(field: &str, der: &'a [u8]) -> Result<X509Certificate<'a>, Finding> {
    let malformed =
        |presented: String| Finding::new(Reason::Malformed, field, "a DER certificate", presented);
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes after it", rest.len())));
    }
    let mut oids: Vec<&[u8]> = certificate.extensions().iter().map(|e| e.oid.as_bytes()).collect();
    oids.sort_unstable();
    if oids.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
        return Err(Finding::new(Reason::EvidenceDuplicate, field, "each extension once", "one twice"));
    }
    Ok(certificate)
}

/// Refuses a certificate in which an extension that we understand is malformed:
/// it must not count as absent.
pub(crate) fn well_formed(field: &str, certificate: &X509Certificate<'_>) -> Result<(), Finding> {
    let broken = |e: &&x509_parser::extensions::X509Extension<'_>| {
        matches!(e.parsed_extension(), ParsedExtension::ParseError { .. })
    };
    match certificate.extensions().iter().find(broken) {
        None => Ok(()),
        Some(e) => Err(Finding::new(
            Reason::Malformed,
            field,
            "well-formed extensions",
            format!("a malformed {}", e.oid),
        )),
    }
}

/// Whether the certificate was issued by its own key.
pub(crate) fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    // Names first: a signature is verified for the few that share them.
    certificate.issuer().as_raw() == certificate.subject().as_raw()
        && signature::verifies(
            certificate.public_key(),
            certificate.signature_algorithm.algorithm.as_bytes(),
            certificate.tbs_certificate.as_ref(),
            certificate.signature_value.data.as_ref(),
        )
}

/// First and last second of validity. Times before 1970 count as 1970.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    (seconds(certificate.validity().not_before), seconds(certificate.validity().not_after))
}

/// A certificate as PEM (RFC 7468).
#[must_use]
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn what_is_written_as_pem_is_read_as_it_was() {
        for length in [1, 47, 48, 49, 500] {
            let certificate = CertificateDer::from(vec![7; length]);
            let pem = to_pem(&certificate);
            assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), certificate);
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
        }
    }
}
