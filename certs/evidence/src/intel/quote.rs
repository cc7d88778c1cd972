//! The quote formats, version 3 (SGX), 4 and 5 (TDX).

use std::borrow::Cow;
use std::ops::Range;

use super::pck::{PckFacts, is_pck};
use crate::bytes::Reader;
use crate::claims::Tee;
use crate::finding::Finding;
use crate::reason::Reason;
use crate::x509::{Certificate, pem_blocks};

/// The largest input that is looked at, padding included.
const MAX_QUOTE: usize = 128 * 1024;

/// The QE vendor ID of Intel.
const INTEL_QE: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

const TEE_TDX: u32 = 0x81;
const KEY_ECDSA_P256: u16 = 2;
const CERTIFICATION_QE_REPORT: u16 = 6;

/// A quote, parsed but not verified.
#[derive(Clone, Debug)]
pub struct Quote<'a> {
    bytes: Cow<'a, [u8]>,
    version: u16,
    body_type: u16,
    attestation_key_type: u16,
    body: QuoteBody,
    signed: usize,
    signature_data_len: u32,
    fixed: Box<Fixed>,
    qe_auth: Range<usize>,
    certification_type: u16,
    certification: Range<usize>,
    trailing: usize,
}

/// The parts of the signature data that have a fixed size.
#[derive(Clone, Debug)]
struct Fixed {
    signature: [u8; 64],
    attestation_key: [u8; 64],
    qe_report_bytes: [u8; 384],
    qe_report: SgxReport,
    qe_report_signature: [u8; 64],
}

/// What the attestation key signed, besides the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteBody {
    /// An SGX enclave report.
    Sgx(Box<SgxReport>),
    /// A TD report.
    Tdx(Box<TdReport>),
}

/// An SGX REPORT body (384 bytes), of an application or of a quoting enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of Intel's SGX documentation")]
pub struct SgxReport {
    pub cpu_svn: [u8; 16],
    pub misc_select: [u8; 4],
    pub attributes: [u8; 16],
    pub mr_enclave: [u8; 32],
    pub mr_signer: [u8; 32],
    pub config_id: [u8; 64],
    pub isv_prod_id: u16,
    pub isv_svn: u16,
    pub config_svn: u16,
    pub report_data: [u8; 64],
}

/// A TD quote body: TD 1.0 (584 bytes), TD 1.5 (648) or extended TD 1.5 (885).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of Intel's TDX module specification")]
pub struct TdReport {
    pub tee_tcb_svn: [u8; 16],
    pub mr_seam: [u8; 48],
    pub mr_signer_seam: [u8; 48],
    pub seam_attributes: [u8; 8],
    pub td_attributes: [u8; 8],
    pub xfam: [u8; 8],
    pub mr_td: [u8; 48],
    pub mr_config_id: [u8; 48],
    pub mr_owner: [u8; 48],
    pub mr_owner_config: [u8; 48],
    pub rtmr: [[u8; 48]; 4],
    pub report_data: [u8; 64],
    /// TD 1.5 and later.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// TD 1.5 and later.
    pub mr_service_td: Option<[u8; 48]>,
    /// Extended TD 1.5: the service TDs that are bound now, where
    /// `mr_service_td` is what was bound at creation.
    pub cur_service_td_hash: Option<[u8; 48]>,
}

/// How the quote says where the PCK certificate is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificationData<'q> {
    /// 1 to 3: the platform's identity in some form; 5: a PEM chain.
    pub kind: u16,
    /// Its content.
    pub data: &'q [u8],
}

