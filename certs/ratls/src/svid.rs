//! The X.509-SVID profile (SPIFFE X.509-SVID specification, sections 2 to 5).

use countersign_evidence::{Finding, Reason};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::certificate;
use crate::spiffe::SpiffeId;

/// Checks the profile of a chain, leaf first, and returns the leaf's ID.
/// Neither path nor validity: see [`crate::Bundle::validate`].
///
/// # Errors
/// `svid-invalid` or `malformed` with the rule that is broken.
pub fn check(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Finding> {
    let Some((leaf, signing)) = chain.split_first() else {
        return Err(Finding::new(Reason::CertificateRequired, "certificate chain", "a leaf", "nothing"));
    };
    let id = check_leaf(&certificate::parse("leaf", leaf)?)?;
    for signing in signing {
        check_signing(&certificate::parse("signing certificate", signing)?)?;
    }
    Ok(id)
}

/// The rules for a leaf.
pub(crate) fn check_leaf(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Finding> {
    certificate::well_formed("leaf", leaf)?;
    let id = SpiffeId::parse(uri_san(leaf)?)?;
    if id.path().is_empty() {
        return Err(invalid("leaf SPIFFE ID", "an ID with a path", id.to_string()));
    }
    if leaf.is_ca() {
        return Err(invalid("leaf basicConstraints", "cA absent or false", "true"));
    }
    let usage = critical_key_usage("leaf", leaf)?;
    if !usage.digital_signature() {
        return Err(invalid("leaf keyUsage", "digitalSignature", usage.to_string()));
    }
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(invalid("leaf keyUsage", "neither keyCertSign nor cRLSign", usage.to_string()));
    }
    if let Some(usage) = leaf.extended_key_usage().map_err(|e| twice("leaf", &e))? {
        let (server, client) = (usage.value.server_auth, usage.value.client_auth);
        if !(server && client) {
            let presented = format!("serverAuth {server}, clientAuth {client}");
            return Err(invalid("leaf extKeyUsage", "serverAuth and clientAuth", presented));
        }
    }
    Ok(id)
}

/// The rules for a certificate that signs.
pub(crate) fn check_signing(signing: &X509Certificate<'_>) -> Result<(), Finding> {
    certificate::well_formed("signing certificate", signing)?;
    if !signing.is_ca() {
        return Err(invalid("signing certificate basicConstraints", "cA true", "false"));
    }
    let usage = critical_key_usage("signing certificate", signing)?;
    if !usage.key_cert_sign() {
        return Err(invalid("signing certificate keyUsage", "keyCertSign", usage.to_string()));
    }
    Ok(())
}

/// Exactly one URI SAN, critical when there is no subject.
fn uri_san<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a str, Finding> {
    let san = leaf.subject_alternative_name().map_err(|e| twice("leaf", &e))?;
    let Some(san) = san else {
        return Err(invalid("leaf subjectAltName", "one URI", "no subjectAltName"));
    };
    let mut uris = san.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (first, more) = (uris.next(), uris.count());
    let Some(uri) = first.filter(|_| more == 0) else {
        let count = more + usize::from(first.is_some());
        return Err(invalid("leaf subjectAltName", "one URI", format!("{count} URIs")));
    };
    if !san.critical && leaf.subject().iter_rdn().next().is_none() {
        return Err(invalid("leaf subjectAltName", "critical, since the subject is empty", "not critical"));
    }
    Ok(uri)
}

fn critical_key_usage<'a>(
    field: &str,
    certificate: &'a X509Certificate<'_>,
) -> Result<&'a x509_parser::extensions::KeyUsage, Finding> {
    match certificate.key_usage().map_err(|e| twice(field, &e))? {
        Some(usage) if usage.critical => Ok(usage.value),
        Some(_) => Err(invalid(&format!("{field} keyUsage"), "critical", "not critical")),
        None => Err(invalid(&format!("{field} keyUsage"), "present and critical", "absent")),
    }
}

fn twice(field: &str, error: &x509_parser::error::X509Error) -> Finding {
    invalid(field, "each extension once", error.to_string())
}

fn invalid(field: &str, expected: &str, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::SvidInvalid, field, expected, presented)
}
