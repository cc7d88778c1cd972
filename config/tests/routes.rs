//! Where requests to a Service go: the Gateway API's rules, for Services.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{WORLD, at, resources};
use countersign_config::request::Ambiguity;
use countersign_config::resource::check_set;
use countersign_config::view::route::Routed;
use countersign_config::{Called, Kind, RequestFacts, Resource, RouteDecision, RouteRequest, View, parse};
use countersign_evidence::collateral::Marks;
use http::{HeaderMap, HeaderName, HeaderValue};

fn service(name: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: Service\nmetadata: {{ name: {name}, namespace: payments }}\n\
         spec: {{ ports: [{ports}], selector: {{ matchLabels: {{ app: {name} }} }} }}\n"
    )
}

fn route(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{ name: {name}, namespace: payments }}\nspec: {spec}\n"
    )
}

const HTTP: &str = "{ port: 80, appProtocol: HTTP }";
const PARENT: &str = "parentRefs: [{ group: '', kind: Service, name: web }]";

/// A rule with these matches that leads to `v1`.
fn rule(matches: &str) -> String {
    format!("{{ matches: [{matches}], backendRefs: [{{ name: v1, port: 80 }}] }}")
}

fn rules(rules: &[&str]) -> String {
    let rules: Vec<_> = rules.iter().map(|matches| rule(matches)).collect();
    format!("{{ {PARENT}, rules: [{}] }}", rules.join(", "))
}

fn mesh(routes: &[String]) -> String {
    resources() + &service("web", HTTP) + &service("v1", HTTP) + &service("v2", HTTP) + &routes.concat()
}

struct Asked {
    method: &'static str,
    host: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const ASKED: Asked = Asked { method: "GET", host: "web.example", target: "/", headers: &[] };

impl Asked {
    fn with<T>(&self, called: &Called, look: impl FnOnce(RouteDecision<'_>, &RouteRequest<'_>) -> T) -> T {
        let facts = RequestFacts::new(self.method, self.host, self.target);
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let query = self.target.split_once('?').map(|(_, query)| query);
        let request = RouteRequest { facts: &facts, query, headers: &headers };
        look(called.match_request(&request), &request)
    }

