//! Who may ask for what: rules about requests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use common::{AUDIT, LEDGER, WORLD, at, id, resources};
use countersign_attester::emulated::TdxSpec;
use countersign_config::view::Decision;
use countersign_config::view::explain::Known;
use countersign_config::{RequestFacts, View, parse};
use countersign_ratls::peer::Admission;
use proptest::prelude::*;

fn policy(name: &str, action: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: payments }}\n\
         spec: {{ selector: {{ matchLabels: {{ app: audit }} }}, action: {action}, rules: {rules} }}\n"
    )
}

/// The ledger calls the audit log under these policies.
struct World {
    view: View,
    ledger: Admission,
}

fn under(policies: &[String]) -> World {
    let view = WORLD.view(&(resources() + &policies.concat()));
    let ledger = view.judge_hop(&id(AUDIT), WORLD.presented(LEDGER, TdxSpec::default()), at(60)).unwrap();
    World { view, ledger }
}

impl World {
    fn request(&self, method: &str, host: &str, path: &str) -> Decision {
        self.view.authorize_request(&self.ledger, &id(AUDIT), 8443, &RequestFacts::new(method, host, path))
    }

    fn allows(&self, method: &str, host: &str, path: &str) -> bool {
        self.request(method, host, path).allowed
    }

    fn bytes(&self) -> Decision {
        self.view.authorize(&self.ledger, &id(AUDIT), 8443)
    }

    fn http(&self) -> Decision {
        self.view.authorize_http(&self.ledger, &id(AUDIT), 8443)
    }
}

#[test]
fn a_rule_allows_what_it_names() {
    let world = under(&[policy(
        "calls",
        "Allow",
        "[{ to: [{ ports: [8443], methods: [GET, HEAD], paths: ['/v1/*', '*/health'], hosts: ['*.example'] }, \
           { methods: [POST], paths: [/events] }] }]",
    )]);
    for (method, host, path) in [
        ("GET", "audit.example", "/v1/entries?all"),
        ("HEAD", "AUDIT.example.:443", "/v1//entries/"),
        ("GET", "audit.example", "/a/../v1/%65ntries"),
        ("GET", "audit.example", "/deep/health"),
        ("POST", "", "/events"),
    ] {
        let decision = world.request(method, host, path);
        assert!(decision.allowed, "{method} {host} {path}: {}", decision.rule);
        assert_eq!(decision.rule, "AuthorizationPolicy payments/calls, rules[0]");
    }
    for (method, host, path) in [
        ("PUT", "audit.example", "/v1/a"),
        ("get", "audit.example", "/v1/a"),
        ("GET", "audit.example", "/v1"),
        ("GET", "audit.example", "/v1/../v2"),
        ("GET", "audit.example", "/v1/a%2fb"),
        ("GET", "audit.example", "/v1/..;/a"),
        ("GET", "audit.test", "/v1/a"),
        ("GET", "", "/v1/a"),
        ("GET", "x@audit.example", "/v1/a"),
        ("POST", "audit.example", "/events/1"),
    ] {
        assert!(!world.allows(method, host, path), "{method} {host} {path}");
    }
    let said = world.request("PUT", "audit.example", "/v1/a").rule;
    assert_eq!(
        said,
        "default deny: no rule of payments/calls allows PUT /v1/a of audit.example at port 8443: payments/calls rules[0] \
         allows ports 8443 with methods GET, HEAD with paths /v1/*, */health with hosts *.example or methods POST with \
         paths /events, asked: 8443 PUT /v1/a of audit.example"
    );
    let said = world.request("GET", "audit.example", "/v1/%2f").rule;
    assert!(said.contains("the path holds %2F, which is a slash to some servers"), "{said}");
}

