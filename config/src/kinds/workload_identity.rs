//! `WorkloadIdentity`: which SPIFFE ID a workload gets, and for what proof.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Name, Spiffe};
use crate::document::Path;

/// Which SPIFFE ID a workload gets, and what it must prove to get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadIdentitySpec {
    /// The SPIFFE ID. One identity has one WorkloadIdentity.
    pub spiffe_id: Spiffe,
    /// What the selectors of policies see.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What must be proved to get it.
    pub attestation: Attestation,
}

/// What must be proved to get an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attestation {
    /// The name of an AttestationPolicy in the same namespace. It is enforced
    /// here whatever its `mode`, `selector` and `peers` say about hops.
    pub policy: Name,
}

impl WorkloadIdentitySpec {
    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        super::check_labels(&self.labels, &spec.key("labels"), report);
        let path = self.spiffe_id.0.path();
        if path.is_empty() {
            report(
                spec.key("spiffeId"),
                format!("`{}` is the trust domain's own ID: a workload's ID has a path", self.spiffe_id),
            );
        }
        if let Some((prefix, whose)) = RESERVED.iter().find(|(p, _)| path.split('/').nth(1) == Some(p)) {
            let message = format!("`{}`: IDs below /{prefix} are those of {whose}", self.spiffe_id);
            report(spec.key("spiffeId"), message);
        }
    }
}

/// The first segments of the IDs that no evidence is exchanged for: a workload
/// with one would be taken for who governs the mesh.
const RESERVED: [(&str, &str); 2] =
    [("operator", "operators, which hold them without evidence"), ("countersign", "the control plane")];
