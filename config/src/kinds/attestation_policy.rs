//! `AttestationPolicy`: what a peer must prove.

use countersign_evidence::claims;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Selector;
pub use super::assurance::{Continuous, Level, OnFailure};
use super::scalar::{Duration, Hex, Name, NeverDebug, Pattern};
pub use super::sev_snp::{CrlUse, GuestPolicy, MinTcb, PlatformInfo, Product};
use crate::document::Path;

/// What a peer must prove before a hop to it or from it carries a byte.
///
/// A hop needs at least one policy with `mode: Enforce` that selects our side
/// and speaks of the peer; of all such policies every one must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttestationPolicySpec {
    /// Whose hops this policy guards, in both directions.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// Any of: the peers it speaks of. Left out: every peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub peers: Option<Vec<Pattern>>,
    /// Whether a hop is refused, or what would be refused is only logged.
    #[serde(default)]
    pub mode: Mode,
    /// How much the selected workloads demand of the peers. What the peers demand
    /// of them is said by the peers' policies.
    #[serde(default, skip_serializing_if = "Level::is_default")]
    pub level: Level,
    /// The word that `level: L0` is meant: peers without any evidence are admitted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_unattested: bool,
    /// Any of: one of these must hold, and inside one everything that is given.
    /// Required, except under L0, which asks for no evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub any_of: Vec<Alternative>,
    /// How old evidence may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
    /// How often a live hop proves itself again. Only with L2 and L3, where it
    /// does so without being told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<Continuous>,
    /// Any of: the forms in which a certificate may carry evidence.
    #[serde(default = "native_only", skip_serializing_if = "is_native_only")]
    #[schemars(length(min = 1))]
    pub accept_forms: Vec<EvidenceForm>,
}

/// Enforced, or only recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// A hop that does not satisfy the policy is refused.
    #[default]
    Enforce,
    /// What would be refused is logged and counted, nothing is refused.
    Audit,
}

/// The form in which a certificate carries evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvidenceForm {
    /// The CMW extension with the profile of this mesh.
    Native,
    /// CCC Interoperable RA-TLS.
    Ccc,
}

fn native_only() -> Vec<EvidenceForm> {
    vec![EvidenceForm::Native]
}

pub(super) fn is_native_only(forms: &[EvidenceForm]) -> bool {
    matches!(forms, [EvidenceForm::Native])
}

/// How old evidence may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Freshness {
    /// The age counts from the issue of the certificate, for which the evidence
    /// was made. At least 30s, because certificates are back-dated by 10s. From
    /// level L2 on it counts from the challenge of the last round instead.
    pub max_evidence_age: Duration,
}

/// The kind of a trusted execution environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TeeKind {
    /// Intel TDX.
    Tdx,
    /// Intel SGX.
    Sgx,
    /// AMD SEV-SNP.
    SevSnp,
}

impl From<TeeKind> for claims::Tee {
    fn from(kind: TeeKind) -> Self {
        match kind {
            TeeKind::Tdx => Self::Tdx,
            TeeKind::Sgx => Self::Sgx,
            TeeKind::SevSnp => Self::SevSnp,
        }
    }
}

/// One alternative: exactly one kind of TEE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Alternative {
    /// Intel TDX.
    Tdx(Box<TdxBlock>),
    /// Intel SGX.
    Sgx(Box<SgxBlock>),
    /// AMD SEV-SNP.
    SevSnp(Box<SnpBlock>),
}

/// Which measurements are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Measurements {
    /// Every measurement: the peer is some TEE, with any software inside.
    Literal(AnyMeasurement),
    /// Those of ReferenceValues.
    Approved(Approved),
}

/// The literal `Any`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AnyMeasurement {
    /// Every measurement.
    Any,
}

/// The measurements of ReferenceValues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approved {
    /// Any of: names of ReferenceValues in the same namespace.
    pub from_reference_values: OneOrMore,
}

/// What may have been measured into the runtime register of a guest (RTMR 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RuntimeEvents {
    /// Everything that a log shows, or nothing at all.
    Literal(AnyOrNone),
    /// What ReferenceValues admit, event by event.
    Approved(Approved),
}

/// The literals `Any` and `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AnyOrNone {
    /// Every event, as long as a log shows them all.
    Any,
    /// No event: the register is as it was when the guest started.
    None,
}

