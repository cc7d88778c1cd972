//! What somebody with the network, a leaked key or a genuine TEE may try.

use countersign_evidence::Reason;
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::message::{Challenge, Evidence, Outcome, RoundResult, encode_open};
use countersign_ratls::session::{Quoted, Side, WireReason};

use crate::pump::*;

/// A relay holds the server's TLS key and terminates TLS twice: the frames of
/// genuine ends pass unchanged, but the keying material is not the same (A1).
#[test]
fn a_relay_with_the_leaked_key_fails_with_binding() {
    let mut hop = Hop::mutual();
    hop.server = Node::new(channel(Side::Server, 0x99), demands(), offer(), 2);
    hop.settle();
    let ended: Vec<_> = [&hop.client, &hop.server].into_iter().filter_map(Node::ended).collect();
    assert!(ended.contains(&(Reason::BindingMismatch, false)), "{ended:?}");
    assert!(!hop.client.is_open() && !hop.server.is_open());
    let cut = [&hop.client, &hop.server].into_iter().filter_map(Node::cut).find(|cut| !cut.by_peer).unwrap();
    assert!(cut.distrust && cut.wire == WireReason::Binding);
}

/// The same with each of the other things that a binder covers.
#[test]
fn ends_that_see_another_session_do_not_meet() {
    let changes: [fn(&mut countersign_ratls::session::Channel); 6] = [
        |channel| channel.own.spki_sha256 = [1; 32],
        |channel| channel.peer.spki_sha256 = [1; 32],
        |channel| channel.own.id = crate::common::id("spiffe://td/other"),
        |channel| channel.peer.id = crate::common::id("spiffe://td/other"),
        |channel| channel.alpn = b"h2",
        |channel| channel.quic = true,
    ];
    for change in changes {
        let mut hop = Hop::mutual();
        let mut channel = channel(Side::Server, 0x55);
        change(&mut channel);
        hop.server = Node::new(channel, demands(), offer(), 2);
        hop.settle();
        assert_eq!(hop.client.ended().unwrap().0, Reason::BindingMismatch);
        assert!(!hop.client.is_open() && !hop.server.is_open());
    }
}

/// Somebody changes a Hello on its way (he would have to break TLS): the binder
/// shows it, and where nothing is proved the Open does.
#[test]
fn a_hello_that_was_changed_is_noticed() {
    use countersign_evidence::policy::Level;
    use countersign_ratls::session::Demands;
    use countersign_ratls::session::message::Hello;
    for level in [Level::L2, Level::L0] {
        let mut hop = Hop::new(Demands { level, ..demands() }, Demands { level, ..demands() });
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        let mut hello = Hello::decode(&hop.client.take(Kind::Hello)).unwrap();
        hello.interval += 1;
        hop.client.sent.push_front((Kind::Hello, hello.encode()));
        hop.settle();
        assert_eq!(hop.client.ended().unwrap().0, Reason::BindingMismatch, "{level}");
        assert!(!hop.client.is_open());
    }
}

/// The level cannot be negotiated down: it is the demander's word, twice.
#[test]
fn a_level_that_was_changed_on_its_way_opens_nothing() {
    use countersign_evidence::policy::Level;
    use countersign_ratls::session::message::Hello;
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    let mut hello = Hello::decode(&hop.client.take(Kind::Hello)).unwrap();
    hello.demands = Level::L0;
    hop.client.sent.retain(|(kind, _)| *kind != Kind::Challenge);
    hop.client.sent.push_front((Kind::Hello, hello.encode()));
    for _ in 0..10 {
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        hop.carry();
    }
    assert!(!hop.client.is_open() && !hop.server.is_open());
    assert!(hop.client.accepted().is_empty());
}

/// Everything a side sends comes back to it (A7).
#[test]
fn frames_of_our_own_that_come_back_are_refused() {
    let mut node = Node::new(channel(Side::Client, 1), demands(), offer(), 1);
    node.pump(after(0.0));
    for (kind, payload) in std::mem::take(&mut node.sent) {
        node.give(kind, &payload, after(0.0));
    }
    assert_eq!(node.ended(), Some((Reason::Malformed, false)));

    // As another role, the nonce gives the Hello away.
    use countersign_ratls::session::message::Hello;
    let mut node = Node::new(channel(Side::Client, 1), demands(), offer(), 1);
    node.pump(after(0.0));
    let mut hello = Hello::decode(&node.take(Kind::Hello)).unwrap();
    hello.side = Side::Server;
    node.give(Kind::Hello, &hello.encode(), after(0.0));
    assert_eq!(node.ended(), Some((Reason::BindingMismatch, false)));

    // And a challenge of ours is not answered by ourselves.
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    let hello = hop.server.take(Kind::Hello);
    let challenge = hop.client.take(Kind::Challenge);
    hop.client.give(Kind::Hello, &hello, hop.now);
    hop.client.give(Kind::Challenge, &challenge, hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));
    assert!(hop.client.quotes.is_empty());
}

