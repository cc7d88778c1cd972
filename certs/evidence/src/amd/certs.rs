//! AMD's certificates: the table in which a host hands them to a guest, and
//! what an endorsement key's certificate (VCEK, VLEK) says.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};

use crate::amd::tcb::Product;
use crate::bytes::Reader;
use crate::claims::SnpSigningKey;
use crate::finding::Finding;
use crate::reason::Reason;
use crate::x509::Certificate;

/// Entries of a certificate table: four are defined.
const MAX_TABLE_ENTRIES: usize = 16;
/// Certificates of a host, all together.
const MAX_TABLE: usize = 64 << 10;

/// What an entry of a certificate table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub enum CertificateKind {
    Vcek,
    Vlek,
    /// ASK, or ASVK for a VLEK.
    Ask,
    Ark,
}

// GUIDs of the GHCB specification (56421, section 4.1.8.1), in the byte order
// of their text.
const GUIDS: [(CertificateKind, u128); 4] = [
    (CertificateKind::Vcek, 0x63da758d_e664_4564_adc5_f4b93be8accd),
    (CertificateKind::Vlek, 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1),
    (CertificateKind::Ask, 0x4ab7b379_bbac_4fe4_a02f_05aef327c782),
    (CertificateKind::Ark, 0xc0b406a4_a803_4952_9743_3fb6014cd0ae),
];

/// Reads a GHCB certificate table: entries of GUID, offset and length, ended by
/// one that is zero, with the DER certificates behind. Entries with other GUIDs
/// are skipped.
pub(crate) fn parse_table(table: &[u8]) -> Result<Vec<(CertificateKind, &[u8])>, Finding> {
    let mut certificates = Vec::new();
    if table.iter().all(|b| *b == 0) {
        return Ok(certificates); // hosts without certificates hand out an empty page
    }
    if table.len() > MAX_TABLE {
        return Err(oversized(MAX_TABLE, table.len()));
    }
    let mut entries = Reader::new(table);
    for _ in 0..=MAX_TABLE_ENTRIES {
        let guid = u128::from_be_bytes(*entries.take("certificate table")?);
        let offset = entries.u32_le("certificate table")?;
        let length = entries.u32_le("certificate table")?;
        if guid == 0 && offset == 0 && length == 0 {
            return Ok(certificates);
        }
        let Some((kind, _)) = GUIDS.iter().find(|(_, g)| *g == guid) else { continue };
        let mut body = Reader::new(table);
        body.slice("certificate table", usize::try_from(offset).unwrap_or(usize::MAX))?;
        let der = body.slice("certificate table", usize::try_from(length).unwrap_or(usize::MAX))?;
        if certificates.iter().any(|(k, _)| k == kind) {
            return Err(Finding::new(
                Reason::Malformed,
                "certificate table",
                "each kind of certificate once",
                "two of a kind",
            ));
        }
        certificates.push((*kind, der));
    }
    Err(oversized(MAX_TABLE_ENTRIES, MAX_TABLE_ENTRIES + 1))
}

/// Writes a GHCB certificate table: the reverse of what a verification reads.
#[must_use]
pub fn encode_table(certificates: &[(CertificateKind, &[u8])]) -> Vec<u8> {
    let mut head = Vec::new();
    let mut body = Vec::new();
    let start = (certificates.len() + 1) * 24;
    for (kind, der) in certificates {
        let Some((_, guid)) = GUIDS.iter().find(|(k, _)| k == kind) else { continue };
        head.extend_from_slice(&guid.to_be_bytes());
        for number in [start + body.len(), der.len()] {
            head.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        body.extend_from_slice(der);
    }
    head.extend_from_slice(&[0; 24]);
    head.append(&mut body);
    head
}

/// A VCEK or VLEK certificate, not verified.
#[derive(Clone, Debug)]
pub(crate) struct Vek {
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) kind: SnpSigningKey,
    /// As it stands in the certificate, for example `Milan-B0`.
    pub(crate) product_name: String,
    /// Security patch levels by the last arc of their OID: 1 to 9.
    spl: [Option<u8>; 9],
    /// 64 bytes, or 8 from Turin on. Only in a VCEK.
    hw_id: Option<Vec<u8>>,
    /// Only in a VLEK.
    pub(crate) csp_id: Option<String>,
}

