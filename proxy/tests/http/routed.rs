//! Requests of a workload to a Service with routes.

use countersign_config::bootstrap::ProxyBootstrap;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpStream;

use crate::spoken::{Spoken, nobody_called};
use crate::support::lines::Lines;
use crate::support::{LEDGER, Pair, WEB, World, assert_reset, within};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const ROUTES: &str = r#"
    - matches: [{ path: { type: PathPrefix, value: /v1 } }]
      filters:
        - type: URLRewrite
          urlRewrite: { hostname: inner.example, path: { type: ReplacePrefixMatch, replacePrefixMatch: /api } }
        - type: RequestHeaderModifier
          requestHeaderModifier: { set: [{ name: x-rule, value: one }], remove: [x-gone] }
        - type: ResponseHeaderModifier
          responseHeaderModifier: { add: [{ name: x-seen, value: "yes" }] }
      backendRefs: [{ name: ledger, port: 80 }]
    - matches: [{ path: { type: Exact, value: /old } }]
      filters:
        - type: RequestRedirect
          requestRedirect: { statusCode: 301, path: { type: ReplaceFullPath, replaceFullPath: /new } }
    - matches: [{ path: { type: Exact, value: /again } }]
      backendRefs: [{ name: ledger, port: 80 }]
      retry: { codes: [503], attempts: 1, backoff: 1ms }
    - matches: [{ path: { type: Exact, value: /both } }]
      filters:
        - type: RequestMirror
          requestMirror: { backendRef: { name: ledger, port: 80 } }
      backendRefs: [{ name: ledger, port: 80 }]
    - matches: [{ path: { type: Exact, value: /slow } }]
      backendRefs: [{ name: ledger, port: 80 }]
      timeouts: { request: 1s }
"#;

fn explicit(bootstrap: &mut ProxyBootstrap) {
    if bootstrap.inbound.is_none() {
        bootstrap.explicit = Some(ANY);
    }
}

/// A pair whose ledger is a Service with these rules, and with entries besides its own.
fn install(pair: &Pair, generation: u64, rules: &str, others: &[u16]) {
    install_as(pair, generation, rules, others, |text| text);
}

fn install_as(pair: &Pair, generation: u64, rules: &str, others: &[u16], change: impl Fn(String) -> String) {
    let document = |kind: &str, name: &str, spec: &str| {
        let version =
            if kind == "HTTPRoute" { "gateway.networking.k8s.io/v1" } else { "countersign.dev/v1alpha1" };
        format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{ name: {name}, namespace: payments }}\nspec:\n{spec}\n"
        )
    };
    let mut text = change(pair.world.text(&pair.policy(), ""));
    text += &document(
        "Service",
        "ledger",
        &format!(
            "  hosts: [ledger.payments]\n  ports: [{{ port: 80, targetPort: {}, appProtocol: HTTP }}]\n  selector: {{ matchLabels: {{ app: ledger }} }}",
            pair.port
        ),
    );
    for (i, port) in [pair.ledger.inbound().port()].iter().chain(others).enumerate() {
        let spec = format!(
            "  address: 127.0.0.1\n  proxyPort: {port}\n  workload: ledger\n  labels: {{ app: ledger }}"
        );
        text += &document("WorkloadEntry", &format!("ledger-{i}"), &spec);
    }
    let parents = "  parentRefs: [{ group: \"\", kind: Service, name: ledger, port: 80 }]\n  rules:";
    text += &document("HTTPRoute", "ledger", &format!("{parents}{rules}"));
    let view = pair.world.view_from(generation, &text);
    pair.web.ctx.install(&view);
    pair.ledger.ctx.install(&view);
}

/// The Service alone says what is spoken.
async fn routed(rules: &str, others: &[u16]) -> Pair {
    let pair = Pair::build(World::new(), explicit).await;
    install(&pair, 2, rules, others);
    pair
}

