//! Every frame in every state: what may come, and what ends the hop.

use countersign_evidence::Reason;
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::message::{
    Challenge, Evidence, Farewell, Hello, NewIdentity, Outcome, RoundResult, encode_changed, encode_open,
};
use countersign_ratls::session::{Demands, Level, Offer, Side, Wanted, WireReason};

use crate::pump::*;

/// Where the server of a hop stands when the frame comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing has come yet.
    Start,
    /// The client's Hello has come.
    Greeted,
    /// So has its Challenge; the quote is being made.
    GateQuoting,
    /// Our evidence is sent, its Result is awaited; the client's evidence is accepted.
    GateProven,
    /// The client's evidence is being appraised; ours is accepted.
    GateAppraising,
    /// Our Open is sent.
    OpenSent,
    /// Between two rounds.
    Idle,
    /// We have challenged.
    Asked,
    /// We appraise.
    Appraising,
    /// We make a quote.
    Quoting,
    /// Our evidence is sent.
    Proven,
    /// The hop drains, between two rounds.
    Draining,
    /// As Idle, but nothing is demanded of the client.
    OneWay,
    /// As Idle, but nothing is demanded of the server.
    OtherWay,
}

const STATES: [At; 14] = [
    At::Start,
    At::Greeted,
    At::GateQuoting,
    At::GateProven,
    At::GateAppraising,
    At::OpenSent,
    At::Idle,
    At::Asked,
    At::Appraising,
    At::Quoting,
    At::Proven,
    At::Draining,
    At::OneWay,
    At::OtherWay,
];

/// The frames that do not break the order in a state. What they say may still be wrong.
fn in_order(at: At) -> &'static [Kind] {
    use Kind::{Challenge, Changed, Drain, Evidence, Hello, Identity, Open, Result};
    match at {
        At::Start => &[Hello, Drain],
        At::Greeted => &[Challenge, Evidence, Drain],
        At::GateQuoting => &[Evidence, Drain],
        At::GateProven => &[Result, Drain],
        At::GateAppraising => &[Drain],
        At::OpenSent => &[Open, Drain],
        At::Idle | At::Appraising | At::Draining => &[Challenge, Drain, Changed, Identity],
        At::Asked => &[Challenge, Evidence, Drain, Changed, Identity],
        At::Quoting => &[Drain, Changed, Identity],
        At::Proven => &[Result, Drain, Changed, Identity],
        // No challenge was sent, none will be: neither evidence nor Changed.
        At::OneWay => &[Challenge, Drain, Identity],
        At::OtherWay => &[Drain, Changed, Identity],
    }
}

fn reach(at: At) -> Hop {
    let none = Demands { level: Level::L1, ..demands() };
    let mut hop = match at {
        At::OneWay => Hop::with_offers((demands(), offer()), (none, offer())),
        At::OtherWay => Hop::with_offers((none, offer()), (demands(), Offer::default())),
        _ => Hop::mutual(),
    };
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    match at {
        At::Start => {}
        At::Greeted => {
            let hello = hop.client.take(Kind::Hello);
            hop.server.give(Kind::Hello, &hello, hop.now);
        }
        At::GateQuoting => {
            hop.server.quotes_at_once = false;
            hop.client.quotes_at_once = false;
            hop.carry();
        }
        At::GateProven => {
            hop.client.accepts_at_once = false;
            hop.settle();
        }
        At::GateAppraising => {
            hop.server.accepts_at_once = false;
            hop.settle();
        }
        At::OpenSent => (0..3).for_each(|_| hop.carry()),
        _ => {
            hop.settle();
            assert!(hop.server.is_open());
        }
    }
    match at {
        At::Asked => {
            hop.client.quotes_at_once = false;
            hop.until(0.1, |hop| !hop.client.quotes.is_empty());
        }
        At::Appraising => {
            hop.server.accepts_at_once = false;
            hop.until(0.1, |hop| !hop.server.received.is_empty());
        }
        At::Quoting => {
            hop.server.quotes_at_once = false;
            hop.until(0.1, |hop| !hop.server.quotes.is_empty());
        }
        At::Proven => {
            hop.client.accepts_at_once = false;
            hop.until(0.1, |hop| !hop.client.received.is_empty());
        }
        At::Draining => {
            hop.server.endpoint.drain(denial(Reason::Draining), hop.now);
            hop.server.pump(hop.now);
        }
        _ => {}
    }
    hop.client.sent.clear();
    hop.server.sent.clear();
    assert!(hop.server.cut().is_none(), "{at:?}");
    hop
}