impl<'a> Quote<'a> {
    /// Parses a quote. Bytes after its end are counted and otherwise ignored,
    /// as Intel's verifier does: some platforms pad quotes to a fixed size.
    ///
    /// # Errors
    /// When the bytes are no quote of a supported version, key type and vendor,
    /// or a length does not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Finding> {
        Self::read(Cow::Borrowed(bytes))
    }

    /// Parses a quote and keeps the bytes.
    ///
    /// # Errors
    /// As [`Quote::parse`].
    pub fn parse_owned(bytes: Vec<u8>) -> Result<Quote<'static>, Finding> {
        Quote::read(Cow::Owned(bytes))
    }

    /// The same quote with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> Quote<'static> {
        Quote { bytes: Cow::Owned(self.bytes.into_owned()), ..self }
    }

    fn read(bytes: Cow<'a, [u8]>) -> Result<Self, Finding> {
        if bytes.len() > MAX_QUOTE {
            return Err(Finding::new(
                Reason::Oversized,
                "quote",
                format!("at most {MAX_QUOTE} bytes"),
                format!("{} bytes", bytes.len()),
            ));
        }
        let total = bytes.len();
        let mut reader = Reader::new(&bytes);

        let version = reader.u16_le("header.version")?;
        let attestation_key_type = reader.u16_le("header.attestation_key_type")?;
        let tee_type = reader.u32_le("header.tee_type")?;
        let _reserved = reader.u32_le("header.reserved")?;
        let vendor = reader.take::<16>("header.qe_vendor_id")?;
        let _user_data = reader.take::<20>("header.user_data")?;
        if !(3..=5).contains(&version) {
            return Err(Finding::new(
                Reason::UnsupportedVersion,
                "quote version",
                "3, 4 or 5",
                version.to_string(),
            ));
        }
        let wanted = if version == 3 { 0 } else { TEE_TDX };
        if tee_type != wanted {
            return Err(Finding::new(
                Reason::UnsupportedFormat,
                "header.tee_type",
                format!("{wanted:#x} in a quote of version {version}"),
                format!("{tee_type:#x}"),
            ));
        }
        if attestation_key_type != KEY_ECDSA_P256 {
            return Err(Finding::new(
                Reason::UnsupportedFormat,
                "header.attestation_key_type",
                "2 (ECDSA P-256)",
                attestation_key_type.to_string(),
            ));
        }
        if *vendor != INTEL_QE {
            return Err(Finding::new(
                Reason::UnsupportedFormat,
                "header.qe_vendor_id",
                hex::encode(INTEL_QE),
                hex::encode(vendor),
            ));
        }

        let (body_type, body) = match version {
            3 => (1, QuoteBody::Sgx(Box::new(SgxReport::read(&mut reader)?))),
            4 => (2, QuoteBody::Tdx(Box::new(TdReport::read(&mut reader, 2)?))),
            _ => {
                let body_type = reader.u16_le("body.type")?;
                let size = reader.u32_le("body.size")?;
                let expected = match body_type {
                    2 => 584,
                    3 => 648,
                    4 => 885,
                    _ => {
                        return Err(Finding::new(
                            Reason::UnsupportedFormat,
                            "body.type",
                            "2 (TD 1.0), 3 (TD 1.5) or 4 (extended TD 1.5)",
                            body_type.to_string(),
                        ));
                    }
                };
                if size != expected {
                    return Err(malformed("body.size", &expected.to_string(), &size.to_string()));
                }
                let mut body = Reader::new(reader.slice("body", expected as usize)?);
                (body_type, QuoteBody::Tdx(Box::new(TdReport::read(&mut body, body_type)?)))
            }
        };
        let signed = total - reader.remaining();

        let signature_data_len = reader.u32_le("signature_data_len")?;
        let length = usize::try_from(signature_data_len).unwrap_or(usize::MAX);
        let mut auth = Reader::new(reader.slice("signature_data", length)?);
        let trailing = reader.remaining();
        let end = total - trailing;
        let signature = *auth.take("signature")?;
        let attestation_key = *auth.take("attestation_key")?;
        if version > 3 {
            let kind = auth.u16_le("certification_data.type")?;
            if kind != CERTIFICATION_QE_REPORT {
                return Err(Finding::new(
                    Reason::UnsupportedFormat,
                    "certification_data.type",
                    "6 (QE report)",
                    kind.to_string(),
                ));
            }
            let size = auth.u32_le("certification_data.size")?;
            if usize::try_from(size) != Ok(auth.remaining()) {
                return Err(malformed(
                    "certification_data.size",
                    &auth.remaining().to_string(),
                    &size.to_string(),
                ));
            }
        }
        let qe_report_bytes = *auth.take::<384>("qe_report")?;
        let qe_report = SgxReport::read(&mut Reader::new(&qe_report_bytes))?;
        let qe_report_signature = *auth.take("qe_report_signature")?;
        let auth_len = auth.u16_le("qe_auth_data.size")?;
        let at = end - auth.remaining();
        let qe_auth = at..at + auth.slice("qe_auth_data", usize::from(auth_len))?.len();
        let certification_type = auth.u16_le("certification_data.type")?;
        let size = auth.u32_le("certification_data.size")?;
        let at = end - auth.remaining();
        if usize::try_from(size) != Ok(auth.remaining()) {
            return Err(malformed(
                "certification_data.size",
                &auth.remaining().to_string(),
                &size.to_string(),
            ));
        }
        Ok(Self {
            version,
            body_type,
            attestation_key_type,
            body,
            signed,
            signature_data_len,
            fixed: Box::new(Fixed {
                signature,
                attestation_key,
                qe_report_bytes,
                qe_report,
                qe_report_signature,
            }),
            qe_auth,
            certification_type,
            certification: at..end,
            trailing,
            bytes,
        })
    }

    /// Everything that was given, bytes after the quote included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The version of the format: 3, 4 or 5.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// 1 SGX, 2 TD 1.0, 3 TD 1.5, 4 extended TD 1.5. Explicit only in version 5.
    #[must_use]
    pub const fn body_type(&self) -> u16 {
        self.body_type
    }

    /// The kind of TEE.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self.body {
            QuoteBody::Sgx(_) => Tee::Sgx,
            QuoteBody::Tdx(_) => Tee::Tdx,
        }
    }

    /// 2: ECDSA P-256.
    #[must_use]
    pub const fn attestation_key_type(&self) -> u16 {
        self.attestation_key_type
    }

    /// The report.
    #[must_use]
    pub const fn body(&self) -> &QuoteBody {
        &self.body
    }

    /// The 64 bytes that the attester chose.
    #[must_use]
    pub const fn report_data(&self) -> &[u8; 64] {
        match &self.body {
            QuoteBody::Sgx(report) => &report.report_data,
            QuoteBody::Tdx(report) => &report.report_data,
        }
    }

    /// Header and body: what the attestation key signs.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.bytes.get(..self.signed).unwrap_or_default()
    }

    /// The length field in front of the signature data.
    #[must_use]
    pub const fn signature_data_len(&self) -> u32 {
        self.signature_data_len
    }

    /// The attestation key's signature, r ‖ s.
    #[must_use]
    pub fn signature(&self) -> &[u8; 64] {
        &self.fixed.signature
    }

    /// The attestation key, x ‖ y.
    #[must_use]
    pub fn attestation_key(&self) -> &[u8; 64] {
        &self.fixed.attestation_key
    }

    /// The report of the quoting enclave.
    #[must_use]
    pub fn qe_report(&self) -> &SgxReport {
        &self.fixed.qe_report
    }

    /// The report of the quoting enclave as it was signed.
    #[must_use]
    pub fn qe_report_bytes(&self) -> &[u8; 384] {
        &self.fixed.qe_report_bytes
    }

    /// The PCK's signature over the report of the quoting enclave, r ‖ s.
    #[must_use]
    pub fn qe_report_signature(&self) -> &[u8; 64] {
        &self.fixed.qe_report_signature
    }

    /// What the quoting enclave hashed besides the attestation key.
    #[must_use]
    pub fn qe_auth_data(&self) -> &[u8] {
        self.bytes.get(self.qe_auth.clone()).unwrap_or_default()
    }

    /// Where the PCK certificate is found.
    #[must_use]
    pub fn certification_data(&self) -> CertificationData<'_> {
        CertificationData {
            kind: self.certification_type,
            data: self.bytes.get(self.certification.clone()).unwrap_or_default(),
        }
    }

    /// What the PCK certificate in the quote says of its platform, when the
    /// quote carries its chain. Not verified: for inspection only.
    #[must_use]
    pub fn unverified_pck(&self) -> Option<PckFacts> {
        let blocks = pem_blocks(self.certification_data().data, 8).ok()?;
        let mut certificates = blocks.iter().filter_map(|b| Certificate::parse(&b.der).ok());
        certificates.find(is_pck).and_then(|leaf| PckFacts::of(&leaf).ok())
    }

    /// How many bytes follow the quote.
    #[must_use]
    pub const fn trailing_bytes(&self) -> usize {
        self.trailing
    }
}

