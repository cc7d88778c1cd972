//! What an attacker tries on hops: each test is an attack and what stops it.
#![allow(clippy::large_futures, reason = "a test")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::time::Duration;

use countersign_attester::emulated::{CollateralSpec, SvnLevel, TcbLevel, TdxSpec, Vendor};
use countersign_evidence::Reason;
use countersign_evidence::collateral::Item;
use countersign_ratls::Identity;
use countersign_ratls::peer::MAX_CHAIN_BYTES;
use countersign_ratls::tls::ALPN_MESH;
use countersign_tests::attacker::{Answer, Impostor, Offer, Raw, evidence, key};
use countersign_tests::http::http;
use countersign_tests::pair::refused;
use countersign_tests::workload::{is_reset, passes};
use countersign_tests::{DAY, Pair, Platform, Policy, Proxy, START, Workload, eventually, policy, within};
use http::StatusCode;
use rustls::HandshakeKind;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One attempt on ledger's inbound listener.
async fn attempt(pair: &Pair, offer: Offer) -> Answer {
    Raw::new(offer, &pair.mesh.clock).connect(pair.ledger.inbound(), pair.workload.port).await.1
}

/// An attempt that must end in this alert, for this reason, and reach nobody.
async fn is_refused(pair: &Pair, identity: &Identity, reason: Reason) {
    let before = pair.ledger.denials(reason);
    let answer = attempt(pair, Offer::of(identity)).await;
    assert_eq!(answer, Answer::Alert(reason.tls_alert()), "{reason}");
    assert_eq!(pair.ledger.denials(reason), before + 1.0, "{reason}: {}", pair.ledger.metrics());
}