/// A name, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(Name),
    /// Several.
    More(#[schemars(length(min = 1))] Vec<Name>),
}

impl Measurements {
    /// The names of ReferenceValues, none for `Any`.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        match self {
            Self::Literal(_) => &[],
            Self::Approved(approved) => approved.names(),
        }
    }
}

impl Approved {
    /// The names of ReferenceValues.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        match &self.from_reference_values {
            OneOrMore::One(name) => std::slice::from_ref(name),
            OneOrMore::More(names) => names,
        }
    }
}

/// What an Intel TDX guest must prove: everything that is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TdxBlock {
    /// Debug is never accepted; `false` may be written for the reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<NeverDebug>,
    /// Which measurements are accepted.
    pub measurements: Measurements,
    /// Any of: SHA-256 fingerprints of vendor roots. Left out: Intel's root, which is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub roots: Option<Vec<Hex<32>>>,
    /// Any of: SHA-256 fingerprints of roots of emulated platforms, which prove
    /// nothing about hardware. They are accepted in addition to `roots`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emulated_roots: Vec<Hex<32>>,
    /// Any of: the machines (PPID, or PIID with several packages). Without this
    /// and `platformsFrom`: every machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub platforms: Option<Vec<Hex<16>>>,
    /// Any of: names of PlatformLists in the same namespace, whose machines are
    /// accepted as those of `platforms` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub platforms_from: Option<Vec<Name>>,
    /// Any of: accepted TCB statuses. Left out: UpToDate.
    #[serde(default = "up_to_date", skip_serializing_if = "is_up_to_date")]
    #[schemars(length(min = 1))]
    pub tcb_status: Vec<TcbStatus>,
    /// With a status other than UpToDate: the only security advisories that may
    /// be open. Left out: advisories are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advisories: Option<Vec<String>>,
    /// How long OutOfDate is still accepted after the newer TCB info was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcb_grace_period: Option<Duration>,
    /// The least issue number of the TCB info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tcb_evaluation_data_number: Option<u32>,
    /// Exact TD attributes. Left out: no debug, not migratable, SEPT_VE_DISABLE set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td_attributes: Option<Hex<8>>,
    /// Exact XFAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xfam: Option<Hex<8>>,
    /// Exact MRCONFIGID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_config_id: Option<Hex<48>>,
    /// Exact MROWNER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_owner: Option<Hex<48>>,
    /// Exact MROWNERCONFIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_owner_config: Option<Hex<48>>,
    /// Any of: service TDs that may be bound to the guest. Left out: none may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_tds: Vec<Hex<48>>,
    /// What may have been measured into RTMR 3 since the guest started, by the
    /// event log that the peer sends along. A value of RTMR 3 in the matching
    /// ReferenceValues is compared all the same. Left out: nobody looks at a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_events: Option<RuntimeEvents>,
}

/// What an Intel SGX enclave must prove: everything that is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SgxBlock {
    /// Debug is never accepted; `false` may be written for the reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<NeverDebug>,
    /// Which measurements are accepted.
    pub measurements: Measurements,
    /// Any of: SHA-256 fingerprints of vendor roots. Left out: Intel's root, which is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub roots: Option<Vec<Hex<32>>>,
    /// Any of: SHA-256 fingerprints of roots of emulated platforms, which prove
    /// nothing about hardware. They are accepted in addition to `roots`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emulated_roots: Vec<Hex<32>>,
    /// Any of: the machines (PPID, or PIID with several packages). Without this
    /// and `platformsFrom`: every machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub platforms: Option<Vec<Hex<16>>>,
    /// Any of: names of PlatformLists in the same namespace, whose machines are
    /// accepted as those of `platforms` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub platforms_from: Option<Vec<Name>>,
    /// Any of: accepted TCB statuses. Left out: UpToDate.
    #[serde(default = "up_to_date", skip_serializing_if = "is_up_to_date")]
    #[schemars(length(min = 1))]
    pub tcb_status: Vec<TcbStatus>,
    /// With a status other than UpToDate: the only security advisories that may
    /// be open. Left out: advisories are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advisories: Option<Vec<String>>,
    /// How long OutOfDate is still accepted after the newer TCB info was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcb_grace_period: Option<Duration>,
    /// The least issue number of the TCB info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tcb_evaluation_data_number: Option<u32>,
    /// Exact CONFIGID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_id: Option<Hex<64>>,
}

