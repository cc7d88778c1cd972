//! What a certificate says, parsed and not verified.

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::public_key::PublicKey;

use crate::input::rfc3339;

/// What a certificate says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) serial: String,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) key: String,
    pub(crate) signature: String,
    pub(crate) uris: Vec<String>,
    pub(crate) other_names: Vec<String>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) sha256: String,
    pub(crate) bytes: usize,
}

/// One extension.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Extension {
    pub(crate) oid: String,
    pub(crate) name: String,
    pub(crate) critical: bool,
    pub(crate) value: String,
}

impl Facts {
    /// Reads a certificate.
    pub(crate) fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|e| format!("not an X.509 certificate: {e}"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        let mut facts = Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            not_before: seconds(certificate.validity().not_before.timestamp()),
            not_after: seconds(certificate.validity().not_after.timestamp()),
            key: key(&certificate),
            signature: algorithm(&certificate.signature_algorithm.algorithm.to_id_string()),
            uris: Vec::new(),
            other_names: Vec::new(),
            extensions: Vec::new(),
            sha256: countersign_ratls::peer::fingerprint(der).to_string(),
            bytes: der.len(),
        };
        for extension in certificate.extensions() {
            facts.take(extension);
        }
        Ok(facts)
    }

    fn take(&mut self, extension: &x509_parser::extensions::X509Extension<'_>) {
        let oid = extension.oid.to_id_string();
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            for name in &names.general_names {
                match name {
                    GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                    other => self.other_names.push(other.to_string()),
                }
            }
        }
        self.extensions.push(Extension {
            name: name(&oid).to_owned(),
            critical: extension.critical,
            value: value(extension),
            oid,
        });
    }

    /// Its lines, for people.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines: Vec<(&'static str, String)> =
            self.uris.iter().map(|uri| ("URI", uri.clone())).collect();
        lines.extend(self.other_names.iter().map(|name| ("other name", name.clone())));
        lines.extend([
            ("subject", self.subject.clone()),
            ("issuer", self.issuer.clone()),
            ("serial", self.serial.clone()),
            ("valid", format!("{} to {}", rfc3339(self.not_before), rfc3339(self.not_after))),
            ("key", self.key.clone()),
            ("signature", self.signature.clone()),
            ("SHA-256", self.sha256.clone()),
        ]);
        lines
    }
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}

fn key(certificate: &X509Certificate<'_>) -> String {
    let spki = certificate.public_key();
    match spki.parsed() {
        Ok(PublicKey::EC(_)) => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => "ECDSA P-256".to_owned(),
                Some("1.3.132.0.34") => "ECDSA P-384".to_owned(),
                Some("1.3.132.0.35") => "ECDSA P-521".to_owned(),
                other => format!("EC on {}", other.unwrap_or("an unnamed curve")),
            }
        }
        Ok(PublicKey::RSA(rsa)) => format!("RSA {} bits", rsa.key_size()),
        _ => algorithm(&spki.algorithm.algorithm.to_id_string()),
    }
}

fn algorithm(oid: &str) -> String {
    match oid {
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.113549.1.1.10" => "RSASSA-PSS",
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        "1.2.840.113549.1.1.12" => "sha384WithRSAEncryption",
        "1.3.101.112" => "Ed25519",
        other => other,
    }
    .to_owned()
}

/// The name of an extension (3-attestation section 1.1 lists the carriers of evidence).
fn name(oid: &str) -> &'static str {
    match oid {
        "2.5.29.14" => "subjectKeyIdentifier",
        "2.5.29.15" => "keyUsage",
        "2.5.29.17" => "subjectAltName",
        "2.5.29.19" => "basicConstraints",
        "2.5.29.30" => "nameConstraints",
        "2.5.29.31" => "cRLDistributionPoints",
        "2.5.29.35" => "authorityKeyIdentifier",
        "2.5.29.37" => "extKeyUsage",
        "1.3.6.1.5.5.7.1.1" => "authorityInfoAccess",
        "1.3.6.1.5.5.7.1.35" => "evidence: CMW (RFC 9999)",
        "2.23.133.5.4.9" => "evidence: TCG/CCC interoperable RA-TLS",
        "2.23.133.5.4.2" => "endorsements: CCC interoperable RA-TLS",
        "0.6.9.42.840.113741.1337.6" => "evidence: Gramine (legacy)",
        "1.2.840.113741.1.13.1" => "Intel SGX extensions",
        "1.3.6.1.4.1.311.105.1" | "1.3.6.1.4.1.311.105.2" => "evidence: Open Enclave",
        _ if oid.starts_with("1.3.6.1.4.1.3704.1.") => "AMD SEV-SNP",
        _ if oid.starts_with("1.3.6.1.4.1.62397.1.") => "evidence: dstack",
        _ => "unknown",
    }
}

fn value(extension: &x509_parser::extensions::X509Extension<'_>) -> String {
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(b) => match (b.ca, b.path_len_constraint) {
            (false, _) => "not a CA".to_owned(),
            (true, None) => "CA".to_owned(),
            (true, Some(n)) => format!("CA, path length {n}"),
        },
        ParsedExtension::KeyUsage(usage) => usage.to_string(),
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let mut out = Vec::new();
            let known = [
                (usage.any, "any"),
                (usage.server_auth, "serverAuth"),
                (usage.client_auth, "clientAuth"),
                (usage.code_signing, "codeSigning"),
                (usage.ocsp_signing, "OCSPSigning"),
            ];
            out.extend(known.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
            out.extend(usage.other.iter().map(x509_parser::oid_registry::asn1_rs::Oid::to_id_string));
            out.join(", ")
        }
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        ParsedExtension::SubjectKeyIdentifier(id) => hex::encode(id.0),
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|id| hex::encode(id.0)).unwrap_or_default()
        }
        _ => format!("{} bytes", extension.value.len()),
    }
}