#[test]
fn bytes_are_not_allowed_by_what_is_said_of_requests() {
    let world = under(&[policy("calls", "Allow", "[{ to: [{ ports: [8443], paths: ['/v1/*'] }] }]")]);
    let decision = world.bytes();
    assert!(!decision.allowed);
    assert!(decision.rule.ends_with("asked: 8443, where nobody looks for requests"), "{}", decision.rule);
    // A connection of requests may come, and each of them is decided about.
    let decision = world.http();
    assert_eq!(
        (decision.allowed, decision.rule.as_str()),
        (true, "AuthorizationPolicy payments/calls, rules[0] for some requests")
    );
    assert!(!world.view.authorize_http(&world.ledger, &id(AUDIT), 9).allowed, "no request is allowed there");
    // `*` is every path, and still says that this is about requests.
    for all in ["*", "/*"] {
        let world = under(&[policy("calls", "Allow", &format!("[{{ to: [{{ paths: ['{all}'] }}] }}]"))]);
        assert!(!world.bytes().allowed && world.allows("GET", "", "/a%2fb"));
    }
}

#[test]
fn bytes_are_denied_by_the_other_fields_of_what_is_said_of_requests() {
    let allow = policy("all", "Allow", "[{}]");
    let world =
        under(&[allow.clone(), policy("no", "Deny", "[{ to: [{ ports: [8443], methods: [DELETE] }] }]")]);
    let decision = world.bytes();
    assert_eq!(
        (decision.allowed, decision.rule.as_str()),
        (false, "AuthorizationPolicy payments/no, rules[0], as nobody looks at what these bytes ask for")
    );
    assert!(world.http().allowed && world.allows("GET", "", "/"));
    assert!(!world.allows("DELETE", "", "/") && !world.allows("delete", "", "/"));
    assert!(world.view.authorize(&world.ledger, &id(AUDIT), 9).allowed, "another port");
    // Where every request is denied, no connection is allowed.
    let world = under(&[allow, policy("no", "Deny", "[{ to: [{ ports: [8443] }] }]")]);
    assert!(!world.http().allowed);
}

#[test]
fn what_a_rule_names_not_is_not_matched() {
    let allow = policy("all", "Allow", "[{}]");
    let only = |to: &str| under(&[allow.clone(), policy("no", "Deny", &format!("[{{ to: [{to}] }}]"))]);
    let world = only("{ notMethods: [GET] }");
    assert!(world.allows("GET", "", "/") && !world.allows("POST", "", "/") && !world.allows("get", "", "/"));
    let world = only("{ notPaths: ['/public/*'] }");
    assert!(world.allows("GET", "", "/public/a") && !world.allows("GET", "", "/public/../a"));
    assert!(!world.allows("GET", "", "/public/%2e%2e%2fa"));
    let world = only("{ notHosts: [a.example] }");
    assert!(world.allows("GET", "A.example:80", "/") && !world.allows("GET", "", "/"));
    let world = only("{ notPorts: [8443] }");
    assert!(world.allows("GET", "", "/"));
    assert!(!world.view.authorize(&world.ledger, &id(AUDIT), 9).allowed);
}

#[test]
fn callers_are_told_apart_by_namespace() {
    let from = |from: &str| policy("calls", "Allow", &format!("[{{ from: [{from}] }}]"));
    for (source, allowed) in [
        ("{ namespaces: [payments] }", true),
        ("{ namespaces: [web] }", false),
        ("{ notNamespaces: [web] }", true),
        ("{ notNamespaces: [payments] }", false),
        ("{ namespaces: [payments], notPrincipals: ['spiffe://demo.example/ns/payments/ledger'] }", false),
    ] {
        assert_eq!(under(&[from(source)]).bytes().allowed, allowed, "{source}");
    }
    // A caller that has no WorkloadIdentity any more is of no namespace.
    let stranger = |policies: &[String]| {
        let text = resources() + &policies.concat();
        let identity = "metadata: { name: ledger, namespace: payments }\nspec: { spiffeId";
        assert!(text.contains(identity));
        let moved = text.replace("ns/payments/ledger, labels", "ns/payments/other, labels");
        let view = WORLD.view(&moved);
        let ledger = view.judge_hop(&id(AUDIT), WORLD.presented(LEDGER, TdxSpec::default()), at(60)).unwrap();
        view.authorize(&ledger, &id(AUDIT), 8443).allowed
    };
    assert!(!stranger(&[from("{ notNamespaces: [web] }")]));
    assert!(!stranger(&[from("{ namespaces: [payments] }")]));
    let allow = policy("all", "Allow", "[{}]");
    let deny = |from: &str| policy("no", "Deny", &format!("[{{ from: [{from}] }}]"));
    assert!(!stranger(&[allow.clone(), deny("{ notNamespaces: [payments] }")]));
    assert!(stranger(&[allow, deny("{ namespaces: [web] }")]));
}

