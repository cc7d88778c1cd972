//! Workloads that say where they want to go, by SOCKS5 and HTTP CONNECT; and what
//! arrives where captured connections should.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use countersign_config::bootstrap::{Capture, ProxyBootstrap};
use support::{Pair, World, assert_reset, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn listening(bootstrap: &mut ProxyBootstrap) {
    if bootstrap.inbound.is_none() {
        bootstrap.explicit = Some(ANY);
        bootstrap.capture = Some(Capture { outbound: 0, inbound: 0 });
    }
}

/// The ledger as a Service of the mesh: port 80 is its workload, port 81 a port that
/// nobody may call, and there may be entries besides the true one.
fn services(pair: &Pair, others: &[u16]) -> String {
    let closed = pair.port.wrapping_add(1).max(1);
    let entry = |name: &str, port: u16| {
        format!(
            "---\napiVersion: countersign.dev/v1alpha1\nkind: WorkloadEntry\nmetadata: {{ name: {name}, namespace: payments }}\nspec: {{ address: 127.0.0.1, proxyPort: {port}, workload: ledger, labels: {{ app: ledger }} }}\n"
        )
    };
    let mut text = pair.world.text(&pair.policy(), "");
    text.push_str(&format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: Service\nmetadata: {{ name: ledger, namespace: payments }}\nspec:\n  hosts: [ledger.payments]\n  addresses: [10.96.0.10, \"fd96::10\"]\n  ports: [{{ port: 80, targetPort: {} }}, {{ port: 81, targetPort: {closed} }}]\n  selector: {{ matchLabels: {{ app: ledger }} }}\n---\napiVersion: countersign.dev/v1alpha1\nkind: Service\nmetadata: {{ name: nobody, namespace: payments }}\nspec:\n  hosts: [nobody.payments]\n  ports: [{{ port: 80 }}]\n  selector: {{ matchLabels: {{ app: nobody }} }}\n",
        pair.port
    ));
    text.push_str(&entry("ledger-0", pair.ledger.inbound().port()));
    for (i, port) in others.iter().enumerate() {
        text.push_str(&entry(&format!("ledger-{}", i + 1), *port));
    }
    text
}

fn install(pair: &Pair, others: &[u16]) {
    let view = pair.world.view_from(2, &services(pair, others));
    pair.web.ctx.install(&view);
    pair.ledger.ctx.install(&view);
}

async fn pair_with(others: &[u16]) -> Pair {
    let pair = Pair::build(World::new(), listening).await;
    install(&pair, others);
    pair
}

/// What the explicit listener answers to `request`, after a greeting if that is SOCKS5.
async fn ask(pair: &Pair, request: &[u8]) -> TcpStream {
    let mut app = TcpStream::connect(pair.web.addresses.explicit.unwrap()).await.unwrap();
    if request[0] == 5 {
        app.write_all(&[5, 1, 0]).await.unwrap();
        let mut method = [0; 2];
        app.read_exact(&mut method).await.unwrap();
        assert_eq!(method, [5, 0]);
    }
    app.write_all(request).await.unwrap();
    app
}

fn connect_to(authority: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

fn by_name(host: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap();
    [&[5, 1, 0, 3, length][..], host.as_bytes(), &port.to_be_bytes()].concat()
}

const GRANTED: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const HTTP_GRANTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The whole answer to a request that is refused.
async fn refused(pair: &Pair, request: &[u8]) -> Vec<u8> {
    let mut app = ask(pair, request).await;
    let mut answer = Vec::new();
    within("an answer", app.read_to_end(&mut answer)).await.unwrap();
    answer
}

async fn http_refused(pair: &Pair, request: &[u8]) -> String {
    String::from_utf8(refused(pair, request).await).unwrap()
}

#[tokio::test]
async fn names_and_addresses_of_a_service_lead_to_its_workload() {
    let pair = pair_with(&[]).await;
    let v6 = [&[5, 1, 0, 4, 0xfd, 0x96][..], &[0; 13], &[0x10, 0, 80]].concat();
    for (request, granted) in [
        (by_name("ledger.payments", 80), &GRANTED[..]),
        (by_name("LEDGER.payments.", 80), &GRANTED),
        (vec![5, 1, 0, 1, 10, 96, 0, 10, 0, 80], &GRANTED),
        (v6, &GRANTED),
        (connect_to("ledger.payments:80"), HTTP_GRANTED),
        (connect_to("10.96.0.10:80"), HTTP_GRANTED),
        (connect_to("[fd96::10]:80"), HTTP_GRANTED),
    ] {
        // The first bytes of the application may come before the answer.
        let mut app = ask(&pair, &[&request[..], b"hello"].concat()).await;
        let (mut server, _) = within("the workload", pair.workload.accept()).await.unwrap();
        let mut answer = vec![0; granted.len()];
        app.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, granted, "{}", request.escape_ascii());
        let mut hello = [0; 5];
        server.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");
        server.write_all(b"welcome").await.unwrap();
        drop(server);
        let mut rest = String::new();
        app.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "welcome");
    }
    // All of them are one destination.
    assert_eq!(pair.web.ctx.live.len(), 1);
    pair.end().await;
}

