//! Certificates of vendors: parsing, path validation, signatures.
//!
//! Paths are found in an unordered pool and validated by RFC 5280 section 6.1,
//! without policies and name constraints, which no vendor uses and which would
//! be refused as unknown critical extensions. The signature algorithms are
//! rustls-webpki's. Its path builder does not fit: it refuses the explicit
//! default trailerField in the RSA-PSS parameters of AMD's certificates, and a
//! CA as the end of a path, which the issuer of a CRL is.
//!
//! No clock is involved: a path has a [`Window`] in which it may be used.

mod crl;
mod pem;

use std::sync::Arc;

use aws_lc_rs::signature::{self, UnparsedPublicKey};
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::prelude::X509Certificate;

pub(crate) use self::crl::Crl;
pub(crate) use self::pem::{is_pem, pem_blocks};
use crate::anchors::{Anchors, Fingerprint};
use crate::claims::Window;
use crate::finding::Finding;
use crate::reason::Reason;

/// Algorithms by which certificates may be signed.
pub(crate) type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// What Intel signs with.
pub(crate) static INTEL_ALGORITHMS: Algorithms = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];

/// What AMD signs with: ARK and ASK are RSA-4096, VCEK and VLEK hold P-384 keys.
pub(crate) static AMD_ALGORITHMS: Algorithms =
    &[webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY, webpki::aws_lc_rs::ECDSA_P384_SHA384];

/// What any vendor signs with: for lists, whose issuer tells the vendor.
pub(crate) static ALL_ALGORITHMS: Algorithms = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
];

/// The largest certificate that is looked at, in bytes.
pub(crate) const MAX_CERTIFICATE: usize = 16 * 1024;

const OID_KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const OID_BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];

/// The longest path, root and leaf included.
const MAX_PATH: usize = 5;

/// How many candidate paths are tried before giving up.
const MAX_ATTEMPTS: usize = 16;

/// A parsed certificate. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    der: Box<[u8]>,
    to_be_signed: Box<[u8]>,
    signature: Box<[u8]>,
    fingerprint: Fingerprint,
    subject: Box<[u8]>,
    issuer: Box<[u8]>,
    common_name: String,
    serial: Box<[u8]>,
    window: Window,
    public_key: Box<[u8]>,
    key_algorithm: Box<[u8]>,
    /// `None`: it may not issue certificates. Otherwise how many CAs may be
    /// between it and the end of the path.
    ca: Option<u32>,
    unknown_critical: Option<String>,
    extensions: Vec<Extension>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Extension {
    oid: Box<[u8]>,
    value: Box<[u8]>,
}

