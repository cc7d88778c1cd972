//! `GRPCRoute` of the Gateway API: where calls of gRPC methods of a Service go.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gateway::{self, ParentRef, Places, Unsupported};
use super::http_route::{BackendRef, Filter, FilterKind, HeaderMatch, HttpRule, ValueKind, is_exact};
use super::scalar::{GrpcMethod, GrpcService, Hostname, Name};
use crate::document::Path;

/// Where calls of gRPC methods of a Service go: the Gateway API's GRPCRoute for
/// meshes (GAMMA).
///
/// Of all matches of all routes of a Service, the one counts that is most
/// precise: host names with more characters, longer names of services, then of
/// methods, more headers; then the first route by `namespace/name`, and the first
/// rule. On ports with GRPCRoutes, HTTPRoutes have no say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// Any of: the Services whose calls it routes, with `appProtocol` GRPC or HTTP2.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Any of: the host of the call, without port; `*.example.com` is every name
    /// that ends so. Left out: every host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub hostnames: Vec<Hostname>,
    /// Any of: what happens to which calls.
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<GrpcRule>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<Unsupported>,
}

/// What happens to some calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRule {
    /// A name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Any of: which calls. Left out: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<GrpcMatch>,
    /// All of: what is done with them. Header modifiers and RequestMirror.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<Filter>,
    /// One of, by weight: where they go.
    #[schemars(length(min = 1, max = 16))]
    pub backend_refs: Vec<BackendRef>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Unsupported>,
}

/// Which calls: all of the fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The method. Left out: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// All of: headers, each with this value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderMatch>,
}

/// A gRPC service, a method of any, or a method of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct GrpcMethodMatch {
    /// How they are compared.
    #[serde(rename = "type", default, skip_serializing_if = "is_exact")]
    pub kind: ValueKind,
    /// The service with its package, as in `shop.Stock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<GrpcService>,
    /// The method, as in `Reserve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethod>,
}

impl GrpcRouteSpec {
    pub(super) fn check(&self, namespace: &str, spec: &Path, report: &mut dyn FnMut(Path, String)) {
        gateway::check_parents(&self.parent_refs, namespace, spec, report);
        for (i, rule) in self.rules.iter().enumerate() {
            let path = spec.key("rules").index(i);
            for (i, wanted) in rule.matches.iter().enumerate() {
                let path = path.key("matches").index(i);
                let mut seen = BTreeSet::new();
                for (i, header) in wanted.headers.iter().enumerate() {
                    if !seen.insert(&header.name) {
                        report(path.key("headers").index(i), format!("{} is listed twice", header.name));
                    }
                }
                if wanted.method.as_ref().is_some_and(|m| m.service.is_none() && m.method.is_none()) {
                    report(path.key("method"), "names no service and no method: give one of them".to_owned());
                }
            }
            let mut seen = BTreeSet::new();
            for (i, filter) in rule.filters.iter().enumerate() {
                let path = path.key("filters").index(i);
                filter.check(namespace, &path, report);
                if matches!(filter.kind, FilterKind::RequestRedirect | FilterKind::UrlRewrite) {
                    report(path.key("type"), "is for HTTPRoutes: a call has no other place".to_owned());
                } else if !seen.insert(filter.kind) && filter.kind != FilterKind::RequestMirror {
                    report(path.key("type"), "is there twice, accepted: once in a rule".to_owned());
                }
            }
            for (i, backend) in rule.backend_refs.iter().enumerate() {
                backend.check(namespace, &path.key("backendRefs").index(i), report);
            }
        }
    }
}

impl GrpcRouteSpec {
    /// The Services that calls or copies of them go to.
    pub(crate) fn places(&self) -> Places<'_> {
        gateway::places(self.rules.iter().map(|rule| (rule.filters.as_slice(), rule.backend_refs.as_slice())))
    }
}

/// What happens to calls is what happens to requests.
impl From<&GrpcRule> for HttpRule {
    fn from(rule: &GrpcRule) -> Self {
        Self {
            name: rule.name.clone(),
            matches: Vec::new(),
            filters: rule.filters.clone(),
            backend_refs: rule.backend_refs.clone(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
    }
}