    /// The rule that decides, as `route 0`; or why there is none.
    fn at(&self, called: &Called) -> String {
        self.with(called, |decision, _| match decision {
            RouteDecision::Rule(Routed { rule, .. }) => {
                let name = rule.name.strip_prefix("HTTPRoute payments/").unwrap();
                name.replace(", rules[", " ").replace(']', "")
            }
            other => format!("{other:?}"),
        })
    }
}

fn path(target: &'static str) -> Asked {
    Asked { target, ..ASKED }
}

#[test]
fn a_service_without_routes_answers_itself() {
    let view = WORLD.view(&mesh(&[]));
    assert_eq!(path("/x").at(view.service("payments", "web", 80).unwrap()), "Service");
}

/// `HTTPRouteRule.matches` of the Gateway API: exact path, longest prefix, method,
/// headers, query parameters, then the first rule of the first route.
#[test]
fn the_most_precise_match_decides() {
    let first = rules(&[
        "",
        "{ path: { value: /a } }",
        "{ path: { value: /a/b } }",
        "{ path: { type: Exact, value: /a/b } }",
        "{ path: { value: /m } }",
        "{ path: { value: /m }, method: GET }",
        "{ path: { value: /m }, headers: [{ name: X-One, value: '1' }, { name: x-two, value: '2' }] }",
        "{ path: { value: /m }, headers: [{ name: x-one, value: '1' }] }",
        "{ path: { value: /q }, queryParams: [{ name: a, value: '1' }] }",
        "{ path: { value: /q }, queryParams: [{ name: a, value: '1' }, { name: b, value: 'x y' }] }",
        "{ path: { value: /q } }",
        "{ path: { value: /q }, headers: [{ name: x-one, value: '1' }] }",
        "{ path: { value: /twice } }",
        "{ path: { value: /twice } }",
    ]);
    let second = rules(&["{ path: { value: /m } }", "{ path: { value: /second } }", "{ method: POST }"]);
    let view = WORLD.view(&mesh(&[route("b", &second), route("a", &first)]));
    let web = view.service("payments", "web", 80).unwrap();
    let one: &[(&str, &str)] = &[("x-one", "1")];
    for (asked, expected) in [
        (path("/"), "a 0"),
        (path("/ab"), "a 0"),
        (path("/a"), "a 1"),
        (path("/a/"), "a 1"),
        (path("/a/c"), "a 1"),
        (path("/a/b"), "a 3"),
        (path("/a//./b"), "a 3"),
        (path("/%61/b"), "a 3"),
        (path("/a/b/"), "a 2"),
        (path("/a/b/c"), "a 2"),
        (path("/a/bc"), "a 1"),
        (Asked { method: "PUT", ..path("/m") }, "a 4"),
        (path("/m"), "a 5"),
        (Asked { headers: one, ..path("/m") }, "a 5"),
        (Asked { method: "PUT", headers: one, ..path("/m") }, "a 7"),
        (Asked { method: "PUT", headers: &[("x-two", "2"), ("x-one", "1")], ..path("/m") }, "a 6"),
        (path("/q?a=1"), "a 8"),
        (path("/q?b=x+y&a=1"), "a 9"),
        (path("/q?b=x%20y&a=%31&a=2"), "a 9"),
        (path("/q?a=2&a=1"), "a 10"),
        (path("/q"), "a 10"),
        (Asked { headers: one, ..path("/q?a=1&b=x+y") }, "a 11"),
        (path("/twice"), "a 12"),
        (path("/second"), "b 1"),
        (Asked { method: "POST", ..path("/x") }, "b 2"),
        (Asked { method: "POST", ..path("/a") }, "a 1"),
        (Asked { method: "post", ..path("/x") }, "a 0"),
    ] {
        assert_eq!(asked.at(web), expected, "{} {} {:?}", asked.method, asked.target, asked.headers);
    }
}

#[test]
fn the_most_precise_host_comes_first() {
    let named = |hosts: &str| {
        rules(&["{ path: { value: /x } }"]).replace("rules:", &format!("hostnames: [{hosts}], rules:"))
    };
    let view = WORLD.view(&mesh(&[
        route("any", &rules(&["{ path: { type: Exact, value: /x } }"])),
        route("wide", &named("'*.example'")),
        route("wider", &named("'*.a.example', '*.test'")),
        route("exact", &named("b.a.example")),
    ]));
    let web = view.service("payments", "web", 80).unwrap();
    for (host, expected) in [
        ("b.a.example:80", "exact 0"),
        ("B.A.EXAMPLE.", "exact 0"),
        ("c.b.a.example", "wider 0"),
        ("a.example", "wide 0"),
        ("x.test", "wider 0"),
        ("example", "any 0"),
        ("", "any 0"),
    ] {
        assert_eq!(Asked { host, ..path("/x") }.at(web), expected, "{host}");
    }
    assert_eq!(Asked { host: "test", ..path("/y") }.at(web), "NotFound");
}

#[test]
fn headers_in_several_lines_are_one() {
    let view = WORLD.view(&mesh(&[route("r", &rules(&["{ headers: [{ name: x, value: 'a, b' }] }"]))]));
    let web = view.service("payments", "web", 80).unwrap();
    for (headers, expected) in [
        (&[("x", "a, b")] as &[_], "r 0"),
        (&[("x", "a"), ("x", "b")], "r 0"),
        (&[("x", "b"), ("x", "a")], "NotFound"),
        (&[("x", "a")], "NotFound"),
        (&[], "NotFound"),
    ] {
        assert_eq!(Asked { headers, ..ASKED }.at(web), expected, "{headers:?}");
    }
    let view =
        WORLD.view(&mesh(&[route("r", &rules(&["{ headers: [{ name: Host, value: Web.example }] }"]))]));
    let web = view.service("payments", "web", 80).unwrap();
    assert_eq!(Asked { host: "WEB.example:80", ..ASKED }.at(web), "r 0");
    assert_eq!(Asked { host: "b.example", headers: &[("host", "web.example")], ..ASKED }.at(web), "NotFound");
}

#[test]
fn a_path_that_servers_read_differently_goes_nowhere_that_depends_on_it() {
    let all = WORLD.view(&mesh(&[route("r", &rules(&[""]))]));
    assert_eq!(path("/a%2fb").at(all.service("payments", "web", 80).unwrap()), "r 0");
    let some = WORLD.view(&mesh(&[route("r", &rules(&["", "{ path: { value: /admin }, method: GET }"]))]));
    let web = some.service("payments", "web", 80).unwrap();
    let ambiguous = format!("{:?}", RouteDecision::Ambiguous(Ambiguity::EscapedSlash));
    assert_eq!(path("/x%2fadmin").at(web), ambiguous);
    assert_eq!(
        Asked { method: "POST", ..path("/x%2fadmin") }.at(web),
        "r 0",
        "no match of this method depends on it"
    );
}

#[test]
fn a_rule_says_what_is_done_and_where_requests_go() {
    let spec = format!(
        "{{ {PARENT}, rules: [
        {{ name: split, matches: [{{ path: {{ value: /api }} }}], filters: [
             {{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: X-Env, value: prod }}], remove: [x-debug] }} }},
             {{ type: URLRewrite, urlRewrite: {{ hostname: v.example, path: {{ type: ReplacePrefixMatch, replacePrefixMatch: /v1 }} }} }},
             {{ type: RequestMirror, requestMirror: {{ backendRef: {{ name: v2, port: 80 }}, percent: 10 }} }} ],
           backendRefs: [{{ name: v1, port: 80, weight: 90 }}, {{ name: web, port: 80, weight: 10,
             filters: [{{ type: ResponseHeaderModifier, responseHeaderModifier: {{ add: [{{ name: x-from, value: web }}] }} }}] }},
             {{ name: v2, port: 80, weight: 0 }}],
           timeouts: {{ request: 10s, backendRequest: 2s }},
           retry: {{ codes: [503, 504], attempts: 3, backoff: 100ms }} }},
        {{ matches: [{{ path: {{ value: /old }} }}], filters: [
             {{ type: RequestRedirect, requestRedirect: {{ scheme: https, statusCode: 308,
                path: {{ type: ReplacePrefixMatch, replacePrefixMatch: /new }} }} }} ] }} ] }}"
    );
    let text = mesh(&[route("r", &spec)]);
    let view = WORLD.view(&text);
    let web = view.service("payments", "web", 80).unwrap();
    path("/api/items/1?x").with(web, |decision, request| {
        let RouteDecision::Rule(routed) = decision else { panic!("{decision:?}") };
        assert_eq!(routed.path(request.facts.path().unwrap()), "/v1/items/1");
        assert_eq!(routed.location(request, "http", 80), None);
        let rule = routed.rule;
        assert_eq!(rule.changes.rewrite.hostname.as_deref(), Some("v.example"));
        let mut headers = HeaderMap::new();
        headers.insert("x-debug", HeaderValue::from_static("1"));
        rule.changes.request.apply(&mut headers);
        assert_eq!(headers.get("x-env").unwrap(), "prod");
        assert!(!headers.contains_key("x-debug"));
        let chosen = |drawn| {
            let backend = rule.backend(drawn).unwrap();
            (
                backend.called.as_ref().unwrap().service.name.clone(),
                backend.changes.response != Default::default(),
            )
        };
        let all: Vec<_> = (0..100).map(chosen).collect();
        assert_eq!(all.iter().filter(|c| **c == ("v1".to_owned(), false)).count(), 90);
        assert_eq!(all.iter().filter(|c| **c == ("web".to_owned(), true)).count(), 10);
        assert_eq!(chosen(u64::MAX), chosen(u64::MAX % 100));
        let own = rule.backends[1].called.as_ref().unwrap();
        assert!(own.routes.is_none(), "a route leads to the endpoints of a Service, not to its routes");
        assert_eq!(rule.mirrors.len(), 1);
        assert_eq!((0..100).filter(|drawn| rule.mirrors[0].takes(*drawn)).count(), 10);
        assert_eq!(rule.timeouts.request, Some(Duration::from_secs(10)));
        assert_eq!(rule.timeouts.backend_request, Some(Duration::from_secs(2)));
        let retry = rule.retry.as_ref().unwrap();
        assert_eq!(
            (retry.codes.as_slice(), retry.attempts, retry.backoff.as_millis()),
            (&[503, 504][..], 3, 100)
        );
    });
    path("/old/a?b=c").with(web, |decision, request| {
        let RouteDecision::Rule(routed) = decision else { panic!("{decision:?}") };
        assert_eq!(routed.rule.redirect.as_ref().unwrap().status, 308);
        assert_eq!(routed.location(request, "http", 80).unwrap(), "https://web.example/new/a?b=c");
        assert_eq!(routed.rule.backend(0), None);
    });

    // What is written is read back as it was meant.
    let again = parse("f", &text.replace("ROOT", &"00".repeat(32))).unwrap();
    let again = again.iter().find(|r| r.kind() == Kind::HttpRoute).unwrap();
    assert!(again.to_yaml().starts_with("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n"));
    assert_eq!(parse("f", &again.to_yaml()).unwrap(), std::slice::from_ref(again));
    assert_eq!(&Resource::from_json(&again.to_json()).unwrap(), again);
    assert_eq!(Kind::from_name("httproutes"), Some(Kind::HttpRoute));
}

