//! Bytes through two proxies: what passes, what does not, and what is cut.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use countersign_attester::emulated::TdxSpec;
use countersign_config::{Guard, View};
use countersign_evidence::{Denial, Reason, UnixTime};
use countersign_proxy::context::{Context, Credentials};
use countersign_proxy::live::Cause;
use countersign_ratls::peer::{Admission, Judge, Role};
use http::{Method, StatusCode};
use rustls_pki_types::CertificateDer;
use std::sync::{Arc, Mutex};
use support::raw::Raw;
use support::{LEDGER, Pair, Policy, WEB, World, assert_reset, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn bytes_pass_both_ways_and_each_side_may_finish_first() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    server.write_all(b"welcome").await.unwrap();
    let mut welcome = [0; 7];
    app.read_exact(&mut welcome).await.unwrap();
    assert_eq!(&welcome, b"welcome");
    // The application has said all; the workload still answers.
    app.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    server.write_all(b"bye").await.unwrap();
    drop(server);
    let mut rest = String::new();
    app.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
    let metrics = pair.ledger.metrics();
    let labels = format!(
        "{{connection_security_policy=\"mutual_tls\",destination_principal=\"{LEDGER}\",reporter=\"destination\",request_protocol=\"tcp\",source_principal=\"{WEB}\"}}"
    );
    assert!(metrics.contains(&format!("istio_tcp_received_bytes_total{labels} 5\n")), "{metrics}");
    assert!(metrics.contains(&format!("istio_tcp_sent_bytes_total{labels} 10\n")), "{metrics}");
    assert!(metrics.contains("emulated=\"true\",policy=\"payments/peers\""), "{metrics}");
    pair.end().await;
}

#[tokio::test]
async fn many_connections_share_one_hop_and_bulk_data_arrives_whole() {
    let pair = Pair::new().await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(pair.connect().await);
    }
    assert_eq!(pair.web.ctx.live.len(), 1);
    assert_eq!(pair.ledger.ctx.live.hops()[0].streams().len(), 20);
    let (mut app, mut server) = connections.pop().unwrap();
    let bulk: Vec<u8> = (0..12_000_000_u32).map(|i| (i % 251) as u8).collect();
    let expected = bulk.clone();
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = server.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let (mut read, mut write) = app.split();
    let send = async {
        write.write_all(&bulk).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let ((), read) = tokio::join!(send, read.read_to_end(&mut received));
    read.unwrap();
    assert!(received == expected);
    echo.await.unwrap();
    pair.end().await;
}

#[tokio::test]
async fn a_port_that_no_policy_allows_is_refused_and_the_workload_sees_nothing() {
    let pair = Pair::new().await;
    let mut app = TcpStream::connect(pair.web.addresses.outbound[1]).await.unwrap();
    assert_reset(&mut app).await;
    let metrics = pair.ledger.metrics();
    let opened = metrics.lines().find(|l| l.starts_with("istio_tcp_connections_opened_total{"));
    assert!(opened.unwrap().ends_with(" 0"), "{metrics}");
    // The hop itself is fine, and the allowed port still answers on it.
    drop(pair.connect().await);
    assert_eq!(pair.web.ctx.live.len(), 1);
    pair.end().await;
}