// Below 1.3.6.1.4.1.3704.1 (VCEK and VLEK certificate definitions, 57230).
const PRODUCT_NAME: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01, 0x02];
const SPL: [u8; 9] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01, 0x03];
const HW_ID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01, 0x04];
const CSP_ID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01, 0x05];

/// Whose key a certificate is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A chip, by the part of its hardware ID that all generations have.
    Chip([u8; 8]),
    /// A cloud provider.
    Provider,
}

/// Whose endorsement key a certificate is about, if it is about one.
pub(crate) fn owner_of(certificate: &Certificate) -> Option<Owner> {
    let hw_id = certificate.extension(HW_ID).ok().flatten().and_then(|value| hardware_id(value).ok());
    match hw_id.as_ref().and_then(|id| id.first_chunk()) {
        Some(id) => Some(Owner::Chip(*id)),
        None => Vek::may_be_vlek(certificate).then_some(Owner::Provider),
    }
}

impl Vek {
    /// Reads AMD's extensions.
    pub(crate) fn new(certificate: Arc<Certificate>) -> Result<Self, Finding> {
        let hw_id = certificate.extension(HW_ID)?.map(hardware_id).transpose()?;
        let csp_id = certificate.extension(CSP_ID)?.map(ia5_string).transpose()?;
        let kind = match (&hw_id, &csp_id) {
            (Some(_), None) => SnpSigningKey::Vcek,
            (None, Some(_)) => SnpSigningKey::Vlek,
            _ => {
                return Err(malformed(
                    "either a hardware ID (VCEK) or a cloud provider's ID (VLEK)",
                    if hw_id.is_some() { "both" } else { "neither" },
                ));
            }
        };
        let mut spl = [None; 9];
        for (arc, level) in (1..).zip(&mut spl) {
            let [a, b, c, d, e, f, g, h, i] = SPL;
            *level =
                certificate.extension(&[a, b, c, d, e, f, g, h, i, arc])?.map(small_integer).transpose()?;
        }
        let product_name = certificate.extension(PRODUCT_NAME)?.map(ia5_string).transpose()?;
        let product_name = product_name.unwrap_or_default();
        Ok(Self { certificate, kind, product_name, spl, hw_id, csp_id })
    }

    /// Whether the certificate has the hardware ID of the chip: a quick look
    /// before [`Vek::new`].
    pub(crate) fn may_be_of_chip(certificate: &Certificate, chip_id: &[u8; 64]) -> bool {
        let hw_id = certificate.extension(HW_ID).ok().flatten().and_then(|value| hardware_id(value).ok());
        hw_id.is_some_and(|id| chip_id.starts_with(&id))
    }

    /// Whether the certificate is one of a VLEK: a quick look before [`Vek::new`].
    pub(crate) fn may_be_vlek(certificate: &Certificate) -> bool {
        matches!(certificate.extension(CSP_ID), Ok(Some(_)))
    }

    /// The key itself, on P-384.
    pub(crate) fn key(&self) -> Result<ParsedPublicKey, Finding> {
        ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, self.certificate.public_key())
            .map_err(|_| malformed("a public key on P-384", "another key"))
    }

    /// The product that the certificate names.
    pub(crate) fn product(&self) -> Option<Product> {
        Product::from_certificate_name(&self.product_name)
    }

    /// The TCB that the key is derived from, as a report of `product` would
    /// have it; `None` when the extensions are not those of the product.
    pub(crate) fn tcb(&self, product: Product) -> Option<[u8; 8]> {
        let [bl, tee, snp, spl4, spl5, spl6, spl7, ucode, fmc] = self.spl;
        let [spl4, spl5, spl6, spl7] = [spl4, spl5, spl6, spl7].map(Option::unwrap_or_default);
        match (product, fmc) {
            (Product::Milan | Product::Genoa, None) => {
                Some([bl?, tee?, spl4, spl5, spl6, spl7, snp?, ucode?])
            }
            (Product::Turin, Some(fmc)) => Some([fmc, bl?, tee?, snp?, spl5, spl6, spl7, ucode?]),
            (Product::Milan | Product::Genoa, Some(_)) | (Product::Turin, None) => None,
        }
    }

    /// Whether the key is that of the chip. From Turin on the hardware ID has 8
    /// bytes, and CHIP_ID is zero behind them.
    pub(crate) fn is_of_chip(&self, product: Product, chip_id: &[u8; 64]) -> bool {
        let Some(hw_id) = &self.hw_id else { return false };
        match (product, hw_id.len()) {
            (_, 64) => hw_id == chip_id,
            (Product::Turin, 8) => {
                chip_id.strip_prefix(&**hw_id).is_some_and(|rest| rest.iter().all(|b| *b == 0))
            }
            _ => false,
        }
    }

    /// The hardware ID in hexadecimal, for messages.
    pub(crate) fn hw_id_text(&self) -> String {
        self.hw_id.as_ref().map_or_else(|| "none".to_owned(), hex::encode)
    }
}

