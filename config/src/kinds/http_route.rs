//! `HTTPRoute` of the Gateway API: where requests to a Service go.

mod check;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gateway::{self, Places};
pub use super::gateway::{ObjectRef, ParentRef, Unsupported};
use super::scalar::{Duration, HeaderName, HeaderValue, Host, Hostname, Method, Name, Namespace, RoutePath};

/// Where requests to a Service go, and what happens to them on the way: the
/// Gateway API's HTTPRoute for meshes (GAMMA).
///
/// Of all matches of all routes of a Service, the one counts that is most
/// precise: host names with more characters, exact paths, longer prefixes, a
/// method, more headers, more query parameters; then the first route by
/// `namespace/name`, and the first rule. A request that none of them matches is
/// answered with 404.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    /// Any of: the Services whose requests it routes.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentRef>,
    /// Any of: the host of the request, without port; `*.example.com` is every
    /// name that ends so. Left out: every host. GAMMA leaves open what it means for
    /// Services: a match of the header `host` is understood everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub hostnames: Vec<Hostname>,
    /// Any of: what happens to which requests.
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<HttpRule>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<Unsupported>,
}

/// What happens to some requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// A name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Any of: which requests. Left out: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<HttpMatch>,
    /// All of: what is done with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<Filter>,
    /// One of, by weight: where they go. Required, except with a RequestRedirect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<BackendRef>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// When requests are made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Unsupported>,
}

/// Which requests: all of the fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// The path. Left out: every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// All of: headers, each with this value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderMatch>,
    /// All of: parameters of the query, each with this value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_params: Vec<QueryMatch>,
    /// The method. Left out: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// A path, or the paths below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(rename = "type")]
    pub kind: PathKind,
    /// The path.
    pub value: RoutePath,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self { kind: PathKind::default(), value: RoutePath("/".to_owned()) }
    }
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathKind {
    /// This path.
    Exact,
    /// This path and all below it, segment by segment: `/a` is not `/ab`.
    #[default]
    PathPrefix,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ValueKind {
    /// This value.
    #[default]
    Exact,
}

/// A header with a value. `host` is the host of the request without its port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// How it is compared.
    #[serde(rename = "type", default, skip_serializing_if = "is_exact")]
    pub kind: ValueKind,
    /// The name, in upper or lower case.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
}

/// A parameter of the query with a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// How it is compared.
    #[serde(rename = "type", default, skip_serializing_if = "is_exact")]
    pub kind: ValueKind,
    /// The name, without escapes.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// The value, without escapes. Of several the first counts.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
pub(super) const fn is_exact(kind: &ValueKind) -> bool {
    matches!(kind, ValueKind::Exact)
}

/// What is done with a request: `type`, and the field that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// What is done.
    #[serde(rename = "type")]
    pub kind: FilterKind,
    /// Changes of the request's headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes of the response's headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// An answer that leads elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// Changes of the request's host and path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// A copy of the request for another Service, whose answer nobody sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Unsupported>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_auth: Option<Unsupported>,
    /// Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<Unsupported>,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum FilterKind {
    /// `requestHeaderModifier`.
    RequestHeaderModifier,
    /// `responseHeaderModifier`.
    ResponseHeaderModifier,
    /// `requestRedirect`.
    RequestRedirect,
    /// `urlRewrite`.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// `requestMirror`.
    RequestMirror,
}

/// Changes of headers, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct HeaderModifier {
    /// Headers that have this value afterwards and no other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub set: Vec<Header>,
    /// Headers that get this value in addition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub add: Vec<Header>,
    /// Headers that are gone afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub remove: Vec<HeaderName>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// The name, in upper or lower case.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
}

/// An answer that leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// The scheme. Left out: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host. Left out: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Host>,
    /// The path. Left out: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port. Left out: that of the scheme if one is given, else the one that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The status: 301, 302, 303, 307 or 308.
    #[serde(default = "found", skip_serializing_if = "is_found")]
    pub status_code: u16,
}

const fn found() -> u16 {
    302
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_found(status: &u16) -> bool {
    *status == 302
}

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// Changes of the request's host and path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct UrlRewrite {
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Host>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A change of the path: `type`, and the field that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// What is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierKind,
    /// The path afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<RoutePath>,
    /// What stands for the prefix that matched; `""` takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub replace_prefix_match: Option<String>,
}

/// What of the path is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierKind {
    /// All of it: `replaceFullPath`.
    ReplaceFullPath,
    /// The prefix that matched: `replacePrefixMatch`.
    ReplacePrefixMatch,
}

/// A copy of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Where it goes.
    pub backend_ref: ObjectRef,
    /// Of how many requests in a hundred. Left out, as `fraction`: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u8>,
    /// The same as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// A part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1))]
    pub denominator: u32,
}

const fn hundred() -> u32 {
    100
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
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
    /// Its share of the requests, relative to the others.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// All of: what is done with requests that go there. Header modifiers only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<Filter>,
}

const fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}

/// How long it may take. `0s` means as long as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct Timeouts {
    /// From the request to the end of the response, with everything that is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// The same for each attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}

/// When requests are made again: after failures to connect, and after these responses (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Any of: the status of the response, 400 to 599.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub codes: Vec<u16>,
    /// How often at most, beside the first attempt. Left out: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub attempts: Option<u32>,
    /// How long at least until the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
}

impl HttpRouteSpec {
    /// The Services that requests or copies of them go to.
    pub(crate) fn places(&self) -> Places<'_> {
        gateway::places(self.rules.iter().map(|rule| (rule.filters.as_slice(), rule.backend_refs.as_slice())))
    }
}