/// Service, method, headers; a route of calls before routes of requests.
#[test]
fn calls_are_routed_by_service_and_method() {
    let grpc = |rules: &str| {
        route("calls", &format!("{{ {PARENT}, rules: [{rules}] }}")).replace("HTTPRoute", "GRPCRoute")
    };
    let to = |matches: &str| {
        format!(
            "{{ matches: [{matches}], backendRefs: [{{ name: v1, port: 80 }}], filters: [{{ type: RequestHeaderModifier, \
                 requestHeaderModifier: {{ add: [{{ name: a, value: b }}] }} }}] }}"
        )
    };
    let rules_of_calls = [
        to(""),
        to("{ method: { method: Get } }"),
        to("{ method: { service: shop.Stock } }"),
        to("{ method: { type: Exact, service: shop.Stock, method: Get } }"),
        to("{ method: { service: shop.Stock }, headers: [{ name: a, value: b }] }"),
    ];
    let text = mesh(&[
        grpc(&rules_of_calls.join(", ")),
        route("requests", &rules(&["{ path: { type: Exact, value: /x/Get } }"])),
    ]);
    let http = "name: web, namespace: payments }\nspec: { ports: [{ port: 80, appProtocol: ";
    assert!(text.contains(http));
    let text = text.replace(&format!("{http}HTTP "), &format!("{http}GRPC "));
    let built = WORLD.build(&text);
    let [(key, why)] = built.rejected.as_slice() else { panic!("{:?}", built.rejected) };
    assert_eq!((key.kind, key.name.as_str()), (Kind::HttpRoute, "requests"));
    assert_eq!(why, "port 80 of Service payments/web has GRPCRoutes, which come first");
    let web = built.view.service("payments", "web", 80).unwrap();
    for (target, headers, expected) in [
        ("/shop.Stock/Get", &[] as &[_], "3"),
        ("/shop.Stock/Set", &[], "2"),
        ("/shop.Stock/Set", &[("a", "b")], "4"),
        ("/shop.Stock/Get", &[("a", "b")], "3"),
        ("/shop.Sto/Get", &[], "1"),
        ("/x/Get", &[], "1"),
        ("/x/Set", &[], "0"),
        ("/shop.Stock/Get/x", &[], "2"),
    ] {
        let asked = Asked { method: "POST", target, headers, ..ASKED };
        let found = asked.with(web, |decision, _| match decision {
            RouteDecision::Rule(Routed { rule, .. }) => rule.name.clone(),
            other => format!("{other:?}"),
        });
        assert_eq!(found, format!("GRPCRoute payments/calls, rules[{expected}]"), "{target} {headers:?}");
    }

    let wrong = grpc(
        "{ matches: [{ method: { service: a/b, method: 9 } }], backendRefs: [{ name: v1, port: 80 }] }, \
         { matches: [{ method: { type: Exact } }], filters: [{ type: URLRewrite, urlRewrite: { hostname: a.b } }], \
           backendRefs: [{ name: v1, port: 80 }] }, { timeouts: {} }",
    );
    let problems: Vec<_> = parse("f", &wrong).unwrap_err().iter().map(ToString::to_string).collect();
    for (problem, expected) in problems.iter().zip([
        "spec.rules[0].matches[0].method.service: `a/b` is not a gRPC service such as shop.Stock",
        "spec.rules[0].matches[0].method.method: is the number 9, accepted: a text",
        "spec.rules[2].timeouts: unknown field `timeouts`",
        "spec.rules[2]: field `backendRefs` is missing",
    ]) {
        assert!(problem.contains(expected), "{problem}");
    }
    let wrong =
        grpc(&to("{ method: { type: Exact } }").replace("RequestHeaderModifier,", "URLRewrite,").replace(
            "requestHeaderModifier: { add: [{ name: a, value: b }] }",
            "urlRewrite: { hostname: a.b }",
        ));
    let problems: Vec<_> = parse("f", &wrong).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("method: names no service and no method: give one of them"), "{problems:?}");
    assert!(problems[1].contains("filters[0].type: is for HTTPRoutes"), "{problems:?}");
}

