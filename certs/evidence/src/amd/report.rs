//! The attestation report: SEV-SNP Firmware ABI specification (56860), table
//! ATTESTATION_REPORT, 1184 bytes of which the first 0x2A0 are signed.

use crate::amd::tcb::Product;
use crate::bytes::Reader;
use crate::claims::SnpSigningKey;
use crate::finding::Finding;
use crate::reason::Reason;

/// The size of a report in bytes.
pub const REPORT_SIZE: usize = 0x4a0;
/// How many of them are signed.
const SIGNED_SIZE: usize = 0x2a0;
/// ECDSA on P-384 with SHA-384, the only algorithm of the specification.
const ECDSA_P384_SHA384: u32 = 1;

/// A firmware version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub struct FirmwareVersion {
    pub major: u8,
    pub minor: u8,
    pub build: u8,
}

impl std::fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// A report, parsed but not verified. TCB versions are as they stand in the
/// report: their layout depends on the product.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub struct Report {
    raw: [u8; REPORT_SIZE],
    /// 2, 3, 4 (laid out as 3) or 5.
    pub version: u32,
    pub guest_svn: u32,
    pub policy: u64,
    pub family_id: [u8; 16],
    pub image_id: [u8; 16],
    pub vmpl: u32,
    pub signature_algo: u32,
    pub current_tcb: [u8; 8],
    pub platform_info: u64,
    /// Bits: 0 AUTHOR_KEY_EN, 1 MASK_CHIP_KEY, 4:2 SIGNING_KEY.
    pub key_info: u32,
    pub report_data: [u8; 64],
    pub measurement: [u8; 48],
    pub host_data: [u8; 32],
    pub id_key_digest: [u8; 48],
    pub author_key_digest: [u8; 48],
    pub report_id: [u8; 32],
    pub report_id_ma: [u8; 32],
    pub reported_tcb: [u8; 8],
    /// Family, model and stepping, from version 3 on.
    pub cpuid: Option<[u8; 3]>,
    pub chip_id: [u8; 64],
    pub committed_tcb: [u8; 8],
    pub current_version: FirmwareVersion,
    pub committed_version: FirmwareVersion,
    pub launch_tcb: [u8; 8],
    /// From version 5 on.
    pub launch_mit_vector: Option<u64>,
    /// From version 5 on.
    pub current_mit_vector: Option<u64>,
    /// r and s, 72 bytes each, least significant byte first.
    signature: [[u8; 72]; 2],
}

