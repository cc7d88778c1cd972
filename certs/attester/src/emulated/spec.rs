//! What an emulated machine is: every field that its evidence shows.
//!
//! The defaults describe a machine that verifies as up to date and is not
//! debuggable. A test or a demonstration changes what it wants to be wrong.

use std::time::Duration;

use countersign_evidence::claims::{Product, TcbVersion};
use serde::{Deserialize, Serialize};

use super::text;

/// SVNs of the SGX TCB components that the default TCB info calls up to date.
pub const CPU_SVN: [u8; 16] = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
/// SVNs of the TDX module, of its version and of the late microcode that the
/// default TCB info calls up to date.
pub const TEE_TCB_SVN: [u8; 16] = [5, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// The SVN of the provisioning certification enclave, likewise.
pub const PCE_SVN: u16 = 13;
/// The family, model and SKU that the default TCB info is about. Intel uses no such value.
pub const FMSPC: [u8; 6] = [0xe0, 0xc0, 0x6f, 0, 0, 0];
/// The MRSIGNER of the emulated quoting enclaves. Intel uses no such value.
pub const QE_MR_SIGNER: [u8; 32] = [0xe0; 32];

/// The parts of an emulated Intel machine that its PCK certificate and its
/// quoting enclave show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IntelPlatform {
    /// SVNs of the 16 SGX TCB components.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub cpu_svn: [u8; 16],
    /// SVN of the provisioning certification enclave.
    pub pce_svn: u16,
    /// Identity of the provisioning certification enclave.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<2>"))]
    pub pce_id: [u8; 2],
    /// Platform provisioning ID: who the machine is.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub ppid: [u8; 16],
    /// Platform instance ID; `null` for a platform that has none.
    #[serde(with = "text::bytes_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::Hex<16>>"))]
    pub piid: Option<[u8; 16]>,
    /// Family, model, platform, custom SKU.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<6>"))]
    pub fmspc: [u8; 6],
    /// ISVSVN of the quoting enclave.
    pub qe_isv_svn: u16,
    /// MRSIGNER of the quoting enclave.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<32>"))]
    pub qe_mr_signer: [u8; 32],
    /// ATTRIBUTES of the quoting enclave.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub qe_attributes: [u8; 16],
}

impl Default for IntelPlatform {
    fn default() -> Self {
        Self {
            cpu_svn: CPU_SVN,
            pce_svn: PCE_SVN,
            pce_id: [0; 2],
            ppid: [0xe1; 16],
            piid: Some([0xe2; 16]),
            fmspc: FMSPC,
            qe_isv_svn: 4,
            qe_mr_signer: QE_MR_SIGNER,
            // INIT, MODE64BIT and PROVISION_KEY; XFRM x87 and SSE.
            qe_attributes: [0x15, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// An emulated Intel TDX guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TdxSpec {
    /// 4 (TDX 1.0 body) or 5 (TDX 1.5 body).
    pub quote_version: u16,
    /// SVNs of the TDX TCB components at launch.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel's.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<8>"))]
    pub seam_attributes: [u8; 8],
    /// TD attributes: bit 0 is DEBUG, bit 28 SEPT_VE_DISABLE, bit 29 MIGRATABLE.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<8>"))]
    pub td_attributes: [u8; 8],
    /// Extended features that the TD may use.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<8>"))]
    pub xfam: [u8; 8],
    /// Measurement of the initial contents.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_td: [u8; 48],
    /// Configuration ID, chosen by the host.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_config_id: [u8; 48],
    /// Owner, chosen by the host.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_owner: [u8; 48],
    /// Configuration of the owner, chosen by the host.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_owner_config: [u8; 48],
    /// Runtime measurement registers 0 to 3.
    #[serde(with = "text::bytes_each")]
    #[cfg_attr(feature = "schema", schemars(with = "[text::Hex<48>; 4]"))]
    pub rtmr: [[u8; 48]; 4],
    /// SVNs of the TDX TCB components now; the ones at launch when not given. Version 5 only.
    #[serde(with = "text::bytes_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::Hex<16>>"))]
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// Measurement of a service TD. Version 5 only.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub mr_service_td: [u8; 48],
    /// Events that are measured into register 3, which must be zero, when the guest starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventSpec>,
    /// The platform.
    pub platform: IntelPlatform,
    /// How long a quote takes, for example `5ms`.
    #[serde(with = "text::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "text::DurationText"))]
    pub quoting_latency: Duration,
}

/// An event that is measured at runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventSpec {
    /// What kind of event it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its content as text.
    #[serde(default)]
    pub content: String,
}

impl Default for TdxSpec {
    fn default() -> Self {
        Self {
            quote_version: 4,
            tee_tcb_svn: TEE_TCB_SVN,
            mr_seam: [0x5e; 48],
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0], // SEPT_VE_DISABLE
            xfam: [0xe7, 0x02, 0x06, 0, 0, 0, 0, 0],
            mr_td: [0xd0; 48],
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmr: [[0xd1; 48], [0xd2; 48], [0xd3; 48], [0; 48]],
            tee_tcb_svn2: None,
            mr_service_td: [0; 48],
            events: Vec::new(),
            platform: IntelPlatform::default(),
            quoting_latency: Duration::ZERO,
        }
    }
}

/// An emulated Intel SGX enclave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SgxSpec {
    /// MISCSELECT.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<4>"))]
    pub misc_select: [u8; 4],
    /// ATTRIBUTES: bit 0 is INIT, bit 1 DEBUG.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub attributes: [u8; 16],
    /// Measurement of the enclave.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<32>"))]
    pub mr_enclave: [u8; 32],
    /// Who signed the enclave.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<32>"))]
    pub mr_signer: [u8; 32],
    /// Product of the signer.
    pub isv_prod_id: u16,
    /// Security version of the product.
    pub isv_svn: u16,
    /// Configuration ID, chosen by the host.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<64>"))]
    pub config_id: [u8; 64],
    /// Security version of the configuration.
    pub config_svn: u16,
    /// The platform.
    pub platform: IntelPlatform,
    /// How long a quote takes, for example `5ms`.
    #[serde(with = "text::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "text::DurationText"))]
    pub quoting_latency: Duration,
}

