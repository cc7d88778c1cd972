//! What the schema cannot say about an HTTPRoute.

use std::collections::BTreeSet;

use super::{
    BackendRef, Filter, FilterKind, HeaderModifier, HttpMatch, HttpRouteSpec, HttpRule, PathKind,
    PathModifier, PathModifierKind, Timeouts,
};
use crate::document::Path;
use crate::kinds::gateway;
use crate::kinds::scalar::{HeaderName, RoutePath};

type Report<'a> = &'a mut dyn FnMut(Path, String);

impl HttpRouteSpec {
    pub(in crate::kinds) fn check(&self, namespace: &str, spec: &Path, report: Report<'_>) {
        gateway::check_parents(&self.parent_refs, namespace, spec, report);
        for (i, rule) in self.rules.iter().enumerate() {
            rule.check(namespace, &spec.key("rules").index(i), report);
        }
    }
}

impl HttpRule {
    fn check(&self, namespace: &str, path: &Path, report: Report<'_>) {
        for (i, wanted) in self.matches.iter().enumerate() {
            wanted.check(&path.key("matches").index(i), report);
        }
        let mut seen = BTreeSet::new();
        for (i, filter) in self.filters.iter().enumerate() {
            let path = path.key("filters").index(i);
            filter.check(namespace, &path, report);
            if !seen.insert(filter.kind) && filter.kind != FilterKind::RequestMirror {
                report(path.key("type"), "is there twice, accepted: once in a rule".to_owned());
            }
            self.check_prefix(filter, &path, report);
        }
        let redirects = seen.contains(&FilterKind::RequestRedirect);
        if redirects && seen.contains(&FilterKind::UrlRewrite) {
            report(
                path.key("filters"),
                "has RequestRedirect and URLRewrite, accepted: one of them".to_owned(),
            );
        }
        match (redirects, self.backend_refs.is_empty()) {
            (true, false) => {
                let message = "has no meaning beside RequestRedirect, which answers by itself".to_owned();
                report(path.key("backendRefs"), message);
            }
            (false, true) => {
                let message = "field `backendRefs` is missing: requests have to go somewhere".to_owned();
                report(path.clone(), message);
            }
            _ => {}
        }
        for (i, backend) in self.backend_refs.iter().enumerate() {
            backend.check(namespace, &path.key("backendRefs").index(i), report);
        }
        if let Some(timeouts) = &self.timeouts {
            timeouts.check(&path.key("timeouts"), report);
        }
    }

    /// What replaces a prefix needs to know which.
    fn check_prefix(&self, filter: &Filter, path: &Path, report: Report<'_>) {
        let replaces = |modifier: &PathModifier| modifier.kind == PathModifierKind::ReplacePrefixMatch;
        let (redirect, rewrite) = (filter.request_redirect.as_ref(), filter.url_rewrite.as_ref());
        let modifier = redirect.and_then(|r| r.path.as_ref()).or(rewrite.and_then(|r| r.path.as_ref()));
        let has_prefix = |m: &HttpMatch| m.path.as_ref().is_some_and(|p| p.kind == PathKind::PathPrefix);
        let one = matches!(self.matches.as_slice(), [only] if has_prefix(only));
        if modifier.is_some_and(replaces) && !one {
            let message = "ReplacePrefixMatch needs exactly one match, with a path of type PathPrefix";
            report(path.clone(), message.to_owned());
        }
    }
}

impl HttpMatch {
    fn check(&self, path: &Path, report: Report<'_>) {
        let mut seen = BTreeSet::new();
        for (i, header) in self.headers.iter().enumerate() {
            if !seen.insert(&header.name) {
                report(path.key("headers").index(i), format!("{} is listed twice", header.name));
            }
        }
        let mut seen = BTreeSet::new();
        for (i, param) in self.query_params.iter().enumerate() {
            if !seen.insert(&param.name) {
                report(path.key("queryParams").index(i), format!("{} is listed twice", param.name));
            }
        }
    }
}