impl Report {
    /// Parses a report of exactly [`REPORT_SIZE`] bytes.
    ///
    /// # Errors
    /// When the size, the version or the signature algorithm is another.
    pub fn parse(bytes: &[u8]) -> Result<Self, Finding> {
        let mut r = Reader::new(bytes);
        let raw = *r.take::<REPORT_SIZE>("report")?;
        if r.remaining() > 0 {
            return Err(Finding::new(
                Reason::Malformed,
                "report",
                format!("{REPORT_SIZE} bytes"),
                format!("{} bytes", bytes.len()),
            ));
        }
        let mut r = Reader::new(&raw);
        let version = r.u32_le("version")?;
        if !(2..=5).contains(&version) {
            return Err(Finding::new(
                Reason::UnsupportedVersion,
                "version",
                "a report of version 3, 4 or 5",
                format!("version {version}"),
            ));
        }
        let guest_svn = r.u32_le("guest_svn")?;
        let policy = r.u64_le("policy")?;
        let family_id = *r.take("family_id")?;
        let image_id = *r.take("image_id")?;
        let vmpl = r.u32_le("vmpl")?;
        let signature_algo = r.u32_le("signature_algo")?;
        if signature_algo != ECDSA_P384_SHA384 {
            return Err(Finding::new(
                Reason::UnsupportedFormat,
                "signature_algo",
                "1 (ECDSA P-384 with SHA-384)",
                signature_algo.to_string(),
            ));
        }
        let current_tcb = *r.take("current_tcb")?;
        let platform_info = r.u64_le("platform_info")?;
        let key_info = r.u32_le("key_info")?;
        r.take::<4>("reserved")?;
        let report_data = *r.take("report_data")?;
        let measurement = *r.take("measurement")?;
        let host_data = *r.take("host_data")?;
        let id_key_digest = *r.take("id_key_digest")?;
        let author_key_digest = *r.take("author_key_digest")?;
        let report_id = *r.take("report_id")?;
        let report_id_ma = *r.take("report_id_ma")?;
        let reported_tcb = *r.take("reported_tcb")?;
        let cpuid = *r.take::<3>("cpuid")?;
        r.take::<21>("reserved")?;
        let chip_id = *r.take("chip_id")?;
        let committed_tcb = *r.take("committed_tcb")?;
        let current_version = firmware_version(&mut r, "current_version")?;
        let committed_version = firmware_version(&mut r, "committed_version")?;
        let launch_tcb = *r.take("launch_tcb")?;
        let launch_mit_vector = r.u64_le("launch_mit_vector")?;
        let current_mit_vector = r.u64_le("current_mit_vector")?;
        r.take::<152>("reserved")?;
        let signature = [*r.take("signature.r")?, *r.take("signature.s")?];
        Ok(Self {
            raw,
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            signature_algo,
            current_tcb,
            platform_info,
            key_info,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb,
            cpuid: (version >= 3).then_some(cpuid),
            chip_id,
            committed_tcb,
            current_version,
            committed_version,
            launch_tcb,
            launch_mit_vector: (version >= 5).then_some(launch_mit_vector),
            current_mit_vector: (version >= 5).then_some(current_mit_vector),
            signature,
        })
    }

    /// The report as it arrived.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; REPORT_SIZE] {
        &self.raw
    }

    /// The part that the signature covers.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.raw.first_chunk::<SIGNED_SIZE>().map_or(&[], |signed| signed)
    }

    /// r and s as two big-endian numbers of 48 bytes, as cryptographic
    /// libraries take them.
    ///
    /// # Errors
    /// When the bytes above the 48 are not zero: the signature would not be
    /// unique, and none of that form is genuine.
    pub fn signature(&self) -> Result<[u8; 96], Finding> {
        let mut out = [0; 96];
        for (number, half) in self.signature.iter().zip(out.chunks_exact_mut(48)) {
            let (low, high) = number.split_at(48);
            if high.iter().any(|b| *b != 0) {
                return Err(Finding::new(
                    Reason::BadSignature,
                    "signature",
                    "numbers of 48 bytes with zeros above",
                    "a larger number",
                ));
            }
            for (to, from) in half.iter_mut().zip(low.iter().rev()) {
                *to = *from;
            }
        }
        Ok(out)
    }

    /// The product that CPUID names; `None` before version 3.
    ///
    /// # Errors
    /// When there is a CPUID and its processor is none that can be verified.
    pub fn product(&self) -> Result<Option<Product>, Finding> {
        self.cpuid.map(|[family, model, _]| Product::from_cpuid(family, model)).transpose()
    }

    /// The key that signed the report, as the report itself says.
    ///
    /// # Errors
    /// When it says that none did, or the value is reserved.
    pub fn signing_key(&self) -> Result<SnpSigningKey, Finding> {
        match self.key_info >> 2 & 7 {
            0 => Ok(SnpSigningKey::Vcek),
            1 => Ok(SnpSigningKey::Vlek),
            other => Err(Finding::new(
                Reason::BadSignature,
                "signing_key",
                "0 (VCEK) or 1 (VLEK)",
                if other == 7 { "7 (the report is not signed)".to_owned() } else { other.to_string() },
            )),
        }
    }

    /// Whether the author key of the ID block is used.
    #[must_use]
    pub const fn author_key_en(&self) -> bool {
        self.key_info & 1 == 1
    }

    /// Whether the host masks the chip's key.
    #[must_use]
    pub const fn mask_chip_key(&self) -> bool {
        self.key_info >> 1 & 1 == 1
    }
}

