//! Certificates and revocation lists as DER (RFC 5280), with what Intel's and
//! AMD's have in common: the vendors differ in key kinds and extensions.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine;
use countersign_evidence::claims::Window;
use time::OffsetDateTime;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag};
use zeroize::Zeroizing;

use super::key::{Key, Kind};
use crate::Error;

/// The serial number of a certificate, big endian.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serial(pub Vec<u8>);

impl Serial {
    /// 20 octets that depend on `parts` alone, positive and without leading zeros.
    pub(super) fn derive(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&[u8::try_from(part.len()).unwrap_or(u8::MAX)]);
            context.update(part);
        }
        let mut octets: Vec<u8> = context.finish().as_ref().iter().copied().take(20).collect();
        if let Some(first) = octets.first_mut() {
            *first = *first & 0x3f | 0x40;
        }
        Self(octets)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// An object identifier.
pub(super) type Oid = &'static [u64];

const COMMON_NAME: Oid = &[2, 5, 4, 3];
const ORGANIZATION: Oid = &[2, 5, 4, 10];
const SUBJECT_KEY_ID: Oid = &[2, 5, 29, 14];
const KEY_USAGE: Oid = &[2, 5, 29, 15];
const BASIC_CONSTRAINTS: Oid = &[2, 5, 29, 19];
const CRL_NUMBER: Oid = &[2, 5, 29, 20];
const CRL_REASON: Oid = &[2, 5, 29, 21];
const AUTHORITY_KEY_ID: Oid = &[2, 5, 29, 35];
const ECDSA_SHA256: Oid = &[1, 2, 840, 10045, 4, 3, 2];
const ECDSA_SHA384: Oid = &[1, 2, 840, 10045, 4, 3, 3];
const RSASSA_PSS: Oid = &[1, 2, 840, 113_549, 1, 1, 10];
const MGF1: Oid = &[1, 2, 840, 113_549, 1, 1, 8];
const SHA384: Oid = &[2, 16, 840, 1, 101, 3, 4, 2, 2];

/// keyUsage, RFC 5280 section 4.2.1.3: the first octet of the BIT STRING.
#[derive(Clone, Copy)]
pub(super) enum Usage {
    /// digitalSignature.
    Sign,
    /// keyCertSign and cRLSign.
    Certify,
}

/// One extension with the DER of its value.
pub(super) struct Extension {
    pub(super) oid: Oid,
    pub(super) critical: bool,
    pub(super) value: Vec<u8>,
}

impl Extension {
    pub(super) fn new(oid: Oid, value: Vec<u8>) -> Self {
        Self { oid, critical: false, value }
    }

    fn critical(oid: Oid, value: Vec<u8>) -> Self {
        Self { oid, critical: true, value }
    }

    pub(super) fn basic_constraints(ca: Option<Option<u8>>) -> Self {
        let value = yasna::construct_der(|w| {
            w.write_sequence(|s| {
                if let Some(path_length) = ca {
                    s.next().write_bool(true);
                    if let Some(length) = path_length {
                        s.next().write_u8(length);
                    }
                }
            });
        });
        Self::critical(BASIC_CONSTRAINTS, value)
    }

    pub(super) fn key_usage(usage: Usage) -> Self {
        // 03 02 unused-bits octet
        let value = match usage {
            Usage::Sign => vec![3, 2, 7, 0x80],
            Usage::Certify => vec![3, 2, 1, 0x06],
        };
        Self::critical(KEY_USAGE, value)
    }

    pub(super) fn subject_key_id(spki: &[u8]) -> Self {
        Self::new(SUBJECT_KEY_ID, yasna::construct_der(|w| w.write_bytes(&key_id(spki))))
    }

    pub(super) fn authority_key_id(spki: &[u8]) -> Self {
        let value = yasna::construct_der(|w| {
            w.write_sequence(|s| {
                s.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(&key_id(spki)));
            });
        });
        Self::new(AUTHORITY_KEY_ID, value)
    }
}

/// The first 20 octets of the SHA-256 of the public key (RFC 7093 section 2).
fn key_id(spki: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, spki).as_ref().iter().copied().take(20).collect()
}

/// A certificate that is about to be signed.
pub(super) struct Certificate<'a> {
    pub(super) serial: &'a Serial,
    pub(super) issuer: &'a str,
    pub(super) subject: &'a str,
    pub(super) window: Window,
    pub(super) spki: &'a [u8],
    pub(super) extensions: &'a [Extension],
}

impl Certificate<'_> {
    /// The signed certificate as DER.
    pub(super) fn sign(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let tbs = yasna::construct_der(|w| {
            w.write_sequence(|s| {
                s.next().write_tagged(Tag::context(0), |w| w.write_u8(2)); // v3
                s.next().write_bigint_bytes(&self.serial.0, true);
                algorithm(s.next(), key.kind());
                name(s.next(), self.issuer);
                s.next().write_sequence(|s| {
                    moment(s.next(), self.window.from);
                    moment(s.next(), self.window.until);
                });
                name(s.next(), self.subject);
                s.next().write_der(self.spki);
                s.next().write_tagged(Tag::context(3), |w| extensions(w, self.extensions));
            });
        });
        signed(&tbs, key)
    }
}