/// Evidence of the client is none of the server: the role is in the binder.
#[test]
fn evidence_of_one_role_is_none_of_the_other() {
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    hop.carry();
    let evidence = hop.client.take(Kind::Evidence);
    hop.client.give(Kind::Evidence, &evidence, hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));
}

/// The Evidence frames of rounds 0 and 1, as the server sent them.
fn two_rounds() -> (Hop, Vec<u8>) {
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    hop.carry();
    let (_, first) = hop.server.sent.iter().find(|(kind, _)| *kind == Kind::Evidence).unwrap().clone();
    hop.settle();
    hop.server.quotes_at_once = false;
    hop.until(1.0, |hop| !hop.server.quotes.is_empty());
    (hop, first)
}

#[test]
fn evidence_of_the_last_round_is_none_for_this_one() {
    let (mut hop, first) = two_rounds();
    hop.client.give(Kind::Evidence, &first, hop.now);
    // It names its round.
    assert_eq!(hop.client.ended(), Some((Reason::Malformed, false)));

    let (mut hop, first) = two_rounds();
    let renamed = Evidence { round: 1, ..Evidence::decode(&first).unwrap() };
    hop.client.give(Kind::Evidence, &renamed.encode(), hop.now);
    // Under another name its nonce was seen before.
    assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));

    let (mut hop, first) = two_rounds();
    let renamed = Evidence { round: 1, nonce: [9; 32], ..Evidence::decode(&first).unwrap() };
    hop.client.give(Kind::Evidence, &renamed.encode(), hop.now);
    // And with another nonce the quote is for another binder.
    assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));
    assert_eq!(said(hop.client.sent[0].0, &hop.client.sent[0].1), Some(WireReason::Binding));
}

#[test]
fn rounds_are_neither_skipped_nor_repeated() {
    for round in [0, 1, 3, u64::MAX] {
        let mut hop = Hop::open();
        hop.pass(400.0);
        assert_eq!(hop.client.accepted(), [0, 1]);
        let challenge = Challenge {
            round,
            nonce: [3; 32],
            accepted: vec![TYPE.to_owned()],
            wanted: countersign_ratls::session::Wanted::CPU,
            policy_id: [0; 32],
            deadline_ms: 1000,
            event_log_from: None,
        };
        hop.server.give(Kind::Challenge, &challenge.encode(), hop.now);
        assert_eq!(hop.server.ended(), Some((Reason::Malformed, false)), "{round}");
    }
}

#[test]
fn a_nonce_is_used_once() {
    // Of the verifier: an attester does not quote for it again.
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    let (_, payload) = hop.client.sent.iter().find(|(kind, _)| *kind == Kind::Challenge).unwrap().clone();
    let first = Challenge::decode(&payload).unwrap();
    hop.settle();
    let again = Challenge { round: 1, ..first };
    hop.server.give(Kind::Challenge, &again.encode(), hop.now);
    assert_eq!(hop.server.ended(), Some((Reason::BindingMismatch, false)));

    // Of the attester: the last one does not come again.
    let (mut hop, first) = two_rounds();
    let first = Evidence::decode(&first).unwrap();
    let again = Evidence { round: 1, ..first };
    hop.client.give(Kind::Evidence, &again.encode(), hop.now);
    let findings = &hop.client.cut().unwrap().denial.findings;
    assert_eq!((findings[0].reason, findings[0].field.as_str()), (Reason::BindingMismatch, "Evidence nonce"));

    // Of a generator that fails: nothing is sent at all.
    #[derive(Debug)]
    struct Stuck;
    impl countersign_ratls::session::Random for Stuck {
        fn fill(&self, out: &mut [u8]) -> Result<(), countersign_evidence::Finding> {
            out.fill(7);
            Ok(())
        }
    }
    let mut hop = Hop::mutual();
    hop.client.endpoint = countersign_ratls::session::Endpoint::new(
        channel(Side::Client, 0x55),
        std::sync::Arc::new(demands()),
        std::sync::Arc::new(offer()),
        std::sync::Arc::new(Stuck),
        after(0.0),
    )
    .unwrap();
    hop.settle();
    assert!(hop.client.is_open());
    hop.pass(400.0);
    assert_eq!(hop.client.drain().unwrap().denial.reason, Reason::Internal);
}