#[tokio::test]
async fn each_refusal_of_a_request_has_its_status_and_reason() {
    let pair = Pair::at("L1", World::new(), |_| {}).await;
    let mut hop = Raw::connect(&pair).await;
    let allowed = pair.port;
    let closed = allowed.wrapping_add(1).max(1);
    for (method, uri, status, reason) in [
        (Method::CONNECT, "ledger:0".to_owned(), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::CONNECT, format!("user@ledger:{allowed}"), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::CONNECT, "ledger".to_owned(), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::GET, format!("http://ledger:{allowed}/"), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::CONNECT, format!("ledger:{closed}"), StatusCode::FORBIDDEN, "authorization-denied"),
        (Method::CONNECT, "ledger:1".to_owned(), StatusCode::FORBIDDEN, "authorization-denied"),
    ] {
        let (head, headers) = hop.ask(method, &uri).await;
        assert_eq!((head, headers["countersign-reason"].to_str().unwrap()), (status, reason), "{uri}");
    }
    let (status, headers) = hop.ask(Method::CONNECT, &format!("ledger:{allowed}")).await;
    assert_eq!(status, StatusCode::OK);
    // Only who may call a port learns that it is not there.
    let more = Policy { ports: vec![allowed, 1], ..pair.policy() };
    pair.ledger.ctx.install(&pair.world.view(2, &more));
    let (head, told) = hop.ask(Method::CONNECT, "ledger:1").await;
    assert_eq!(
        (head, told["countersign-reason"].to_str().unwrap()),
        (StatusCode::FORBIDDEN, "port-not-offered")
    );
    assert!(headers["forwarded"].to_str().unwrap().contains("by="));
    pair.end().await;
}

#[tokio::test]
async fn a_workload_that_does_not_listen_is_503() {
    let mut pair = Pair::at("L1", World::new(), |_| {}).await;
    let (elsewhere, _) = support::workload().await;
    // The pair keeps the port: nobody else listens on it.
    drop(std::mem::replace(&mut pair.workload, elsewhere));
    let mut hop = Raw::connect(&pair).await;
    let (status, headers) = hop.ask(Method::CONNECT, &format!("ledger:{}", pair.port)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["countersign-reason"], "connect-failed");
    pair.end().await;
}

#[tokio::test]
async fn a_policy_that_no_longer_admits_a_peer_cuts_its_hop_and_both_sockets() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let hop = pair.ledger.ctx.live.hops().remove(0);
    let changed = Policy { mr_td: 0xaa, ..pair.policy() };
    pair.ledger.ctx.install(&pair.world.view(2, &changed));
    // Decided before `install` returns.
    let Some(Cause::Verdict(denial)) = hop.cut.cause() else { panic!("{:?}", hop.cut.cause()) };
    assert_eq!(denial.reason, Reason::MeasurementMismatch);
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains("mesh_connections_revoked_total{cause=\"verdict\"} 1"), "{metrics}");
    assert!(metrics.contains("mesh_policy_generation 2"), "{metrics}");
    // It does not come back: the next handshake is refused, with an alert.
    let mut app = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    assert_reset(&mut app).await;
    pair.end().await;
}

#[tokio::test]
async fn the_caller_cuts_a_callee_that_its_own_policy_no_longer_admits() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let changed = Policy { mr_td: 0xaa, ..pair.policy() };
    pair.web.ctx.install(&pair.world.view(2, &changed));
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    pair.end().await;
}

#[tokio::test]
async fn a_call_that_is_no_longer_authorized_is_cut_and_the_hop_stays() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let hop = pair.ledger.ctx.live.hops().remove(0);
    let changed = Policy { ports: vec![1], ..pair.policy() };
    pair.ledger.ctx.install(&pair.world.view(2, &changed));
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    assert!(hop.cut.cause().is_none());
    pair.end().await;
}

#[tokio::test]
async fn a_generation_that_changes_nothing_cuts_nothing() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    pair.ledger.ctx.install(&pair.world.view(2, &pair.policy()));
    pair.web.ctx.install(&pair.world.view(2, &pair.policy()));
    let hop = pair.ledger.ctx.live.hops().remove(0);
    // Nobody was judged again, and the verdict holds.
    assert_eq!(hop.current(&pair.ledger.ctx).unwrap().generation, 1);
    app.write_all(b"still").await.unwrap();
    let mut still = [0; 5];
    server.read_exact(&mut still).await.unwrap();
    assert_eq!(&still, b"still");
    pair.end().await;
}

