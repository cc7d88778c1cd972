//! What the routes of the Gateway API have in common, in its own shape
//! (`gateway.networking.k8s.io/v1`). What it has and we do not do is an error.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::http_route::{BackendRef, Filter};
use super::scalar::{Name, Namespace};
use super::service::AppProtocol;
use crate::document::Path;

/// A field of the Gateway API that we do not support. It cannot be given, so
/// that nobody relies on what does not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {}

impl Serialize for Unsupported {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("is not supported"))
    }
}

impl JsonSchema for Unsupported {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Unsupported".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "not": {}, "x-countersign-unsupported": true })
    }
}

/// What a route belongs to: a Service of its namespace (GAMMA).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// `""`, the group of Services. Left out it means the group of Gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// `Service`. Left out it means a Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub kind: Option<String>,
    /// The route's own namespace, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The name of the Service.
    pub name: Name,
    /// The name of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Unsupported>,
    /// The port of the Service. Left out: every port with a fitting `appProtocol`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
}

/// The group of Kubernetes' own kinds, Services among them.
const CORE: &str = "";
const SERVICE: &str = "Service";

type Report<'a> = &'a mut dyn FnMut(Path, String);

/// What a kind of route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// Requests of HTTP.
    Requests,
    /// Calls of gRPC.
    Calls,
}

impl Routing {
    /// Whether there is any of it where this is spoken.
    pub(crate) const fn fits(self, protocol: AppProtocol) -> bool {
        match self {
            Self::Requests => protocol.is_http(),
            Self::Calls => matches!(protocol, AppProtocol::Grpc | AppProtocol::Http2),
        }
    }

    /// Where there is any, in words.
    pub(crate) const fn protocols(self) -> &'static str {
        match self {
            Self::Requests => "HTTP, HTTP2 or GRPC",
            Self::Calls => "GRPC or HTTP2",
        }
    }
}

/// Where a Service is named in a route, by a path, and which port of it.
pub(crate) type Places<'a> = Vec<(String, &'a Name, u16)>;

pub(super) fn places<'a>(rules: impl Iterator<Item = (&'a [Filter], &'a [BackendRef])>) -> Places<'a> {
    let mut places = Vec::new();
    for (i, (filters, backends)) in rules.enumerate() {
        for (k, backend) in backends.iter().enumerate() {
            places.push((format!("spec.rules[{i}].backendRefs[{k}]"), &backend.name, backend.port));
        }
        for (k, filter) in filters.iter().enumerate() {
            if let Some(mirror) = &filter.request_mirror {
                let path = format!("spec.rules[{i}].filters[{k}].requestMirror.backendRef");
                places.push((path, &mirror.backend_ref.name, mirror.backend_ref.port));
            }
        }
    }
    places
}

pub(super) fn check_parents(parents: &[ParentRef], own: &str, spec: &Path, report: Report<'_>) {
    let mut seen = BTreeSet::new();
    for (i, parent) in parents.iter().enumerate() {
        let path = spec.key("parentRefs").index(i);
        parent.check(own, &path, report);
        if !seen.insert((&parent.name, parent.port)) {
            report(path, format!("{} is listed twice", parent.name));
        }
    }
}

impl ParentRef {
    fn check(&self, own: &str, path: &Path, report: Report<'_>) {
        if (self.group.as_deref(), self.kind.as_deref()) != (Some(CORE), Some(SERVICE)) {
            let kind = self.kind.as_deref().unwrap_or("Gateway");
            let message = format!(
                "belongs to a {kind} of the group `{}`, supported: a Service, with `group: \"\"` and `kind: Service`",
                self.group.as_deref().unwrap_or("gateway.networking.k8s.io")
            );
            report(path.clone(), message);
        }
        check_namespace(self.namespace.as_ref(), own, path, report);
    }
}

/// Which Service requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
    /// `""`, the group of Services, which is meant when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// `Service`, which is meant when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub kind: Option<String>,
    /// The route's own namespace, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The name of the Service.
    pub name: Name,
    /// The port of the Service.
    #[schemars(range(min = 1))]
    pub port: u16,
}

impl ObjectRef {
    pub(super) fn check(&self, own: &str, path: &Path, report: Report<'_>) {
        check_kind(self.group.as_deref(), self.kind.as_deref(), path, report);
        check_namespace(self.namespace.as_ref(), own, path, report);
    }
}

pub(super) fn check_kind(group: Option<&str>, kind: Option<&str>, path: &Path, report: Report<'_>) {
    let (group, kind) = (group.unwrap_or(CORE), kind.unwrap_or(SERVICE));
    if (group, kind) != (CORE, SERVICE) {
        report(path.clone(), format!("is a {kind} of the group `{group}`, supported: a Service"));
    }
}

pub(super) fn check_namespace(namespace: Option<&Namespace>, own: &str, path: &Path, report: Report<'_>) {
    if let Some(other) = namespace.filter(|namespace| namespace.0 != own) {
        let message = format!("{other} is not the route's namespace, and ReferenceGrants are not supported");
        report(path.key("namespace"), message);
    }
}
