//! Resources: an envelope like Kubernetes' around a typed specification.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::document::{self, MAX_BYTES, Node, Path, Position};
use crate::kinds::scalar::{Name, Namespace, quoted};
use crate::kinds::{
    self, AttestationPolicySpec, AuthorizationPolicySpec, GrpcRouteSpec, HttpRouteSpec, PlatformListSpec,
    ReferenceValuesSpec, ServiceSpec, TrustDomainSpec, WorkloadEntrySpec, WorkloadIdentitySpec,
};
use crate::problem::Problem;
use crate::schema;

pub use crate::set::{check_part, check_set};

/// The API version of our own kinds.
pub const API_VERSION: &str = "countersign.dev/v1alpha1";
/// The API version of the kinds that we take from the Gateway API.
pub const GATEWAY_API_VERSION: &str = "gateway.networking.k8s.io/v1";

/// The namespace of a resource that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The namespace whose policies select workloads of every namespace.
pub const ROOT_NAMESPACE: &str = "countersign-system";

/// The kinds of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs, reason = "each kind is documented at its specification")]
pub enum Kind {
    TrustDomain,
    WorkloadIdentity,
    AttestationPolicy,
    ReferenceValues,
    PlatformList,
    AuthorizationPolicy,
    WorkloadEntry,
    Service,
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
}

impl Kind {
    /// All kinds, in the order in which they are shown and applied.
    pub const ALL: [Kind; 10] = [
        Kind::TrustDomain,
        Kind::ReferenceValues,
        Kind::PlatformList,
        Kind::AttestationPolicy,
        Kind::WorkloadIdentity,
        Kind::AuthorizationPolicy,
        Kind::WorkloadEntry,
        Kind::Service,
        Kind::HttpRoute,
        Kind::GrpcRoute,
    ];

    /// The name in `kind:`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TrustDomain => "TrustDomain",
            Self::WorkloadIdentity => "WorkloadIdentity",
            Self::AttestationPolicy => "AttestationPolicy",
            Self::ReferenceValues => "ReferenceValues",
            Self::PlatformList => "PlatformList",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Service => "Service",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }

    /// The `apiVersion:` that belongs to it.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::HttpRoute | Self::GrpcRoute => GATEWAY_API_VERSION,
            _ => API_VERSION,
        }
    }

    /// From the name in `kind:`, its lower-case form, plural or short name (`attpol`, `refval`, `platlist`, `authzpol`, `td`, `wid`, `we`, `svc`, `hr`, `gr`).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let full = kind.name().to_ascii_lowercase();
            name == full || name == kind.plural() || name == kind.short_name()
        })
    }

    /// The plural in lower case, as in a Kubernetes path.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::TrustDomain => "trustdomains",
            Self::WorkloadIdentity => "workloadidentities",
            Self::AttestationPolicy => "attestationpolicies",
            Self::ReferenceValues => "referencevalues",
            Self::PlatformList => "platformlists",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::WorkloadEntry => "workloadentries",
            Self::Service => "services",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
        }
    }

    /// The short name.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::TrustDomain => "td",
            Self::WorkloadIdentity => "wid",
            Self::AttestationPolicy => "attpol",
            Self::ReferenceValues => "refval",
            Self::PlatformList => "platlist",
            Self::AuthorizationPolicy => "authzpol",
            Self::WorkloadEntry => "we",
            Self::Service => "svc",
            Self::HttpRoute => "hr",
            Self::GrpcRoute => "gr",
        }
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
    #[schemars(with = "Name")]
    pub name: String,
    /// `default` when not given.
    #[schemars(with = "Namespace")]
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
    PlatformList(Metadata, PlatformListSpec),
    AuthorizationPolicy(Metadata, AuthorizationPolicySpec),
    WorkloadEntry(Metadata, WorkloadEntrySpec),
    Service(Metadata, ServiceSpec),
    HttpRoute(Metadata, HttpRouteSpec),
    GrpcRoute(Metadata, GrpcRouteSpec),
}

