//! What verified evidence says, in one typed model.

use std::fmt;
use std::sync::Arc;

pub use crate::amd::tcb::{Product, TcbVersion};
use crate::anchors::Fingerprint;
use crate::event_log::{self, Event, RegisterState};
use crate::finding::Finding;
pub use crate::intel::tcb::TcbStatus;
use crate::reason::Reason;

/// The kind of a trusted execution environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Tee {
    /// Intel TDX.
    Tdx,
    /// Intel SGX.
    Sgx,
    /// AMD SEV-SNP.
    SevSnp,
}

impl Tee {
    /// The name as operators write it: `tdx`, `sgx`, `sevSnp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tdx => "tdx",
            Self::Sgx => "sgx",
            Self::SevSnp => "sevSnp",
        }
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A window of time in seconds since the Unix epoch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    /// The first second.
    pub from: u64,
    /// The last second.
    pub until: u64,
}

impl Window {
    /// Everything.
    pub const ALWAYS: Self = Self { from: 0, until: u64::MAX };

    /// The seconds that are in both.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// Whether `second` is inside.
    #[must_use]
    pub const fn contains(self, second: u64) -> bool {
        self.from <= second && second <= self.until
    }
}

/// Verified facts about a peer. Only [`verify`](crate::verify) makes them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Claims {
    /// The kind of TEE.
    pub tee: Tee,
    /// Whether the platform is emulated: true for every root that only
    /// `emulatedRoots` of a policy admits.
    pub emulated: bool,
    /// The root at which the chain ended.
    pub root: Fingerprint,
    /// SHA-256 of the evidence bytes.
    pub evidence: Fingerprint,
    /// The 64 bytes that the attester chose: the binding.
    #[serde(serialize_with = "hex::serialize")]
    pub report_data: [u8; 64],
    /// What the TEE and its platform say of themselves.
    pub body: Body,
    /// When everything that this rests on (certificates, CRLs, TCB info) is valid.
    pub window: Window,
}

/// The facts that depend on the kind of TEE.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// Intel TDX.
    Tdx(Box<TdxClaims>),
    /// Intel SGX.
    Sgx(Box<SgxClaims>),
    /// AMD SEV-SNP.
    SevSnp(Box<SnpClaims>),
}

/// What Intel's PCK certificate, TCB info and identities say of the platform.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IntelPlatform {
    /// Family, model, platform, custom SKU.
    #[serde(serialize_with = "hex::serialize")]
    pub fmspc: [u8; 6],
    /// Provisioning certification enclave identity.
    #[serde(serialize_with = "hex::serialize")]
    pub pce_id: [u8; 2],
    /// Platform provisioning ID.
    #[serde(serialize_with = "hex::serialize")]
    pub ppid: [u8; 16],
    /// Platform instance ID: only with the Platform CA (multi-package).
    #[serde(serialize_with = "hex_option")]
    pub piid: Option<[u8; 16]>,
    /// The overall, converged status.
    pub tcb_status: TcbStatus,
    /// The status of the platform's own TCB level.
    pub platform_tcb_status: TcbStatus,
    /// The date of the platform's TCB level, RFC 3339.
    pub tcb_date: String,
    /// `tcbDate` of the oldest part, seconds since the epoch.
    pub tcb_date_seconds: u64,
    /// When the vendor published the TCB level that made this platform's (or a
    /// part's) out of date: the tcbDate of the oldest newer level, seconds since
    /// the epoch. `None` when nothing is out of date.
    pub superseded: Option<u64>,
    /// The status of the TDX module, when the TCB info speaks of it.
    pub module_status: Option<TcbStatus>,
    /// The status of the quoting enclave.
    pub qe_tcb_status: TcbStatus,
    /// The security advisories of all parts, sorted, each once.
    pub advisory_ids: Vec<String>,
    /// The issue number of the TCB info.
    pub tcb_evaluation_data_number: u32,
    /// When the TCB info that was used was issued, seconds since the epoch.
    pub tcb_info_issued: u64,
}

/// The body of a TDX quote.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of Intel's TDX module specification")]
pub struct TdxClaims {
    pub platform: IntelPlatform,
    pub quote_version: u16,
    #[serde(serialize_with = "hex::serialize")]
    pub tee_tcb_svn: [u8; 16],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_seam: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_signer_seam: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub seam_attributes: [u8; 8],
    #[serde(serialize_with = "hex::serialize")]
    pub td_attributes: [u8; 8],
    #[serde(serialize_with = "hex::serialize")]
    pub xfam: [u8; 8],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_td: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_config_id: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_owner: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_owner_config: [u8; 48],
    #[serde(serialize_with = "hex_each")]
    pub rtmr: [[u8; 48]; 4],
    /// Only in a TDX 1.5 body.
    #[serde(serialize_with = "hex_option")]
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// Only in a TDX 1.5 body.
    #[serde(serialize_with = "hex_option")]
    pub mr_service_td: Option<[u8; 48]>,
    /// What was measured into RTMR 3, if it was shown.
    #[serde(skip_serializing_if = "RuntimeEvents::not_shown")]
    pub runtime_events: RuntimeEvents,
}

