//! What a trust domain stands on: the CA, the snapshot key, the bundle of both.
//! Made at the first start; each private key in a file of its own, for us alone.

use std::path::Path;

use countersign_evidence::UnixTime;
use countersign_ratls::ca::Leaf;
use countersign_ratls::certificate::to_pem;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::{Authority, Bundle, SpiffeId, TrustDomain};
use countersign_wire::SnapshotKey;
use rustls_pki_types::CertificateDer;

use crate::error::Error;
use crate::files;

/// 10 years: the root of a trust domain outlives its workloads' certificates by far.
const CA_LIFETIME: u64 = 3650 * 86_400;
/// An operator's certificate is a file on disk, without evidence: 90 days, and anew with each start.
const OPERATOR_LIFETIME: u64 = 90 * 86_400;
/// How often proxies should look for a new bundle, seconds.
const REFRESH_HINT: u64 = 300;

/// The trust domain's keys.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) authority: Authority,
    pub(crate) snapshot: SnapshotKey,
    pub(crate) bundle: Bundle,
    /// notAfter of the CA certificate, seconds since the epoch.
    pub(crate) not_after: u64,
}

impl Keys {
    /// Reads the keys, or makes them when there are none.
    pub(crate) fn open(directory: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Self, Error> {
        let authority = authority(directory, domain, now)?;
        let snapshot = snapshot_key(directory)?;
        let not_after = not_after(&authority.certificate)
            .ok_or_else(|| Error::state(&directory.join(CA_CERTIFICATE), "not an X.509 certificate"))?;
        let bundle = Bundle {
            trust_domain: domain.clone(),
            x509_authorities: vec![authority.certificate.clone()],
            snapshot_keys: vec![snapshot.public()],
            sequence: 1,
            refresh_hint: Some(REFRESH_HINT),
        };
        Ok(Self { authority, snapshot, bundle, not_after })
    }
}

const CA_KEY: &str = "ca-key.pem";
const CA_CERTIFICATE: &str = "ca.pem";
const SNAPSHOT_KEY: &str = "snapshot-key.p8";
/// The trust domain's bundle, for the bootstrap of proxies.
pub const BUNDLE: &str = "bundle.json";
/// The operator's context, for the CLI.
pub const OPERATOR: &str = "operator.yaml";

fn authority(directory: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Authority, Error> {
    let (key_path, certificate_path) = (directory.join(CA_KEY), directory.join(CA_CERTIFICATE));
    let key = files::read(&key_path).map_err(Error::io(format!("read {}", key_path.display())))?;
    let certificate =
        files::read(&certificate_path).map_err(Error::io(format!("read {}", certificate_path.display())))?;
    match (key, certificate) {
        (Some(key), Some(certificate)) => {
            let pem = std::str::from_utf8(&key).map_err(|_| Error::state(&key_path, "not PEM"))?;
            let key = PrivateKey::from_pem(pem).map_err(|e| Error::state(&key_path, e.to_string()))?;
            let certificate = from_pem(&certificate)
                .ok_or_else(|| Error::state(&certificate_path, "not one certificate in PEM"))?;
            Authority::from_parts(certificate, key)
                .map_err(|e| Error::state(&certificate_path, e.to_string()))
        }
        // The certificate is written last: a key alone is a first start that was interrupted.
        (_, None) => {
            let authority = Authority::create(domain, CA_LIFETIME, now)?;
            write(&key_path, 0o600, authority.key().to_pem().as_bytes())?;
            write(&certificate_path, 0o644, to_pem(&authority.certificate).as_bytes())?;
            tracing::info!(trust_domain = %domain, "made the certificate authority");
            Ok(authority)
        }
        (None, Some(_)) => Err(Error::state(&key_path, "the CA's key is missing next to its certificate")),
    }
}

fn snapshot_key(directory: &Path) -> Result<SnapshotKey, Error> {
    let path = directory.join(SNAPSHOT_KEY);
    match files::read(&path).map_err(Error::io(format!("read {}", path.display())))? {
        Some(der) => SnapshotKey::from_pkcs8(&der).map_err(|e| Error::state(&path, e.to_string())),
        None => {
            let key = SnapshotKey::generate()?;
            write(&path, 0o600, &key.to_pkcs8()?)?;
            Ok(key)
        }
    }
}

/// How operators reach the control plane, and how they judge it.
pub(crate) struct Ours<'a> {
    pub(crate) server: &'a str,
    pub(crate) id: &'a SpiffeId,
    /// The policy, with its reference values.
    pub(crate) attestation: &'a Path,
    /// The directory of the vendor collateral.
    pub(crate) collateral: &'a Path,
}

/// Writes what proxies and operators start from.
pub(crate) fn hand_out(keys: &Keys, directory: &Path, ours: &Ours<'_>, now: UnixTime) -> Result<(), Error> {
    let bundle = keys.bundle.to_json();
    let path = directory.join(BUNDLE);
    write(&path, 0o644, bundle.as_bytes())?;
    tracing::info!(path = %path.display(), "wrote the trust bundle for proxies");

    let id = SpiffeId::parse(&format!("spiffe://{}/operator/admin", keys.bundle.trust_domain))?;
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let spki = key.spki();
    let leaf = Leaf { spki: &spki, id: &id, lifetime: OPERATOR_LIFETIME, cmw: None };
    let chain: String = keys.authority.issue(&leaf, now)?.iter().map(to_pem).collect();
    let mut text = zeroize::Zeroizing::new(format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: OperatorContext\nserver: {}\ntrustDomain: {}\n\
         controlPlaneId: {}\nattestation: {}\ncollateral: [{}]\nbundle: {}\ncertificate: |\n{}",
        quoted(ours.server),
        quoted(keys.bundle.trust_domain.as_str()),
        quoted(ours.id.as_str()),
        quoted(&named_from(directory, ours.attestation)?),
        quoted(&named_from(directory, ours.collateral)?),
        quoted(&bundle),
        indented(&chain),
    ));
    text.push_str("key: |\n");
    text.push_str(&zeroize::Zeroizing::new(indented(&key.to_pem())));
    let path = directory.join(OPERATOR);
    write(&path, 0o600, text.as_bytes())?;
    tracing::info!(path = %path.display(), id = %id, "wrote the operator's context for the CLI");
    Ok(())
}

/// A path as a file in `directory` names it: a file beside it by its name, so that
/// both can be copied together.
fn named_from(directory: &Path, path: &Path) -> Result<String, Error> {
    let named = match path.strip_prefix(directory) {
        Ok(beside) => beside.to_owned(),
        Err(_) => std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))?,
    };
    named.into_os_string().into_string().map_err(|_| Error::state(path, "its path is not UTF-8"))
}

/// The leaf's serial number in hexadecimal and its notAfter.
pub(crate) fn serial(leaf: &CertificateDer<'_>) -> Option<(String, u64)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some((hex::encode(certificate.raw_serial()), not_after))
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    serial(certificate).map(|(_, not_after)| not_after)
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    files::write(path, mode, bytes).map_err(Error::io(format!("write {}", path.display())))
}

/// A double-quoted YAML scalar; JSON strings are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}

fn from_pem(pem: &[u8]) -> Option<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem).ok()
}
