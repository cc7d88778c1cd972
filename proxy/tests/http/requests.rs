//! What passes, and what the workload is told of the caller.

use countersign_config::kinds::service::AppProtocol::Http;
use tokio::io::AsyncWriteExt;

use crate::spoken::{Spoken, exchanged, pair};
use crate::support::lines::Lines;
use crate::support::{LEDGER, WEB};

#[tokio::test]
async fn the_workload_is_told_who_calls_and_nobody_else_can_say_so() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application
        .say(
            "GET /accounts/7?full HTTP/1.1\r\nHost: Ledger:80\r\nX-Countersign-Peer: spiffe://prod.example/evil\r\n\
             x_countersign_peer: spiffe://prod.example/evil\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\n\
             x-countersign-role: admin\r\nConnection: x-countersign-tee, X-Secret\r\nX-Secret: 1\r\n\
             X-Forwarded-For: 10.1.1.1\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\n\r\n",
        )
        .await;
    let mut workload = Spoken::workload(&pair).await;
    let heard = workload.head().await;
    assert_eq!(heard.start, "GET /accounts/7?full HTTP/1.1");
    assert_eq!(heard.field("x-countersign-peer"), Some(WEB));
    assert_eq!(heard.field("x-countersign-tee"), Some("emulated-tdx"));
    assert_eq!(heard.field("x-countersign-policy"), Some("payments/peers"));
    assert_eq!(heard.field("x-countersign-age"), Some("0"));
    assert_eq!(heard.field("x-countersign-verdict").unwrap().len(), 32);
    let leaf = pair.ledger.ctx.live.hops()[0].admission().presented.chain[0].clone();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &leaf);
    let xfcc = format!("By={LEDGER};Hash={};URI={WEB}", hex::encode(hash));
    assert_eq!(heard.field("x-forwarded-client-cert"), Some(xfcc.as_str()));
    assert_eq!(heard.field("host"), Some("ledger:80"));
    assert_eq!(heard.field("x-forwarded-for"), Some("10.1.1.1"));
    assert_eq!(heard.field("te"), Some("trailers"));
    assert_eq!(heard.field("traceparent").unwrap().len(), 55);
    for gone in [
        "x_countersign_peer",
        "x-countersign-role",
        "x-secret",
        "connection",
        "keep-alive",
        "proxy-connection",
    ] {
        assert_eq!(heard.field(gone), None, "{heard:?}");
    }
    workload
        .say("HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\ncountersign-reason: draining\r\ncontent-length: 2\r\n\r\nok")
        .await;
    let answer = application.head().await;
    assert_eq!(answer.fields, [("content-length".to_owned(), "2".to_owned())]);
    application.hears("ok").await;
    // Both connections are kept.
    exchanged(&mut application, &mut workload, "/again").await;
    pair.world.advance(7);
    application.get("/later").await;
    assert_eq!(workload.head().await.field("x-countersign-age"), Some("7"));
    pair.end().await;
}

#[tokio::test]
async fn bodies_pass_as_they_are_framed_with_trailers() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.say("POST /a HTTP/1.1\r\nhost: ledger\r\ncontent-length: 5\r\n\r\nhello").await;
    let mut workload = Spoken::workload(&pair).await;
    let heard = workload.head().await;
    assert_eq!((heard.field("content-length"), heard.field("transfer-encoding")), (Some("5"), None));
    workload.hears("hello").await;
    workload
        .say(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n",
        )
        .await;
    let answer = application.head().await;
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    // The caller did not ask for trailers.
    application.hears("3\r\nabc\r\n0\r\n\r\n").await;

    application
        .say(
            "POST /b HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: chunked\r\nte: trailers\r\ntrailer: x-sum, x-countersign-peer\r\n\r\n\
             3;ext=1\r\nabc\r\n0\r\nx-sum: 8\r\nx-countersign-peer: spiffe://evil\r\n\r\n",
        )
        .await;
    let heard = workload.head().await;
    assert_eq!((heard.field("transfer-encoding"), heard.field("te")), (Some("chunked"), Some("trailers")));
    workload.hears("3\r\nabc\r\n0\r\nx-sum: 8\r\n\r\n").await;
    workload
        .say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\ndef\r\n0\r\nx-sum: 9\r\n\r\n")
        .await;
    application.head().await;
    application.hears("3\r\ndef\r\n0\r\nx-sum: 9\r\n\r\n").await;
    pair.end().await;
}

#[tokio::test]
async fn a_body_passes_before_its_end_and_an_answer_before_the_body() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.say("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.hears("1\r\na\r\n").await;
    workload.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    application.head().await;
    application.hears("1\r\nx\r\n").await;
    application.say("1\r\nb\r\n0\r\n\r\n").await;
    workload.hears("1\r\nb\r\n0\r\n\r\n").await;
    workload.say("0\r\n\r\n").await;
    application.hears("0\r\n\r\n").await;
    exchanged(&mut application, &mut workload, "/next").await;
    pair.end().await;
}

