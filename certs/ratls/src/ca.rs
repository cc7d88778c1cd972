//! The embedded certificate authority of a trust domain.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use countersign_evidence::{Finding, Reason, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::key::{KeyType, PrivateKey};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::{certificate, extension};

/// How far certificates are back-dated for clocks that are behind, in seconds.
const SKEW: u64 = 10;

/// How long a bootstrap certificate is valid, in seconds.
const BOOTSTRAP_LIFETIME: u64 = 600;

/// A CA certificate with its key.
#[derive(Debug)]
pub struct Authority {
    /// The certificate: an SVID of the trust domain itself, without a path.
    pub certificate: CertificateDer<'static>,
    key: PrivateKey,
}

/// What goes into a leaf.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// DER SubjectPublicKeyInfo of the workload's key.
    pub spki: &'a [u8],
    /// The ID, from policy, never from the request.
    pub id: &'a SpiffeId,
    /// Seconds from now.
    pub lifetime: u64,
    /// The CMW collection of the request; `None` for operators.
    pub cmw: Option<&'a [u8]>,
}

impl Authority {
    /// A new root for `trust_domain`, valid for `lifetime` seconds.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn create(trust_domain: &TrustDomain, lifetime: u64, now: UnixTime) -> Result<Self, Finding> {
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let mut params = params(now, now.as_secs().saturating_add(lifetime))?;
        params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} trust domain CA"));
        params.subject_alt_names = vec![uri(&trust_domain.id())?];
        // One level: this CA signs leaves. A deeper hierarchy brings its own root.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
        Ok(Self { certificate: certificate.der().clone(), key })
    }

    /// From what [`Authority::key`] and [`Authority::certificate`] gave.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn from_parts(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, Finding> {
        let parsed = certificate::parse("CA certificate", &certificate)?;
        crate::svid::check_signing(&parsed)?;
        if parsed.public_key().raw != key.spki() {
            let (expected, presented) = ("a certificate for the given key", "a certificate for another key");
            return Err(Finding::new(Reason::Malformed, "CA certificate", expected, presented));
        }
        Ok(Self { certificate, key })
    }

    /// The private key, to be stored.
    #[must_use]
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Issues an X.509-SVID; never valid longer than the CA. Back-dated by 10 s for clock skew.
    ///
    /// # Errors
    /// When signing fails or a cap is exceeded.
    pub fn issue(&self, leaf: &Leaf<'_>, now: UnixTime) -> Result<Vec<CertificateDer<'static>>, Finding> {
        let (_, ca_not_after) =
            certificate::validity(&certificate::parse("CA certificate", &self.certificate)?);
        let not_after = now.as_secs().saturating_add(leaf.lifetime).min(ca_not_after);
        if not_after <= now.as_secs() {
            let presented = format!("expired at {ca_not_after}");
            return Err(Finding::new(Reason::Internal, "CA certificate", "valid now", presented));
        }
        let mut params = params(now, not_after)?;
        params.subject_alt_names = vec![uri(leaf.id)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if let Some(cmw) = leaf.cmw {
            params.custom_extensions.push(extension::emit(cmw)?);
        }
        let spki = SubjectPublicKeyInfo::from_der(leaf.spki).map_err(|error| {
            Finding::new(
                Reason::Malformed,
                "public key",
                "a supported SubjectPublicKeyInfo",
                error.to_string(),
            )
        })?;
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(|error| failed(&error))?;
        let certificate = params.signed_by(&spki, &issuer).map_err(|error| failed(&error))?;
        Ok(vec![certificate.der().clone()])
    }
}

/// A bootstrap certificate: proves nothing but its key.
pub(crate) fn self_signed(key: &PrivateKey, now: UnixTime) -> Result<CertificateDer<'static>, Finding> {
    let mut params = params(now, now.as_secs().saturating_add(BOOTSTRAP_LIFETIME))?;
    params.distinguished_name.push(DnType::CommonName, "countersign bootstrap");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.self_signed(key).map_err(|error| failed(&error))?;
    Ok(certificate.der().clone())
}

/// A random serial number of 128 bits, no subject, and these times.
fn params(now: UnixTime, not_after: u64) -> Result<CertificateParams, Finding> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| failed(&rcgen::Error::RingUnspecified))?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(now.as_secs().saturating_sub(SKEW));
    params.not_after = date(not_after);
    Ok(params)
}

/// At most the year 9999, which is as far as X.509 counts.
fn date(seconds: u64) -> OffsetDateTime {
    const END: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(END).min(END);
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds)
}

fn uri(id: &SpiffeId) -> Result<SanType, Finding> {
    Ok(SanType::URI(id.as_str().try_into().map_err(|error| failed(&error))?))
}

fn failed(error: &rcgen::Error) -> Finding {
    Finding::new(Reason::Internal, "certificate", "a signed certificate", error.to_string())
}
