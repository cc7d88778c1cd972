//! Operators watch what hops prove, over the real TLS port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy sees as product code"
)]
#![allow(dead_code, reason = "the helpers are for all files of tests")]

mod common;

use common::{Plane, Proxy, World};
use countersign_attester::emulated::TdxSpec;
use countersign_evidence::Reason;
use countersign_wire::client::{Event, Subscription, Watch};
use countersign_wire::proto::operator_client::OperatorClient;
use countersign_wire::{proto, refusal};
use tonic::Streaming;
use tonic::transport::Channel;

async fn sidecar(world: &World, plane: &Plane) -> Proxy {
    let guest = world.vendor.tdx(TdxSpec::default()).unwrap();
    let identity = plane.enrol(&*guest, "demo/client").await.unwrap();
    let channel = plane.connect(&identity).await.unwrap();
    let subscription = Subscription::new(plane.bundle.clone(), None);
    let mut proxy = Proxy::open(channel, subscription, "demo/client").await.unwrap();
    proxy.next().await.unwrap();
    proxy.ack(&[]).await;
    proxy
}

async fn watch(
    operator: &mut OperatorClient<Channel>,
    proxies: &[&str],
) -> Streaming<proto::ProxyAttestation> {
    let proxies = proxies.iter().map(|name| (*name).to_owned()).collect();
    operator.watch_attestation(proto::WatchAttestationRequest { proxies }).await.unwrap().into_inner()
}

/// The next question of the control plane.
async fn asked(proxy: &mut Proxy) -> Watch {
    loop {
        let message = proxy.stream.message().await.unwrap().expect("the stream goes on");
        if let Some(Event::Watch(watch)) = proxy.subscription.feed(message).unwrap() {
            return watch;
        }
    }
}

/// The next news of a proxy.
async fn news(told: &mut Streaming<proto::ProxyAttestation>) -> proto::ProxyAttestation {
    loop {
        let news = told.message().await.unwrap().expect("the stream goes on");
        if !news.proxy.is_empty() {
            return news;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_tell_while_somebody_watches() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let mut proxy = sidecar(&world, &plane).await;
    assert!(proxy.watched.is_empty(), "nobody watches yet");

    let mut operator = plane.operator().await;
    let mut told = watch(&mut operator, &[]).await;
    let first = news(&mut told).await;
    assert_eq!((first.proxy.as_str(), first.workload.as_str()), ("sidecar", "demo/client"));
    assert!(first.connected && first.reports && first.attestation.is_none());
    let question = asked(&mut proxy).await;
    assert!(question.lasting > question.every && question.hops > 0);

    let hop =
        proto::HopAttestation { hop: 7, level: "L2".into(), state: "open".into(), ..Default::default() };
    proxy.sent.send(Subscription::attestation(1, vec![hop.clone()], None)).await.unwrap();
    let second = news(&mut told).await;
    assert_eq!(
        second.attestation,
        Some(proto::Attestation { total: 1, hops: vec![hop], ..Default::default() })
    );

    // One that does not want to hear of it does not; one that comes is asked, and one that goes is told.
    let mut other = watch(&mut operator, &["another"]).await;
    drop(proxy);
    assert!(!news(&mut told).await.connected);
    let mut again = sidecar(&world, &plane).await;
    assert!(news(&mut told).await.connected);
    asked(&mut again).await;
    // The end of the control plane is the end of the watch, and no error.
    plane.stop().await;
    while told.message().await.unwrap().is_some() {}
    let mut heard = Vec::new();
    while let Some(news) = other.message().await.unwrap() {
        heard.push(news.proxy);
    }
    assert_eq!(heard, [""], "all of the proxies that it asked for: none");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_asks_for_proofs_of_the_proxies_that_it_names() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let mut proxy = sidecar(&world, &plane).await;
    let mut operator = plane.operator().await;
    let peer = "spiffe://demo.example/server";
    let mut ask = async |proxies: &[&str], peer: &str| {
        let proxies = proxies.iter().map(|name| (*name).to_owned()).collect();
        operator.attest_now(proto::AttestNowRequest { proxies, peer: peer.to_owned() }).await
    };
    assert_eq!(ask(&["another"], peer).await.unwrap().into_inner().asked, [""; 0]);
    assert_eq!(ask(&["another", "sidecar"], peer).await.unwrap().into_inner().asked, ["sidecar"]);
    let heard = loop {
        let message = proxy.stream.message().await.unwrap().expect("the stream goes on");
        if let Some(Event::Attest { peer }) = proxy.subscription.feed(message).unwrap() {
            break peer;
        }
    };
    assert_eq!(heard, peer);
    for (proxies, peer) in [(&[][..], ""), (&["sidecar"], "no ID")] {
        assert!(ask(proxies, peer).await.is_err());
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_nobody_asked_for_ends_the_stream_and_only_operators_watch() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let mut proxy = sidecar(&world, &plane).await;
    proxy.sent.send(Subscription::attestation(0, Vec::new(), None)).await.unwrap();
    let ended = proxy.next().await.unwrap_err();
    assert_eq!(refusal::reason(&ended), Some(Reason::BadRequest));

    let guest = world.vendor.tdx(TdxSpec::default()).unwrap();
    let identity = plane.enrol(&*guest, "demo/client").await.unwrap();
    let mut workload = OperatorClient::new(plane.connect(&identity).await.unwrap());
    let request = proto::WatchAttestationRequest { proxies: Vec::new() };
    let refused = workload.watch_attestation(request).await.unwrap_err();
    assert_eq!(refusal::reason(&refused), Some(Reason::AuthorizationDenied));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_of_one_name_are_told_from_one_that_comes_back() {
    let world = World::new();
    let plane = world.start().await;
    plane.apply(&world.resources()).await;
    let first = sidecar(&world, &plane).await;
    let mut operator = plane.operator().await;
    let mut look = async || {
        plane.handle.tick();
        let status = operator.status(proto::StatusRequest { refusals: false }).await.unwrap().into_inner();
        (status.proxies[0].connected, status.proxies[0].namesake)
    };
    drop(first);
    while look().await.0 {}
    let first = sidecar(&world, &plane).await;
    for _ in 0..20 {
        assert!(!look().await.1, "it came back");
    }
    let second = sidecar(&world, &plane).await;
    while !look().await.1 {}
    drop((first, second));
    plane.stop().await;
}
