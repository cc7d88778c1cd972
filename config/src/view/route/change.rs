//! What routes change: headers, hosts, paths.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::kinds::http_route::{Header, HeaderModifier, PathModifier, RequestRedirect, Scheme, UrlRewrite};

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl HeaderChanges {
    pub(super) fn new(modifier: &HeaderModifier) -> Self {
        // Names and values were checked when they were read.
        let pairs = |headers: &[Header]| {
            let pair = |h: &Header| Some((h.name.0.parse().ok()?, h.value.0.parse().ok()?));
            headers.iter().filter_map(pair).collect()
        };
        Self {
            set: pairs(&modifier.set),
            add: pairs(&modifier.add),
            remove: modifier.remove.iter().filter_map(|name| name.0.parse().ok()).collect(),
        }
    }

    /// Makes the changes: sets, adds, then removes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Changes of host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host afterwards.
    pub hostname: Option<String>,
    /// What becomes of the path.
    pub path: Option<PathChange>,
}

impl Rewrite {
    pub(super) fn new(rewrite: &UrlRewrite) -> Self {
        Self {
            hostname: rewrite.hostname.as_ref().map(|host| host.0.clone()),
            path: rewrite.path.as_ref().map(PathChange::new),
        }
    }
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// It is this one.
    Full(String),
    /// This stands for the prefix that matched.
    Prefix(String),
}

impl PathChange {
    fn new(modifier: &PathModifier) -> Self {
        match &modifier.replace_full_path {
            Some(path) => Self::Full(path.0.clone()),
            None => Self::Prefix(modifier.replace_prefix_match.clone().unwrap_or_default()),
        }
    }

    /// The path afterwards, of one in its one form whose prefix has so many segments.
    pub(super) fn apply(&self, path: &str, prefix: usize) -> String {
        match self {
            Self::Full(path) => path.clone(),
            Self::Prefix(replacement) => {
                let rest =
                    path.match_indices('/').nth(prefix).map_or("", |(at, _)| path.get(at..).unwrap_or(""));
                let whole = format!("{}{rest}", replacement.strip_suffix('/').unwrap_or(replacement));
                if whole.is_empty() { "/".to_owned() } else { whole }
            }
        }
    }
}

/// An answer that leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The status.
    pub status: u16,
    scheme: Option<&'static str>,
    hostname: Option<String>,
    path: Option<PathChange>,
    port: Option<u16>,
}

impl Redirect {
    pub(super) fn new(redirect: &RequestRedirect) -> Self {
        Self {
            status: redirect.status_code,
            scheme: redirect.scheme.map(|scheme| match scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            }),
            hostname: redirect.hostname.as_ref().map(|host| host.0.clone()),
            path: redirect.path.as_ref().map(PathChange::new),
            port: redirect.port,
        }
    }

    pub(super) fn location(
        &self,
        scheme: &str,
        host: &str,
        called: u16,
        path: &str,
        query: Option<&str>,
        prefix: usize,
    ) -> String {
        let usual = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let port = self.port.unwrap_or_else(|| self.scheme.map_or(called, usual));
        let scheme = self.scheme.unwrap_or(scheme);
        let host = self.hostname.as_deref().unwrap_or(host);
        let port = if port == usual(scheme) { String::new() } else { format!(":{port}") };
        let path = self.path.as_ref().map_or_else(|| path.to_owned(), |change| change.apply(path, prefix));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `ReplacePrefixMatch` in the Gateway API.
    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
            ("/caf%C3%A9/a", "/café", "/b", "/b/a"),
            ("/a/b/c", "/a/b", "/x", "/x/c"),
        ] {
            let change = PathChange::Prefix(replacement.to_owned());
            assert_eq!(
                change.apply(path, prefix.matches('/').count()),
                expected,
                "{path} {prefix} {replacement}"
            );
        }
    }

    #[test]
    fn a_redirect_leads_to_what_it_says_and_else_to_what_was_asked() {
        let plain = Redirect { status: 302, scheme: None, hostname: None, path: None, port: None };
        let to = |redirect: &Redirect| redirect.location("http", "a.example", 8080, "/x/y", Some("q=1"), 1);
        assert_eq!(to(&plain), "http://a.example:8080/x/y?q=1");
        assert_eq!(to(&Redirect { scheme: Some("https"), ..plain.clone() }), "https://a.example/x/y?q=1");
        let usual = Redirect { port: Some(80), ..plain.clone() };
        assert_eq!(to(&usual), "http://a.example/x/y?q=1");
        let other = Redirect {
            scheme: Some("https"),
            hostname: Some("b.example".to_owned()),
            path: Some(PathChange::Prefix("/z".to_owned())),
            port: Some(8443),
            ..plain
        };
        assert_eq!(to(&other), "https://b.example:8443/z/y?q=1");
    }

    #[test]
    fn headers_are_set_added_and_removed() {
        let changes = HeaderChanges {
            set: vec![(HeaderName::from_static("a"), HeaderValue::from_static("1"))],
            add: vec![(HeaderName::from_static("b"), HeaderValue::from_static("2"))],
            remove: vec![HeaderName::from_static("c")],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "x"), ("a", "y"), ("b", "1"), ("c", "z")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        changes.apply(&mut headers);
        let all =
            |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap_or("")).collect::<Vec<_>>();
        assert_eq!((all("a"), all("b"), all("c")), (vec!["1"], vec!["1", "2"], vec![]));
    }
}
