//! Before the first application byte.

use std::sync::Arc;

use countersign_evidence::Reason;
use countersign_evidence::policy::Level;
use countersign_ratls::session::frame::{self, Kind};
use countersign_ratls::session::message::{Challenge, Hello};
use countersign_ratls::session::{Channel, Demands, Endpoint, Offer, Phase, Side};

use crate::pump::*;

fn level(level: Level) -> Demands {
    Demands { level, ..demands() }
}

#[test]
fn both_prove_themselves_and_the_gate_opens_after_two_round_trips() {
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    let mut flights = Vec::new();
    while !hop.client.sent.is_empty() || !hop.server.sent.is_empty() {
        let kinds = |node: &Node| node.sent.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
        flights.push((kinds(&hop.client), kinds(&hop.server)));
        hop.carry();
    }
    use Kind::{Challenge, Evidence, Hello, Open, Result};
    let expected = [vec![Hello, Challenge], vec![Evidence], vec![Result], vec![Open]];
    // Four flights are two round trips.
    assert_eq!(flights, expected.map(|flight| (flight.clone(), flight)));
    for node in [&hop.client, &hop.server] {
        assert!(node.is_open() && node.endpoint.usable(hop.now));
        assert_eq!(node.accepted(), [0]);
        let state = node.endpoint.state();
        assert_eq!(state.phase, Phase::Open);
        assert_eq!((state.own.round, state.peer.round), (Some(0), Some(0)));
        assert!(state.own.binder.is_some() && state.own.binder != state.peer.binder);
    }
    let (client, server) = (hop.client.endpoint.state(), hop.server.endpoint.state());
    assert_eq!((client.own.binder, client.peer.binder), (server.peer.binder, server.own.binder));
}

#[test]
fn every_pair_of_levels_asks_for_exactly_what_it_says() {
    let levels = [Level::L0, Level::L1, Level::L2, Level::L3];
    for of_server in levels {
        for of_client in levels {
            let mut hop = Hop::new(level(of_server), level(of_client));
            hop.settle();
            assert!(hop.client.is_open() && hop.server.is_open(), "{of_server} {of_client}");
            let proved = |node: &Node| !node.accepted().is_empty();
            assert_eq!(proved(&hop.client), of_server >= Level::L2);
            assert_eq!(proved(&hop.server), of_client >= Level::L2);
            let state = hop.client.endpoint.state();
            assert_eq!((state.own.level, state.peer.level), (Some(of_client), Some(of_server)));
            assert!(hop.client.endpoint.usable(hop.now) && hop.server.endpoint.usable(hop.now));
            // Nothing is asked later on that was not announced.
            hop.pass(1000.0);
            assert!(hop.client.cut().is_none() && hop.server.cut().is_none());
            assert_eq!(hop.client.accepted().len() > 1, of_server >= Level::L2);
        }
    }
}

#[test]
fn a_client_without_a_tee_passes_where_nobody_asks_it_for_one() {
    let nothing = Offer::default();
    let mut hop = Hop::with_offers((demands(), nothing.clone()), (level(Level::L0), offer()));
    hop.settle();
    assert!(hop.client.is_open() && hop.server.is_open());
    let mut hop = Hop::with_offers((demands(), nothing), (demands(), offer()));
    hop.settle();
    // The server sees from the Hello that there will be nothing.
    assert_eq!(hop.server.ended(), Some((Reason::UnsupportedFormat, false)));
    assert!(!hop.client.is_open() && !hop.server.is_open());
}

#[test]
fn nothing_opens_until_both_directions_are_proved() {
    // Each step that an honest peer may withhold, on either side.
    for side in [Side::Client, Side::Server] {
        for step in 0..3 {
            let mut hop = Hop::mutual();
            let node = hop.node(side);
            match step {
                0 => node.quotes_at_once = false,
                1 => node.accepts_at_once = false,
                _ => {}
            }
            hop.client.pump(hop.now);
            hop.server.pump(hop.now);
            for _ in 0..20 {
                if step == 2 {
                    // Everything but its Open.
                    hop.node(side).sent.retain(|(kind, _)| *kind != Kind::Open);
                }
                hop.carry();
            }
            for node in [&hop.client, &hop.server] {
                let stalled = step < 2 || node.endpoint.state().side == side.other();
                assert_eq!(node.is_open(), !stalled, "{side:?} {step}");
                assert_eq!(node.endpoint.usable(hop.now), !stalled);
            }
            hop.pass(10.0);
            let other = hop.node(side.other());
            assert_eq!(other.ended().map(|(reason, _)| reason), Some(Reason::Timeout), "{side:?} {step}");
            assert!(!other.endpoint.usable(after(10.0)));
        }
    }
}

