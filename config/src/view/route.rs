//! Where a request to a Service goes: HTTPRoutes in their order of precedence.
//!
//! Everything is pure: which rule, which backend for a number that was drawn,
//! which headers and paths. What waits, retries and copies is elsewhere.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

pub use self::change::{HeaderChanges, PathChange, Redirect, Rewrite};
use super::Rejected;
use super::service::Called;
use crate::kinds::http_route::{Filter, HttpMatch, HttpRouteSpec, HttpRule, PathKind};
use crate::kinds::scalar::Hostname;
use crate::kinds::service::AppProtocol;
use crate::request::{Ambiguity, RequestFacts, decoded, normalize};
use crate::resource::{Key, Kind, Resource};

/// A request, as routes see it.
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    /// Method, host and path.
    pub facts: &'a RequestFacts<'a>,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// The routes of one port of a Service, the most precise match first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routes {
    matches: Vec<Match>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteDecision<'r> {
    /// To the endpoints of the Service itself: it has no routes.
    Service,
    /// Where this rule says.
    Rule(Routed<'r>),
    /// Nowhere, for no match fits: 404.
    NotFound,
    /// Nowhere, for it depends on a path that servers read differently: 400.
    Ambiguous(Ambiguity),
}

/// A rule, and how it came to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed<'r> {
    /// The rule.
    pub rule: &'r RouteRule,
    /// How many segments of the path its prefix has; 0 for exact paths.
    prefix: usize,
}

/// What happens to the requests that match.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// What names it: `HTTPRoute shop/stock, rules[0]`.
    pub name: String,
    /// What is done with requests and responses.
    pub changes: Changes,
    /// An answer in place of a backend's.
    pub redirect: Option<Redirect>,
    /// Who gets a copy of the request.
    pub mirrors: Vec<Mirror>,
    /// Where requests go.
    pub backends: Vec<Backend>,
    /// How long it may take: all of it, and each attempt. `None` is as long as it likes.
    pub timeouts: Timeouts,
    /// When a request is made again.
    pub retry: Option<Retry>,
}

/// What is done with requests and responses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// With the headers of the request.
    pub request: HeaderChanges,
    /// With the headers of the response.
    pub response: HeaderChanges,
    /// With the host and the path of the request.
    pub rewrite: Rewrite,
}

/// Where requests go.
#[derive(Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its share.
    pub weight: u32,
    /// The Service; `None` when there is none of that name and port: 500. Its own
    /// routes have no say.
    pub called: Option<Arc<Called>>,
    /// What is done with what goes there, after the changes of the rule.
    pub changes: Changes,
}

/// Who gets a copy of `numerator` of `denominator` requests.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The Service; `None` when there is none of that name and port: no copy.
    pub called: Option<Arc<Called>>,
    /// How many.
    pub numerator: u32,
    /// Of how many, at least 1.
    pub denominator: u32,
}

/// How long it may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// All of it.
    pub request: Option<Duration>,
    /// Each attempt.
    pub backend_request: Option<Duration>,
}

/// When a request is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After responses with these, besides failures to connect.
    pub codes: Vec<u16>,
    /// How often, besides the first attempt.
    pub attempts: u32,
    /// How long at least until the next attempt.
    pub backoff: Duration,
}

type Ports = BTreeMap<(Key, u16), Arc<Called>>;

/// The routes of every port that has some. `ports` have none yet; the resources are
/// in the order of their keys.
pub(super) fn attached(
    resources: &[Arc<Resource>],
    ports: &Ports,
    rejected: &mut Rejected,
) -> BTreeMap<(Key, u16), Routes> {
    let mut attached: BTreeMap<(Key, u16), Routes> = BTreeMap::new();
    for resource in resources {
        let Resource::HttpRoute(metadata, spec) = resource.as_ref() else { continue };
        let service = |name: &str| {
            let (namespace, name) = (metadata.namespace.clone(), name.to_owned());
            Key { kind: Kind::Service, namespace, name }
        };
        let called = |name: &str, port| ports.get(&(service(name), port)).map(Arc::clone);
        let mut parents = BTreeSet::new();
        for parent in &spec.parent_refs {
            let key = service(&parent.name.0);
            let all = ports.range((key.clone(), 0)..=(key.clone(), u16::MAX));
            let http = all.filter(|(_, c)| c.protocol.is_some_and(AppProtocol::is_http));
            let before = parents.len();
            parents.extend(
                http.map(|(name, _)| name.clone()).filter(|(_, p)| parent.port.is_none_or(|port| *p == port)),
            );
            if parents.len() == before {
                let port = parent.port.map(|port| format!(" {port}")).unwrap_or_default();
                let why = format!(
                    "{key} has no port{port} with appProtocol HTTP, HTTP2 or GRPC: nothing is routed there"
                );
                rejected.push((resource.key(), why));
            }
        }
        for (name, port) in spec.targets().filter(|(name, port)| called(name, *port).is_none()) {
            let why = format!("there is no port {port} of {}: requests for it get 500", service(name));
            rejected.push((resource.key(), why));
        }
        for parent in parents {
            attached.entry(parent).or_default().add(&resource.key(), spec, &called);
        }
    }
    attached.into_iter().map(|(port, routes)| (port, routes.sorted())).collect()
}

