//! `ReferenceValues`: named sets of approved measurements.

use countersign_evidence::event_log::native::Record;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Hex, Timestamp};
use crate::document::Path;

/// Approved measurements, with where they come from and how long they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceValuesSpec {
    /// Nothing is accepted on the word of this set after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Where the values come from, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// Any of: Intel TDX guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tdx: Vec<TdxEntry>,
    /// Any of: Intel SGX enclaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sgx: Vec<SgxEntry>,
    /// Any of: AMD SEV-SNP guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sev_snp: Vec<SnpEntry>,
    /// Any of: what may be measured while a guest runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtime_events: Vec<EventEntry>,
}

/// Where Reference Values come from. Shown with every match; decides nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provenance {
    /// The image that was measured, by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The SLSA build level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 4))]
    pub slsa_level: Option<u8>,
    /// Where the record of the build is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_record: Option<String>,
    /// The source revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One TDX guest: all of the registers that are given must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TdxEntry {
    /// What it is, for people.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// MRTD: the initial contents, which is the virtual firmware. Whatever the
    /// other registers say is the word of this firmware.
    pub mr_td: Hex<48>,
    /// The runtime registers that are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr: Option<Rtmr>,
    /// MRSEAM: the TDX module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_seam: Option<Hex<48>>,
}

/// Runtime measurement registers of a TDX guest, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Rtmr {
    /// RTMR 0: the configuration of the virtual firmware.
    #[serde(rename = "0", default, skip_serializing_if = "Option::is_none")]
    pub rtmr0: Option<Hex<48>>,
    /// RTMR 1: the boot loader and the kernel.
    #[serde(rename = "1", default, skip_serializing_if = "Option::is_none")]
    pub rtmr1: Option<Hex<48>>,
    /// RTMR 2: the command line, the initial file system, the application.
    #[serde(rename = "2", default, skip_serializing_if = "Option::is_none")]
    pub rtmr2: Option<Hex<48>>,
    /// RTMR 3: left to the application.
    #[serde(rename = "3", default, skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<Hex<48>>,
}

/// One enclave: `mrEnclave`, or `mrSigner` with `isvProdId` and `minIsvSvn`;
/// all that are given must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SgxEntry {
    /// What it is, for people.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// MRENCLAVE: exactly this enclave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_enclave: Option<Hex<32>>,
    /// MRSIGNER: an enclave of this signer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mr_signer: Option<Hex<32>>,
    /// ISVPRODID: which product of the signer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isv_prod_id: Option<u16>,
    /// The least ISVSVN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_isv_svn: Option<u16>,
}

/// One SEV-SNP guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnpEntry {
    /// What it is, for people.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// MEASUREMENT: the launch digest.
    pub measurement: Hex<48>,
}

/// One event that may be measured: with this digest, with this content, or,
/// when neither is given, every event of the type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventEntry {
    /// What it is, for people.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The type, as the event log says it.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 128))]
    pub kind: String,
    /// What the register is extended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Hex<48>>,
    /// The content as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub content: Option<String>,
}

impl ReferenceValuesSpec {
    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        let measurements = self.tdx.len() + self.sgx.len() + self.sev_snp.len();
        if measurements + self.runtime_events.len() == 0 {
            let message = "approves nothing: give entries under tdx, sgx, sevSnp or runtimeEvents";
            report(spec.clone(), message.to_owned());
        }
        for (i, entry) in self.runtime_events.iter().enumerate() {
            let path = spec.key("runtimeEvents").index(i);
            let content = entry.content.as_deref().unwrap_or_default();
            if let Err(finding) = Record::new(&entry.kind, content.as_bytes()) {
                let message =
                    format!("{} is {}, accepted: {}", finding.field, finding.presented, finding.expected);
                report(path.clone(), message);
            }
            if entry.digest.is_some() && entry.content.is_some() {
                report(path, "gives a digest and a content, accepted: one of them".to_owned());
            }
        }
        for (i, entry) in self.sgx.iter().enumerate() {
            let path = spec.key("sgx").index(i);
            let product = entry.isv_prod_id.is_some() && entry.min_isv_svn.is_some();
            match (entry.mr_enclave, entry.mr_signer) {
                (None, None) => report(path, "names no enclave: give mrEnclave or mrSigner".to_owned()),
                (None, Some(_)) if !product => report(
                    path,
                    "mrSigner alone approves everything that this signer ever signed: \
                     give isvProdId and minIsvSvn as well"
                        .to_owned(),
                ),
                _ => {}
            }
        }
    }
}