/// Build, minor, major and a reserved byte, in this order.
fn firmware_version(r: &mut Reader<'_>, field: &'static str) -> Result<FirmwareVersion, Finding> {
    let [build, minor, major, _] = *r.take(field)?;
    Ok(FirmwareVersion { major, minor, build })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of version 5 that is zero but for what parsing needs.
    pub(crate) fn blank() -> [u8; REPORT_SIZE] {
        let mut bytes = [0; REPORT_SIZE];
        bytes[0] = 5;
        bytes[0x34] = 1;
        bytes[0x188] = 0x19;
        bytes[0x189] = 0x11;
        bytes
    }

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let mut bytes = blank();
        bytes[0x48] = 0b111;
        bytes[0x50] = 0xd0;
        bytes[0x90] = 0xd1;
        bytes[0x180] = 0xd2;
        bytes[0x1a0] = 0xd3;
        bytes[0x1e0] = 0xd4;
        bytes[0x1e8..0x1eb].copy_from_slice(&[43, 55, 1]);
        bytes[0x1f0] = 0xd5;
        bytes[0x1f8] = 0xd6;
        bytes[0x200] = 0xd7;
        bytes[0x2a0] = 0xd8;
        bytes[0x2e8] = 0xd9;
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(report.report_data[0], 0xd0);
        assert_eq!(report.measurement[0], 0xd1);
        assert_eq!(report.reported_tcb[0], 0xd2);
        assert_eq!(report.chip_id[0], 0xd3);
        assert_eq!(report.committed_tcb[0], 0xd4);
        assert_eq!(report.current_version, FirmwareVersion { major: 1, minor: 55, build: 43 });
        assert_eq!(report.launch_tcb[0], 0xd5);
        assert_eq!((report.launch_mit_vector, report.current_mit_vector), (Some(0xd6), Some(0xd7)));
        let signature = report.signature().unwrap();
        assert_eq!((signature[47], signature[95]), (0xd8, 0xd9));
        assert_eq!(report.signing_key(), Ok(SnpSigningKey::Vlek));
        assert!(report.author_key_en() && report.mask_chip_key());
        assert_eq!(report.product(), Ok(Some(Product::Genoa)));
        assert_eq!(report.signed().len(), 0x2a0);
    }

    #[test]
    fn versions_differ_in_what_they_have() {
        let mut bytes = blank();
        for (version, has_cpuid, has_vectors) in
            [(2, false, false), (3, true, false), (4, true, false), (5, true, true)]
        {
            bytes[0] = version;
            let report = Report::parse(&bytes).unwrap();
            assert_eq!(report.cpuid.is_some(), has_cpuid);
            assert_eq!(report.launch_mit_vector.is_some(), has_vectors);
        }
        for version in [0, 1, 6, 255] {
            bytes[0] = version;
            assert_eq!(Report::parse(&bytes).unwrap_err().reason, Reason::UnsupportedVersion);
        }
    }

    #[test]
    fn what_cannot_be_genuine_is_refused() {
        let bytes = blank();
        assert_eq!(Report::parse(&bytes[..1183]).unwrap_err().reason, Reason::Truncated);
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Report::parse(&longer).unwrap_err().reason, Reason::Malformed);
        for offset in [0x2a0 + 48, 0x2a0 + 71, 0x2e8 + 48, 0x2e8 + 71] {
            let mut high = bytes;
            high[offset] = 1;
            assert_eq!(Report::parse(&high).unwrap().signature().unwrap_err().reason, Reason::BadSignature);
        }
        let mut other = bytes;
        other[0x34] = 2;
        assert_eq!(Report::parse(&other).unwrap_err().reason, Reason::UnsupportedFormat);
        for key in [2, 7] {
            let mut unsigned = bytes;
            unsigned[0x48] = key << 2;
            assert!(Report::parse(&unsigned).unwrap().signing_key().is_err());
        }
    }
}