/// What is enforced between two was shown, or there would be no connection; what
/// is only recorded was not.
#[test]
fn callers_are_told_apart_by_what_they_had_to_prove() {
    let from = |from: &str| policy("calls", "Allow", &format!("[{{ from: [{{ attestation: {from} }}] }}]"));
    let guard = |name: &str, more: &str| common::policy("payments", name, more, "Any");
    let allowed = |wanted: &str, guards: &[String]| {
        let world = under(&[&[from(wanted)], guards].concat());
        let explained = world.view.explain(&id(LEDGER), &id(AUDIT), 8443, &Known::default(), at(60));
        let decision = world.bytes();
        assert_eq!(explained.authorization.allowed, decision.allowed, "{wanted}");
        decision
    };
    assert!(allowed("{ level: L1 }", &[]).allowed && allowed("{ level: L2, policy: everyone }", &[]).allowed);
    let denied = allowed("{ level: L3, policy: listed }", &[]);
    assert!(!denied.allowed);
    assert!(denied.rule.contains("callers that prove L3 that satisfy payments/listed"), "{}", denied.rule);
    let stricter = |mode: &str| [guard("stricter", &format!("mode: {mode}"))];
    assert!(allowed("{ policy: stricter }", &stricter("Enforce")).allowed);
    assert!(!allowed("{ policy: stricter }", &stricter("Audit")).allowed, "nothing was enforced");
    let others = guard("stricter", "peers: ['spiffe://demo.example/other/*']");
    assert!(!allowed("{ policy: stricter }", &[others]).allowed, "it says nothing of this caller");

    let text = from("{ level: L0 }") + &from("{ policy: absent }").replace("name: calls", "name: other");
    let problem = parse("f", &text).unwrap_err()[0].to_string();
    assert!(problem.contains("attestation.level: is L0, which asks for no evidence"), "{problem}");
    let text = resources().replace("ROOT", &"00".repeat(32)) + &from("{ policy: everyon }");
    let problems = countersign_config::resource::check_set(&parse("f", &text).unwrap());
    assert_eq!(
        problems[0].to_string(),
        "AuthorizationPolicy payments/calls, spec.rules[0].from[0].attestation.policy: there is no AttestationPolicy \
         payments/everyon (did you mean `everyone`?)"
    );
}

#[test]
fn what_is_audited_is_what_matches_for_certain() {
    let world = under(&[
        policy("all", "Allow", "[{}]"),
        policy("watch", "Audit", "[{ to: [{ paths: ['/admin/*'] }] }]"),
        policy("port", "Audit", "[{ to: [{ ports: [8443] }] }]"),
    ]);
    let both =
        ["AuthorizationPolicy payments/port, rules[0]", "AuthorizationPolicy payments/watch, rules[0]"];
    assert_eq!(world.request("GET", "", "/admin/x").audited, both);
    assert_eq!(world.request("GET", "", "/").audited, both[..1]);
    assert_eq!(world.bytes().audited, both[..1]);
    assert_eq!(world.http().audited, [""; 0], "each request is audited by itself");
}

#[test]
fn a_request_is_explained() {
    let calls = policy("calls", "Allow", "[{ to: [{ paths: ['/v1/*'] }] }]");
    let view = WORLD.view(&(resources() + &calls));
    let explain = |request: Option<RequestFacts<'static>>| {
        view.explain_request(&id(LEDGER), &id(AUDIT), 8443, request.as_ref(), &Known::default(), at(60))
    };
    let some = explain(None);
    assert!(!some.authorization.allowed);
    let hint = "where the port serves HTTP, AuthorizationPolicy payments/calls, rules[0] for some requests";
    assert!(some.assumptions.iter().any(|a| a.contains(hint)), "{:?}", some.assumptions);
    assert!(explain(Some(RequestFacts::new("GET", "", "/v1/a"))).authorization.allowed);
    assert!(!explain(Some(RequestFacts::new("GET", "", "/v2"))).authorization.allowed);
}