#[tokio::test]
async fn a_change_judges_those_again_that_it_affects() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let ctx = &pair.ledger.ctx;
    let hop = ctx.live.hops().remove(0);
    let generations = || (hop.admission().generation, hop.proof().unwrap().generation);
    let changed = |generation, from: &str, to: &str| {
        let text = pair.world.text(&pair.policy(), "");
        assert!(text.contains(from), "{text}");
        pair.world.view_from(generation, &text.replace(from, to))
    };
    assert_eq!(generations(), (1, 1));
    // Who may call is not what the peer must prove.
    let call = format!("ports: [{}]", pair.port);
    ctx.install(&changed(2, &call, &format!("ports: [1, {}]", pair.port)));
    assert_eq!(generations(), (1, 1));
    // Nor are another workload's labels.
    ctx.install(&changed(3, "labels: { app: web }", "labels: { app: web, tier: front }"));
    assert_eq!(generations(), (1, 1));
    // One more release.
    let more = format!("    - {{ name: another, mrTd: \"{}\" }}\n", "ab".repeat(48));
    let (policy, head) = ("kind: AttestationPolicy", "---\napiVersion: countersign.dev/v1alpha1\n");
    ctx.install(&changed(4, &format!("{head}{policy}"), &format!("{more}{head}{policy}")));
    assert_eq!(generations(), (4, 4));
    // Back again, and our own labels.
    ctx.install(&pair.world.view(5, &pair.policy()));
    assert_eq!(generations(), (5, 5));
    ctx.install(&changed(6, "labels: { app: ledger }", "labels: { app: ledger, tier: back }"));
    assert_eq!(generations(), (6, 6));
    assert!(pair.ledger.metrics().contains("mesh_hops_untracked 0"));
    app.write_all(b"still").await.unwrap();
    let mut still = [0; 5];
    server.read_exact(&mut still).await.unwrap();
    pair.end().await;
}

#[tokio::test]
async fn what_a_policy_in_mode_audit_would_refuse_is_counted_and_goes_on() {
    let pair = Pair::new().await;
    let audit = "---\napiVersion: countersign.dev/v1alpha1\nkind: AttestationPolicy\n\
                 metadata: { name: stricter, namespace: payments }\n\
                 spec: { mode: Audit, anyOf: [{ tdx: { measurements: Any } }] }\n";
    let view = pair.world.view_from(2, &(pair.world.text(&pair.policy(), "") + audit));
    let count = |proxy: &support::Proxy| {
        let metrics = proxy.metrics();
        let line = metrics.lines().find(|line| line.starts_with("mesh_policy_audit_denials_total{"))?;
        assert!(line.contains("policy=\"payments/stricter\",reason=\"emulated-not-admitted\""), "{line}");
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let (mut app, mut server) = pair.connect().await;
    // On a live hop: by its certificate, and by what it proved.
    assert_eq!(count(&pair.ledger), None);
    pair.ledger.ctx.install(&view);
    assert_eq!(count(&pair.ledger), Some(2));
    app.write_all(b"still").await.unwrap();
    let mut still = [0; 5];
    server.read_exact(&mut still).await.unwrap();
    pair.web.ctx.install(&view);
    assert_eq!(count(&pair.web), Some(2));
    pair.end().await;
}

/// Judges as somebody else does, and then lets the configuration change.
#[derive(Debug)]
struct Overtaken {
    judge: Guard,
    ctx: Arc<Context>,
    next: Mutex<Option<Arc<View>>>,
}

impl Judge for Overtaken {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Admission>, Denial> {
        let judged = self.judge.judge(chain, role, now);
        if let Some(next) = self.next.lock().unwrap().take() {
            self.ctx.install(&next);
        }
        judged
    }
}

#[tokio::test]
async fn a_view_that_comes_between_a_verdict_and_its_hop_cuts_it() {
    let world = World::new();
    let identity = world.identity(LEDGER, &*world.platform(TdxSpec::default()));
    // Without a session, in which the peer would be judged by the view that came.
    let pair = Pair::at("L1", world, |_| {}).await;
    let ctx = &pair.ledger.ctx;
    let judge = Overtaken {
        judge: Guard::new(identity.id.clone().unwrap(), Arc::clone(&ctx.view), 8),
        ctx: Arc::clone(ctx),
        next: Mutex::new(Some(pair.world.view(2, &Policy { mr_td: 0xaa, ..pair.policy() }))),
    };
    let credentials = Credentials::new(identity, Arc::new(judge), ctx).unwrap();
    ctx.credentials.send_replace(Some(Arc::new(credentials)));
    // The handshake was admitted by a view that is gone: no sweep has seen this hop.
    let mut app = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    assert_reset(&mut app).await;
    assert_eq!(ctx.view.load().generation, 2);
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains("reason=\"measurement-mismatch\",result=\"deny\""), "{metrics}");
    pair.end().await;
}