impl Called {
    /// Where a request that was made to it goes.
    #[must_use]
    pub fn match_request(&self, request: &RouteRequest<'_>) -> RouteDecision<'_> {
        self.routes.as_ref().map_or(RouteDecision::Service, |routes| routes.decide(request))
    }
}

impl Routes {
    fn decide(&self, request: &RouteRequest<'_>) -> RouteDecision<'_> {
        let hosts = self.matches.iter().filter(|m| m.host_fits(request.facts.host()));
        let mut fitting = hosts.filter(|m| m.request_fits(request));
        match request.facts.meaning() {
            Ok(path) => fitting.find(|m| m.path.fits(path)),
            // Whatever comes before a match of every path might have been meant.
            Err(why) => match fitting.next() {
                Some(first) if !first.path.fits_all() => return RouteDecision::Ambiguous(why),
                first => first,
            },
        }
        .map_or(RouteDecision::NotFound, |m| {
            RouteDecision::Rule(Routed { rule: &m.rule, prefix: m.path.segments() })
        })
    }

    /// Adds the rules of a route. Routes come in the order of their names.
    fn add(&mut self, key: &Key, spec: &HttpRouteSpec, called: &impl Fn(&str, u16) -> Option<Arc<Called>>) {
        for (i, rule) in spec.rules.iter().enumerate() {
            let compiled = Arc::new(RouteRule::new(format!("{key}, rules[{i}]"), rule, called));
            let any = [HttpMatch::default()];
            let wanted = if rule.matches.is_empty() { any.as_slice() } else { rule.matches.as_slice() };
            for wanted in wanted {
                let mut add = |host| self.matches.push(Match::new(host, wanted, Arc::clone(&compiled)));
                if spec.hostnames.is_empty() {
                    add(None);
                }
                spec.hostnames.iter().for_each(|host| add(Some(host)));
            }
        }
    }

    /// The order of precedence. It is stable: what ties stays in the order of names and rules.
    fn sorted(mut self) -> Self {
        self.matches.sort_by_key(|m| std::cmp::Reverse(m.precision()));
        self
    }
}

/// A match of a rule, with one of the route's host names.
#[derive(Debug, PartialEq, Eq)]
struct Match {
    host: HostTest,
    path: PathTest,
    method: Option<String>,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
    rule: Arc<RouteRule>,
}

#[derive(Debug, PartialEq, Eq)]
enum HostTest {
    Any,
    Exact(String),
    /// `.example.com`.
    Suffix(String),
}

#[derive(Debug, PartialEq, Eq)]
enum PathTest {
    Exact(String),
    /// Without a slash at the end; empty for every path.
    Prefix(String),
}

impl PathTest {
    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path == wanted,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    fn fits_all(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }

    fn segments(&self) -> usize {
        match self {
            Self::Exact(_) => 0,
            Self::Prefix(prefix) => prefix.matches('/').count(),
        }
    }
}

impl Match {
    fn new(host: Option<&Hostname>, wanted: &HttpMatch, rule: Arc<RouteRule>) -> Self {
        let host = match host.map(|host| (host.0.strip_prefix('*'), &host.0)) {
            None => HostTest::Any,
            Some((Some(suffix), _)) => HostTest::Suffix(suffix.to_owned()),
            Some((None, host)) => HostTest::Exact(host.clone()),
        };
        let path = wanted.path.clone().unwrap_or_default();
        // It is in its form: that was checked when it was read.
        let meaning = normalize(&path.value.0).map_or(path.value.0.clone(), |n| n.meaning.into_owned());
        let path = match path.kind {
            PathKind::Exact => PathTest::Exact(meaning),
            PathKind::PathPrefix => {
                PathTest::Prefix(meaning.strip_suffix('/').unwrap_or(&meaning).to_owned())
            }
        };
        let headers = wanted.headers.iter().map(|h| (h.name.0.clone(), h.value.0.clone())).collect();
        let query = wanted.query_params.iter().map(|q| (q.name.clone(), q.value.clone())).collect();
        Self { host, path, method: wanted.method.as_ref().map(|m| m.0.clone()), headers, query, rule }
    }

    /// What the Gateway API compares, in its order: the greater wins.
    fn precision(&self) -> (bool, usize, bool, usize, bool, usize, usize) {
        let (exact_host, host) = match &self.host {
            HostTest::Any => (false, 0),
            HostTest::Exact(host) => (true, host.len()),
            HostTest::Suffix(suffix) => (false, suffix.len()),
        };
        let (exact, length) = match &self.path {
            PathTest::Exact(path) => (true, path.len()),
            PathTest::Prefix(prefix) => (false, prefix.len()),
        };
        (exact_host, host, exact, length, self.method.is_some(), self.headers.len(), self.query.len())
    }