impl Certificate {
    /// Parses one DER certificate; trailing bytes are an error.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, Finding> {
        let malformed =
            |what: String| Finding::new(Reason::Malformed, "certificate", "an X.509 certificate", what);
        if der.len() > MAX_CERTIFICATE {
            return Err(Finding::new(
                Reason::Oversized,
                "certificate",
                format!("at most {MAX_CERTIFICATE} bytes"),
                format!("{} bytes", der.len()),
            ));
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|e| malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after the certificate", rest.len())));
        }
        if parsed.signature_algorithm != parsed.signature {
            return Err(malformed("two different signature algorithms".to_owned()));
        }
        let constraints = parsed.basic_constraints().map_err(|e| malformed(e.to_string()))?;
        let usage = parsed.key_usage().map_err(|e| malformed(e.to_string()))?;
        let key = parsed.public_key();
        Ok(Self {
            fingerprint: Fingerprint::of(der),
            subject: parsed.subject().as_raw().into(),
            issuer: parsed.issuer().as_raw().into(),
            common_name: parsed
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            serial: magnitude(parsed.raw_serial()).into(),
            window: Window {
                from: seconds(parsed.validity().not_before.timestamp()),
                until: seconds(parsed.validity().not_after.timestamp()),
            },
            public_key: key.subject_public_key.data.as_ref().into(),
            key_algorithm: algorithm_identifier(key.raw)
                .ok_or_else(|| malformed("no algorithm of the public key".to_owned()))?
                .into(),
            ca: constraints
                .filter(|c| c.value.ca && usage.is_none_or(|u| u.value.key_cert_sign()))
                .map(|c| c.value.path_len_constraint.unwrap_or(u32::MAX)),
            unknown_critical: parsed
                .extensions()
                .iter()
                .find(|e| e.critical && ![OID_BASIC_CONSTRAINTS, OID_KEY_USAGE].contains(&e.oid.as_bytes()))
                .map(|e| e.oid.to_id_string()),
            extensions: parsed
                .extensions()
                .iter()
                .map(|e| Extension { oid: e.oid.as_bytes().into(), value: e.value.into() })
                .collect(),
            to_be_signed: parsed.tbs_certificate.as_ref().into(),
            signature: parsed.signature_value.data.as_ref().into(),
            der: der.into(),
        })
    }

    /// The DER encoding.
    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the DER encoding.
    pub(crate) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The subject as a DER Name.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The issuer as a DER Name.
    pub(crate) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// The first common name of the subject; empty when there is none.
    pub(crate) fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The serial number as an unsigned big-endian integer without leading zeros.
    pub(crate) fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// notBefore to notAfter.
    pub(crate) const fn window(&self) -> Window {
        self.window
    }

    /// The content of subjectPublicKey: an uncompressed point or an RSAPublicKey.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The value of the extension whose object identifier has these content
    /// bytes. A second one of the same kind is an error.
    pub(crate) fn extension(&self, oid: &[u8]) -> Result<Option<&[u8]>, Finding> {
        let mut found = self.extensions.iter().filter(|e| *e.oid == *oid);
        let first = found.next();
        if found.next().is_some() {
            return Err(Finding::new(
                Reason::Malformed,
                format!("certificate {}", self.common_name),
                "each extension once",
                "a repeated extension",
            ));
        }
        Ok(first.map(|e| &*e.value))
    }

    /// Whether it may issue certificates, and with that revoke them.
    pub(crate) const fn is_ca(&self) -> bool {
        self.ca.is_some()
    }

    /// Whether it names itself as its issuer.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it is a self-signed certificate of the same name and key as `root`.
    pub(crate) fn is_same_root(&self, root: &Self, algorithms: Algorithms) -> bool {
        self.is_self_issued()
            && self.subject == root.subject
            && self.public_key == root.public_key
            && root.verify(algorithms, &self.to_be_signed, &self.signature)
    }

    /// Verifies a signature in X.509 form (ECDSA as DER) by this certificate's key.
    pub(crate) fn verify(&self, algorithms: Algorithms, message: &[u8], signature: &[u8]) -> bool {
        algorithms
            .iter()
            .filter(|a| *a.public_key_alg_id() == *self.key_algorithm)
            .any(|a| a.verify_signature(&self.public_key, message, signature).is_ok())
    }
}

/// A validated path.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// From the leaf to the root, both included.
    pub(crate) certificates: Vec<Arc<Certificate>>,
    /// The root's fingerprint, one of the anchors.
    pub(crate) root: Fingerprint,
    /// When all of its certificates are valid.
    pub(crate) window: Window,
}

/// What the names of emulated vendors' authorities begin with.
const EMULATED: &str = "Countersign Emulated ";

impl Path {
    /// Whether the root says of itself that its platforms are emulated. Somebody
    /// may have listed it among the roots of vendors all the same.
    pub(crate) fn is_emulated(&self) -> bool {
        is_emulated(&self.certificates)
    }

    /// The certificate that issued the leaf.
    pub(crate) fn issuer(&self) -> Option<&Arc<Certificate>> {
        self.certificates.get(1)
    }
}

/// As [`Path::is_emulated`], of a chain that ends in a root.
pub(crate) fn is_emulated(chain: &[Arc<Certificate>]) -> bool {
    chain.last().is_some_and(|root| root.common_name.starts_with(EMULATED))
}

