//! Where a request to a Service goes: HTTPRoutes and GRPCRoutes in their order of
//! precedence.
//!
//! Everything is pure: which rule, which backend for a number that was drawn,
//! which headers and paths. What waits, retries and copies is elsewhere.

mod attach;
mod change;
mod matching;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

pub(super) use self::attach::attached;
pub use self::change::{HeaderChanges, PathChange, Redirect, Rewrite};
use self::matching::Match;
use super::service::Called;
use crate::kinds::http_route::{Filter, HttpRule};
use crate::request::{Ambiguity, RequestFacts};

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
            Ok(path) => fitting.find(|m| m.wanted.path.fits(path)),
            // Whatever comes before a match of every path might have been meant.
            Err(why) => match fitting.next() {
                Some(first) if !first.wanted.path.fits_all() => return RouteDecision::Ambiguous(why),
                first => first,
            },
        }
        .map_or(RouteDecision::NotFound, |m| {
            RouteDecision::Rule(Routed { rule: &m.rule, prefix: m.wanted.path.segments() })
        })
    }
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
