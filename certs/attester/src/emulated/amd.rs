//! The AMD-like family: ARK, ASK and ASVK, VCEK and VLEK certificates.

use countersign_evidence::claims::{Product, TcbVersion, Window};

use super::intel::Signer;
use super::key::{Key, Kind};
use super::x509::{Certificate, Extension, Oid, Serial, Usage};
use crate::Error;

pub(super) const ARK: &str = "Countersign Emulated ARK";
pub(super) const ASK: &str = "Countersign Emulated SEV ASK";
pub(super) const ASVK: &str = "Countersign Emulated SEV-VLEK ASVK";
const VCEK: &str = "Countersign Emulated SEV-VCEK";
const VLEK: &str = "Countersign Emulated SEV-VLEK";

/// The PKI. ASK and ASVK, which sign VCEKs and VLEKs, are two certificates of
/// one key: an RSA key of 4096 bits takes a second to generate.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) ark: Signer,
    pub(super) ask: Signer,
    pub(super) asvk: Vec<u8>,
}

/// What a VCEK or VLEK certificate says.
pub(super) struct Endorsement<'a> {
    pub(super) product: Product,
    pub(super) tcb: TcbVersion,
    pub(super) subject: Endorsed<'a>,
}

/// Whose key it is.
pub(super) enum Endorsed<'a> {
    /// A chip's.
    Vcek(&'a [u8; 64]),
    /// A cloud provider's.
    Vlek(&'a str),
}

impl Authority {
    pub(super) fn generate(window: Window) -> Result<Self, Error> {
        let (ark_key, ask_key) = std::thread::scope(|scope| {
            let ask = scope.spawn(|| Key::generate(Kind::Rsa4096));
            let ark = Key::generate(Kind::Rsa4096);
            (ark, ask.join().unwrap_or(Err(Error::Crypto("generate a key"))))
        });
        let (ark_key, ask_key) = (ark_key?, ask_key?);
        let (ark_spki, ask_spki) = (ark_key.spki()?, ask_key.spki()?);
        let issue = |subject: &str, spki: &[u8], path_length: u8| {
            Certificate {
                serial: &serial(subject, spki),
                issuer: ARK,
                subject,
                window,
                spki,
                extensions: &[
                    Extension::subject_key_id(spki),
                    Extension::authority_key_id(&ark_spki),
                    Extension::basic_constraints(Some(Some(path_length))),
                    Extension::key_usage(Usage::Certify),
                ],
            }
            .sign(&ark_key)
        };
        let ark = issue(ARK, &ark_spki, 1)?;
        let ask = issue(ASK, &ask_spki, 0)?;
        let asvk = issue(ASVK, &ask_spki, 0)?;
        Ok(Self {
            ark: Signer { key: ark_key, certificate: ark },
            ask: Signer { key: ask_key, certificate: ask },
            asvk,
        })
    }

    pub(super) fn ask_serial(&self) -> Result<Serial, Error> {
        Ok(serial(ASK, &self.ask.key.spki()?))
    }

    pub(super) fn asvk_serial(&self) -> Result<Serial, Error> {
        Ok(serial(ASVK, &self.ask.key.spki()?))
    }

    /// A VCEK or VLEK certificate.
    pub(super) fn endorse(
        &self,
        endorsement: &Endorsement<'_>,
        spki: &[u8],
        window: Window,
    ) -> Result<Vec<u8>, Error> {
        let (issuer, subject) = match endorsement.subject {
            Endorsed::Vcek(_) => (ASK, VCEK),
            Endorsed::Vlek(_) => (ASVK, VLEK),
        };
        Certificate {
            serial: &Serial(vec![0]), // as AMD's key distribution service does
            issuer,
            subject,
            window,
            spki,
            extensions: &extensions(endorsement),
        }
        .sign(&self.ask.key)
    }
}

fn serial(subject: &str, spki: &[u8]) -> Serial {
    Serial::derive(&[subject.as_bytes(), spki])
}

// AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
// Specification (57230), table 8.
const STRUCT_VERSION: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 1];
const PRODUCT_NAME: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 2];
const BL_SPL: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 1];
const TEE_SPL: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 2];
const SNP_SPL: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 3];
const SPL_4: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 4];
const SPL_5: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 5];
const SPL_6: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 6];
const SPL_7: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 7];
const UCODE_SPL: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 8];
const FMC_SPL: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 3, 9];
const HW_ID: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 4];
const CSP_ID: Oid = &[1, 3, 6, 1, 4, 1, 3704, 1, 5];

fn extensions(endorsement: &Endorsement<'_>) -> Vec<Extension> {
    let integer = |oid, value: u8| Extension::new(oid, yasna::construct_der(|w| w.write_u8(value)));
    let ia5 = |oid, text: &str| Extension::new(oid, yasna::construct_der(|w| w.write_ia5_string(text)));
    let tcb = endorsement.tcb;
    // Turin and later have a firmware measurement component in place of SPL 4.
    let turin = endorsement.product == Product::Turin;
    let mut list =
        vec![integer(STRUCT_VERSION, u8::from(turin)), ia5(PRODUCT_NAME, endorsement.product.name())];
    list.push(if turin { integer(FMC_SPL, tcb.fmc) } else { integer(SPL_4, 0) });
    list.extend([
        integer(BL_SPL, tcb.bootloader),
        integer(TEE_SPL, tcb.tee),
        integer(SNP_SPL, tcb.snp),
        integer(SPL_5, 0),
        integer(SPL_6, 0),
        integer(SPL_7, 0),
        integer(UCODE_SPL, tcb.microcode),
    ]);
    list.push(match endorsement.subject {
        // The octets of the chip ID without an ASN.1 header; Turin has only 8 of them.
        Endorsed::Vcek(chip) if turin => Extension::new(HW_ID, chip.iter().copied().take(8).collect()),
        Endorsed::Vcek(chip) => Extension::new(HW_ID, chip.to_vec()),
        Endorsed::Vlek(csp) => ia5(CSP_ID, csp),
    });
    list
}