/// Finds a path from `leaf` through `pool` (in any order) to one of `anchors`,
/// and validates it. A root that has the same name and key as an anchor but is
/// another certificate does not count; an anchor in the pool that verifies the
/// same intermediate does.
pub(crate) fn find_path(
    leaf: &Arc<Certificate>,
    pool: &[Arc<Certificate>],
    anchors: &Anchors,
    algorithms: Algorithms,
) -> Result<Path, Finding> {
    if anchors.kind(&leaf.fingerprint).is_some() {
        return Ok(Path {
            certificates: vec![Arc::clone(leaf)],
            root: leaf.fingerprint,
            window: leaf.window,
        });
    }
    if leaf.is_self_issued() {
        return Err(untrusted(leaf));
    }
    let mut search = Search { pool, anchors, algorithms, attempts: 0, failure: None };
    search.extend(&mut vec![Arc::clone(leaf)]).ok_or_else(|| {
        search.failure.unwrap_or_else(|| {
            Finding::new(
                Reason::BadChain,
                format!("certificate {}", leaf.common_name),
                "a chain to a trusted root",
                "no certificate of its issuer",
            )
        })
    })
}

struct Search<'a> {
    pool: &'a [Arc<Certificate>],
    anchors: &'a Anchors,
    algorithms: Algorithms,
    attempts: usize,
    failure: Option<Finding>,
}

impl Search<'_> {
    /// Depth first, bounded by [`MAX_PATH`] and [`MAX_ATTEMPTS`].
    fn extend(&mut self, path: &mut Vec<Arc<Certificate>>) -> Option<Path> {
        let last = Arc::clone(path.last()?);
        if last.is_self_issued() || path.len() >= MAX_PATH {
            return None;
        }
        let pool = self.pool;
        for candidate in pool.iter().filter(|c| c.subject == last.issuer) {
            if path.contains(candidate) {
                continue;
            }
            if self.attempts >= MAX_ATTEMPTS {
                return None;
            }
            self.attempts += 1;
            path.push(Arc::clone(candidate));
            let found = if self.anchors.kind(&candidate.fingerprint).is_some() {
                // The first failure is about the chain that was presented: a stranger's
                // root of the same name stays an untrusted root.
                match validate(path, self.algorithms) {
                    Ok(found) => Some(found),
                    Err(finding) => {
                        self.failure.get_or_insert(finding);
                        None
                    }
                }
            } else {
                if candidate.is_self_issued() {
                    self.failure.get_or_insert_with(|| untrusted(candidate));
                }
                self.extend(path)
            };
            if found.is_some() {
                return found;
            }
            path.pop();
        }
        None
    }
}

/// Validates a complete path, whose last certificate is trusted.
fn validate(path: &[Arc<Certificate>], algorithms: Algorithms) -> Result<Path, Finding> {
    let [.., root] = path else { return Err(bad_chain("path", "a root", "none")) };
    let window = path.iter().fold(Window::ALWAYS, |w, c| w.intersect(c.window));
    if window.from > window.until {
        return Err(Finding::new(
            Reason::CertificateExpired,
            format!("chain to {}", root.common_name),
            "certificates that are valid at the same time",
            "no such time",
        ));
    }
    let pairs = path.iter().zip(path.iter().skip(1));
    for ((certificate, issuer), cas_below) in pairs.zip(0..) {
        let refused =
            |expected: &str, presented: &str| bad_chain(&certificate.common_name, expected, presented);
        if let Some(oid) = &certificate.unknown_critical {
            return Err(refused("no unknown critical extension", oid));
        }
        // A CA at the end of the path, the issuer of a CRL, is not counted.
        if issuer.ca.is_none_or(|limit| cas_below > limit) {
            return Err(refused("an issuer that may issue it", &issuer.common_name));
        }
        if certificate.issuer != issuer.subject
            || !issuer.verify(algorithms, &certificate.to_be_signed, &certificate.signature)
        {
            return Err(refused(&format!("the signature of {}", issuer.common_name), "another"));
        }
    }
    Ok(Path { certificates: path.to_vec(), root: root.fingerprint, window })
}

