//! Operators watch hops prove themselves by way of the control plane, and have
//! them do so at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

use countersign_tests::http::http;
use countersign_tests::pair::Pair;
use countersign_tests::workload::passes;
use countersign_tests::{policy, within};
use countersign_wire::proto::{self, HopAttestation, ProxyAttestation};
use serde_json::Value;
use tonic::Streaming;

/// What the watcher hears until it is this.
async fn until<T>(
    told: &mut Streaming<ProxyAttestation>,
    what: &str,
    mut is_it: impl FnMut(&ProxyAttestation) -> Option<T>,
) -> T {
    let heard = async {
        loop {
            let news = told.message().await.unwrap().expect("the watch goes on");
            if let Some(found) = is_it(&news) {
                return found;
            }
        }
    };
    within(what, heard).await
}

/// The one hop of a proxy, in this round.
async fn hop(told: &mut Streaming<ProxyAttestation>, proxy: &str, round: u64) -> HopAttestation {
    until(told, &format!("round {round} of the hop of {proxy}"), |news| {
        let hops = &news.attestation.as_ref().filter(|_| news.proxy == proxy)?.hops;
        hops.first().filter(|hop| hop.round == Some(round)).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_both_ends_of_a_hop_and_has_a_peer_prove_itself_at_once() {
    let pair = Pair::start().await;
    let (mut application, mut served) = pair.connect().await;
    let mut operator = pair.mesh.plane().operator().await;
    let all = proto::WatchAttestationRequest { proxies: Vec::new() };
    let mut told = operator.watch_attestation(all).await.unwrap().into_inner();

    for (proxy, peer, direction) in [("web", "ledger", "outbound"), ("ledger", "web", "inbound")] {
        let seen = hop(&mut told, proxy, 0).await;
        assert_eq!((seen.peer, seen.direction.as_str()), (policy::id(peer), direction));
        assert_eq!((seen.level.as_str(), seen.own_level.as_str()), ("L2", "L2"));
        assert_eq!((seen.state.as_str(), seen.reason.as_str()), ("open", ""));
        assert_eq!((seen.tee.as_str(), seen.emulated), ("tdx", true));
        assert_eq!((seen.age, seen.policies), (Some(0), vec!["demo/peers".to_owned()]));
        assert!(seen.next.is_some_and(|next| next > 0), "{:?}", seen.next);
    }

    // Nothing is due for minutes: what follows, follows because somebody asked. A
    // machine quotes for one hop every 5 s.
    let ask = proto::AttestNowRequest { proxies: vec!["ledger".into()], peer: policy::id("web") };
    assert_eq!(operator.attest_now(ask).await.unwrap().into_inner().asked, ["ledger"]);
    pair.mesh.clock.advance(5);
    hop(&mut told, "ledger", 1).await;
    passes(&mut application, &mut served, b"over the same connection").await;
    // Quotes are scarce: not again at once. The other direction has not been asked yet.
    let attest = async |of: &countersign_tests::Proxy| {
        let (status, body) = http(of.addresses.admin, "POST /attest").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let answer = attest(&pair.ledger).await;
    assert!(answer["held"][0]["why"].as_str().unwrap().contains("less than 10 s ago"), "{answer}");
    let answer = attest(&pair.web).await;
    assert_eq!(answer["asked"][0]["peer"], policy::id("ledger"), "{answer}");
    hop(&mut told, "web", 1).await;
    pair.mesh.clock.advance(10);
    let answer = attest(&pair.ledger).await;
    assert_eq!(answer["asked"][0]["peer"], policy::id("web"), "{answer}");
    hop(&mut told, "ledger", 2).await;
    for wrong in ["GET /attest", "POST /attest?hop=x", "POST /attest?whom=web"] {
        let (status, _) = http(pair.ledger.addresses.admin, wrong).await;
        assert!((400..500).contains(&status), "{wrong}: {status}");
    }

    // A proxy that goes is seen to go, and the watch goes on.
    pair.web.end().await;
    until(&mut told, "the end of web", |news| (news.proxy == "web" && !news.connected).then_some(())).await;
    until(&mut told, "a ledger without hops", |news| {
        let told = news.attestation.as_ref().filter(|_| news.proxy == "ledger")?;
        (told.total == 0).then_some(())
    })
    .await;
    pair.ledger.end().await;
}