/// What an AMD SEV-SNP guest must prove: everything that is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnpBlock {
    /// Debug is never accepted; `false` may be written for the reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<NeverDebug>,
    /// Which measurements are accepted.
    pub measurements: Measurements,
    /// Any of: SHA-256 fingerprints of vendor roots. Left out: AMD's roots, which are built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub roots: Option<Vec<Hex<32>>>,
    /// Any of: SHA-256 fingerprints of roots of emulated platforms, which prove
    /// nothing about hardware. They are accepted in addition to `roots`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emulated_roots: Vec<Hex<32>>,
    /// Any of: the machines (CHIP_ID). Without this and `platformsFrom`: every machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub platforms: Option<Vec<Hex<64>>>,
    /// Any of: names of PlatformLists in the same namespace, whose machines are
    /// accepted as those of `platforms` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub platforms_from: Option<Vec<Name>>,
    /// Any of: processor families. Left out: all but Milan, whose chip keys have
    /// been extracted: it has to be named, and its machines have to be listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub products: Option<Vec<Product>>,
    /// The least TCB, component by component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tcb: Option<MinTcb>,
    /// The privilege level that the report is made at.
    #[serde(default)]
    #[schemars(range(max = 3))]
    pub vmpl: u8,
    /// Exact HOST_DATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_data: Option<Hex<32>>,
    /// Any of: digests of ID keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub id_key_digests: Option<Vec<Hex<48>>>,
    /// Any of: digests of author keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub author_key_digests: Option<Vec<Hex<48>>>,
    /// The least GUEST_SVN.
    #[serde(default)]
    pub min_guest_svn: u32,
    /// Whether AMD's revocation list must be at hand. One that is there is always honoured.
    #[serde(default)]
    pub crl: CrlUse,
    /// Bits of PLATFORM_INFO that must be set (true) or clear (false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_info: Option<PlatformInfo>,
    /// Bits of the guest policy that must be set (true) or clear (false).
    /// DEBUG and MIGRATE_MA must always be clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_policy: Option<GuestPolicy>,
    /// The cloud provider whose VLEK is accepted. Left out: only VCEK, the key of one chip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub csp_id: Option<String>,
}

/// Intel's words for the state of a platform's TCB. `Revoked` cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are Intel's")]
pub enum TcbStatus {
    UpToDate,
    SWHardeningNeeded,
    ConfigurationNeeded,
    ConfigurationAndSWHardeningNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
    TDRelaunchAdvised,
    TDRelaunchAdvisedConfigurationNeeded,
}

fn up_to_date() -> Vec<TcbStatus> {
    vec![TcbStatus::UpToDate]
}

fn is_up_to_date(statuses: &[TcbStatus]) -> bool {
    matches!(statuses, [TcbStatus::UpToDate])
}

impl From<TcbStatus> for claims::TcbStatus {
    fn from(status: TcbStatus) -> Self {
        match status {
            TcbStatus::UpToDate => Self::UpToDate,
            TcbStatus::SWHardeningNeeded => Self::SWHardeningNeeded,
            TcbStatus::ConfigurationNeeded => Self::ConfigurationNeeded,
            TcbStatus::ConfigurationAndSWHardeningNeeded => Self::ConfigurationAndSWHardeningNeeded,
            TcbStatus::OutOfDate => Self::OutOfDate,
            TcbStatus::OutOfDateConfigurationNeeded => Self::OutOfDateConfigurationNeeded,
            TcbStatus::TDRelaunchAdvised => Self::TDRelaunchAdvised,
            TcbStatus::TDRelaunchAdvisedConfigurationNeeded => Self::TDRelaunchAdvisedConfigurationNeeded,
        }
    }
}

impl AttestationPolicySpec {
    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        self.selector.check(&spec.key("selector"), report);
        self.check_level(spec, report);
        if let Some(freshness) = &self.freshness
            && freshness.max_evidence_age.as_secs() < 30
        {
            let message = format!("{} is less than 30s", freshness.max_evidence_age);
            report(spec.key("freshness").key("maxEvidenceAge"), message);
        }
        for (i, alternative) in self.any_of.iter().enumerate() {
            let tee = claims::Tee::from(alternative.tee());
            alternative.check(&spec.key("anyOf").index(i).key(tee.name()), report);
        }
    }
}