#[tokio::test]
async fn head_and_continue_are_understood() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.say("HEAD /a HTTP/1.1\r\nhost: ledger\r\n\r\n").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
    assert_eq!(application.head().await.field("content-length"), Some("1000"));
    application
        .say("PUT /b HTTP/1.1\r\nhost: ledger\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        .await;
    let heard = workload.head().await;
    assert_eq!((heard.field("expect"), heard.field("content-length")), (Some("100-continue"), Some("3")));
    assert_eq!(application.head().await.start, "HTTP/1.1 100 Continue");
    application.say("abc").await;
    workload.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    workload.hears("abc").await;
    workload.answer("").await;
    assert_eq!(application.head().await.status(), 200);
    pair.end().await;
}

#[tokio::test]
async fn an_old_client_and_one_that_closes_get_their_whole_answer() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.say("GET / HTTP/1.0\r\n\r\n").await;
    let mut workload = Spoken::workload(&pair).await;
    assert_eq!(workload.head().await.start, "GET / HTTP/1.1");
    workload.answer("fine").await;
    assert!(application.rest().await.ends_with("\r\n\r\nfine"));
    let mut application = Spoken::application(&pair).await;
    application.say("GET / HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    let much = "x".repeat(3_000_000);
    let (mut workload, rest) = tokio::join!(
        async {
            workload.answer(&much).await;
            workload
        },
        application.rest()
    );
    assert!(rest.ends_with(&much), "{}", rest.len());
    // The workload's connection ends in order, too.
    assert_eq!(workload.rest().await, "");
    pair.end().await;
}

#[tokio::test]
async fn a_connection_is_upgraded_and_bytes_pass_until_each_side_has_ended() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n";
    application.say(format!("GET /chat HTTP/1.1\r\nhost: ledger\r\n{upgrade}")).await;
    let mut workload = Spoken::workload(&pair).await;
    let heard = workload.head().await;
    assert_eq!((heard.field("connection"), heard.field("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(heard.field("x-countersign-peer"), Some(WEB));
    workload
        .say("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nwelcome")
        .await;
    let answer = application.head().await;
    assert_eq!((answer.status(), answer.field("upgrade")), (101, Some("websocket")));
    application.hears("welcome").await;
    application.say("hello").await;
    workload.hears("hello").await;
    application.0.shutdown().await.unwrap();
    assert_eq!(workload.rest().await, "");
    workload.say("bye").await;
    workload.0.shutdown().await.unwrap();
    assert_eq!(application.rest().await, "bye");
    pair.end().await;
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application
        .say(
            "GET / HTTP/1.1\r\nhost: ledger\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
             http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    let mut workload = Spoken::workload(&pair).await;
    let heard = workload.head().await;
    assert_eq!((heard.field("upgrade"), heard.field("http2-settings")), (None, None));
    workload.answer("fine").await;
    assert_eq!(application.head().await.status(), 200);
    pair.end().await;
}

#[tokio::test]
async fn each_request_has_a_line_and_a_count_and_its_connection_none() {
    let (lines, _captured) = Lines::capture();
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/secret?token=1").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("fine").await;
    application.head().await;
    application.hears("fine").await;
    application.get("/a%00").await;
    let refused = application.head().await;
    assert_eq!((refused.status(), refused.field("countersign-reason")), (400, Some("bad-request")));
    exchanged(&mut application, &mut workload, "/next").await;
    drop(application);
    assert_eq!(workload.rest().await, "");
    let metrics = pair.ledger.metrics();
    let count = |code: u16, flags: &str| {
        metrics.lines().any(|line| {
            line.starts_with("istio_requests_total{")
                && line.contains(&format!("response_code=\"{code}\",response_flags=\"{flags}\""))
                && line.contains(&format!("source_principal=\"{WEB}\""))
                && line.ends_with(if code == 200 { " 2" } else { " 1" })
        })
    };
    assert!(count(200, "-") && count(400, "BAD_REQUEST"), "{metrics}");
    assert!(metrics.contains("istio_request_duration_milliseconds_bucket{"), "{metrics}");
    pair.end().await;
    let inbound: Vec<_> =
        lines.with("access").into_iter().filter(|line| line.contains("direction=\"inbound\"")).collect();
    assert_eq!(inbound.len(), 3, "{inbound:#?}");
    for part in
        ["method=GET", "path=\"/secret\"", "status=200", "bytes_sent=4", "peer.policy=\"payments/peers\""]
    {
        assert!(inbound[0].contains(part), "{part}: {}", inbound[0]);
    }
    assert!(!inbound[0].contains("token"), "{}", inbound[0]);
    assert!(inbound[1].contains("reason=\"bad-request\""), "{}", inbound[1]);
}

#[tokio::test]
async fn a_workload_that_is_away_or_breaks_off_is_said_to_be() {
    let mut pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    // An end without an answer.
    drop(workload);
    let refused = application.head().await;
    assert_eq!((refused.status(), refused.field("countersign-reason")), (503, Some("connect-failed")));
    // A connection that was kept and is closed is not used again.
    let mut workload = {
        application.get("/").await;
        Spoken::workload(&pair).await
    };
    workload.head().await;
    workload.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    application.head().await;
    drop(workload);
    application.get("/").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("").await;
    assert_eq!(application.head().await.status(), 200);
    drop(workload);
    let (elsewhere, _) = crate::support::workload().await;
    drop(std::mem::replace(&mut pair.workload, elsewhere));
    application.get("/").await;
    assert_eq!(application.head().await.status(), 503);
    pair.end().await;
}
