//! The Intel-like family: root CA, PCK Platform CA, TCB signing, PCK certificates.

use countersign_evidence::claims::Window;
use yasna::DERWriter;

use super::key::{Key, Kind};
use super::spec::IntelPlatform;
use super::x509::{Certificate, Extension, Oid, Serial, Usage, oid};
use crate::Error;

pub(super) const ROOT: &str = "Countersign Emulated SGX Root CA";
pub(super) const PLATFORM_CA: &str = "Countersign Emulated SGX PCK Platform CA";
pub(super) const TCB_SIGNING: &str = "Countersign Emulated SGX TCB Signing";
/// The verification looks for "SGX PCK Certificate" in it.
const PCK: &str = "Countersign Emulated SGX PCK Certificate";

/// A key with its certificate.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) key: Key,
    pub(super) certificate: Vec<u8>,
}

/// The PKI.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) root: Signer,
    pub(super) platform_ca: Signer,
    pub(super) tcb_signing: Signer,
}

impl Authority {
    pub(super) fn generate(window: Window) -> Result<Self, Error> {
        let root_key = Key::generate(Kind::P256)?;
        let root_spki = root_key.spki()?;
        let issue = |subject: &str, spki: &[u8], ca: Option<Option<u8>>| {
            let usage = if ca.is_some() { Usage::Certify } else { Usage::Sign };
            Certificate {
                serial: &Serial::derive(&[subject.as_bytes(), spki]),
                issuer: ROOT,
                subject,
                window,
                spki,
                extensions: &[
                    Extension::authority_key_id(&root_spki),
                    Extension::subject_key_id(spki),
                    Extension::key_usage(usage),
                    Extension::basic_constraints(ca),
                ],
            }
            .sign(&root_key)
        };
        let signer = |subject: &str, ca: Option<Option<u8>>| {
            let key = Key::generate(Kind::P256)?;
            let certificate = issue(subject, &key.spki()?, ca)?;
            Ok::<_, Error>(Signer { key, certificate })
        };
        let platform_ca = signer(PLATFORM_CA, Some(Some(0)))?;
        let tcb_signing = signer(TCB_SIGNING, None)?;
        let root = issue(ROOT, &root_spki, Some(Some(1)))?;
        Ok(Self { root: Signer { key: root_key, certificate: root }, platform_ca, tcb_signing })
    }

    pub(super) fn platform_ca_serial(&self) -> Result<Serial, Error> {
        Ok(Serial::derive(&[PLATFORM_CA.as_bytes(), &self.platform_ca.key.spki()?]))
    }

    pub(super) fn tcb_signing_serial(&self) -> Result<Serial, Error> {
        Ok(Serial::derive(&[TCB_SIGNING.as_bytes(), &self.tcb_signing.key.spki()?]))
    }

    /// A PCK certificate for `platform`. Its serial number depends on the
    /// platform and its TCB alone, so that a revocation survives a restart.
    pub(super) fn pck(
        &self,
        platform: &IntelPlatform,
        spki: &[u8],
        window: Window,
    ) -> Result<Vec<u8>, Error> {
        Certificate {
            serial: &pck_serial(platform),
            issuer: PLATFORM_CA,
            subject: PCK,
            window,
            spki,
            extensions: &[
                Extension::authority_key_id(&self.platform_ca.key.spki()?),
                Extension::subject_key_id(spki),
                Extension::key_usage(Usage::Sign),
                Extension::basic_constraints(None),
                Extension::new(SGX, sgx_extension(platform)),
            ],
        }
        .sign(&self.platform_ca.key)
    }
}

pub(super) fn pck_serial(platform: &IntelPlatform) -> Serial {
    Serial::derive(&[
        b"PCK",
        &platform.ppid,
        platform.piid.as_ref().map_or(&[], |piid| piid.as_slice()),
        &platform.fmspc,
        &platform.cpu_svn,
        &platform.pce_svn.to_be_bytes(),
    ])
}

// Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5.
const SGX: Oid = &[1, 2, 840, 113_741, 1, 13, 1];

fn sgx_extension(platform: &IntelPlatform) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_sequence(|s| {
            pair(s.next(), &[1], |w| w.write_bytes(&platform.ppid));
            pair(s.next(), &[2], |w| {
                w.write_sequence(|s| {
                    for (number, svn) in (1..).zip(platform.cpu_svn) {
                        pair(s.next(), &[2, number], |w| w.write_u8(svn));
                    }
                    pair(s.next(), &[2, 17], |w| w.write_u16(platform.pce_svn));
                    pair(s.next(), &[2, 18], |w| w.write_bytes(&platform.cpu_svn));
                });
            });
            pair(s.next(), &[3], |w| w.write_bytes(&platform.pce_id));
            pair(s.next(), &[4], |w| w.write_bytes(&platform.fmspc));
            pair(s.next(), &[5], |w| w.write_enum(1)); // SGX type: scalable
            if let Some(piid) = &platform.piid {
                pair(s.next(), &[6], |w| w.write_bytes(piid));
            }
            pair(s.next(), &[7], |w| {
                w.write_sequence(|s| {
                    // dynamicPlatform, cachedKeys, smtEnabled
                    for (number, value) in [(1, false), (2, true), (3, true)] {
                        pair(s.next(), &[7, number], |w| w.write_bool(value));
                    }
                });
            });
        });
    })
}

/// SEQUENCE { an identifier below the SGX arc, a value }.
fn pair(w: DERWriter<'_>, tail: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    w.write_sequence(|s| {
        s.next().write_oid(&oid(&[SGX, tail].concat()));
        value(s.next());
    });
}