#[tokio::test]
async fn a_hop_does_not_outlive_the_certificates_it_rests_on() {
    // Without rounds, of which there are many in that time.
    let pair = Pair::at("L1", World::new(), |_| {}).await;
    let (mut app, mut server) = pair.connect().await;
    let hop = pair.ledger.ctx.live.hops().remove(0);
    pair.world.advance(hop.until() - support::NOW - 1);
    pair.ledger.ctx.live.expire(&pair.ledger.ctx);
    assert!(hop.cut.cause().is_none());
    pair.world.advance(2);
    pair.ledger.ctx.live.expire(&pair.ledger.ctx);
    let Some(Cause::Expired(denial)) = hop.cut.cause() else { panic!("{:?}", hop.cut.cause()) };
    assert_eq!(denial.reason, Reason::SvidExpired);
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    pair.end().await;
}

#[tokio::test]
async fn a_peer_with_other_measurements_gets_no_hop_and_the_application_a_reset() {
    let world = World::new();
    let strange = world.platform(TdxSpec { mr_td: [0xaa; 48], ..TdxSpec::default() });
    let identity = world.identity(WEB, &*strange);
    let pair = Pair::build(world, |_| {}).await;
    let guard = Arc::new(Guard::new(identity.id.clone().unwrap(), Arc::clone(&pair.web.ctx.view), 8));
    let ctx = &pair.web.ctx;
    let credentials = countersign_proxy::context::Credentials::new(identity, guard, ctx).unwrap();
    ctx.credentials.send_replace(Some(Arc::new(credentials)));
    let mut app = TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap();
    // What the application sends first must not arrive anywhere; it may not even be taken.
    let _ = app.write_all(b"secret").await;
    assert_reset(&mut app).await;
    assert!(pair.ledger.ctx.live.is_empty());
    let metrics = pair.ledger.metrics();
    assert!(metrics.contains("reason=\"measurement-mismatch\",result=\"deny\""), "{metrics}");
    pair.end().await;
}

#[tokio::test]
async fn draining_lets_streams_finish_and_refuses_new_connections() {
    let pair = Pair::new().await;
    let (mut app, mut server) = pair.connect().await;
    let readiness = pair.web.addresses.readiness;
    pair.web.drain.begin();
    let mut outbound = TcpStream::connect(pair.web.addresses.outbound[0]).await;
    if let Ok(socket) = &mut outbound {
        // Accepted by the kernel before the listener was closed.
        assert_reset(socket).await;
    }
    let (status, report) = http(readiness, "GET /healthz/ready").await;
    assert_eq!(status, 503);
    assert!(report.starts_with("draining\n"), "{report}");
    app.write_all(b"last").await.unwrap();
    let mut last = [0; 4];
    server.read_exact(&mut last).await.unwrap();
    drop(app);
    drop(server);
    pair.web.task.await.unwrap();
    pair.ledger.end().await;
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_by_cutting() {
    let pair = Pair::build(World::new(), |b| b.drain_timeout = std::time::Duration::ZERO).await;
    let (mut app, mut server) = pair.connect().await;
    pair.ledger.drain.begin();
    pair.ledger.task.await.unwrap();
    assert_reset(&mut app).await;
    assert_reset(&mut server).await;
    pair.web.end().await;
}