#[tokio::test]
async fn what_no_service_is_called_gets_the_error_of_the_protocol_and_is_counted() {
    let pair = pair_with(&[]).await;
    for request in
        [by_name("example.com", 443), by_name("ledger.payments", 8080), vec![5, 1, 0, 1, 1, 1, 1, 1, 0, 80]]
    {
        assert_eq!(refused(&pair, &request).await, [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    for authority in ["example.com:443", "1.1.1.1:80", "[2001:db8::1]:80"] {
        let answer = http_refused(&pair, &connect_to(authority)).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("apply a Service"), "{answer}");
        assert!(answer.contains("\r\ncountersign-reason: unknown-destination\r\n"), "{answer}");
    }
    let metrics = pair.web.metrics();
    let line = "mesh_connections_refused_total{direction=\"outbound\",reason=\"unknown-destination\"} 6\n";
    assert!(metrics.contains(line), "{metrics}");
    assert_eq!(pair.web.ctx.live.len(), 0);
    pair.end().await;
}

#[tokio::test]
async fn other_refusals_have_their_own_answers() {
    let pair = pair_with(&[]).await;
    let denied = http_refused(&pair, &connect_to("ledger.payments:81")).await;
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");
    assert!(denied.contains("\r\ncountersign-reason: authorization-denied\r\n"), "{denied}");
    assert_eq!(refused(&pair, &by_name("ledger.payments", 81)).await[1], 2);
    let empty = http_refused(&pair, &connect_to("nobody.payments:80")).await;
    assert!(empty.starts_with("HTTP/1.1 503 "), "{empty}");
    assert!(empty.contains("\r\ncountersign-reason: connect-failed\r\n"), "{empty}");
    assert_eq!(refused(&pair, &by_name("nobody.payments", 80)).await[1], 5);
    let get =
        http_refused(&pair, b"GET http://ledger.payments/ HTTP/1.1\r\nHost: ledger.payments\r\n\r\n").await;
    assert!(get.starts_with("HTTP/1.1 405 ") && get.contains("allow: CONNECT"), "{get}");
    pair.end().await;
}

#[tokio::test]
async fn who_says_nothing_whole_in_time_is_reset() {
    let change = |bootstrap: &mut ProxyBootstrap| {
        listening(bootstrap);
        if bootstrap.inbound.is_none() {
            bootstrap.limits.handshake_timeout = Duration::from_millis(50);
        }
    };
    let pair = Pair::build(World::new(), change).await;
    for part in [&b""[..], b"\x05", b"CONNECT ledger.payments:80 HTTP/1.1\r\n"] {
        let mut app = TcpStream::connect(pair.web.addresses.explicit.unwrap()).await.unwrap();
        app.write_all(part).await.unwrap();
        within("a reset", assert_reset(&mut app)).await;
    }
    pair.end().await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_costs_nobody_a_connection() {
    // A port that is held and does not listen.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind(ANY).unwrap();
    let dead = held.local_addr().unwrap().port();
    let pair = pair_with(&[dead]).await;
    for _ in 0..8 {
        let mut app = ask(&pair, &connect_to("ledger.payments:80")).await;
        let mut answer = vec![0; HTTP_GRANTED.len()];
        within("an answer", app.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, HTTP_GRANTED);
        within("the workload", pair.workload.accept()).await.unwrap();
    }
    pair.end().await;
}

#[tokio::test]
async fn destinations_beyond_the_limit_are_refused_and_idle_ones_make_room() {
    let other = TcpListener::bind(ANY).await.unwrap();
    let change = |bootstrap: &mut ProxyBootstrap| {
        listening(bootstrap);
        bootstrap.limits.hops = 1;
        bootstrap.limits.idle_timeout = Duration::from_millis(10);
    };
    let pair = Pair::build(World::new(), change).await;
    // The only Service is at another proxy now; the mapping still leads to the first.
    let text = services(&pair, &[]).replace(
        &format!("proxyPort: {}", pair.ledger.inbound().port()),
        &format!("proxyPort: {}", other.local_addr().unwrap().port()),
    );
    let view = pair.world.view_from(2, &text);
    pair.web.ctx.install(&view);
    pair.ledger.ctx.install(&view);
    let open = pair.connect().await;
    let full = http_refused(&pair, &connect_to("ledger.payments:80")).await;
    assert!(full.starts_with("HTTP/1.1 503 "), "{full}");
    assert!(full.contains("\r\ncountersign-reason: overloaded\r\n"), "{full}");
    drop(open);
    eventually("the hop goes", || pair.web.ctx.live.is_empty()).await;
    // Now there is room: the other proxy is asked, which is somebody else's test.
    let mut app = ask(&pair, &connect_to("ledger.payments:80")).await;
    let (asked, _) = within("a hop to the other proxy", other.accept()).await.unwrap();
    drop((asked, other));
    let mut answer = String::new();
    within("an answer", app.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    pair.end().await;
}

#[tokio::test]
async fn plaintext_that_was_captured_on_its_way_in_is_refused_and_counted() {
    let pair = pair_with(&[]).await;
    let line = |count| {
        format!(
            "mesh_connections_refused_total{{direction=\"inbound\",reason=\"plaintext-refused\"}} {count}\n"
        )
    };
    for (i, address) in pair.web.addresses.plaintext.iter().enumerate() {
        let ip = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        let mut stranger = TcpStream::connect((ip, address.port())).await.unwrap();
        within("a reset", assert_reset(&mut stranger)).await;
        let metrics = pair.web.metrics();
        assert!(metrics.contains(&line(i + 1)), "{metrics}");
    }
    pair.end().await;
}

#[tokio::test]
async fn a_connection_to_the_captured_port_itself_leads_nowhere() {
    let pair = pair_with(&[]).await;
    for address in &pair.web.addresses.captured {
        let mut app = TcpStream::connect(address).await.unwrap();
        within("a reset", assert_reset(&mut app)).await;
    }
    // The same by asking for it: no Service has such an address.
    let own = pair.web.addresses.explicit.unwrap().to_string();
    let answer = http_refused(&pair, &connect_to(&own)).await;
    assert!(answer.contains("countersign-reason: unknown-destination"), "{answer}");
    let metrics = pair.web.metrics();
    assert!(metrics.contains("response_flags=\"IDENTITY_ERROR\""), "{metrics}");
    pair.end().await;
}
