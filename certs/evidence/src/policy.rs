//! What a peer must prove: policies and Reference Values, compiled.
//!
//! These are the types that the appraisal reads. Operators write YAML, which
//! the config crate validates and turns into them.

mod events;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

pub use self::events::{EventContent, EventReference, EventReferences};
use crate::amd::tcb::{Product, TcbVersion};
use crate::anchors::Fingerprint;
use crate::claims::Tee;
use crate::intel::tcb::TcbStatus;

/// The name of a policy, with the generation of the configuration it is from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct PolicyRef {
    /// The namespace of the resource.
    pub namespace: String,
    /// The name of the resource.
    pub name: String,
    /// The generation of the snapshot that the policy came with; 0 for a file.
    pub generation: u64,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (generation {})", self.namespace, self.name, self.generation)
    }
}

/// Whether a policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Mode {
    /// Whoever does not satisfy it is refused.
    #[default]
    Enforce,
    /// Whoever does not satisfy it is taken down, and nobody is refused.
    Audit,
}

/// How much a peer must prove (3-attestation, section 0). The order is that of
/// strength: who demands one is content with those above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Level {
    /// A certificate with a SPIFFE ID.
    L0,
    /// And evidence in it.
    L1,
    /// And evidence that is made for the connection.
    L2,
    /// And of a machine that is on a list.
    L3,
}

impl Level {
    /// The number: 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::L0 => 0,
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
        }
    }

    /// The level with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::L0),
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            3 => Some(Self::L3),
            _ => None,
        }
    }

    /// Whether evidence is made for the connection.
    #[must_use]
    pub const fn is_session_bound(self) -> bool {
        self.number() >= 2
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.number())
    }
}

/// A policy: one of the alternatives must hold, and inside it everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyRef,
    /// Whether it decides.
    pub mode: Mode,
    /// OR. An empty list accepts nothing.
    pub any_of: Vec<Alternative>,
    /// The evidence may be at most this old, in seconds. The age of evidence in
    /// a certificate counts from the moment at which the issuer's challenge was
    /// answered, which the caller of [`appraise`](crate::appraise()) knows.
    pub max_evidence_age: Option<u64>,
}

/// One alternative of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alternative {
    /// Intel TDX.
    Tdx(TdxRule),
    /// Intel SGX.
    Sgx(SgxRule),
    /// AMD SEV-SNP.
    SevSnp(SnpRule),
}

impl Alternative {
    /// The kind of TEE that it is about.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self {
            Self::Tdx(_) => Tee::Tdx,
            Self::Sgx(_) => Tee::Sgx,
            Self::SevSnp(_) => Tee::SevSnp,
        }
    }
}

/// Roots and machines: what all kinds of TEE have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// The vendor roots to accept; `None` for the built-in ones.
    pub roots: Option<Vec<Fingerprint>>,
    /// Roots of emulated platforms, admitted by name. When this is not empty
    /// and `roots` is `None`, the built-in roots are accepted as well.
    pub emulated_roots: Vec<Fingerprint>,
    /// Allowed platform identities in lower-case hexadecimal; `None` for any.
    pub platforms: Option<Vec<String>>,
    /// Lists of allowed platforms. A platform has to be among [`Common::platforms`]
    /// or on one of these, as soon as there is either.
    pub platform_lists: Vec<Arc<PlatformList>>,
    /// The names of the [`References`] sets that hold the measurements, as
    /// `namespace/name`. Empty: measurements are not compared, which only a
    /// policy that says `measurements: Any` has.
    pub references: Vec<String>,
}

/// Machines that an operator enrolled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformList {
    /// The name of the resource, `namespace/name`.
    pub name: String,
    /// The platform identities in lower-case hexadecimal; `None` when there is no
    /// such resource, so that nobody is on it.
    pub members: Option<HashSet<(Tee, String)>>,
}

/// Rules about Intel's TCB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntelTcbRule {
    /// Accepted overall statuses.
    pub accepted: Vec<TcbStatus>,
    /// For a status other than `UpToDate`: the advisories that are accepted.
    /// `None` means that they are not looked at.
    pub advisories: Option<Vec<String>>,
    /// `OutOfDate` and `OutOfDateConfigurationNeeded` are accepted for this many
    /// seconds after the date (tcbDate) of the oldest TCB level that is newer
    /// than the platform's, see [`IntelPlatform::superseded`]: the day of the
    /// vendor's advisories, which TCB info of the standard channel follows up to
    /// a year later.
    ///
    /// [`IntelPlatform::superseded`]: crate::claims::IntelPlatform::superseded
    pub grace_period: u64,
    /// The least `tcbEvaluationDataNumber` of the TCB info.
    pub min_evaluation_data_number: Option<u32>,
}

impl Default for IntelTcbRule {
    fn default() -> Self {
        Self {
            accepted: vec![TcbStatus::UpToDate],
            advisories: None,
            grace_period: 0,
            min_evaluation_data_number: None,
        }
    }
}

