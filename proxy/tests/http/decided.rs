//! Each request is decided about by itself, and again when the rules change.

use std::sync::Arc;

use bytes::Bytes;
use countersign_config::View;
use countersign_config::kinds::service::AppProtocol::Http;
use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::spoken::{Spoken, exchanged, pair};
use crate::support::lines::Lines;
use crate::support::{Pair, assert_reset, eventually, within};

/// A view in which the web may make requests of this kind, and no others.
fn allowing(pair: &Pair, generation: u64, what: &str) -> Arc<View> {
    let text = pair.world.text(&pair.policy(), "");
    let port = format!("ports: [{}]", pair.port);
    assert!(text.contains(&port), "{text}");
    pair.world.view_from(generation, &text.replace(&port, &format!("{port}, {what}")))
}

async fn denied(application: &mut Spoken) {
    let refused = application.head().await;
    assert_eq!((refused.status(), refused.field("countersign-reason")), (403, Some("authorization-denied")));
}

#[tokio::test]
async fn a_method_or_a_path_that_no_rule_allows_is_403_and_the_connection_goes_on() {
    let (lines, _captured) = Lines::capture();
    let pair = pair(Http).await;
    pair.ledger.ctx.install(&allowing(&pair, 2, "methods: [GET], paths: [\"/public/*\"], hosts: [ledger]"));
    let mut application = Spoken::application(&pair).await;
    application.get("/public/a").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("fine").await;
    application.head().await;
    application.hears("fine").await;
    for request in [
        "GET /private HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "GET /public/../private HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "GET /public/%2e%2e/private HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "GET /public/..%2fprivate HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "GET /public%2Fa HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "DELETE /public/a HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "get /public/a HTTP/1.1\r\nhost: ledger\r\n\r\n",
        "GET /public/a HTTP/1.1\r\nhost: other\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: ledger\r\n\r\n",
    ] {
        application.say(request).await;
        denied(&mut application).await;
    }
    // What is allowed goes on in the form that was decided about.
    application.get("/public//x/../b").await;
    assert_eq!(workload.head().await.start, "GET /public/b HTTP/1.1");
    workload.answer("fine").await;
    assert_eq!(application.head().await.status(), 200);
    pair.end().await;
    let access = lines.with("access");
    let allowed =
        access.iter().find(|line| line.contains("path=\"/public/a\"") && line.contains("status=200"));
    assert!(allowed.unwrap().contains("rule=\"AuthorizationPolicy payments/"), "{access:#?}");
    let refused =
        access.iter().find(|line| line.contains("path=\"/private\"") && line.contains("status=403"));
    assert!(refused.unwrap().contains("default deny"), "{access:#?}");
}

#[tokio::test]
async fn new_rules_decide_about_the_next_request_on_the_same_connection() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/a").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("").await;
    application.head().await;
    pair.ledger.ctx.install(&allowing(&pair, 2, "paths: [/b]"));
    application.get("/a").await;
    denied(&mut application).await;
    exchanged(&mut application, &mut workload, "/b").await;
    pair.ledger.ctx.install(&pair.world.view(3, &pair.policy()));
    exchanged(&mut application, &mut workload, "/a").await;
    pair.end().await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_refused_when_the_rules_change() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/a").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    pair.ledger.ctx.install(&allowing(&pair, 2, "paths: [/b]"));
    denied(&mut application).await;
    assert_eq!(workload.rest().await, "");
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains("mesh_connections_revoked_total{cause=\"authorization\"} 1"), "{metrics}");
    // The stream itself goes on.
    application.get("/b").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("").await;
    assert_eq!(application.head().await.status(), 200);
    pair.end().await;
}

#[tokio::test]
async fn an_answer_on_its_way_and_an_upgraded_connection_end_when_the_rules_change() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/a").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    application.head().await;
    application.hears("half").await;
    let mut upgraded = Spoken::application(&pair).await;
    upgraded.say("GET /a HTTP/1.1\r\nhost: ledger\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
    let mut other = Spoken::workload(&pair).await;
    other.head().await;
    other.say("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello").await;
    upgraded.head().await;
    upgraded.hears("hello").await;
    pair.ledger.ctx.install(&allowing(&pair, 2, "paths: [/b]"));
    within("the end", assert_reset(&mut application.0)).await;
    within("the end", assert_reset(&mut workload.0)).await;
    within("the end", assert_reset(&mut upgraded.0)).await;
    within("the end", assert_reset(&mut other.0)).await;
    eventually("nothing is left", || pair.ledger.ctx.live.hops()[0].streams().is_empty()).await;
    pair.end().await;
}

#[tokio::test]
async fn of_the_requests_on_one_connection_those_end_that_may_not_go_on() {
    let pair = pair(Http).await;
    let socket = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| Request::builder().uri(format!("http://ledger{path}")).body(()).unwrap();
    let (a, _a) = client.send_request(ask("/a"), true).unwrap();
    let (b, _b) = client.send_request(ask("/b"), true).unwrap();
    let socket = Spoken::workload(&pair).await.0;
    let mut server = within("HTTP/2", h2::server::handshake(socket)).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (request, mut respond) = within("a request", server.accept()).await.unwrap().unwrap();
        let body = respond.send_response(Response::new(()), false).unwrap();
        streams.push((request.uri().path().to_owned(), body));
    }
    let serving = tokio::spawn(async move { while server.accept().await.is_some() {} });
    let (mut a, mut b) = (within("an answer", a).await.unwrap(), within("an answer", b).await.unwrap());
    assert_eq!((a.status(), b.status()), (StatusCode::OK, StatusCode::OK));
    pair.ledger.ctx.install(&allowing(&pair, 2, "paths: [/b]"));
    assert!(within("the end", a.body_mut().data()).await.unwrap().is_err());
    for (path, body) in &mut streams {
        if path == "/b" {
            body.send_data(Bytes::from_static(b"still"), true).unwrap();
        } else {
            // The workload is told, too.
            within("a reset", std::future::poll_fn(|cx| body.poll_reset(cx))).await.unwrap();
        }
    }
    assert_eq!(within("bytes", b.body_mut().data()).await.unwrap().unwrap(), "still");
    serving.abort();
    pair.end().await;
}