impl Resource {
    /// What names it.
    #[must_use]
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::TrustDomain(..) => Kind::TrustDomain,
            Self::WorkloadIdentity(..) => Kind::WorkloadIdentity,
            Self::AttestationPolicy(..) => Kind::AttestationPolicy,
            Self::ReferenceValues(..) => Kind::ReferenceValues,
            Self::PlatformList(..) => Kind::PlatformList,
            Self::AuthorizationPolicy(..) => Kind::AuthorizationPolicy,
            Self::WorkloadEntry(..) => Kind::WorkloadEntry,
            Self::Service(..) => Kind::Service,
            Self::HttpRoute(..) => Kind::HttpRoute,
            Self::GrpcRoute(..) => Kind::GrpcRoute,
        }
    }

    /// Its metadata.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        match self {
            Self::TrustDomain(m, _)
            | Self::WorkloadIdentity(m, _)
            | Self::AttestationPolicy(m, _)
            | Self::ReferenceValues(m, _)
            | Self::PlatformList(m, _)
            | Self::AuthorizationPolicy(m, _)
            | Self::WorkloadEntry(m, _)
            | Self::Service(m, _)
            | Self::HttpRoute(m, _)
            | Self::GrpcRoute(m, _) => m,
        }
    }

    /// One line of JSON with sorted keys: what is stored, hashed, signed and sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        canonical(&self.to_value(), &mut out);
        out
    }

    /// YAML, as an operator would write it.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        // These types hold nothing that YAML cannot say.
        serde_saphyr::to_string(&self.document()).unwrap_or_else(|_| self.to_json())
    }

    /// Reads what [`Resource::to_json`] wrote, with the same checks as [`parse`].
    ///
    /// # Errors
    /// Every problem.
    pub fn from_json(json: &str) -> Result<Self, Vec<Problem>> {
        let refuse = |message: String| vec![Problem::error("", Position::default(), "", message)];
        if json.len() > MAX_BYTES {
            return Err(refuse(format!("the document has {} bytes, the limit is {MAX_BYTES}", json.len())));
        }
        let value: Value = serde_json::from_str(json).map_err(|e| refuse(format!("not valid JSON: {e}")))?;
        from_node("", &Node::from_json(&value))
    }

    fn document(&self) -> Document<'_> {
        let spec = match self {
            Self::TrustDomain(_, s) => Spec::TrustDomain(s),
            Self::WorkloadIdentity(_, s) => Spec::WorkloadIdentity(s),
            Self::AttestationPolicy(_, s) => Spec::AttestationPolicy(s),
            Self::ReferenceValues(_, s) => Spec::ReferenceValues(s),
            Self::PlatformList(_, s) => Spec::PlatformList(s),
            Self::AuthorizationPolicy(_, s) => Spec::AuthorizationPolicy(s),
            Self::WorkloadEntry(_, s) => Spec::WorkloadEntry(s),
            Self::Service(_, s) => Spec::Service(s),
            Self::HttpRoute(_, s) => Spec::HttpRoute(s),
            Self::GrpcRoute(_, s) => Spec::GrpcRoute(s),
        };
        let kind = self.kind();
        Document { api_version: kind.api_version(), kind, metadata: self.metadata(), spec }
    }

    fn to_value(&self) -> Value {
        serde_json::to_value(self.document()).unwrap_or_default()
    }
}