/// A revocation list that is about to be signed.
pub(super) struct Crl<'a> {
    pub(super) issuer: &'a str,
    pub(super) issuer_spki: &'a [u8],
    pub(super) number: u64,
    pub(super) window: Window,
    pub(super) revoked: &'a [Serial],
}

impl Crl<'_> {
    /// The signed list as DER.
    pub(super) fn sign(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let tbs = yasna::construct_der(|w| {
            w.write_sequence(|s| {
                s.next().write_u8(1); // v2
                algorithm(s.next(), key.kind());
                name(s.next(), self.issuer);
                moment(s.next(), self.window.from);
                moment(s.next(), self.window.until);
                // revokedCertificates is absent when there are none (RFC 5280 section 5.1.2.6)
                if !self.revoked.is_empty() {
                    s.next().write_sequence(|s| {
                        for serial in self.revoked {
                            s.next().write_sequence(|s| {
                                s.next().write_bigint_bytes(&serial.0, true);
                                moment(s.next(), self.window.from);
                                let key_compromise = yasna::construct_der(|w| w.write_enum(1));
                                extensions(s.next(), &[Extension::new(CRL_REASON, key_compromise)]);
                            });
                        }
                    });
                }
                let number = yasna::construct_der(|w| w.write_u64(self.number));
                s.next().write_tagged(Tag::context(0), |w| {
                    let list =
                        [Extension::new(CRL_NUMBER, number), Extension::authority_key_id(self.issuer_spki)];
                    extensions(w, &list);
                });
            });
        });
        signed(&tbs, key)
    }
}

/// SEQUENCE { tbs, algorithm, signature }.
fn signed(tbs: &[u8], key: &Key) -> Result<Vec<u8>, Error> {
    let signature = key.sign_der(tbs)?;
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|s| {
            s.next().write_der(tbs);
            algorithm(s.next(), key.kind());
            s.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// AlgorithmIdentifier. AMD writes the parameters of RSASSA-PSS out (RFC 4055 section 3.1).
fn algorithm(w: DERWriter<'_>, kind: Kind) {
    let hash = |w: DERWriter<'_>| {
        w.write_sequence(|s| {
            s.next().write_oid(&oid(SHA384));
            s.next().write_null();
        });
    };
    w.write_sequence(|s| match kind {
        Kind::P256 => s.next().write_oid(&oid(ECDSA_SHA256)),
        Kind::P384 => s.next().write_oid(&oid(ECDSA_SHA384)),
        Kind::Rsa4096 => {
            s.next().write_oid(&oid(RSASSA_PSS));
            s.next().write_sequence(|s| {
                s.next().write_tagged(Tag::context(0), hash);
                s.next().write_tagged(Tag::context(1), |w| {
                    w.write_sequence(|s| {
                        s.next().write_oid(&oid(MGF1));
                        hash(s.next());
                    });
                });
                s.next().write_tagged(Tag::context(2), |w| w.write_u8(48));
            });
        }
    });
}

fn extensions(w: DERWriter<'_>, list: &[Extension]) {
    w.write_sequence(|s| {
        for extension in list {
            s.next().write_sequence(|s| {
                s.next().write_oid(&oid(extension.oid));
                if extension.critical {
                    s.next().write_bool(true);
                }
                s.next().write_bytes(&extension.value);
            });
        }
    });
}

/// CN and O.
fn name(w: DERWriter<'_>, common_name: &str) {
    w.write_sequence(|s| {
        for (attribute, value) in [(COMMON_NAME, common_name), (ORGANIZATION, "Countersign Emulated")] {
            s.next().write_set(|s| {
                s.next().write_sequence(|s| {
                    s.next().write_oid(&oid(attribute));
                    s.next().write_utf8_string(value);
                });
            });
        }
    });
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280 section 4.1.2.5).
fn moment(w: DERWriter<'_>, seconds: u64) {
    let t = date_time(seconds);
    let rest =
        format!("{:02}{:02}{:02}{:02}{:02}Z", u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second());
    let (tag, text) = if (1950..2050).contains(&t.year()) {
        (0x17, format!("{:02}{rest}", t.year().rem_euclid(100)))
    } else {
        (0x18, format!("{:04}{rest}", t.year()))
    };
    let mut der = vec![tag, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    der.extend_from_slice(text.as_bytes());
    w.write_der(&der);
}

/// A point in time; the last second of the year 9999 when it is later than that.
pub(super) fn date_time(seconds: u64) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// ECDSA-Sig-Value from r ‖ s.
pub(super) fn ecdsa_signature(fixed: &[u8]) -> Vec<u8> {
    let (r, s) = fixed.split_at_checked(fixed.len() / 2).unwrap_or_default();
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_bigint_bytes(r, true);
            w.next().write_bigint_bytes(s, true);
        });
    })
}

pub(super) fn oid(arcs: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(arcs)
}

/// PEM (RFC 7468). Cleared on drop, because it may be a private key.
pub(super) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut out = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for (i, c) in text.chars().enumerate() {
        if i > 0 && i % 64 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str("\n-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// The DER of the first PEM block with this label.
pub(super) fn from_pem(label: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let mut packed = Zeroizing::new(String::with_capacity(body.len()));
    packed.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
    base64::engine::general_purpose::STANDARD.decode(packed.as_bytes()).ok().map(Zeroizing::new)
}