#[test]
fn a_rule_that_could_never_match_is_a_slip() {
    let text = policy(
        "x",
        "Deny",
        "[{ to: [{ methods: [get], paths: [/a//b, 'v1/*', /a*b, '/a%2fb'], notHosts: ['a.example:80'] }, {}], \
           from: [{ namespaces: [A] }] }]",
    );
    let problems: Vec<_> = parse("f", &text).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = [
        "spec.rules[0].to[0].methods[0]: `get` is not a method such as GET or POST, in upper case",
        "spec.rules[0].to[0].paths[0]: `/a//b` never matches: such paths are taken as `/a/b`",
        "spec.rules[0].to[0].paths[1]: `v1/*` is not a path: it begins with / or *",
        "spec.rules[0].to[0].paths[2]: `/a*b`: a star stands at the start or at the end, and once",
        "spec.rules[0].to[0].paths[3]: `/a%2fb`: the path holds %2F",
        "spec.rules[0].to[0].notHosts[0]: `a.example:80` is not a host such as api.example.com or *.example.com, without a port",
        "spec.rules[0].to[1]: is empty",
        "spec.rules[0].from[0].namespaces[0]: `A` is not a name",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem}");
    }
}

/// A spelling of `/admin/keys` or of something below it, as servers read it.
fn spelling() -> impl Strategy<Value = String> {
    let letter = |byte: u8| {
        prop_oneof![
            3 => Just(char::from(byte).to_string()),
            1 => Just(format!("%{byte:02x}")),
            1 => Just(format!("%{byte:02X}")),
            1 => Just(format!("%25{byte:02x}")),
        ]
    };
    let word = move |text: &'static str| {
        text.bytes().map(letter).collect::<Vec<_>>().prop_map(|letters| letters.concat())
    };
    let slash = prop::sample::select(vec![
        "/", "//", "/./", "/x/../", "/%2e/", "/%2E%2e/", "%2f", "%2F", "\\", "%5c", "/..;/", "/.;/", "/;/",
        "/;a=b/", "///", "/x//../", "/x/..//", "/x/..%2f", "/x%2f../", "/x/..%5c", "%252f", "%c0%af",
        "/%00/",
    ]);
    let end = prop::sample::select(vec![
        "", "/", "/.", "//", ";", ";a", "%00", "?", "?x", "/x/..", "%3b", "/%2e", "#",
    ]);
    (slash.clone(), word("admin"), slash, word("keys"), end)
        .prop_map(|(a, admin, b, keys, end)| format!("{a}{admin}{b}{keys}{end}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the path is written: either it is denied, or what is sent on is no
    /// path below /admin, by whatever reading.
    #[test]
    fn no_spelling_evades_a_rule_that_denies(path in spelling()) {
        static UNDER: std::sync::LazyLock<World> = std::sync::LazyLock::new(|| {
            under(&[policy("all", "Allow", "[{}]"), policy("no", "Deny", "[{ to: [{ paths: ['/admin/*'] }] }]")])
        });
        if UNDER.allows("GET", "a.example", &path) {
            let facts = RequestFacts::new("GET", "a.example", &path);
            let sent = facts.path().unwrap_or_else(|why| panic!("{path}: allowed, though it {why}"));
            let plain = sent.to_ascii_lowercase().replace("%25", "%").replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
            prop_assert!(!plain.contains("/admin/"), "{path} is sent on as {sent}");
        }
    }

    /// And none makes a rule that allows match.
    #[test]
    fn no_spelling_widens_a_rule_that_allows(path in spelling()) {
        static UNDER: std::sync::LazyLock<World> =
            std::sync::LazyLock::new(|| under(&[policy("all", "Allow", "[{ to: [{ paths: [/admin/keys] }] }]")]));
        if UNDER.allows("GET", "a.example", &path) {
            let facts = RequestFacts::new("GET", "", &path);
            prop_assert_eq!(facts.path(), Ok("/admin/keys"));
        }
    }
}
