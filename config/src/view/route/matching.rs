//! Which requests a match means, and how precisely.

use std::sync::Arc;

use super::{RouteRequest, RouteRule};
use crate::kinds::grpc_route::GrpcMatch;
use crate::kinds::http_route::{HeaderMatch, HttpMatch, PathKind};
use crate::kinds::scalar::Hostname;
use crate::request::{decoded, normalize};

/// A match of a rule, with one of the route's host names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Match {
    host: HostTest,
    pub(super) wanted: Wanted,
    pub(super) rule: Arc<RouteRule>,
}

/// What a request must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) path: PathTest,
    method: Option<String>,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
enum HostTest {
    Any,
    Exact(String),
    /// `.example.com`.
    Suffix(String),
}

/// Which paths are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathTest {
    Exact(String),
    /// Without a slash at the end; empty for every path.
    Prefix(String),
    /// Methods of gRPC: `/service/method`.
    Call {
        service: Option<String>,
        method: Option<String>,
    },
}

impl Default for PathTest {
    fn default() -> Self {
        Self::Prefix(String::new())
    }
}

impl PathTest {
    pub(super) fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path == wanted,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Call { service, method } => {
                let called = path.strip_prefix('/').and_then(|rest| rest.split_once('/'));
                called.is_some_and(|(of, name)| {
                    service.as_ref().is_none_or(|service| service == of)
                        && method.as_ref().is_none_or(|method| method == name)
                })
            }
        }
    }

    pub(super) fn fits_all(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }

    /// How many segments of the path its prefix has.
    pub(super) fn segments(&self) -> usize {
        match self {
            Self::Exact(_) | Self::Call { .. } => 0,
            Self::Prefix(prefix) => prefix.matches('/').count(),
        }
    }
}

impl Wanted {
    pub(super) fn request(wanted: &HttpMatch) -> Self {
        let path = wanted.path.clone().unwrap_or_default();
        // It is in its form: that was checked when it was read.
        let meaning = normalize(&path.value.0).map_or(path.value.0.clone(), |n| n.meaning.into_owned());
        let path = match path.kind {
            PathKind::Exact => PathTest::Exact(meaning),
            PathKind::PathPrefix => {
                PathTest::Prefix(meaning.strip_suffix('/').unwrap_or(&meaning).to_owned())
            }
        };
        let query = wanted.query_params.iter().map(|q| (q.name.clone(), q.value.clone())).collect();
        Self {
            path,
            method: wanted.method.as_ref().map(|m| m.0.clone()),
            headers: pairs(&wanted.headers),
            query,
        }
    }

    pub(super) fn call(wanted: &GrpcMatch) -> Self {
        let path = wanted.method.as_ref().map(|named| PathTest::Call {
            service: named.service.as_ref().map(|s| s.0.clone()),
            method: named.method.as_ref().map(|m| m.0.clone()),
        });
        let headers = pairs(&wanted.headers);
        Self { path: path.unwrap_or_default(), headers, ..Self::default() }
    }
}

fn pairs(headers: &[HeaderMatch]) -> Vec<(String, String)> {
    headers.iter().map(|h| (h.name.0.clone(), h.value.0.clone())).collect()
}

impl Match {
    pub(super) fn new(host: Option<&Hostname>, wanted: Wanted, rule: Arc<RouteRule>) -> Self {
        let host = match host.map(|host| (host.0.strip_prefix('*'), &host.0)) {
            None => HostTest::Any,
            Some((Some(suffix), _)) => HostTest::Suffix(suffix.to_owned()),
            Some((None, host)) => HostTest::Exact(host.clone()),
        };
        Self { host, wanted, rule }
    }

    /// What the Gateway API compares, in its order: the greater wins.
    pub(super) fn precision(&self) -> (bool, usize, bool, usize, usize, usize, usize) {
        let (exact_host, host) = match &self.host {
            HostTest::Any => (false, 0),
            HostTest::Exact(host) => (true, host.len()),
            HostTest::Suffix(suffix) => (false, suffix.len()),
        };
        let Wanted { path, method, headers, query } = &self.wanted;
        let length = |name: &Option<String>| name.as_ref().map_or(0, String::len);
        let (exact, long, method) = match path {
            PathTest::Exact(path) => (true, path.len(), method.iter().count()),
            PathTest::Prefix(prefix) => (false, prefix.len(), method.iter().count()),
            PathTest::Call { service, method } => (false, length(service), length(method)),
        };
        (exact_host, host, exact, long, method, headers.len(), query.len())
    }

    pub(super) fn host_fits(&self, host: Option<&str>) -> bool {
        match &self.host {
            HostTest::Any => true,
            HostTest::Exact(wanted) => host == Some(wanted),
            HostTest::Suffix(suffix) => {
                host.is_some_and(|host| host.len() > suffix.len() && host.ends_with(suffix))
            }
        }
    }

    /// Whether everything but the host and the path fits.
    pub(super) fn request_fits(&self, request: &RouteRequest<'_>) -> bool {
        self.wanted.method.as_ref().is_none_or(|method| method == request.facts.method())
            && self.wanted.headers.iter().all(|(name, value)| header_is(request, name, value))
            && self.wanted.query.iter().all(|(name, value)| query_is(request.query, name, value))
    }
}

/// Whether a header has this value: in one line, or in several as if they were
/// one (RFC 9110, section 5.3). The host is one, however the request names it.
fn header_is(request: &RouteRequest<'_>, name: &str, wanted: &str) -> bool {
    if name == "host" {
        return request.facts.host().is_some_and(|host| host.eq_ignore_ascii_case(wanted));
    }
    let mut lines = request.headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => false,
        (Some(only), None) => only.as_bytes() == wanted.as_bytes(),
        (Some(_), Some(_)) => {
            let lines: Vec<&[u8]> =
                request.headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
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