#[test]
fn routes_change_without_what_they_do_not_touch() {
    let before = WORLD.view(&mesh(&[route("r", &rules(&[""]))]));
    let after =
        |text: &str| View::build_after(&before, WORLD.inputs(text), &mut Marks::default(), at(0)).view;
    let called = |view: &View, name: &str| Arc::clone(view.service("payments", name, 80).unwrap());
    let same = after(&mesh(&[route("r", &rules(&[""]))]));
    let other = after(&mesh(&[route("r", &rules(&["{ method: GET }"]))]));
    for name in ["web", "v1"] {
        assert!(Arc::ptr_eq(&called(&before, name), &called(&same, name)), "{name}");
    }
    assert!(!Arc::ptr_eq(&called(&before, "web"), &called(&other, "web")));
    assert!(Arc::ptr_eq(&called(&before, "v1"), &called(&other, "v1")));
}

#[test]
fn a_route_to_what_is_not_there_is_said_and_leads_nowhere() {
    let text = mesh(&[
        route("lost", &format!("{{ {PARENT}, rules: [{{ backendRefs: [{{ name: v3, port: 80 }}] }}] }}")),
        route("deaf", &rules(&[""]).replace("name: web }", "name: web, port: 81 }")),
    ]);
    let built = WORLD.build(&text);
    let why: Vec<_> = built.rejected.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    assert_eq!(
        why,
        [
            "HTTPRoute payments/deaf: Service payments/web has no port 81 with appProtocol HTTP, HTTP2 or GRPC: nothing is \
             routed there",
            "HTTPRoute payments/lost: there is no port 80 of Service payments/v3: requests for it get 500",
        ]
    );
    ASKED.with(built.view.service("payments", "web", 80).unwrap(), |decision, _| {
        let RouteDecision::Rule(routed) = decision else { panic!("{decision:?}") };
        assert_eq!(routed.rule.backend(7).unwrap().called, None);
    });
}