/// What a TDX peer must prove. Debug is never accepted and has no field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TdxRule {
    /// Roots, machines, measurements.
    pub common: Common,
    /// TCB.
    pub tcb: IntelTcbRule,
    /// Exact TD attributes (8 bytes), if given. Otherwise: TUD = 0,
    /// MIGRATABLE = 0 and SEPT_VE_DISABLE = 1 are required.
    pub td_attributes: Option<[u8; 8]>,
    /// Exact XFAM, if given.
    pub xfam: Option<[u8; 8]>,
    /// Exact MRCONFIGID, if given.
    pub mr_config_id: Option<[u8; 48]>,
    /// Exact MROWNER, if given.
    pub mr_owner: Option<[u8; 48]>,
    /// Exact MROWNERCONFIG, if given.
    pub mr_owner_config: Option<[u8; 48]>,
    /// Allowed service TDs besides none (48 zero bytes).
    pub service_tds: Vec<[u8; 48]>,
    /// What may have been measured at runtime.
    pub runtime_events: EventRule,
}

/// What may have been measured into the runtime register of a guest (RTMR 3).
/// A value of the register in a reference entry must match all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EventRule {
    /// Nobody looks, and no log is asked for.
    #[default]
    Unchecked,
    /// Nothing: the register is as it was when the guest started.
    Nothing,
    /// Anything that a log shows.
    Anything,
    /// What one of these [`References`] sets admits, event by event.
    Admitted(Vec<String>),
}

impl EventRule {
    /// Whether an event log must come with the evidence.
    #[must_use]
    pub const fn wants_log(&self) -> bool {
        matches!(self, Self::Anything | Self::Admitted(_))
    }
}

/// What an SGX peer must prove. Debug is never accepted and has no field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SgxRule {
    /// Roots, machines, measurements.
    pub common: Common,
    /// TCB.
    pub tcb: IntelTcbRule,
    /// Exact CONFIGID, if given.
    pub config_id: Option<[u8; 64]>,
}

/// What an SEV-SNP peer must prove. Debug is never accepted and has no field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnpRule {
    /// Roots, machines, measurements.
    pub common: Common,
    /// Accepted products; empty for all but Milan, which must be named
    /// (its VCEK seed was extracted by software, see docs/threats.md).
    pub products: Vec<Product>,
    /// The least reported TCB, component by component.
    pub min_tcb: Option<TcbVersion>,
    /// The required VMPL; 0 when not given.
    pub vmpl: u32,
    /// Exact HOST_DATA, if given.
    pub host_data: Option<[u8; 32]>,
    /// Accepted ID key digests, if given.
    pub id_key_digests: Option<Vec<[u8; 48]>>,
    /// Accepted author key digests, if given.
    pub author_key_digests: Option<Vec<[u8; 48]>>,
    /// The least GUEST_SVN.
    pub min_guest_svn: u32,
    /// Accept a missing CRL. A CRL that is there is always honoured.
    pub crl_optional: bool,
    /// Bits that PLATFORM_INFO must have set.
    pub platform_info_set: u64,
    /// Bits that PLATFORM_INFO must have clear.
    pub platform_info_clear: u64,
    /// Bits that POLICY must have set.
    pub policy_set: u64,
    /// Bits that POLICY must have clear, besides DEBUG and MIGRATE_MA.
    pub policy_clear: u64,
    /// The cloud provider whose VLEK is accepted; `None` for VCEK only.
    pub csp_id: Option<String>,
}

/// A set of approved measurements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceSet {
    /// Nothing is accepted on this set's word after this second; `None` for ever.
    pub valid_until: Option<u64>,
    /// TDX entries.
    pub tdx: Vec<TdxReference>,
    /// SGX entries.
    pub sgx: Vec<SgxReference>,
    /// SEV-SNP entries.
    pub sev_snp: Vec<SnpReference>,
    /// What may be measured at runtime.
    pub runtime_events: EventReferences,
}

/// Measurements of one TDX guest. A register that is `None` is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TdxReference {
    /// What it is, for people.
    pub name: String,
    /// MRTD.
    pub mr_td: Option<[u8; 48]>,
    /// RTMR 0 to 3.
    pub rtmr: [Option<[u8; 48]>; 4],
    /// MRSEAM.
    pub mr_seam: Option<[u8; 48]>,
}

/// Measurements of one enclave: MRENCLAVE, or MRSIGNER with product and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SgxReference {
    /// What it is, for people.
    pub name: String,
    /// MRENCLAVE.
    pub mr_enclave: Option<[u8; 32]>,
    /// MRSIGNER.
    pub mr_signer: Option<[u8; 32]>,
    /// ISVPRODID.
    pub isv_prod_id: Option<u16>,
    /// The least ISVSVN.
    pub min_isv_svn: Option<u16>,
}

/// The launch measurement of one SEV-SNP guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpReference {
    /// What it is, for people.
    pub name: String,
    /// MEASUREMENT.
    pub measurement: [u8; 48],
}

/// Reference Values by the name of their resource, `namespace/name`.
pub type References = BTreeMap<String, ReferenceSet>;
