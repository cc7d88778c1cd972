//! Resources: an envelope like Kubernetes' around a typed specification.

use std::collections::BTreeMap;
use std::fmt;

use crate::kinds::{
    AttestationPolicySpec, AuthorizationPolicySpec, ReferenceValuesSpec, TrustDomainSpec,
    WorkloadIdentitySpec,
};
use crate::problem::Problem;

/// The one API version.
pub const API_VERSION: &str = "countersign.dev/v1alpha1";

/// The kinds of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "each kind is documented at its specification")]
pub enum Kind {
    TrustDomain,
    WorkloadIdentity,
    AttestationPolicy,
    ReferenceValues,
    AuthorizationPolicy,
}

impl Kind {
    /// All kinds, in the order in which they are shown and applied.
    pub const ALL: [Kind; 5] = [
        Kind::TrustDomain,
        Kind::ReferenceValues,
        Kind::AttestationPolicy,
        Kind::WorkloadIdentity,
        Kind::AuthorizationPolicy,
    ];

    /// The name in `kind:`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TrustDomain => "TrustDomain",
            Self::WorkloadIdentity => "WorkloadIdentity",
            Self::AttestationPolicy => "AttestationPolicy",
            Self::ReferenceValues => "ReferenceValues",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }

    /// From the name in `kind:`, its lower-case form, plural or short name (`attpol`, `refval`, `authzpol`, `td`, `wid`).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let _ = name;
        todo!()
    }
}

/// What names a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for `TrustDomain`, which has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.name(), self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
        }
    }
}

/// `metadata:`.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// A DNS-1123 name (or the trust domain itself for `TrustDomain`).
    pub name: String,
    /// `default` when not given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// For people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// For people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A resource of any kind, structurally and semantically valid by itself.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each kind is documented at its specification")]
pub enum Resource {
    TrustDomain(Metadata, TrustDomainSpec),
    WorkloadIdentity(Metadata, WorkloadIdentitySpec),
    AttestationPolicy(Metadata, AttestationPolicySpec),
    ReferenceValues(Metadata, ReferenceValuesSpec),
    AuthorizationPolicy(Metadata, AuthorizationPolicySpec),
}

impl Resource {
    /// What names it.
    #[must_use]
    pub fn key(&self) -> Key {
        todo!()
    }
    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        todo!()
    }
    /// One line of JSON with sorted keys: what is stored, hashed, signed and sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        todo!()
    }
    /// YAML, as an operator would write it.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        todo!()
    }
    /// Reads what [`Resource::to_json`] wrote, with the same checks as [`parse`].
    ///
    /// # Errors
    /// Every problem.
    pub fn from_json(json: &str) -> Result<Self, Vec<Problem>> {
        let _ = json;
        todo!()
    }
}

/// Reads all documents of a file. `file` is for messages.
///
/// # Errors
/// Every problem of every document; then nothing of the file may be used.
pub fn parse(file: &str, text: &str) -> Result<Vec<Resource>, Vec<Problem>> {
    let _ = (file, text);
    todo!()
}

/// Checks across resources (dangling references, unused reference values, ...).
/// Errors make the set unusable, warnings do not.
#[must_use]
pub fn check_set(resources: &[Resource]) -> Vec<Problem> {
    let _ = resources;
    todo!()
}