#[test]
fn the_gate_has_one_deadline_for_everything() {
    for gate in [3, 10, 30] {
        let terms = Demands {
            gate: std::time::Duration::from_secs(gate),
            response: std::time::Duration::from_secs(60),
            ..demands()
        };
        let mut node = Node::new(channel(Side::Server, 1), terms, offer(), 1);
        assert_eq!(node.pump(after(0.0)).unwrap().as_secs(), gate);
        node.pump(after(gate as f64 - 0.001));
        assert!(node.cut().is_none());
        // A drip does not prolong it.
        node.give_bytes(&[0], after(gate as f64 - 0.001));
        node.pump(after(gate as f64));
        assert_eq!(node.ended(), Some((Reason::Timeout, false)));
        assert_eq!(node.pump(after(gate as f64)), None);
    }
}

#[test]
fn the_first_flight_is_a_hello_and_a_challenge_that_depend_on_nobody() {
    let mut node = Node::new(channel(Side::Client, 1), demands(), offer(), 7);
    node.pump(after(0.0));
    let hello = Hello::decode(&node.take(Kind::Hello)).unwrap();
    assert_eq!((hello.side, hello.demands), (Side::Client, Level::L2));
    assert_eq!((hello.max_evidence, hello.interval), (256 << 10, 300));
    let challenge = Challenge::decode(&node.take(Kind::Challenge)).unwrap();
    assert_eq!((challenge.round, challenge.policy_id, challenge.deadline_ms), (0, [0xcc; 32], 15_000));
    assert_eq!(challenge.event_log_from, None);
    assert!(node.sent.is_empty());
}

#[test]
fn the_first_quote_is_urgent_and_later_ones_have_a_deadline() {
    let mut hop = Hop::mutual();
    hop.server.quotes_at_once = false;
    hop.settle();
    let request = hop.server.quotes[0].clone();
    assert!(request.urgent && request.batch);
    assert_eq!((request.round, request.deadline.as_secs(), request.event_log), (0, 15, None));
    hop.server.quote(hop.now);
    hop.settle();
    assert!(hop.client.is_open());
    hop.until(1.0, |hop| !hop.server.quotes.is_empty());
    let request = &hop.server.quotes[0];
    assert_eq!((request.round, request.urgent), (1, false));
    assert!((14..=15).contains(&(request.deadline - hop.now.monotonic).as_secs()));
}

#[test]
fn what_stands_behind_the_open_is_handed_back() {
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    for _ in 0..3 {
        hop.carry();
    }
    let open = frame::encode(Kind::Open, &hop.server.take(Kind::Open));
    for size in 1..=open.len() + 24 {
        let mut hop = Hop::mutual();
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        for _ in 0..3 {
            hop.carry();
        }
        let bytes = [open.as_slice(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].concat();
        for piece in bytes.chunks(size) {
            match hop.client.is_open() {
                false => drop(hop.client.give_bytes(piece, hop.now)),
                true => hop.client.application.extend_from_slice(piece),
            }
        }
        assert!(hop.client.is_open());
        assert_eq!(hop.client.application, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert!(hop.client.cut().is_none());
    }
}

/// Behind our Open the peer reads HTTP/2. A last word there would be garbage to it.
#[test]
fn nothing_is_said_between_our_open_and_the_peers() {
    for quic in [false, true] {
        let mut hop = Hop::mutual();
        let node = |side| {
            let channel = Channel { quic, ..channel(side, 0x55) };
            Node::new(channel, demands(), offer(), 1 + side as u64)
        };
        (hop.client, hop.server) = (node(Side::Client), node(Side::Server));
        while !hop.server.sent.iter().any(|(kind, _)| *kind == Kind::Open) {
            hop.client.pump(hop.now);
            hop.carry();
            hop.server.pump(hop.now);
        }
        assert!(!hop.server.is_open());
        hop.server.sent.clear();
        hop.server.endpoint.drain(denial(Reason::Draining), hop.now);
        hop.server.pump(hop.now);
        assert_eq!(hop.server.ended(), Some((Reason::Draining, false)));
        // Over QUIC the stream of the frames stays what it is.
        assert_eq!(hop.server.sent.len(), usize::from(quic));
    }
}

#[test]
fn an_open_that_is_not_ours_is_a_mismatch() {
    for byte in [0, 31] {
        let mut hop = Hop::mutual();
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        for _ in 0..3 {
            hop.carry();
        }
        let mut open = hop.server.take(Kind::Open);
        let at = open.len() - 32 + byte;
        open[at] ^= 1;
        hop.client.give(Kind::Open, &open, hop.now);
        assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));
        assert!(hop.client.cut().unwrap().distrust && !hop.client.is_open());
    }
}

/// At levels without evidence nothing else shows that both ends have one exporter.
#[test]
fn an_open_is_its_senders_and_nobody_elses() {
    for of in [Level::L0, Level::L2] {
        // One's own comes back.
        let mut hop = Hop::new(level(of), level(of));
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        (0..if of == Level::L0 { 1 } else { 3 }).for_each(|_| hop.carry());
        let open = hop.client.take(Kind::Open);
        hop.client.give(Kind::Open, &open, hop.now);
        assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)), "{of}");
    }
    // TLS that ends at somebody else.
    let mut hop = Hop::new(level(Level::L0), level(Level::L0));
    hop.server = Node::new(channel(Side::Server, 0x99), level(Level::L0), offer(), 2);
    hop.settle();
    assert_eq!(hop.client.ended(), Some((Reason::BindingMismatch, false)));
    assert!(!hop.client.is_open() && !hop.server.is_open());
}