impl SgxReport {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Finding> {
        let cpu_svn = *reader.take("report.cpu_svn")?;
        let misc_select = *reader.take("report.misc_select")?;
        let _reserved = reader.take::<28>("report.reserved")?;
        let attributes = *reader.take("report.attributes")?;
        let mr_enclave = *reader.take("report.mr_enclave")?;
        let _reserved = reader.take::<32>("report.reserved")?;
        let mr_signer = *reader.take("report.mr_signer")?;
        let _reserved = reader.take::<32>("report.reserved")?;
        let config_id = *reader.take("report.config_id")?;
        let isv_prod_id = reader.u16_le("report.isv_prod_id")?;
        let isv_svn = reader.u16_le("report.isv_svn")?;
        let config_svn = reader.u16_le("report.config_svn")?;
        let _reserved = reader.take::<58>("report.reserved")?;
        let report_data = *reader.take("report.report_data")?;
        Ok(Self {
            cpu_svn,
            misc_select,
            attributes,
            mr_enclave,
            mr_signer,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            report_data,
        })
    }
}

impl TdReport {
    fn read(reader: &mut Reader<'_>, body_type: u16) -> Result<Self, Finding> {
        let mut report = Self {
            tee_tcb_svn: *reader.take("tee_tcb_svn")?,
            mr_seam: *reader.take("mr_seam")?,
            mr_signer_seam: *reader.take("mr_signer_seam")?,
            seam_attributes: *reader.take("seam_attributes")?,
            td_attributes: *reader.take("td_attributes")?,
            xfam: *reader.take("xfam")?,
            mr_td: *reader.take("mr_td")?,
            mr_config_id: *reader.take("mr_config_id")?,
            mr_owner: *reader.take("mr_owner")?,
            mr_owner_config: *reader.take("mr_owner_config")?,
            rtmr: [
                *reader.take("rtmr[0]")?,
                *reader.take("rtmr[1]")?,
                *reader.take("rtmr[2]")?,
                *reader.take("rtmr[3]")?,
            ],
            report_data: *reader.take("report_data")?,
            tee_tcb_svn2: (body_type > 2).then(|| reader.take("tee_tcb_svn2").copied()).transpose()?,
            mr_service_td: (body_type > 2).then(|| reader.take("mr_service_td").copied()).transpose()?,
            cur_service_td_hash: None,
        };
        if body_type > 3 {
            // VMID, TD ID, device information, and what was so at creation.
            let _unused = reader.take::<181>("td_report.extension")?;
            report.cur_service_td_hash = Some(*reader.take("cur_service_td_hash")?);
        }
        Ok(report)
    }
}

fn malformed(field: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::Malformed, field, expected, presented)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_shorter_than_a_header_is_truncated() {
        for n in 0..48 {
            assert_eq!(Quote::parse(&vec![3; n]).unwrap_err().reason, Reason::Truncated);
        }
        assert_eq!(Quote::parse(&vec![0; MAX_QUOTE + 1]).unwrap_err().reason, Reason::Oversized);
    }

    #[test]
    fn version_key_type_tee_and_vendor_have_their_own_reasons() {
        let mut header = [0; 1200];
        header[0] = 4;
        header[2] = 2;
        header[4] = 0x81;
        header[12..28].copy_from_slice(&INTEL_QE);
        assert_eq!(Quote::parse(&header).unwrap_err().field, "signature");
        for (at, value, reason) in [
            (0, 6, Reason::UnsupportedVersion),
            (2, 3, Reason::UnsupportedFormat),
            (4, 0, Reason::UnsupportedFormat),
            (12, 0, Reason::UnsupportedFormat),
        ] {
            let mut changed = header;
            changed[at] = value;
            assert_eq!(Quote::parse(&changed).unwrap_err().reason, reason, "byte {at}");
        }
    }
}