/// A resource as it is written, in the order in which people read it.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: Kind,
    metadata: &'a Metadata,
    spec: Spec<'a>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Spec<'a> {
    TrustDomain(&'a TrustDomainSpec),
    WorkloadIdentity(&'a WorkloadIdentitySpec),
    AttestationPolicy(&'a AttestationPolicySpec),
    ReferenceValues(&'a ReferenceValuesSpec),
    PlatformList(&'a PlatformListSpec),
    AuthorizationPolicy(&'a AuthorizationPolicySpec),
    WorkloadEntry(&'a WorkloadEntrySpec),
    Service(&'a ServiceSpec),
    HttpRoute(&'a HttpRouteSpec),
    GrpcRoute(&'a GrpcRouteSpec),
}

/// Sorted keys, no spaces. Does not rely on the order in which a map of the
/// JSON library happens to keep them, which a feature of it changes.
fn canonical(value: &Value, out: &mut String) {
    let between = |out: &mut String, i: usize| {
        if i > 0 {
            out.push(',');
        }
    };
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                between(out, i);
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                between(out, i);
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Reads all documents of a file. `file` is for messages.
///
/// # Errors
/// Every problem of every document; then nothing of the file may be used.
pub fn parse(file: &str, text: &str) -> Result<Vec<Resource>, Vec<Problem>> {
    from_nodes(file, &document::read(file, text).map_err(|problem| vec![problem])?)
}

/// The same, from documents that were read: one resource for each.
pub(crate) fn from_nodes(file: &str, nodes: &[Node]) -> Result<Vec<Resource>, Vec<Problem>> {
    let mut resources: Vec<Resource> = Vec::new();
    let mut seen: BTreeMap<Key, u64> = BTreeMap::new();
    let mut problems = Vec::new();
    for node in nodes {
        match from_node(file, node) {
            Ok(resource) => {
                let key = resource.key();
                match seen.get(&key) {
                    Some(line) => {
                        let path = Path::default().key("metadata").key("name");
                        let message = format!("{key} is already defined at line {line}");
                        problems.push(Problem::error(file, node.locate(&path), &path, message));
                    }
                    None => {
                        seen.insert(key, node.at.line);
                        resources.push(resource);
                    }
                }
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(resources) } else { Err(problems) }
}

/// A resource from its tree: structure, types, then what the schema cannot say.
fn from_node(file: &str, node: &Node) -> Result<Resource, Vec<Problem>> {
    let kind = kind_of(file, node).map_err(|problem| vec![problem])?;
    let problems = schema::of(kind.name()).map(|s| schema::check::check(file, node, s)).unwrap_or_default();
    if !problems.is_empty() {
        return Err(problems);
    }
    let resource = typed(kind, node).map_err(|e| {
        // The schema is made from these types, so this is a defect of ours.
        vec![Problem::error(file, node.at, "", format!("the document does not fit its own schema: {e}"))]
    })?;
    let mut problems = Vec::new();
    kinds::check(&resource, &mut |path, message| {
        // To find the place takes time as well.
        if problems.len() < schema::check::MAX_PROBLEMS {
            problems.push(Problem::error(file, node.locate(&path), &path, message));
        }
    });
    if problems.is_empty() { Ok(resource) } else { Err(problems) }
}

fn kind_of(file: &str, node: &Node) -> Result<Kind, Problem> {
    let names = Kind::ALL.map(Kind::name);
    let path = Path::default().key("kind");
    let Some(kind) = node.get("kind") else {
        let message = match node.value {
            document::Value::Map(_) => "field `kind` is missing".to_owned(),
            _ => "is not a resource: accepted is a mapping with apiVersion, kind, metadata, spec".to_owned(),
        };
        return Err(Problem::error(file, node.at, "", message).hint(format!("known: {}", names.join(", "))));
    };
    let text = kind.as_str().unwrap_or_default();
    if matches!(text, schema::PROXY_BOOTSTRAP | schema::CONTROL_PLANE_BOOTSTRAP) {
        let message = format!("`{text}` is the file that a process starts from, not a resource");
        return Err(Problem::error(file, kind.at, &path, message));
    }
    Kind::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| {
        let message = format!("unknown kind {}", quoted(text));
        Problem::error(file, kind.at, &path, message).hint(schema::check::suggest(text, &names))
    })
}

fn typed(kind: Kind, node: &Node) -> Result<Resource, serde_json::Error> {
    let part = |name| node.get(name).map(Node::to_json).unwrap_or_default();
    let mut metadata: Metadata = serde_json::from_value(part("metadata"))?;
    if kind != Kind::TrustDomain && metadata.namespace.is_empty() {
        metadata.namespace = DEFAULT_NAMESPACE.to_owned();
    }
    let spec = part("spec");
    Ok(match kind {
        Kind::TrustDomain => Resource::TrustDomain(metadata, serde_json::from_value(spec)?),
        Kind::WorkloadIdentity => Resource::WorkloadIdentity(metadata, serde_json::from_value(spec)?),
        Kind::AttestationPolicy => Resource::AttestationPolicy(metadata, serde_json::from_value(spec)?),
        Kind::ReferenceValues => Resource::ReferenceValues(metadata, serde_json::from_value(spec)?),
        Kind::PlatformList => Resource::PlatformList(metadata, serde_json::from_value(spec)?),
        Kind::AuthorizationPolicy => Resource::AuthorizationPolicy(metadata, serde_json::from_value(spec)?),
        Kind::WorkloadEntry => Resource::WorkloadEntry(metadata, serde_json::from_value(spec)?),
        Kind::Service => Resource::Service(metadata, serde_json::from_value(spec)?),
        Kind::HttpRoute => Resource::HttpRoute(metadata, serde_json::from_value(spec)?),
        Kind::GrpcRoute => Resource::GrpcRoute(metadata, serde_json::from_value(spec)?),
    })
}