/// A web whose ledger is an impostor: the application is cut off, the impostor
/// hears nothing, and the reason is counted.
async fn is_not_believed(pair: &Pair, impostor: &Identity, reason: Reason) {
    let mut impostor = Impostor::start(impostor, &pair.mesh.clock, ALPN_MESH).await;
    let caller = pair.mesh.sidecar("web").calling("ledger", impostor.address, pair.workload.port);
    let web = caller.ready().await;
    refused(&web).await;
    assert!(impostor.visitor().await.is_err(), "{reason}: the impostor got a connection");
    assert!(web.denials(reason) >= 1.0, "{reason}: {}", web.metrics());
    web.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_never_resumed_and_every_connection_is_judged() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let peer = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let client = Raw::new(Offer::proving(&peer, &platform), &pair.mesh.clock);
    let before = pair.ledger.admissions();
    for count in 1..=2 {
        let (kind, answer) = client.connect(pair.ledger.inbound(), pair.workload.port).await;
        assert_eq!(kind, Some(HandshakeKind::Full), "connection {count}");
        assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
        assert_eq!(pair.ledger.admissions(), before + f64::from(count));
        drop(pair.workload.accept().await);
    }
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_must_have_a_certificate_and_speak_our_protocol() {
    let pair = Pair::start().await;
    assert_eq!(
        attempt(&pair, Offer::anonymous()).await,
        Answer::Alert(Reason::CertificateRequired.tls_alert())
    );
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let peer = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    for alpn in [Vec::new(), vec![b"http/1.1".to_vec()]] {
        let offer = Offer { alpn, ..Offer::of(&peer) };
        assert_eq!(attempt(&pair, offer).await, Answer::Alert(Reason::NoApplicationProtocol.tls_alert()));
    }
    // A self-signed certificate, as for the first contact with the control plane.
    let bootstrap = Identity::bootstrap(&key(), pair.mesh.clock.now()).unwrap();
    let answer = attempt(&pair, Offer::of(&bootstrap)).await;
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_ca_key_admits_nobody() {
    let pair = Pair::start().await;
    let mesh = &pair.mesh;
    let honest = Platform::default().attester(&mesh.vendor);
    let web = policy::id("web");
    let (thief, victim) = (key(), key());

    // No evidence at all; evidence of another key; and machines that policy does not admit.
    is_refused(&pair, &mesh.forge(&web, &thief, None), Reason::EvidenceMissing).await;
    let relayed = evidence(&victim, &*honest);
    is_refused(&pair, &mesh.forge(&web, &thief, Some(&relayed)), Reason::BindingMismatch).await;
    let modified = Platform::tdx(0xbb).attester(&mesh.vendor);
    is_refused(&pair, &mesh.forge_on("web", &*modified), Reason::MeasurementMismatch).await;
    let debuggable = Platform::debuggable().attester(&mesh.vendor);
    is_refused(&pair, &mesh.forge_on("web", &*debuggable), Reason::Debug).await;
    let stranger = Vendor::generate(mesh.clock.now(), Duration::from_secs(DAY)).unwrap();
    let stranger = stranger.tdx(TdxSpec::default()).unwrap();
    is_refused(&pair, &mesh.forge_on("web", &*stranger), Reason::UntrustedRoot).await;

    // The same CA with an honest machine is what the control plane does: the tests above can fail.
    let answer = attempt(&pair, Offer::proving(&mesh.forge_on("web", &*honest), &honest)).await;
    assert_eq!(answer, Answer::Connect(StatusCode::OK, String::new()));
    drop(pair.workload.accept().await);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_own_good_evidence_hears_no_byte_of_the_application() {
    let pair = Pair::start().await;
    let mesh = &pair.mesh;
    let honest = Platform::default().attester(&mesh.vendor);
    let ledger = policy::id("ledger");
    let thief = key();
    is_not_believed(&pair, &mesh.forge(&ledger, &thief, None), Reason::EvidenceMissing).await;
    let relayed = evidence(&key(), &*honest);
    is_not_believed(&pair, &mesh.forge(&ledger, &thief, Some(&relayed)), Reason::BindingMismatch).await;
    let modified = Platform::tdx(0xbb).attester(&mesh.vendor);
    is_not_believed(&pair, &mesh.forge_on("ledger", &*modified), Reason::MeasurementMismatch).await;
    // A genuine peer, on a good machine, that is not the one that was asked for.
    let audit = mesh.plane().enrol(&*honest, "audit").await.unwrap();
    is_not_believed(&pair, &audit, Reason::IdentityMismatch).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_that_is_diverted_to_another_workload_does_not_arrive() {
    let pair = Pair::start().await;
    let target = Workload::start().await;
    let audit = pair.mesh.sidecar("audit").serving(&[target.port]).ready().await;
    let web = pair.mesh.sidecar("web").calling("ledger", audit.inbound(), target.port).ready().await;
    refused(&web).await;
    assert_eq!(web.denials(Reason::IdentityMismatch), 1.0, "{}", web.metrics());
    assert_eq!(audit.count("istio_tcp_connections_opened_total", &[]), 0.0);
    web.end().await;
    audit.end().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_its_key_is_nothing() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let victim = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let thief = pair.mesh.forge(&policy::id("web"), &key(), None);
    // The victim's chain with all of its evidence, as everybody sees it on the wire.
    let offer = Offer { certificate: Some((victim.chain.clone(), thief.key.clone())), ..Offer::of(&thief) };
    let before = pair.ledger.admissions();
    let answer = attempt(&pair, offer).await;
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
    assert_eq!(pair.ledger.admissions(), before);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_admitted_may_still_not_call_whom_it_wants() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let audit = pair.mesh.plane().enrol(&*platform, "audit").await.unwrap();
    let denied = Answer::Connect(StatusCode::FORBIDDEN, Reason::AuthorizationDenied.code().to_owned());
    assert_eq!(attempt(&pair, Offer::proving(&audit, &platform)).await, denied);
    // A port of this host that is not the workload's, by a caller that may call the workload.
    let web = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let admin = pair.ledger.addresses.admin.port();
    let client = Raw::new(Offer::proving(&web, &platform), &pair.mesh.clock);
    assert_eq!(client.connect(pair.ledger.inbound(), admin).await.1, denied);
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_in_plaintext_and_no_slow_client_holds_on() {
    let pair = Pair::start().await;
    for plain in [
        &b"GET / HTTP/1.1\r\nhost: ledger\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
    ] {
        let mut socket = TcpStream::connect(pair.ledger.inbound()).await.unwrap();
        socket.write_all(plain).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = within("the end of a plaintext connection", socket.read_to_end(&mut answer)).await;
        assert!(answer.first().is_none_or(|kind| *kind == 21), "an alert or nothing: {answer:?}");
    }
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go_in_every_state() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let web = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();
    let target = Workload::start().await;
    let hasty =
        pair.mesh.sidecar("audit").hasty(Duration::from_secs(2)).serving(&[target.port]).ready().await;
    // Nothing; half a record; a handshake and then silence.
    let silent = TcpStream::connect(hasty.inbound()).await.unwrap();
    let mut half = TcpStream::connect(hasty.inbound()).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    for mut socket in [silent, half] {
        let ended = within("the end of a slow client", socket.read_to_end(&mut Vec::new())).await;
        assert_eq!(ended.unwrap_or(0), 0, "bytes for nobody");
    }
    // A handshake, and silence at the gate.
    let client = Raw::new(Offer::of(&web), &pair.mesh.clock);
    let silent = tokio::spawn({
        let at = hasty.inbound();
        async move { client.stay_silent(at).await }
    });
    eventually("somebody before the gate", async || {
        let hops = hasty.ctx.live.len();
        if hops > 0 { Ok(()) } else { Err(hops) }
    })
    .await;
    pair.mesh.clock.advance(11);
    silent.await.unwrap();
    eventually("nobody is left", async || {
        let hops = hasty.ctx.live.len();
        if hops == 0 { Ok(()) } else { Err(hops) }
    })
    .await;
    hasty.end().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_certificates_and_headers_are_refused_by_size() {
    let pair = Pair::start().await;
    let platform = Platform::default().attester(&pair.mesh.vendor);
    let peer = pair.mesh.plane().enrol(&*platform, "web").await.unwrap();

    let padded = |to: usize| {
        let mut large = peer.clone();
        let sizes: usize = peer.chain.iter().map(|c| c.len()).sum();
        large.chain.push(CertificateDer::from(vec![0x30; to - sizes]));
        large
    };
    is_refused(&pair, &padded(MAX_CHAIN_BYTES + 1), Reason::Oversized).await;
    // More than a message of TLS may hold: nobody is asked at all.
    let answer = attempt(&pair, Offer::of(&padded(66 << 10))).await;
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
    let mut long = peer.clone();
    long.chain.extend(std::iter::repeat_n(peer.chain[0].clone(), 8));
    is_refused(&pair, &long, Reason::Oversized).await;

    let client = Raw::new(Offer::proving(&peer, &platform), &pair.mesh.clock);
    let answer = client.connect_with(pair.ledger.inbound(), pair.workload.port, &"x".repeat(100 << 10)).await;
    assert!(!matches!(answer, Answer::Connect(StatusCode::OK, _)), "{answer:?}");
    pair.nothing_reached_the_workload().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_does_not_outlive_the_svid_it_rests_on() {
    let mut pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    pair.mesh.stop_plane().await;
    pair.mesh.clock.advance(3601);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    // Nobody can renew: the proxies say so, and nothing new is carried.
    pair.web.waits_for("our certificate has expired").await;
    pair.is_refused().await;
    // Whichever side looked first.
    let cut = |proxy: &Proxy| proxy.count("mesh_connections_revoked_total", &["cause=\"expired\""]);
    assert!(cut(&pair.web) + cut(&pair.ledger) >= 1.0);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_not_verified_with_collateral_that_is_past_its_next_update() {
    let policy = Policy { svid_lifetime: DAY, ..Policy::default() };
    let pair = Pair::with(&policy, [&Platform::default(), &Platform::default()]).await;
    let number = |n| CollateralSpec {
        tcb_evaluation_data_number: n,
        crl_number: u64::from(n),
        ..CollateralSpec::default()
    };
    let before = pair.mesh.plane().status().await.generation;
    pair.mesh.clock.advance(1);
    pair.mesh.publish(&CollateralSpec { next_update: Some(START + 7200), ..number(18) });
    let changed = generation_after(&pair, before).await;
    pair.web.uses(changed).await;
    pair.ledger.uses(changed).await;
    let (mut application, mut served) = pair.connect().await;

    pair.mesh.clock.advance(7201);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.is_refused().await;
    pair.web.has_denied(Reason::CollateralExpired).await;

    // Fresh collateral brings traffic back. Proxies cannot take it from a control
    // plane that they cannot verify without it: it comes with their bootstrap.
    let fresh = number(19);
    pair.mesh.publish(&fresh);
    generation_after(&pair, changed).await;
    let Pair { mesh, web, ledger, workload } = pair;
    web.end().await;
    ledger.end().await;
    let ledger = mesh.sidecar("ledger").knowing(&fresh).serving(&[workload.port]).ready().await;
    let web = mesh.sidecar("web").knowing(&fresh).calling("ledger", ledger.inbound(), workload.port);
    let web = web.ready().await;
    let pair = Pair { mesh, web, ledger, workload };
    pair.connect().await;
    pair.end().await;
}

/// The first generation after this one.
async fn generation_after(pair: &Pair, before: u64) -> u64 {
    eventually("another generation", async || {
        let now = pair.mesh.plane().status().await.generation;
        if now > before { Ok(now) } else { Err(now) }
    })
    .await
}

/// Collateral by which the default machine is out of date.
fn out_of_date(number: u32) -> CollateralSpec {
    CollateralSpec {
        tcb_evaluation_data_number: number,
        crl_number: u64::from(number),
        tcb_levels: vec![
            TcbLevel::new(20, "UpToDate", &[]),
            TcbLevel::new(5, "OutOfDate", &["EMULATED-SA-00004"]),
        ],
        module_levels: vec![SvnLevel::new(5, "UpToDate")],
        ..CollateralSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_collateral_does_not_bring_a_revoked_platform_back() {
    // web's machine is not concerned, so that it hears everything that follows.
    let pair = Pair::with(&Policy::default(), [&Platform::snp(), &Platform::default()]).await;
    let old: Vec<Item> = pair.mesh.collateral(&CollateralSpec::default());
    let (mut application, mut served) = pair.connect().await;
    let before = pair.mesh.plane().status().await.generation;

    pair.mesh.clock.advance(60);
    pair.mesh.publish(&out_of_date(18));
    let changed = generation_after(&pair, before).await;
    // What is open may end in order, for thirty seconds.
    pair.web.drains("tcb").await;
    passes(&mut application, &mut served, b"the last words").await;
    pair.mesh.clock.advance(31);
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.ledger.uses(changed).await;
    pair.web.uses(changed).await;
    pair.is_refused().await;
    pair.web.has_denied(Reason::TcbOutOfDate).await;

    // Whoever has the directory, or the way to the vendor, serves what was true before.
    pair.mesh.publish_items(&old);
    let plane = pair.mesh.plane();
    eventually("the rollback is seen", async || {
        plane.handle.tick();
        let (_, dump) = http(plane.addresses.admin, "GET /config_dump").await;
        if dump.contains(Reason::CollateralRollback.code()) || dump.contains("older") {
            Ok(())
        } else {
            Err(dump)
        }
    })
    .await;
    let now = generation_after(&pair, changed).await;
    pair.web.uses(now).await;
    pair.is_refused().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_does_not_make_old_things_new() {
    let mut pair = Pair::start().await;
    pair.mesh.stop_plane().await;
    // Before the SVIDs, the collateral and the vendor's own signatures of them.
    pair.mesh.clock.set_back(2 * DAY);
    pair.web.ctx.live.sever_all(&pair.web.ctx.metrics);
    pair.is_refused().await;
    let reasons = [
        Reason::SvidExpired,
        Reason::CollateralNotYetValid,
        Reason::CertificateNotYetValid,
        Reason::SvidUntrusted,
    ];
    assert!(reasons.iter().any(|reason| pair.web.denials(*reason) > 0.0), "{}", pair.web.metrics());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulated_platform_is_admitted_by_its_root_by_name_and_not_otherwise() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let generation = pair.mesh.apply(&Policy { emulated: false, ..Policy::default() }).await;
    is_reset(&mut application).await;
    is_reset(&mut served).await;
    pair.web.uses(generation).await;
    pair.is_refused().await;
    let seen = pair.web.denials(Reason::EmulatedNotAdmitted) + pair.web.denials(Reason::UntrustedRoot);
    assert!(seen > 0.0, "{}", pair.web.metrics());
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_in_debug_gets_no_identity_and_says_why() {
    let pair = Pair::start().await;
    let debuggable: Proxy = pair.mesh.sidecar("audit").on(&Platform::debuggable()).start();
    let report = debuggable.waits_for("debug").await;
    assert!(report.contains("identity: "), "{report}");
    assert!(debuggable.ctx.credentials.borrow().is_none());
    debuggable.end().await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_reaches_the_workload_before_the_verdict_and_the_200() {
    let pair = Pair::start().await;
    // The application talks at once; ledger's machine is judged meanwhile, and falls.
    let generation = pair.mesh.apply(&Policy { tdx: vec![0xee], ..Policy::default() }).await;
    pair.web.uses(generation).await;
    for _ in 0..5 {
        pair.is_refused().await;
    }
    let generation = pair.mesh.apply(&Policy::default()).await;
    pair.web.uses(generation).await;
    pair.ledger.uses(generation).await;
    pair.nothing_reached_the_workload().await;
    assert_eq!(pair.ledger.count("istio_tcp_received_bytes_total", &[]), "the first of all".len() as f64);
    let (mut application, mut served) = pair.connect().await;
    passes(&mut application, &mut served, b"afterwards").await;
    pair.end().await;
}
