//! What could be read in two ways, byte by byte: it is refused here, and nothing of it
//! reaches the workload; or it has one reading when it leaves.

use countersign_config::kinds::service::AppProtocol::Http;

use crate::spoken::{Spoken, nobody_called, pair};

/// A smuggled request, which nobody may ever see.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: ledger\r\n\r\n";

#[tokio::test]
async fn requests_with_two_readings_are_refused_and_the_workload_sees_nothing() {
    let pair = pair(Http).await;
    for (request, status) in [
        // Lengths that contradict each other, or are no number.
        ("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: 5, 6\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: +5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: 0x5\r\n\r\nhello", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: -1\r\n\r\n", 400),
        // Codings whose end nobody knows, or that would be lost.
        ("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: chunked, gzip\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nhost: ledger\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        // Field names.
        ("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length : 5\r\n\r\nhello", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\nx: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\n x: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\nx(y): a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\nx: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\nx: a\rb: c\r\n\r\n", 400),
        // Hosts.
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger\r\nhost: other\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: ledger/x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: me@ledger\r\n\r\n", 400),
        ("GET http://other/ HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        // Targets and request lines.
        ("GET ledger:80 HTTP/1.1\r\nhost: ledger:80\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("CONNECT other:80 HTTP/1.1\r\nhost: other:80\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET / HTTP/1.2\r\nhost: ledger\r\n\r\n", 400),
        ("GET /\r\nhost: ledger\r\n\r\n", 400),
        ("G@T / HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET //../admin HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET /a%5c..%5cadmin HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET /a%2 HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET /a\\..\\admin HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET /a%00 HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("GET /a%0d%0ax:%20y HTTP/1.1\r\nhost: ledger\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400),
    ] {
        let mut application = Spoken::application(&pair).await;
        application.say(request).await;
        let refused = application.head().await;
        assert_eq!(refused.status(), status, "{request:?}");
        assert!(nobody_called(&pair), "{request:?}");
    }
    pair.end().await;
}

/// A length beside a coding: the coding counts, the length is gone, and so is the
/// connection afterwards (RFC 9112, section 6.3).
#[tokio::test]
async fn of_a_length_and_a_coding_the_coding_alone_leaves() {
    let pair = pair(Http).await;
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "content-length: 4\r\ntransfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let mut application = Spoken::application(&pair).await;
        application
            .say(format!("POST / HTTP/1.1\r\nhost: ledger\r\n{fields}\r\n\r\n1\r\na\r\n0\r\n\r\n{SMUGGLED}"))
            .await;
        let mut workload = Spoken::workload(&pair).await;
        let heard = workload.head().await;
        assert_eq!(heard.field("content-length"), None, "{fields}");
        assert_eq!(heard.field("transfer-encoding"), Some("chunked"), "{fields}");
        workload.hears("1\r\na\r\n0\r\n\r\n").await;
        workload.answer("").await;
        assert_eq!(application.head().await.status(), 200, "{fields}");
        assert_eq!(application.rest().await, "", "{fields}");
        assert_eq!(workload.rest().await, "", "{fields}");
    }
    pair.end().await;
}

/// Equal lengths are one length.
#[tokio::test]
async fn a_length_that_is_said_twice_leaves_once() {
    let pair = pair(Http).await;
    let mut application = Spoken::application(&pair).await;
    application
        .say("POST / HTTP/1.1\r\nhost: ledger\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi")
        .await;
    let mut workload = Spoken::workload(&pair).await;
    assert_eq!(workload.head().await.field("content-length"), Some("2"));
    workload.hears("hi").await;
    pair.end().await;
}

/// Chunks whose length nobody agrees on break the connection to the workload off.
#[tokio::test]
async fn a_chunk_that_is_none_ends_the_request_on_both_sides() {
    let pair = pair(Http).await;
    for chunk in ["1x\r\na\r\n", "-1\r\n", "fffffffffffffffff\r\n", "1\r\nabc\r\n0\r\n\r\n", "\r\n"] {
        let mut application = Spoken::application(&pair).await;
        application
            .say(format!(
                "POST / HTTP/1.1\r\nhost: ledger\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{SMUGGLED}"
            ))
            .await;
        let mut workload = Spoken::workload(&pair).await;
        let mut rest = Vec::new();
        // In order or not, with its head or without: what counts is that no request is complete.
        let _ = crate::support::within(
            "the end",
            tokio::io::AsyncReadExt::read_to_end(&mut workload.0, &mut rest),
        )
        .await;
        let rest = String::from_utf8(rest).unwrap();
        assert!(!rest.contains("smuggled") && !rest.contains("\r\n0\r\n\r\n"), "{chunk:?}: {rest:?}");
    }
    pair.end().await;
}