#[test]
fn the_channel_for_the_rounds_must_come_within_two_seconds() {
    for attached in [false, true] {
        let mut hop = Hop::mutual();
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        for _ in 0..3 {
            hop.carry();
        }
        let open = frame::encode(Kind::Open, &hop.server.take(Kind::Open));
        // Without the driver of the other tests, which attaches at once.
        let taken = hop.client.endpoint.receive(&open, hop.now);
        assert_eq!((taken, hop.client.endpoint.state().phase), (open.len(), Phase::Opening));
        assert!(hop.client.endpoint.usable(hop.now));
        if attached {
            hop.client.endpoint.attached(after(1.999));
            assert_eq!(hop.client.endpoint.state().phase, Phase::Open);
        }
        hop.client.endpoint.attached(after(2.0));
        let closed = hop.client.endpoint.state().phase == Phase::Closed;
        assert_eq!(closed, !attached);
    }
}

#[test]
fn over_quic_the_channel_stays_what_it_is() {
    let quic =
        |side| countersign_ratls::session::Channel { quic: true, alpn: b"ratls-quic/1", ..channel(side, 9) };
    let mut hop = Hop::mutual();
    hop.client = Node::new(quic(Side::Client), demands(), offer(), 1);
    hop.server = Node::new(quic(Side::Server), demands(), offer(), 2);
    hop.settle();
    assert_eq!(hop.client.endpoint.state().phase, Phase::Open);
    // One that takes it for TCP computes another binder.
    hop = Hop::mutual();
    hop.client = Node::new(quic(Side::Client), demands(), offer(), 1);
    hop.server = Node::new(channel(Side::Server, 9), demands(), offer(), 2);
    hop.settle();
    assert_eq!(hop.client.ended().unwrap().0, Reason::BindingMismatch);
}

#[test]
fn a_connection_to_ourselves_is_none() {
    let mut own = channel(Side::Client, 1);
    own.peer.spki_sha256 = own.own.spki_sha256;
    let endpoint = Endpoint::new(own, Arc::new(demands()), Arc::new(offer()), Seeded::shared(1), after(0.0));
    assert_eq!(endpoint.unwrap_err().reason, Reason::SelfConnection);
}

#[test]
fn demands_that_make_no_session_are_refused() {
    let refused = |demands: Demands, offer: Offer| {
        let endpoint = Endpoint::new(
            channel(Side::Client, 1),
            Arc::new(demands),
            Arc::new(offer),
            Seeded::shared(1),
            after(0.0),
        );
        endpoint.unwrap_err().reason
    };
    for terms in [
        Demands { accepted: Vec::new(), ..demands() },
        Demands { accepted: vec!["a/b".to_owned(); 17], ..demands() },
        Demands { accepted: vec![format!("a/{}", "b".repeat(250)); 9], ..demands() },
        Demands { max_evidence: 1 << 20, ..demands() },
        Demands { max_evidence: 0, ..demands() },
        Demands { interval: std::time::Duration::MAX, ..demands() },
        Demands { interval: std::time::Duration::ZERO, ..demands() },
        Demands { drain_grace: std::time::Duration::MAX, ..demands() },
    ] {
        assert_eq!(refused(terms, offer()), Reason::Internal);
    }
    assert_eq!(
        refused(demands(), Offer { types: vec![TYPE.to_owned(); 17], event_log: false }),
        Reason::Internal
    );
}

#[test]
fn who_verifies_nothing_that_the_other_has_learns_it_at_once() {
    let other = Demands { accepted: vec!["application/other".to_owned()], ..demands() };
    let mut hop = Hop::new(other, demands());
    hop.settle();
    assert_eq!(hop.client.ended(), Some((Reason::UnsupportedFormat, false)));
    assert_eq!(hop.server.ended(), Some((Reason::UnsupportedFormat, false)));
    // Neither spent a quote on it.
    assert!(hop.client.received.is_empty() && hop.server.received.is_empty());
}

#[test]
fn keying_material_is_never_shown() {
    let mut hop = Hop::open();
    hop.pass(1.0);
    let shown = format!("{hop:?} {:?}", channel(Side::Client, 0x55));
    let decimal = ["85"; 32].join(", ");
    assert!(!shown.contains(&decimal) && !shown.contains(&"55".repeat(32)));
}

#[test]
fn a_live_hop_takes_less_than_8_kib() {
    let mut hop = Hop::mutual();
    let mut most = 0;
    hop.settle();
    let open = hop.client.endpoint.footprint();
    for _ in 0..2000 {
        hop.pass(1.0);
        most = most.max(hop.client.endpoint.footprint()).max(hop.server.endpoint.footprint());
    }
    println!("{open} bytes after the gate, {most} at most later");
    assert!(open < 4096 && most < 8192, "{open} {most}");
}