/// A frame of this kind as one could look in any state.
fn frame(kind: Kind, hop: &Hop) -> Vec<u8> {
    let state = hop.server.endpoint.state();
    let (mine, theirs) = (state.own.accepted, state.peer.accepted);
    match kind {
        Kind::Hello => Hello {
            side: Side::Client,
            verifies: vec![TYPE.to_owned()],
            produces: vec![TYPE.to_owned()],
            features: 1,
            nonce: [1; 32],
            max_evidence: 1 << 18,
            interval: 300,
            demands: Level::L2,
        }
        .encode(),
        Kind::Challenge => Challenge {
            round: mine,
            nonce: [2; 32],
            accepted: vec![TYPE.to_owned()],
            wanted: Wanted::CPU,
            policy_id: [0; 32],
            deadline_ms: 15_000,
            event_log_from: None,
        }
        .encode(),
        Kind::Evidence => {
            let value = evidence(&[0; 64]);
            let parts =
                countersign_ratls::session::collection::Parts { cpu: (TYPE, &value), event_log: None };
            Evidence { round: theirs, nonce: [3; 32], collection: &parts.encode(), proof: None }.encode()
        }
        Kind::Result => {
            RoundResult { round: mine, outcome: Outcome::Accept, binder_sha256: [0; 32], next: 300 }.encode()
        }
        Kind::Drain => Farewell { reason: WireReason::Policy, grace: 20 }.encode(),
        Kind::Changed => encode_changed(1),
        Kind::Open => encode_open(&[0; 32]),
        Kind::Identity => {
            NewIdentity { chain: vec![vec![0x30, 0].into()], signature: vec![1; 64], serial: 1 }.encode()
        }
    }
}

#[test]
fn every_frame_in_every_state() {
    for at in STATES {
        for kind in Kind::ALL {
            let mut hop = reach(at);
            let payload = frame(kind, &hop);
            let (events, now) = (hop.server.events.len(), hop.now);
            hop.server.give(kind, &payload, now);
            let cut = hop.server.cut();
            let out_of_order = cut.is_some_and(|cut| {
                cut.denial.reason == Reason::Malformed && cut.denial.findings[0].field == "session"
            });
            assert_eq!(!out_of_order, in_order(at).contains(&kind), "{kind} at {at:?}: {cut:?}");
            // What the frames say here: the rest of what each of them is checked for.
            let expected = match (kind, at) {
                _ if out_of_order => Some(Reason::Malformed),
                (Kind::Evidence | Kind::Result | Kind::Open, _) => Some(Reason::BindingMismatch),
                (Kind::Identity, _) => Some(Reason::Malformed),
                (Kind::Drain, at) if STATES.iter().take_while(|s| **s != At::Idle).any(|s| *s == at) => {
                    Some(Reason::PeerRefused)
                }
                _ => None,
            };
            assert_eq!(cut.map(|cut| cut.denial.reason), expected, "{kind} at {at:?}");
            if out_of_order {
                let last = hop.server.sent.back();
                let expected = if at == At::OpenSent { None } else { Some(WireReason::Format) };
                assert_eq!(last.and_then(|(kind, payload)| said(*kind, payload)), expected);
                assert!(hop.server.cut().unwrap().distrust);
                assert_eq!(hop.server.events.len(), events + 1);
            }
        }
    }
}

/// The same from a machine that has ended: nothing happens.
#[test]
fn every_frame_after_the_end_is_ignored() {
    for at in STATES {
        for kind in Kind::ALL {
            let mut hop = reach(at);
            hop.server.endpoint.end(hop.now);
            hop.server.pump(hop.now);
            let (events, payload) = (hop.server.events.len(), frame(kind, &hop));
            hop.server.give(kind, &payload, hop.now);
            assert_eq!((hop.server.events.len(), hop.server.sent.len()), (events, 0), "{kind} at {at:?}");
        }
    }
}

/// The same with a frame that is genuine: it must not come twice.
#[test]
fn no_frame_may_come_twice() {
    let mut genuine = Vec::new();
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    while !hop.client.sent.is_empty() || !hop.server.sent.is_empty() {
        genuine.extend(hop.client.sent.iter().cloned());
        hop.carry();
    }
    assert_eq!(genuine.len(), 5);
    for (at, (kind, _)) in genuine.iter().enumerate() {
        let mut hop = Hop::mutual();
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        let mut seen = 0;
        while !hop.client.sent.is_empty() || !hop.server.sent.is_empty() {
            let twice: Vec<_> = std::mem::take(&mut hop.client.sent)
                .into_iter()
                .flat_map(|frame| {
                    seen += 1;
                    if seen == at + 1 { vec![frame.clone(), frame] } else { vec![frame] }
                })
                .collect();
            hop.client.sent.extend(twice);
            hop.carry();
        }
        let (reason, by_peer) = hop.server.ended().unwrap();
        assert!(!by_peer && reason == Reason::Malformed, "{kind}: {reason}");
    }
}