/// What was measured into RTMR 3 of a TDX guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum RuntimeEvents {
    /// No log came with the evidence.
    #[default]
    NotShown,
    /// No log came with the evidence, and evidence with its log must follow
    /// before anything depends on it: the first round of a session.
    ToFollow,
    /// The events, whose replay lands on the register of the quote.
    Replayed(Arc<[Event]>),
}

impl RuntimeEvents {
    const fn not_shown(&self) -> bool {
        !matches!(self, Self::Replayed(_))
    }
}

impl TdxClaims {
    /// Whether the TD can be debugged: any bit of TD_ATTRIBUTES.TUD.
    #[must_use]
    pub const fn debug(&self) -> bool {
        let [tud, ..] = self.td_attributes;
        tud != 0
    }

    /// Bit `n` of TD_ATTRIBUTES.
    #[must_use]
    pub const fn attribute(&self, n: u32) -> bool {
        n < 64 && u64::from_le_bytes(self.td_attributes) >> n & 1 == 1
    }
}

/// The body of an SGX quote.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of Intel's SGX documentation")]
pub struct SgxClaims {
    pub platform: IntelPlatform,
    pub quote_version: u16,
    #[serde(serialize_with = "hex::serialize")]
    pub cpu_svn: [u8; 16],
    #[serde(serialize_with = "hex::serialize")]
    pub misc_select: [u8; 4],
    #[serde(serialize_with = "hex::serialize")]
    pub attributes: [u8; 16],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_enclave: [u8; 32],
    #[serde(serialize_with = "hex::serialize")]
    pub mr_signer: [u8; 32],
    pub isv_prod_id: u16,
    pub isv_svn: u16,
    #[serde(serialize_with = "hex::serialize")]
    pub config_id: [u8; 64],
    pub config_svn: u16,
}

impl SgxClaims {
    /// Whether the enclave can be debugged: ATTRIBUTES.DEBUG.
    #[must_use]
    pub const fn debug(&self) -> bool {
        let [first, ..] = self.attributes;
        first & 2 != 0
    }
}

/// An AMD SEV-SNP attestation report.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of AMD's SEV-SNP firmware ABI specification, table 23")]
pub struct SnpClaims {
    pub version: u32,
    pub product: Product,
    pub guest_svn: u32,
    pub policy: u64,
    #[serde(serialize_with = "hex::serialize")]
    pub family_id: [u8; 16],
    #[serde(serialize_with = "hex::serialize")]
    pub image_id: [u8; 16],
    pub vmpl: u32,
    pub platform_info: u64,
    /// VCEK or VLEK signed the report.
    pub signing_key: SnpSigningKey,
    pub mask_chip_key: bool,
    pub author_key_en: bool,
    #[serde(serialize_with = "hex::serialize")]
    pub measurement: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub host_data: [u8; 32],
    #[serde(serialize_with = "hex::serialize")]
    pub id_key_digest: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub author_key_digest: [u8; 48],
    #[serde(serialize_with = "hex::serialize")]
    pub report_id: [u8; 32],
    #[serde(serialize_with = "hex::serialize")]
    pub chip_id: [u8; 64],
    pub current_tcb: TcbVersion,
    pub reported_tcb: TcbVersion,
    pub committed_tcb: TcbVersion,
    pub launch_tcb: TcbVersion,
    /// Report version 5 and later.
    pub launch_mit_vector: Option<u64>,
    /// Report version 5 and later.
    pub current_mit_vector: Option<u64>,
    /// The cloud provider that a VLEK names.
    pub csp_id: Option<String>,
    /// Whether a current CRL was at hand and does not list the certificates.
    pub crl_checked: bool,
    /// SHA-256 of the certificate of the key that signed the report.
    #[serde(skip)]
    pub signed_by: Fingerprint,
}

/// Which endorsement key signed an SEV-SNP report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum SnpSigningKey {
    /// Versioned chip endorsement key: one chip at one TCB.
    #[serde(rename = "VCEK")]
    Vcek,
    /// Versioned loaded endorsement key: one cloud provider at one TCB.
    #[serde(rename = "VLEK")]
    Vlek,
}

impl SnpClaims {
    /// Whether the guest can be debugged: POLICY bit 19.
    #[must_use]
    pub const fn debug(&self) -> bool {
        self.policy >> 19 & 1 == 1
    }

    /// Whether a migration agent may move the guest: POLICY bit 18.
    #[must_use]
    pub const fn migratable(&self) -> bool {
        self.policy >> 18 & 1 == 1
    }
}