fn small_integer(value: &[u8]) -> Result<u8, Finding> {
    match value {
        [0x02, 1, level @ ..=0x7f] | [0x02, 2, 0, level @ 0x80..=0xff] => Ok(*level),
        _ => Err(malformed("security patch levels of 0 to 255", &hex::encode(value))),
    }
}

fn ia5_string(value: &[u8]) -> Result<String, Finding> {
    match value {
        [0x16, length, text @ ..]
            if *length < 0x80
                && text.len() == usize::from(*length)
                && text.iter().all(|c| matches!(c, 0x20..0x7f)) =>
        {
            Ok(String::from_utf8_lossy(text).into_owned())
        }
        _ => Err(malformed("printable IA5 text", &hex::encode(value))),
    }
}

/// AMD's key server writes the hardware ID without an ASN.1 tag; others wrap it
/// in an OCTET STRING.
fn hardware_id(value: &[u8]) -> Result<Vec<u8>, Finding> {
    match (value.len(), value) {
        (8 | 64, id) => Ok(id.to_vec()),
        (10, [0x04, 8, id @ ..]) | (66, [0x04, 64, id @ ..]) => Ok(id.to_vec()),
        _ => Err(malformed("a hardware ID of 8 or 64 bytes", &format!("{} bytes", value.len()))),
    }
}

fn oversized(most: usize, presented: usize) -> Finding {
    Finding::new(Reason::Oversized, "certificate table", format!("at most {most}"), presented.to_string())
}

fn malformed(expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::Malformed, "VEK certificate", expected, presented)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_is_written() {
        let table = encode_table(&[(CertificateKind::Vcek, b"vcek"), (CertificateKind::Ark, b"ark")]);
        let padded = [&table[..], &[0; 100]].concat();
        let expected = vec![(CertificateKind::Vcek, &b"vcek"[..]), (CertificateKind::Ark, &b"ark"[..])];
        assert_eq!(parse_table(&padded).unwrap(), expected);
        assert_eq!(parse_table(&[0; 4096]).unwrap(), vec![]);
        assert_eq!(parse_table(&[]).unwrap(), vec![]);
    }

    #[test]
    fn a_table_cannot_point_outside_itself_or_go_on_for_ever() {
        let table = encode_table(&[(CertificateKind::Vcek, b"vcek")]);
        assert_eq!(parse_table(&table[..table.len() - 1]).unwrap_err().reason, Reason::Truncated);
        assert_eq!(parse_table(&table[..30]).unwrap_err().reason, Reason::Truncated);
        let mut far = table;
        far[16..24].fill(0xff);
        assert_eq!(parse_table(&far).unwrap_err().reason, Reason::Truncated);
        let endless = [0x11; 24 * 40];
        assert_eq!(parse_table(&endless).unwrap_err().reason, Reason::Oversized);
        let twice = encode_table(&[(CertificateKind::Ask, b"a"), (CertificateKind::Ask, b"b")]);
        assert_eq!(parse_table(&twice).unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn small_integers_are_der() {
        assert_eq!(small_integer(&[2, 1, 115]), Ok(115));
        assert_eq!(small_integer(&[2, 2, 0, 217]), Ok(217));
        for bad in [&[2, 1, 0x80][..], &[2, 2, 0, 1], &[2, 2, 1, 0], &[2, 1], &[], &[4, 1, 1]] {
            assert!(small_integer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hardware_id_may_be_raw_or_wrapped() {
        let long = [7; 64];
        assert_eq!(hardware_id(&long).unwrap(), long);
        assert_eq!(hardware_id(&[&[4, 64][..], &long].concat()).unwrap(), &long);
        assert_eq!(hardware_id(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(), &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(hardware_id(&[0; 63]).is_err());
        assert!(hardware_id(&[5; 66]).is_err());
    }
}
