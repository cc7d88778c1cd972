//! The specifications, one file a kind.
//!
//! The documentation of each field is the description in its JSON Schema, and
//! says of every list whether any or all of its items must hold.

mod alternative;
pub mod assurance;
pub mod attestation_policy;
pub mod authorization_policy;
pub mod gateway;
pub mod grpc_route;
pub mod http_route;
pub mod platform_list;
pub mod reference_values;
pub mod scalar;
pub mod service;
pub mod sev_snp;
pub mod trust_domain;
pub mod workload_entry;
pub mod workload_identity;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use attestation_policy::AttestationPolicySpec;
pub use authorization_policy::AuthorizationPolicySpec;
pub use grpc_route::GrpcRouteSpec;
pub use http_route::HttpRouteSpec;
pub use platform_list::PlatformListSpec;
pub use reference_values::ReferenceValuesSpec;
pub use service::ServiceSpec;
pub use trust_domain::TrustDomainSpec;
pub use workload_entry::WorkloadEntrySpec;
pub use workload_identity::WorkloadIdentitySpec;

use crate::document::Path;
use crate::resource::Resource;

/// Selects by labels and in the same namespace: a policy WorkloadIdentities, a
/// Service WorkloadEntries. A policy in the namespace `countersign-system` selects
/// in every namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// All of: labels that `spec.labels` of what is selected must have. Empty selects all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty()
    }

    /// Whether it selects something with these labels.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    fn check(&self, path: &Path, report: &mut dyn FnMut(Path, String)) {
        check_labels(&self.match_labels, &path.key("matchLabels"), report);
    }
}

/// What the schema cannot say about a resource: each problem with its path.
pub(crate) fn check(resource: &Resource, report: &mut dyn FnMut(Path, String)) {
    let metadata = resource.metadata();
    let path = Path::default().key("metadata");
    check_labels(&metadata.labels, &path.key("labels"), report);
    for key in metadata.annotations.keys() {
        if !is_label_key(key) {
            report(path.key("annotations").key(key), format!("`{key}` is not a qualified name"));
        }
    }
    let spec = Path::default().key("spec");
    match resource {
        Resource::TrustDomain(_, s) => s.check(&spec, report),
        Resource::WorkloadIdentity(_, s) => s.check(&spec, report),
        Resource::AttestationPolicy(_, s) => s.check(&spec, report),
        Resource::ReferenceValues(_, s) => s.check(&spec, report),
        Resource::PlatformList(_, s) => s.check(&spec, report),
        Resource::AuthorizationPolicy(_, s) => s.check(&spec, report),
        Resource::WorkloadEntry(_, s) => s.check(&spec, report),
        Resource::Service(_, s) => s.check(&spec, report),
        Resource::HttpRoute(m, s) => s.check(&m.namespace, &spec, report),
        Resource::GrpcRoute(m, s) => s.check(&m.namespace, &spec, report),
    }
}

fn check_labels(labels: &BTreeMap<String, String>, path: &Path, report: &mut dyn FnMut(Path, String)) {
    for (key, value) in labels {
        if !is_label_key(key) {
            report(path.key(key), format!("`{key}` is not a label key such as app or example.org/app"));
        }
        if !(value.is_empty() || is_label_part(value)) {
            let message = format!(
                "{} is not a label value: at most 63 characters A-Z a-z 0-9, and - _ . inside",
                scalar::quoted(value)
            );
            report(path.key(key), message);
        }
    }
}

/// A Kubernetes label key: an optional DNS-1123 prefix and a name.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => scalar::Name::parse(prefix).is_ok() && is_label_part(name),
        None => is_label_part(key),
    }
}

fn is_label_part(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