/// What names the machine: the key of a platform allow-list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformId {
    /// `piid`, `ppid` or `chipId`.
    pub kind: &'static str,
    /// Lower-case hexadecimal.
    pub value: String,
}

impl fmt::Display for PlatformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl Claims {
    /// The identity of the platform: PIID when there is one, else PPID; CHIP_ID
    /// for AMD unless it is masked or the report is signed by a VLEK.
    #[must_use]
    pub fn platform(&self) -> Option<PlatformId> {
        let intel = |p: &IntelPlatform| match p.piid {
            Some(piid) => PlatformId { kind: "piid", value: hex::encode(piid) },
            None => PlatformId { kind: "ppid", value: hex::encode(p.ppid) },
        };
        match &self.body {
            Body::Tdx(c) => Some(intel(&c.platform)),
            Body::Sgx(c) => Some(intel(&c.platform)),
            Body::SevSnp(c) if c.signing_key == SnpSigningKey::Vlek || c.chip_id == [0; 64] => None,
            Body::SevSnp(c) => Some(PlatformId { kind: "chipId", value: hex::encode(c.chip_id) }),
        }
    }

    /// What was measured when the TEE was started, under the name that operators
    /// know it by. It cannot change while the TEE lives.
    #[must_use]
    pub const fn launch_measurement(&self) -> (&'static str, &[u8]) {
        match &self.body {
            Body::Tdx(c) => ("mrTd", &c.mr_td),
            Body::Sgx(c) => ("mrEnclave", &c.mr_enclave),
            Body::SevSnp(c) => ("measurement", &c.measurement),
        }
    }

    /// The same claims with the runtime events that a log shows, and how far the
    /// log was replayed. See [`event_log::replay`].
    ///
    /// # Errors
    /// When the TEE has no runtime registers, or the log does not reproduce them.
    pub fn with_event_log(
        &self,
        media_type: &str,
        log: &[u8],
        previous: &RegisterState,
    ) -> Result<(Self, RegisterState), Finding> {
        let state = self.replay_event_log(media_type, log, previous)?;
        Ok((self.with_registers(&state), state))
    }

    /// How far a log must be replayed to lead to the registers of this evidence.
    /// See [`event_log::replay`].
    ///
    /// # Errors
    /// When the TEE has no runtime registers, or the log does not reproduce them.
    pub fn replay_event_log(
        &self,
        media_type: &str,
        log: &[u8],
        previous: &RegisterState,
    ) -> Result<RegisterState, Finding> {
        let Body::Tdx(body) = &self.body else {
            let expected = "none: the TEE has no runtime registers";
            let presented = format!("a log with evidence of {}", self.tee);
            return Err(Finding::new(Reason::EventLogMismatch, "event log", expected, presented));
        };
        event_log::replay(media_type, log, &body.rtmr, previous)
    }

    /// The same claims with the runtime events of a log that was replayed for
    /// the same evidence before. Of another register it shows nothing.
    #[must_use]
    pub fn with_registers(&self, state: &RegisterState) -> Self {
        let mut claims = self.clone();
        if let Body::Tdx(body) = &mut claims.body
            && let [.., runtime] = &body.rtmr
            && runtime == state.register()
        {
            body.runtime_events = RuntimeEvents::Replayed(Arc::clone(state.events()));
        }
        claims
    }

    /// The same claims, of a peer that cannot do anything before it has shown
    /// its event log in a session round.
    #[must_use]
    pub fn with_event_log_to_follow(&self) -> Self {
        let mut claims = self.clone();
        if let Body::Tdx(body) = &mut claims.body
            && body.runtime_events == RuntimeEvents::NotShown
        {
            body.runtime_events = RuntimeEvents::ToFollow;
        }
        claims
    }

    /// What was measured at runtime, if a log showed it.
    #[must_use]
    pub fn runtime_events(&self) -> Option<&[Event]> {
        let Body::Tdx(body) = &self.body else { return None };
        match &body.runtime_events {
            RuntimeEvents::Replayed(events) => Some(events),
            RuntimeEvents::NotShown | RuntimeEvents::ToFollow => None,
        }
    }

    /// Whether the evidence itself says that debugging is possible.
    #[must_use]
    pub fn debug(&self) -> bool {
        match &self.body {
            Body::Tdx(c) => c.debug(),
            Body::Sgx(c) => c.debug(),
            Body::SevSnp(c) => c.debug(),
        }
    }
}

fn hex_option<const N: usize, S: serde::Serializer>(v: &Option<[u8; N]>, s: S) -> Result<S::Ok, S::Error> {
    match v {
        Some(bytes) => s.serialize_some(&hex::encode(bytes)),
        None => s.serialize_none(),
    }
}

fn hex_each<const N: usize, const M: usize, S: serde::Serializer>(
    v: &[[u8; N]; M],
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_seq(v.iter().map(hex::encode))
}
