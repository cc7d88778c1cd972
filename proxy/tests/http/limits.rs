//! What is too much, or too slow.

use std::time::Duration;

use countersign_config::kinds::service::AppProtocol::Http;

use crate::spoken::{Spoken, exchanged, nobody_called, pair, pair_with};
use crate::support::{assert_reset, within};

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let pair = pair_with(Http, |bootstrap| bootstrap.limits.http.header_bytes = 8192).await;
    let long = "x".repeat(9000);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nhost: ledger\r\nx: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nhost: ledger\r\n{}\r\n", "x: 1\r\n".repeat(200)), 431),
        (format!("GET /{long} HTTP/1.1\r\nhost: ledger\r\n\r\n"), 431),
    ] {
        let mut application = Spoken::application(&pair).await;
        application.say(request).await;
        assert_eq!(application.head().await.status(), status);
        assert!(nobody_called(&pair));
    }
    pair.end().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_and_never_complete() {
    let pair = pair_with(Http, |bootstrap| bootstrap.limits.http.body_bytes = Some(10)).await;
    let mut application = Spoken::application(&pair).await;
    application.say("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: 11\r\n\r\n").await;
    let refused = application.head().await;
    assert_eq!((refused.status(), refused.field("countersign-reason")), (413, Some("request-too-large")));
    assert!(nobody_called(&pair));
    let mut application = Spoken::application(&pair).await;
    application
        .say("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: chunked\r\n\r\n6\r\naaaaaa\r\n")
        .await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.hears("6\r\naaaaaa\r\n").await;
    application.say("6\r\nbbbbbb\r\n0\r\n\r\n").await;
    assert_eq!(application.head().await.status(), 413);
    assert_eq!(workload.rest().await, "");
    // As long as it may be.
    let mut application = Spoken::application(&pair).await;
    application.say("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: 10\r\n\r\naaaaaaaaaa").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.hears("aaaaaaaaaa").await;
    workload.answer("").await;
    assert_eq!(application.head().await.status(), 200);
    pair.end().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_to_an_end_ends_the_connection() {
    let limit = Duration::from_millis(100);
    let pair = pair_with(Http, |bootstrap| bootstrap.limits.http.header_timeout = limit).await;
    for begun in ["G", "GET / HTTP/1.1\r\nhost: led", "PRI * HT"] {
        let mut application = Spoken::application(&pair).await;
        application.say(begun).await;
        within("the end", assert_reset(&mut application.0)).await;
    }
    assert!(nobody_called(&pair));
    // Who says nothing at all between two requests may take longer.
    let pair = {
        pair.end().await;
        pair_with(Http, |bootstrap| bootstrap.limits.http.header_timeout = limit).await
    };
    let mut application = Spoken::application(&pair).await;
    application.get("/first").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("").await;
    application.head().await;
    tokio::time::sleep(limit * 3).await;
    exchanged(&mut application, &mut workload, "/second").await;
    // And what has begun is still bounded.
    application.say("GET /third HT").await;
    within("the end", assert_reset(&mut application.0)).await;
    pair.end().await;
}

#[tokio::test]
async fn a_connection_without_a_byte_ends() {
    let pair = pair_with(Http, |bootstrap| bootstrap.limits.idle_timeout = Duration::from_millis(200)).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.answer("").await;
    application.head().await;
    within("the end", assert_reset(&mut application.0)).await;
    pair.end().await;
}

#[tokio::test]
async fn who_reads_slowly_holds_no_more_than_the_windows() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application.get("/").await;
    let mut workload = Spoken::workload(&pair).await;
    workload.head().await;
    workload.say("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await;
    // Nobody reads: at some point nothing more is taken.
    let much = vec![0; 1 << 20];
    let mut taken = 0;
    let stuck = async {
        loop {
            use tokio::io::AsyncWriteExt;
            taken += workload.0.write(&much).await.unwrap();
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), stuck).await;
    assert!(taken < 256 << 20, "{taken}");
    let hop = pair.ledger.ctx.live.hops().remove(0);
    assert!(hop.streams()[0].sent.load(std::sync::atomic::Ordering::Relaxed) < 64 << 20);
    pair.end().await;
}