fn untrusted(root: &Certificate) -> Finding {
    Finding::new(
        Reason::UntrustedRoot,
        "root certificate",
        "a root that is trusted",
        format!("{} {}", root.common_name, root.fingerprint),
    )
}

fn bad_chain(name: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::BadChain, format!("certificate {name}"), expected, presented)
}

/// Verifies an ECDSA P-256 signature `r ‖ s` over SHA-256 of `message`.
/// `point` is x ‖ y without the leading 4.
pub(crate) fn verify_p256(point: &[u8; 64], message: &[u8], signature: &[u8; 64]) -> bool {
    let mut key = [4; 65];
    if let Some(rest) = key.last_chunk_mut() {
        *rest = *point;
    }
    UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
}

/// An integer's bytes without leading zeros.
fn magnitude(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.split_at_checked(zeros).map_or(&[], |(_, rest)| rest)
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}

/// The content of the AlgorithmIdentifier in a SubjectPublicKeyInfo.
fn algorithm_identifier(spki: &[u8]) -> Option<&[u8]> {
    let (_, info) = Any::from_der(spki).ok()?;
    let (_, algorithm) = Any::from_der(info.data).ok()?;
    Some(algorithm.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sev::certs::snp::builtin::{genoa, milan, turin};

    fn certificate(der: &[u8]) -> Arc<Certificate> {
        Arc::new(Certificate::parse(der).unwrap())
    }

    #[test]
    fn amd_signing_keys_lead_to_the_built_in_roots() {
        for (ark, ask) in
            [(milan::ark(), milan::ask()), (genoa::ark(), genoa::ask()), (turin::ark(), turin::ask())]
        {
            let ark = certificate(&ark.unwrap().to_der().unwrap());
            let ask = certificate(&ask.unwrap().to_der().unwrap());
            let pool = [Arc::clone(&ask), Arc::clone(&ark)];
            let path = find_path(&ask, &pool, &Anchors::built_in(), AMD_ALGORITHMS).unwrap();
            assert_eq!(path.root, ark.fingerprint());
            assert_eq!(path.certificates, [Arc::clone(&ask), Arc::clone(&ark)]);
            assert!(path.window.from < path.window.until);

            let intel = find_path(&ask, &pool, &Anchors::built_in(), INTEL_ALGORITHMS).unwrap_err();
            assert_eq!(intel.reason, Reason::BadChain, "an algorithm that is not listed does not count");
            let nobody = find_path(&ask, &pool, &Anchors::new(vec![], vec![]), AMD_ALGORITHMS).unwrap_err();
            assert_eq!(nobody.reason, Reason::UntrustedRoot);
            let alone = find_path(&ask, &[], &Anchors::built_in(), AMD_ALGORITHMS).unwrap_err();
            assert_eq!(alone.reason, Reason::BadChain);
        }
    }

    #[test]
    fn a_changed_certificate_has_no_path() {
        let ark = certificate(&milan::ark().unwrap().to_der().unwrap());
        let mut der = milan::ask().unwrap().to_der().unwrap();
        let last = der.len() - 1;
        der[last] ^= 1;
        let ask = certificate(&der);
        let refused = find_path(&ask, &[ark], &Anchors::built_in(), AMD_ALGORITHMS).unwrap_err();
        assert_eq!(refused.reason, Reason::BadChain);
    }

    #[test]
    fn damaged_and_oversized_certificates_are_refused() {
        let der = milan::ark().unwrap().to_der().unwrap();
        for end in 0..der.len() {
            assert!(Certificate::parse(&der[..end]).is_err());
        }
        let mut long = der;
        long.push(0);
        assert_eq!(Certificate::parse(&long).unwrap_err().reason, Reason::Malformed);
        long.resize(MAX_CERTIFICATE + 1, 0);
        assert_eq!(Certificate::parse(&long).unwrap_err().reason, Reason::Oversized);
    }
}
