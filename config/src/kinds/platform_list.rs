//! `PlatformList`: the machines that an operator enrolled.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attestation_policy::TeeKind;
use super::scalar::{PlatformId, Timestamp};
use crate::document::Path;

/// Machines that are known by their platform identity: the answer to a machine
/// whose attestation keys were extracted somewhere else (docs/threats.md, A3).
/// Policies name it under `platformsFrom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlatformListSpec {
    /// Any of: the machines. An empty list admits nobody.
    #[serde(default)]
    pub platforms: Vec<Platform>,
}

/// One machine, for one kind of TEE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Platform {
    /// The kind of TEE that it is enrolled for.
    pub tee: TeeKind,
    /// Intel: PIID, or PPID of a machine that has none, 32 digits; AMD: CHIP_ID,
    /// 128 digits. As `countersign verify` and `/attestation` show it.
    pub id: PlatformId,
    /// Which machine it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub note: Option<String>,
    /// Who enrolled it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub approved_by: Option<String>,
    /// When it was enrolled, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<Timestamp>,
}

impl PlatformListSpec {
    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        let mut seen = BTreeSet::new();
        for (i, platform) in self.platforms.iter().enumerate() {
            let path = spec.key("platforms").index(i).key("id");
            let id = platform.id.0.as_str();
            let tee = countersign_evidence::claims::Tee::from(platform.tee);
            let digits = match platform.tee {
                TeeKind::Tdx | TeeKind::Sgx => 32,
                TeeKind::SevSnp => 128,
            };
            if id.len() != digits {
                report(
                    path,
                    format!("has {} hex digits, the identity of a {tee} platform has {digits}", id.len()),
                );
            } else if id.bytes().all(|digit| digit == b'0') {
                report(path, "is what a machine says that hides its identity".to_owned());
            } else if !seen.insert((tee, id)) {
                report(path, format!("is listed twice for {tee}"));
            }
        }
    }
}