#[test]
fn routes_are_checked_as_a_set() {
    let to = |name: &str, parent: &str, backend: &str| {
        let parent = format!("parentRefs: [{{ group: '', kind: Service, {parent} }}]");
        route(name, &format!("{{ {parent}, rules: [{{ backendRefs: [{{ {backend} }}] }}] }}"))
    };
    let text = mesh(&[
        service("bytes", "{ port: 5432, appProtocol: TCP }, { port: 9 }"),
        to("a", "name: wbe", "name: v1, port: 80"),
        to("b", "name: web, port: 81", "name: v1, port: 8080"),
        to("c", "name: bytes, port: 5432", "name: v3, port: 80"),
        to("d", "name: bytes", "name: v1, port: 80"),
    ]);
    let text = text.replace("ROOT", &"00".repeat(32));
    let problems: Vec<_> = check_set(&parse("f", &text).unwrap())
        .iter()
        .map(ToString::to_string)
        .filter(|problem| problem.starts_with("HTTPRoute"))
        .collect();
    assert_eq!(
        problems,
        [
            "HTTPRoute payments/a, spec.parentRefs[0].name: there is no Service payments/wbe (did you mean `web`?)",
            "HTTPRoute payments/b, spec.parentRefs[0].port: Service payments/web has no port 81, but 80",
            "HTTPRoute payments/b, spec.rules[0].backendRefs[0].port: Service payments/v1 has no port 8080, but 80",
            "HTTPRoute payments/c, spec.parentRefs[0]: Service payments/bytes has no port 5432 with appProtocol HTTP, HTTP2 or \
             GRPC: there is nothing to route",
            "HTTPRoute payments/c, spec.rules[0].backendRefs[0].name: there is no Service payments/v3 (did you mean `v2`?)",
            "HTTPRoute payments/d, spec.parentRefs[0]: Service payments/bytes has no port with appProtocol HTTP, HTTP2 or GRPC: \
             there is nothing to route",
        ]
    );
}