/// A connection of the application to the Service.
async fn application(pair: &Pair) -> Spoken {
    let mut spoken = Spoken(TcpStream::connect(pair.web.addresses.explicit.unwrap()).await.unwrap());
    spoken.say("CONNECT ledger.payments:80 HTTP/1.1\r\nhost: ledger.payments:80\r\n\r\n").await;
    spoken.hears("HTTP/1.1 200 Connection established\r\n\r\n").await;
    spoken
}

#[tokio::test]
async fn a_request_goes_where_its_route_says_in_the_form_that_it_says() {
    let (lines, _captured) = Lines::capture();
    let pair = routed(ROUTES, &[]).await;
    let mut application = application(&pair).await;
    application
        .say("GET /v1/x?q=1 HTTP/1.1\r\nhost: ledger.payments\r\nx-gone: 1\r\nx-countersign-peer: spiffe://evil\r\n\r\n")
        .await;
    let mut workload = Spoken::workload(&pair).await;
    let heard = workload.head().await;
    assert_eq!(heard.start, "GET /api/x?q=1 HTTP/1.1");
    assert_eq!(
        (heard.field("host"), heard.field("x-rule"), heard.field("x-gone")),
        (Some("inner.example"), Some("one"), None)
    );
    assert_eq!(heard.field("x-countersign-peer"), Some(WEB));
    workload.answer("fine").await;
    let answer = application.head().await;
    assert_eq!((answer.status(), answer.field("x-seen")), (200, Some("yes")));
    application.hears("fine").await;
    // On the same connections, with a body.
    application.say("POST /v1 HTTP/1.1\r\nhost: ledger.payments\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(workload.head().await.start, "POST /api HTTP/1.1");
    workload.hears("hi").await;
    workload.answer("").await;
    assert_eq!(application.head().await.status(), 200);
    application.get("/old").await;
    let moved = application.head().await;
    assert_eq!((moved.status(), moved.field("location")), (301, Some("http://ledger/new")));
    application.get("/nowhere").await;
    let nowhere = application.head().await;
    assert_eq!((nowhere.status(), nowhere.field("countersign-reason")), (404, Some("no-route")));
    assert!(nobody_called(&pair));
    drop(application);
    assert_eq!(workload.rest().await, "");
    pair.end().await;
    let access = lines.with("access");
    let line =
        access.iter().find(|line| line.contains("direction=\"outbound\"") && line.contains("path=\"/v1/x\""));
    let line = line.unwrap_or_else(|| panic!("{access:#?}"));
    for part in [
        "rule=\"HTTPRoute payments/ledger, rules[0]\"",
        &format!("dst.identity=\"{LEDGER}\""),
        &format!("src.identity=\"{WEB}\""),
        "status=200",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn what_may_be_made_again_is_and_what_has_a_body_is_not() {
    let pair = routed(ROUTES, &[]).await;
    let mut application = application(&pair).await;
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    application.get("/again").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say(unavailable).await;
    // Its answer was complete, so that the connection can be used again.
    assert_eq!(workload.head().await.start, "GET /again HTTP/1.1");
    workload.answer("fine").await;
    assert_eq!(application.head().await.status(), 200);
    application.hears("fine").await;
    application.say("POST /again HTTP/1.1\r\nhost: ledger\r\ncontent-length: 2\r\n\r\nhi").await;
    workload.head().await;
    workload.hears("hi").await;
    workload.say(unavailable).await;
    assert_eq!(application.head().await.status(), 503);
    pair.end().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_with_504() {
    let pair = routed(ROUTES, &[]).await;
    let mut application = application(&pair).await;
    // So that the hop is there.
    application.get("/again").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("").await;
    application.head().await;
    application.get("/slow").await;
    assert_eq!(workload.head().await.start, "GET /slow HTTP/1.1");
    let late = application.head().await;
    assert_eq!((late.status(), late.field("countersign-reason")), (504, Some("timeout")));
    // The workload need not go on.
    let end = within("the end", tokio::io::AsyncReadExt::read_u8(&mut workload.0)).await;
    assert!(end.is_err(), "{end:?}");
    pair.end().await;
}

#[tokio::test]
async fn a_copy_goes_elsewhere_and_nobody_waits_for_it() {
    let pair = routed(ROUTES, &[]).await;
    let mut application = application(&pair).await;
    application.get("/both").await;
    let (mut one, mut other) = (Spoken::workload(&pair).await, Spoken::workload(&pair).await);
    for workload in [&mut one, &mut other] {
        assert_eq!(workload.head().await.start, "GET /both HTTP/1.1");
    }
    // Either is the copy: both answer, and one answer comes.
    one.answer("fine").await;
    other.answer("fine").await;
    assert_eq!(application.head().await.status(), 200);
    application.hears("fine").await;
    application.get("/nowhere").await;
    assert_eq!(application.head().await.status(), 404);
    pair.end().await;
}

#[tokio::test]
async fn new_routes_decide_about_the_next_request_on_the_same_connection() {
    let pair = routed(ROUTES, &[]).await;
    let mut application = application(&pair).await;
    application.get("/new").await;
    assert_eq!(application.head().await.status(), 404);
    install(&pair, 3, "\n    - backendRefs: [{ name: ledger, port: 80 }]", &[]);
    application.get("/new").await;
    let mut workload = Spoken::workload(&pair).await;
    assert_eq!(workload.head().await.start, "GET /new HTTP/1.1");
    workload.answer("").await;
    assert_eq!(application.head().await.status(), 200);
    pair.end().await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_costs_no_request_even_one_with_a_body() {
    // A port that is held and does not listen.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind(ANY).unwrap();
    let pair = routed(ROUTES, &[held.local_addr().unwrap().port()]).await;
    for _ in 0..6 {
        let mut application = application(&pair).await;
        application.say("POST /v1 HTTP/1.1\r\nhost: ledger\r\ncontent-length: 2\r\n\r\nhi").await;
        let mut workload = Spoken::workload(&pair).await;
        workload.head().await;
        workload.hears("hi").await;
        workload.answer("").await;
        assert_eq!(application.head().await.status(), 200);
    }
    pair.end().await;
}

#[tokio::test]
async fn a_hop_that_is_cut_in_the_middle_of_an_answer_resets_the_application() {
    let pair = routed(ROUTES, &[]).await;
    let mut application = application(&pair).await;
    application.get("/v1").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 200 OK\r\n\r\nhalf").await;
    application.head().await;
    application.hears("4\r\nhalf\r\n").await;
    let changed = crate::support::Policy { mr_td: 0xaa, ..pair.policy() };
    pair.web.ctx.install(&pair.world.view(3, &changed));
    within("the end", assert_reset(&mut application.0)).await;
    within("the end", assert_reset(&mut workload.0)).await;
    pair.end().await;
}

#[tokio::test]
async fn the_application_reads_why_the_proxy_of_the_called_workload_refuses() {
    let (lines, _captured) = Lines::capture();
    let pair = routed(ROUTES, &[]).await;
    let only = format!("ports: [{}], methods: [GET]", pair.port);
    install_as(&pair, 3, ROUTES, &[], |text| text.replace(&format!("ports: [{}]", pair.port), &only));
    let mut application = application(&pair).await;
    application.say("PUT /v1/x HTTP/1.1\r\nhost: ledger\r\n\r\n").await;
    let refused = application.head().await;
    assert_eq!((refused.status(), refused.field("countersign-reason")), (403, Some("authorization-denied")));
    // A workload is no proxy.
    application.get("/v1/x").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 403 No\r\ncountersign-reason: revoked\r\ncontent-length: 0\r\n\r\n").await;
    let answer = application.head().await;
    assert_eq!((answer.status(), answer.field("countersign-reason")), (403, None));
    pair.end().await;
    let access = lines.with("access");
    let refused = access.iter().find(|line| line.contains("direction=\"outbound\"") && line.contains("PUT"));
    let refused = refused.unwrap_or_else(|| panic!("{access:#?}"));
    assert!(refused.contains("flags=\"DENY\" reason=\"authorization-denied\""), "{refused}");
}