/// An attester that lost its chain (a second process with the same keys and the
/// same keying material, say) computes another binder from round 1 on.
#[test]
fn a_binder_without_the_one_before_is_refused() {
    use countersign_ratls::binding::{Ekm, SessionContext, session::hello_hash};
    use countersign_ratls::session::collection::Parts;
    for keeps_the_chain in [true, false] {
        let mut hop = Hop::mutual();
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        let hellos = hello_hash(&hop.client.sent[0].1, &hop.server.sent[0].1);
        hop.settle();
        let previous = hop.client.endpoint.state().peer.binder;
        // Somebody else answers for the server: all he needs is on the wire or shared.
        let due = hop.client.endpoint.state().peer.next.unwrap();
        hop.now = after(due.as_secs_f64() + 0.001);
        hop.client.pump(hop.now);
        let challenge = hop.client.take(Kind::Challenge);
        let context = SessionContext {
            attester_is_server: true,
            quic: false,
            alpn: b"ratls-h2/1",
            ekm: &Ekm::new([0x55; 32].into()),
            client_spki_sha256: &[0x66; 32],
            server_spki_sha256: &[0x77; 32],
            hellos: &hellos,
            challenge: &challenge,
            attester_nonce: &[5; 32],
            round: 1,
            previous: previous.as_ref().filter(|_| keeps_the_chain),
            client_id: "spiffe://td/client",
            server_id: "spiffe://td/server",
        };
        let value = crate::pump::evidence(context.core().binder(&[]).as_bytes());
        let collection = Parts { cpu: (TYPE, &value), event_log: None }.encode();
        let evidence = Evidence { round: 1, nonce: [5; 32], collection: &collection, proof: None };
        hop.client.give(Kind::Evidence, &evidence.encode(), hop.now);
        match keeps_the_chain {
            true => assert_eq!(hop.client.accepted(), [0, 1]),
            false => assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false))),
        }
    }
}

#[test]
fn a_result_for_another_binder_is_no_result() {
    for (at, change) in [(0, 1_u8), (31, 0x80)] {
        let mut hop = Hop::mutual();
        hop.client.accepts_at_once = false;
        hop.settle();
        let now = hop.now;
        hop.client.accept(now);
        hop.client.pump(now);
        let mut result = RoundResult::decode(&hop.client.take(Kind::Result)).unwrap();
        result.binder_sha256[at] ^= change;
        hop.server.give(Kind::Result, &result.encode(), now);
        assert_eq!(hop.server.ended(), Some((Reason::BindingMismatch, false)));
    }
}

#[test]
fn a_third_retry_of_one_round_is_one_too_many() {
    let mut hop = Hop::mutual();
    hop.client.accepts_at_once = false;
    hop.settle();
    for attempt in 0..3 {
        let binder = hop.client.received.remove(0).binder;
        let outcome = Outcome::Retry(WireReason::Expired);
        let result =
            RoundResult { round: 0, outcome, binder_sha256: crate::common::sha256(&binder), next: 0 };
        hop.server.give(Kind::Result, &result.encode(), hop.now);
        assert_eq!(hop.server.cut().is_some(), attempt == 2);
        hop.client.endpoint.appraised(Err(denial(Reason::EvidenceStale)), hop.now);
        hop.client.pump(hop.now);
        hop.client.sent.retain(|(kind, _)| *kind == Kind::Challenge);
        hop.settle();
    }
    assert_eq!(hop.server.ended(), Some((Reason::Malformed, false)));
}

#[test]
fn a_quote_over_anything_but_the_binder_is_refused_whatever_the_driver_does() {
    for report_data in [[0; 64], [0xff; 64]] {
        let mut hop = Hop::mutual();
        hop.server.quotes_at_once = false;
        hop.settle();
        let value = crate::pump::evidence(&report_data);
        let quoted = Quoted { media_type: TYPE, evidence: &value, proof: None, event_log: None };
        hop.server.endpoint.quoted(Ok(quoted), hop.now);
        hop.settle();
        assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));
        assert!(hop.client.received.is_empty());
    }
    // One bit, anywhere.
    for at in 0..64 {
        let mut hop = Hop::mutual();
        hop.server.quotes_at_once = false;
        hop.settle();
        let mut report_data = *hop.server.quotes[0].core.binder(&[]).as_bytes();
        report_data[at] ^= 1 << (at % 8);
        let value = crate::pump::evidence(&report_data);
        let quoted = Quoted { media_type: TYPE, evidence: &value, proof: None, event_log: None };
        hop.server.endpoint.quoted(Ok(quoted), hop.now);
        hop.settle();
        assert_eq!(hop.client.ended().unwrap().0, Reason::BindingMismatch);
    }
}

#[test]
fn an_open_before_its_time_is_refused() {
    let mut hop = Hop::mutual();
    hop.server.quotes_at_once = false;
    hop.settle();
    hop.client.give(Kind::Open, &encode_open(&[0; 32]), hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::Malformed, false)));
    assert!(!hop.client.is_open());
}
