//! Watching what hops prove: asked for, bounded, and never pushed upon anybody.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::time::Duration;

use countersign_evidence::{Finding, Reason};
use countersign_ratls::{Bundle, TrustDomain};
use countersign_wire::client::{Event, Subscription};
use countersign_wire::proto::{self, ControlMessage, ProxyMessage, control_message, proxy_message};
use countersign_wire::refusal::to_json;
use countersign_wire::server::{Heard, ProtocolError, Session};
use countersign_wire::{MAX_REPORTED_DENIAL, MAX_REPORTED_HOPS, MAX_REPORTED_REFUSALS, MAX_WATCH};

fn subscription() -> Subscription {
    let bundle = Bundle {
        trust_domain: TrustDomain::parse("prod.example").unwrap(),
        x509_authorities: Vec::new(),
        snapshot_keys: Vec::new(),
        sequence: 1,
        refresh_hint: None,
    };
    Subscription::new(bundle, None)
}

fn question() -> proto::Watch {
    proto::Watch { every_seconds: 2, for_seconds: 12, hops: 100, refusals: 3 }
}

fn hop() -> proto::HopAttestation {
    proto::HopAttestation {
        hop: 1,
        direction: "inbound".into(),
        peer: "spiffe://prod.example/web".into(),
        level: "L2".into(),
        round: Some(3),
        policies: vec!["payments/peers".into()],
        state: "open".into(),
        ..Default::default()
    }
}

fn refusal() -> proto::Refusal {
    let denial = Finding::new(Reason::EventNotAdmitted, "runtimeEvents[1]", "none", "exec").into();
    proto::Refusal {
        direction: "inbound".into(),
        peer: "spiffe://prod.example/web".into(),
        proved: true,
        stage: "gate".into(),
        times: 3,
        denial: to_json(&denial, MAX_REPORTED_DENIAL),
        ..Default::default()
    }
}

#[test]
fn a_proxy_that_is_asked_tells() {
    let (mut subscription, mut session) = (subscription(), Session::new());
    session.feed(subscription.hello("sidecar", "payments/ledger", "test")).unwrap();
    session.watch(question());
    let asked = session.poll().unwrap();
    assert!(session.poll().is_none());
    let Some(Event::Watch(watch)) = subscription.feed(asked).unwrap() else { panic!("no question") };
    assert_eq!(
        (watch.every, watch.lasting, watch.hops, watch.refusals),
        (Duration::from_secs(2), Duration::from_secs(12), 100, 3)
    );
    let report = |refusals| Subscription::attestation(1, vec![hop()], refusals);
    let told = |refusals, with_refusals| {
        Heard::Attested(proto::Attestation { total: 1, hops: vec![hop()], refusals, with_refusals })
    };
    assert_eq!(session.feed(report(None)).unwrap(), told(Vec::new(), false));
    assert_eq!(session.feed(report(Some(vec![refusal()]))).unwrap(), told(vec![refusal()], true));
}

#[test]
fn two_wishes_for_proofs_become_one() {
    let (mut subscription, mut session) = (subscription(), Session::new());
    let wish = |peer: &str| proto::Attest { peer: peer.into() };
    session.attest(wish("spiffe://prod.example/web"));
    session.feed(subscription.hello("sidecar", "payments/ledger", "test")).unwrap();
    assert!(session.poll().is_none(), "nobody was there yet to hear of it");
    let mut heard = |wishes: &[&str]| {
        wishes.iter().for_each(|peer| session.attest(wish(peer)));
        let message = session.poll().unwrap();
        assert!(session.poll().is_none());
        let Some(Event::Attest { peer }) = subscription.feed(message).unwrap() else { panic!("no wish") };
        peer
    };
    assert_eq!(heard(&["spiffe://prod.example/web"]), "spiffe://prod.example/web");
    assert_eq!(heard(&["spiffe://prod.example/web", "spiffe://prod.example/audit"]), "");
}

#[test]
fn a_proxy_of_an_older_version_is_not_asked() {
    let mut session = Session::new();
    let hello = ProxyMessage {
        message: Some(proxy_message::Message::Hello(proto::Hello {
            proxy: "sidecar".into(),
            workload: "payments/ledger".into(),
            software: "0.1".into(),
            ..Default::default()
        })),
    };
    session.feed(hello).unwrap();
    session.watch(question());
    assert!(session.poll().is_none());
    assert!(!session.peer().unwrap().reports);
}

#[test]
fn what_nobody_asked_for_or_what_is_too_much_breaks_the_protocol() {
    let open = |asked: bool| {
        let (mut subscription, mut session) = (subscription(), Session::new());
        session.feed(subscription.hello("sidecar", "payments/ledger", "test")).unwrap();
        if asked {
            session.watch(question());
            session.poll().unwrap();
        }
        session
    };
    let message = |attestation: proto::Attestation| ProxyMessage {
        message: Some(proxy_message::Message::Attestation(attestation)),
    };
    let report = |hops| message(proto::Attestation { total: 1, hops, ..Default::default() });
    assert!(matches!(open(false).feed(report(vec![hop()])), Err(ProtocolError::OutOfTurn(_))));
    let mut odd = vec![vec![hop(); MAX_REPORTED_HOPS + 1]];
    odd.push(vec![proto::HopAttestation { peer: "a\u{1b}[2J".into(), ..hop() }]);
    odd.push(vec![proto::HopAttestation { reason: "x".repeat(3000), ..hop() }]);
    odd.push(vec![proto::HopAttestation { policies: vec!["p".into(); 65], ..hop() }]);
    for hops in odd {
        assert!(matches!(open(true).feed(report(hops)), Err(ProtocolError::Field { .. })));
    }
    assert!(open(true).feed(report(vec![hop(); MAX_REPORTED_HOPS])).is_ok());
    let refused = |refusals| message(proto::Attestation { refusals, ..Default::default() });
    let odd = [
        vec![refusal(); MAX_REPORTED_REFUSALS + 1],
        vec![proto::Refusal { denial: "{}".into(), ..refusal() }],
        vec![proto::Refusal { denial: format!("{}{}", refusal().denial, " ".repeat(5000)), ..refusal() }],
        vec![proto::Refusal { stage: "a\nb".into(), ..refusal() }],
    ];
    for refusals in odd {
        assert!(matches!(open(true).feed(refused(refusals)), Err(ProtocolError::Field { .. })));
    }
    assert!(open(true).feed(refused(vec![refusal(); MAX_REPORTED_REFUSALS])).is_ok());
}

#[test]
fn a_control_plane_cannot_ask_for_more_than_is_reasonable() {
    let mut subscription = subscription();
    let asked = proto::Watch { every_seconds: 0, for_seconds: u32::MAX, hops: u32::MAX, refusals: u32::MAX };
    let message = ControlMessage { message: Some(control_message::Message::Watch(asked)) };
    let Some(Event::Watch(watch)) = subscription.feed(message).unwrap() else { panic!("no question") };
    assert_eq!(watch.every, Duration::from_secs(1));
    assert_eq!((watch.lasting, watch.hops), (Duration::from_secs(MAX_WATCH.into()), MAX_REPORTED_HOPS));
    let ProxyMessage { message: Some(proxy_message::Message::Attestation(told)) } =
        Subscription::attestation(900, vec![hop(); 900], Some(vec![refusal(); 900]))
    else {
        panic!("no attestation")
    };
    assert_eq!((told.total, told.hops.len()), (900, MAX_REPORTED_HOPS));
    assert_eq!((watch.refusals, told.refusals.len()), (MAX_REPORTED_REFUSALS, MAX_REPORTED_REFUSALS));
}