    fn host_fits(&self, host: Option<&str>) -> bool {
        match &self.host {
            HostTest::Any => true,
            HostTest::Exact(wanted) => host == Some(wanted),
            HostTest::Suffix(suffix) => {
                host.is_some_and(|host| host.len() > suffix.len() && host.ends_with(suffix))
            }
        }
    }

    fn request_fits(&self, request: &RouteRequest<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.facts.method())
            && self.headers.iter().all(|(name, value)| header_is(request.headers, name, value))
            && self.query.iter().all(|(name, value)| query_is(request.query, name, value))
    }
}

/// Whether a header has this value: in one line, or in several as if they were
/// one (RFC 9110, section 5.3).
fn header_is(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => false,
        (Some(only), None) => only.as_bytes() == wanted.as_bytes(),
        (Some(_), Some(_)) => {
            let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
            [b",".as_slice(), b", "].iter().any(|comma| lines.join(*comma) == wanted.as_bytes())
        }
    }
}

/// Whether the first parameter of this name has this value.
fn query_is(query: Option<&str>, name: &str, wanted: &str) -> bool {
    let mut pairs =
        query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let plain = |text: &str| decoded(&text.replace('+', " "));
    pairs
        .find(|(key, _)| plain(key).as_deref() == Some(name))
        .is_some_and(|(_, value)| plain(value).as_deref() == Some(wanted))
}

impl Routed<'_> {
    /// The path that is sent to the backend.
    #[must_use]
    pub fn path<'p>(&self, path: &'p str) -> std::borrow::Cow<'p, str> {
        match &self.rule.changes.rewrite.path {
            Some(change) => change.apply(path, self.prefix).into(),
            None => path.into(),
        }
    }

    /// The value of `Location`, when the rule redirects: for a request that came
    /// with `scheme` to `port`.
    #[must_use]
    pub fn location(&self, request: &RouteRequest<'_>, scheme: &str, port: u16) -> Option<String> {
        let redirect = self.rule.redirect.as_ref()?;
        let host = request.facts.host()?;
        let path = request.facts.path().ok()?;
        Some(redirect.location(scheme, host, port, path, request.query, self.prefix))
    }
}

impl RouteRule {
    fn new(name: String, rule: &HttpRule, called: &impl Fn(&str, u16) -> Option<Arc<Called>>) -> Self {
        let mirrors = rule.filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
        let mirrors = mirrors.map(|mirror| {
            let (numerator, denominator) = match (mirror.percent, mirror.fraction) {
                (Some(percent), _) => (percent.into(), 100),
                (None, Some(fraction)) => (fraction.numerator, fraction.denominator.max(1)),
                (None, None) => (1, 1),
            };
            let target = &mirror.backend_ref;
            Mirror { called: called(&target.name.0, target.port), numerator, denominator }
        });
        let backends = rule.backend_refs.iter().map(|backend| Backend {
            weight: backend.weight,
            called: called(&backend.name.0, backend.port),
            changes: Changes::new(&backend.filters),
        });
        let limit = |d: &crate::kinds::scalar::Duration| Some(d.0).filter(|d| !d.is_zero());
        let timeouts = rule.timeouts.as_ref();
        let redirect = rule.filters.iter().find_map(|filter| filter.request_redirect.as_ref());
        Self {
            name,
            changes: Changes::new(&rule.filters),
            redirect: redirect.map(Redirect::new),
            mirrors: mirrors.collect(),
            backends: backends.collect(),
            timeouts: Timeouts {
                request: timeouts.and_then(|t| t.request.as_ref()).and_then(limit),
                backend_request: timeouts.and_then(|t| t.backend_request.as_ref()).and_then(limit),
            },
            retry: rule.retry.as_ref().map(|retry| Retry {
                codes: retry.codes.clone(),
                attempts: retry.attempts.unwrap_or(1),
                backoff: retry.backoff.as_ref().map_or(Duration::ZERO, |d| d.0),
            }),
        }
    }

    /// The backend for a number that was drawn from all of its type; `None` when
    /// every weight is 0, or there are no backends: 500.
    #[must_use]
    pub fn backend(&self, drawn: u64) -> Option<&Backend> {
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let mut rest = drawn.checked_rem(total)?;
        self.backends.iter().find(|backend| match rest.checked_sub(backend.weight.into()) {
            None => true,
            Some(left) => {
                rest = left;
                false
            }
        })
    }
}

impl Changes {
    fn new(filters: &[Filter]) -> Self {
        let request = filters.iter().find_map(|filter| filter.request_header_modifier.as_ref());
        let response = filters.iter().find_map(|filter| filter.response_header_modifier.as_ref());
        let rewrite = filters.iter().find_map(|filter| filter.url_rewrite.as_ref());
        Self {
            request: request.map(HeaderChanges::new).unwrap_or_default(),
            response: response.map(HeaderChanges::new).unwrap_or_default(),
            rewrite: rewrite.map(Rewrite::new).unwrap_or_default(),
        }
    }
}

impl Mirror {
    /// Whether a request is copied, for a number that was drawn from all of its type.
    #[must_use]
    pub fn takes(&self, drawn: u64) -> bool {
        drawn % u64::from(self.denominator) < u64::from(self.numerator)
    }
}