impl Filter {
    pub(in crate::kinds) fn check(&self, namespace: &str, path: &Path, report: Report<'_>) {
        for (kind, field, given) in [
            (
                FilterKind::RequestHeaderModifier,
                "requestHeaderModifier",
                self.request_header_modifier.is_some(),
            ),
            (
                FilterKind::ResponseHeaderModifier,
                "responseHeaderModifier",
                self.response_header_modifier.is_some(),
            ),
            (FilterKind::RequestRedirect, "requestRedirect", self.request_redirect.is_some()),
            (FilterKind::UrlRewrite, "urlRewrite", self.url_rewrite.is_some()),
            (FilterKind::RequestMirror, "requestMirror", self.request_mirror.is_some()),
        ] {
            belongs(self.kind == kind, field, given, path, report);
        }
        if let Some(modifier) = &self.request_header_modifier {
            modifier.check(&path.key("requestHeaderModifier"), report);
        }
        if let Some(modifier) = &self.response_header_modifier {
            modifier.check(&path.key("responseHeaderModifier"), report);
        }
        if let Some(redirect) = &self.request_redirect {
            let path = path.key("requestRedirect");
            if !matches!(redirect.status_code, 301 | 302 | 303 | 307 | 308) {
                let message = format!("is {}, accepted: 301, 302, 303, 307, 308", redirect.status_code);
                report(path.key("statusCode"), message);
            }
            if let Some(modifier) = &redirect.path {
                modifier.check(&path.key("path"), report);
            }
        }
        if let Some(modifier) = self.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()) {
            modifier.check(&path.key("urlRewrite").key("path"), report);
        }
        if let Some(mirror) = &self.request_mirror {
            let path = path.key("requestMirror");
            mirror.backend_ref.check(namespace, &path.key("backendRef"), report);
            if mirror.percent.is_some() && mirror.fraction.is_some() {
                report(path.clone(), "holds percent and fraction, accepted: one of them".to_owned());
            }
            if mirror.fraction.is_some_and(|f| f.numerator > f.denominator) {
                report(path.key("fraction"), "is more than the whole".to_owned());
            }
        }
    }
}

/// The field of a `type` is there, and those of others are not.
fn belongs(meant: bool, field: &str, given: bool, path: &Path, report: Report<'_>) {
    match (meant, given) {
        (true, false) => report(path.clone(), format!("field `{field}` is missing, which `type` announces")),
        (false, true) => report(path.key(field), "does not belong to this `type`".to_owned()),
        _ => {}
    }
}

impl HeaderModifier {
    fn check(&self, path: &Path, report: Report<'_>) {
        for (field, names) in [
            ("set", self.set.iter().map(|h| &h.name).collect::<Vec<_>>()),
            ("add", self.add.iter().map(|h| &h.name).collect()),
            ("remove", self.remove.iter().collect()),
        ] {
            let mut seen = BTreeSet::new();
            for (i, name) in names.into_iter().enumerate() {
                let path = path.key(field).index(i);
                if is_framing(name) {
                    let message =
                        format!("{name} says how messages are framed or where they go: it stays as it is");
                    report(path, message);
                } else if !seen.insert(name) {
                    report(path, format!("{name} is listed twice"));
                }
            }
        }
    }
}

/// Headers by which two programs could come to see different messages.
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.0.as_str(),
        "connection"
            | "content-length"
            | "host"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

impl PathModifier {
    fn check(&self, path: &Path, report: Report<'_>) {
        let full = self.kind == PathModifierKind::ReplaceFullPath;
        belongs(full, "replaceFullPath", self.replace_full_path.is_some(), path, report);
        belongs(!full, "replacePrefixMatch", self.replace_prefix_match.is_some(), path, report);
        if let Some(Err(why)) = self
            .replace_prefix_match
            .as_ref()
            .filter(|text| !text.is_empty())
            .map(|text| RoutePath::parse(text))
        {
            report(path.key("replacePrefixMatch"), why);
        }
    }
}

impl BackendRef {
    pub(in crate::kinds) fn check(&self, namespace: &str, path: &Path, report: Report<'_>) {
        gateway::check_kind(self.group.as_deref(), self.kind.as_deref(), path, report);
        gateway::check_namespace(self.namespace.as_ref(), namespace, path, report);
        for (i, filter) in self.filters.iter().enumerate() {
            let path = path.key("filters").index(i);
            filter.check(namespace, &path, report);
            if !matches!(filter.kind, FilterKind::RequestHeaderModifier | FilterKind::ResponseHeaderModifier)
            {
                let message = "is not supported for one backend, but for a rule: only header modifiers are";
                report(path.key("type"), message.to_owned());
            }
        }
    }
}

impl Timeouts {
    fn check(&self, path: &Path, report: Report<'_>) {
        let (Some(request), Some(backend)) = (&self.request, &self.backend_request) else { return };
        if !request.0.is_zero() && backend.0 > request.0 {
            report(
                path.key("backendRequest"),
                format!("{backend} is longer than all of the request, {request}"),
            );
        }
    }
}
