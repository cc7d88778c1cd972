//! `TrustDomain`: the SPIFFE trust domain that the mesh issues identities for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::Duration;
use crate::document::Path;

/// The SPIFFE trust domain: SVID lifetime and key type. `metadata.name` is the
/// trust domain itself, for example `prod.example`; there is no namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustDomainSpec {
    /// The certificates of workloads.
    #[serde(default)]
    pub svid: Svid,
}

/// The certificates of workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Svid {
    /// How long one is valid, from 10s to 24h. Evidence is made anew with each.
    pub lifetime: Duration,
    /// The kind of key.
    pub key_type: KeyType,
}

/// The kind of key of an SVID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    #[default]
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
}

impl Default for Svid {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(30 * 60), key_type: KeyType::default() }
    }
}

impl TrustDomainSpec {
    pub(super) fn check(&self, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        let svid = self.svid.lifetime.as_secs();
        if !(10..=86_400).contains(&svid) {
            let message = format!("{} is outside 10s to 24h", self.svid.lifetime);
            report(spec.key("svid").key("lifetime"), message);
        }
    }
}