#[test]
fn what_we_do_not_do_is_an_error_that_says_so() {
    let backends = "backendRefs: [{ name: v1, port: 80 }]";
    let cases: &[(String, &[&str])] = &[
        (
            "{ parentRefs: [{ name: gw }], useDefaultGateways: All, rules: [{ backendRefs: [{ name: v1, port: 80 }], \
               sessionPersistence: { sessionName: x } }] }"
                .to_owned(),
            &[
                "spec.rules[0].sessionPersistence: is a field of the Gateway API that is not supported: remove it",
                "spec.useDefaultGateways: is a field of the Gateway API that is not supported: remove it",
            ],
        ),
        (
            format!("{{ parentRefs: [{{ name: gw }}], rules: [{{ {backends} }}] }}"),
            &["spec.parentRefs[0]: belongs to a Gateway of the group `gateway.networking.k8s.io`, supported: a Service"],
        ),
        (
            format!(
                "{{ {PARENT}, rules: [{{ {backends}, matches: [{{ path: {{ type: RegularExpression, value: /a }} }}, \
                 {{ headers: [{{ type: RegularExpression, name: a, value: b }}] }}], filters: [{{ type: CORS, cors: {{}} }}] }}] }}"
            ),
            &[
                "spec.rules[0].filters[0].cors: is a field of the Gateway API that is not supported",
                "spec.rules[0].filters[0].type: is `CORS`, accepted: RequestHeaderModifier, ResponseHeaderModifier",
                "spec.rules[0].matches[0].path.type: is `RegularExpression`, accepted: Exact, PathPrefix",
                "spec.rules[0].matches[1].headers[0].type: is `RegularExpression`, accepted: Exact",
            ],
        ),
        (
            format!(
                "{{ {PARENT}, rules: [{{ backendRefs: [{{ name: v1, namespace: other, port: 80 }}, {{ kind: Bucket, name: v1, port: 80, \
                 filters: [{{ type: URLRewrite, urlRewrite: {{ hostname: a.example }} }}] }}] }}, {{}}] }}"
            ),
            &[
                "spec.rules[0].backendRefs[0].namespace: other is not the route's namespace, and ReferenceGrants",
                "spec.rules[0].backendRefs[1]: is a Bucket of the group ``, supported: a Service",
                "spec.rules[0].backendRefs[1].filters[0].type: is not supported for one backend",
                "spec.rules[1]: field `backendRefs` is missing: requests have to go somewhere",
            ],
        ),
        (
            format!(
                "{{ {PARENT}, hostnames: ['*.*.example', 10.0.0.1, 'A.example'], rules: [{{ {backends}, matches: [{{ path: {{ value: /a//b }} }}, \
                 {{ path: {{ value: a }} }}, {{ headers: [{{ name: 'a b', value: ' x' }}] }}] }}] }}"
            ),
            &[
                "spec.hostnames[0]: `*.example` is not a DNS-1123 name",
                "spec.hostnames[1]: `10.0.0.1` is an IP address, accepted: a DNS name",
                "spec.hostnames[2]: `A.example` is not a DNS-1123 name",
                "spec.rules[0].matches[0].path.value: `/a//b` never matches: such paths are taken as `/a/b`",
                "spec.rules[0].matches[1].path.value: `a` is not a path",
                "spec.rules[0].matches[2].headers[0].name: `a b` is not the name of a header",
                "spec.rules[0].matches[2].headers[0].value: ` x` is not 1 to 4096 visible ASCII characters",
            ],
        ),
        (
            format!(
                "{{ {PARENT}, rules: [{{ {backends}, filters: [
                 {{ type: RequestRedirect, requestRedirect: {{ statusCode: 200, path: {{ type: ReplaceFullPath, replacePrefixMatch: /a }} }} }},
                 {{ type: URLRewrite, urlRewrite: {{ path: {{ type: ReplacePrefixMatch, replacePrefixMatch: a }} }} }},
                 {{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: Host, value: x }}, {{ name: a, value: x }}, {{ name: A, value: y }}] }} }},
                 {{ type: RequestHeaderModifier, responseHeaderModifier: {{ remove: [transfer-encoding] }} }},
                 {{ type: RequestMirror, requestMirror: {{ backendRef: {{ name: v2, port: 80 }}, percent: 1, fraction: {{ numerator: 101 }} }} }}],
                 timeouts: {{ request: 1s, backendRequest: 2s }} }}] }}"
            ),
            &[
                "spec.rules[0].filters[0].requestRedirect.statusCode: is 200, accepted: 301, 302, 303, 307, 308",
                "spec.rules[0].filters[0].requestRedirect.path: field `replaceFullPath` is missing, which `type` announces",
                "spec.rules[0].filters[0].requestRedirect.path.replacePrefixMatch: does not belong to this `type`",
                "spec.rules[0].filters[1].urlRewrite.path.replacePrefixMatch: `a` is not a path",
                "spec.rules[0].filters[1]: ReplacePrefixMatch needs exactly one match, with a path of type PathPrefix",
                "spec.rules[0].filters[2].requestHeaderModifier.set[0]: host says how messages are framed or where they go",
                "spec.rules[0].filters[2].requestHeaderModifier.set[2]: a is listed twice",
                "spec.rules[0].filters[3]: field `requestHeaderModifier` is missing, which `type` announces",
                "spec.rules[0].filters[3].responseHeaderModifier: does not belong to this `type`",
                "spec.rules[0].filters[3].responseHeaderModifier.remove[0]: transfer-encoding says how messages are framed",
                "spec.rules[0].filters[3].type: is there twice, accepted: once in a rule",
                "spec.rules[0].filters[4].requestMirror: holds percent and fraction, accepted: one of them",
                "spec.rules[0].filters[4].requestMirror.fraction: is more than the whole",
                "spec.rules[0].filters: has RequestRedirect and URLRewrite, accepted: one of them",
                "spec.rules[0].backendRefs: has no meaning beside RequestRedirect, which answers by itself",
                "spec.rules[0].timeouts.backendRequest: 2s is longer than all of the request, 1s",
            ],
        ),
    ];
    for (spec, expected) in cases {
        let problems: Vec<_> = parse("f", &route("r", spec))
            .unwrap_err()
            .iter()
            .map(|p| format!("{}: {}", p.path, p.message))
            .collect();
        let found = |expected: &&str| problems.iter().any(|problem| problem.starts_with(expected));
        let holds = problems.len() == expected.len() && expected.iter().all(found);
        assert!(holds, "{spec}\nexpected {expected:#?}\nfound {problems:#?}");
    }
    let version = route("r", "{}").replace("gateway.networking.k8s.io/v1", "countersign.dev/v1alpha1");
    let problem = parse("f", &version).unwrap_err()[0].to_string();
    assert!(problem.contains("accepted: `gateway.networking.k8s.io/v1`"), "{problem}");
}