impl Default for SgxSpec {
    fn default() -> Self {
        Self {
            misc_select: [0; 4],
            attributes: [0x05, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0], // INIT, MODE64BIT
            mr_enclave: [0xe3; 32],
            mr_signer: [0xe4; 32],
            isv_prod_id: 1,
            isv_svn: 1,
            config_id: [0; 64],
            config_svn: 0,
            platform: IntelPlatform::default(),
            quoting_latency: Duration::ZERO,
        }
    }
}

/// An emulated AMD SEV-SNP guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SnpSpec {
    /// The version of the report: 3 or 5 (others are written as asked for, to be refused).
    pub version: u32,
    /// The processor.
    #[serde(with = "text::product")]
    #[cfg_attr(feature = "schema", schemars(with = "text::ProductDef"))]
    pub product: Product,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// Guest policy: bit 16 SMT, 17 must be one, 18 MIGRATE_MA, 19 DEBUG.
    pub policy: u64,
    /// Family of the guest.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub family_id: [u8; 16],
    /// Image of the guest.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<16>"))]
    pub image_id: [u8; 16],
    /// Privilege level that asked for the report.
    pub vmpl: u32,
    /// Bit 0 SMT, 1 TSME, 2 ECC, 3 RAPL_DIS, 4 CIPHERTEXT_HIDING, 5 ALIAS_CHECK_COMPLETE.
    pub platform_info: u64,
    /// Whether an author key signed the ID key.
    pub author_key_en: bool,
    /// Whether the host masks the chip: the report then shows a CHIP_ID of zeros.
    pub mask_chip_key: bool,
    /// Launch measurement.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub measurement: [u8; 48],
    /// Chosen by the host at launch.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<32>"))]
    pub host_data: [u8; 32],
    /// SHA-384 of the ID key.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the author key.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<48>"))]
    pub author_key_digest: [u8; 48],
    /// Identity of the guest.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<32>"))]
    pub report_id: [u8; 32],
    /// The TCB that the report is signed for.
    #[serde(with = "text::tcb")]
    #[cfg_attr(feature = "schema", schemars(with = "text::TcbVersionDef"))]
    pub reported_tcb: TcbVersion,
    /// The TCB that runs; the reported one when not given.
    #[serde(with = "text::tcb_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::TcbVersionDef>"))]
    pub current_tcb: Option<TcbVersion>,
    /// The TCB below which the machine cannot go; the reported one when not given.
    #[serde(with = "text::tcb_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::TcbVersionDef>"))]
    pub committed_tcb: Option<TcbVersion>,
    /// The TCB at the launch of the guest; the reported one when not given.
    #[serde(with = "text::tcb_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::TcbVersionDef>"))]
    pub launch_tcb: Option<TcbVersion>,
    /// CPUID family, model and stepping; those of the product when not given.
    #[serde(with = "text::bytes_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::Hex<3>>"))]
    pub cpuid: Option<[u8; 3]>,
    /// The chip. Turin uses the first 8 bytes, the rest is zero.
    #[serde(with = "text::bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "text::Hex<64>"))]
    pub chip_id: [u8; 64],
    /// Mitigations at launch. Version 5 only.
    pub launch_mit_vector: u64,
    /// Mitigations now. Version 5 only.
    pub current_mit_vector: u64,
    /// Sign with a VLEK of this cloud provider, not with the VCEK of the chip.
    pub csp_id: Option<String>,
    /// What the certificate says; all as in the report when not given.
    pub certificate: SnpCertificateSpec,
    /// How long a report takes, for example `5ms`.
    #[serde(with = "text::duration")]
    #[cfg_attr(feature = "schema", schemars(with = "text::DurationText"))]
    pub quoting_latency: Duration,
}

/// Where the VCEK or VLEK differs from the report it goes with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SnpCertificateSpec {
    /// The TCB in the certificate.
    #[serde(with = "text::tcb_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::TcbVersionDef>"))]
    pub tcb: Option<TcbVersion>,
    /// The chip in the certificate.
    #[serde(with = "text::bytes_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::Hex<64>>"))]
    pub chip_id: Option<[u8; 64]>,
    /// The product in the certificate.
    #[serde(with = "text::product_option")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<text::ProductDef>"))]
    pub product: Option<Product>,
}

impl Default for SnpSpec {
    fn default() -> Self {
        let mut chip_id = [0; 64];
        chip_id.iter_mut().take(8).for_each(|byte| *byte = 0xa1);
        Self {
            version: 5,
            product: Product::Genoa,
            guest_svn: 1,
            policy: 0x3_0000, // SMT, and the bit that must be one
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            platform_info: 0x25, // SMT, ECC, ALIAS_CHECK_COMPLETE
            author_key_en: false,
            mask_chip_key: false,
            measurement: [0xa0; 48],
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id: [0xa2; 32],
            reported_tcb: TcbVersion { fmc: 0, bootloader: 10, tee: 0, snp: 27, microcode: 84 },
            current_tcb: None,
            committed_tcb: None,
            launch_tcb: None,
            cpuid: None,
            chip_id,
            launch_mit_vector: 0,
            current_mit_vector: 0,
            csp_id: None,
            certificate: SnpCertificateSpec::default(),
            quoting_latency: Duration::ZERO,
        }
    }
}
