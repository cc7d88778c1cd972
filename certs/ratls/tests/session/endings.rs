//! Drain and cut, by the matrix of section 4.4.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::Reason;
use countersign_evidence::policy::Level;
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::message::Farewell;
use countersign_ratls::session::{Demands, Ending, OnFailure, Phase, Side, WireReason};

use crate::pump::*;

/// A hop whose client has evidence of round 1 to appraise.
fn appraising(terms: Demands) -> Hop {
    let mut hop = Hop::new(terms, demands());
    hop.settle();
    hop.client.accepts_at_once = false;
    hop.until(1.0, |hop| !hop.client.received.is_empty());
    hop
}

#[test]
fn every_reason_ends_a_live_hop_as_the_matrix_says() {
    for reason in Reason::ALL.iter().copied() {
        if reason == Reason::EvidenceStale || reason == Reason::CertificateNotYetValid {
            // Worth another quote first: `rounds`.
            continue;
        }
        if reason.retry_can_help() && reason.fault() == countersign_evidence::reason::Fault::Peer {
            continue;
        }
        let mut hop = appraising(demands());
        hop.client.endpoint.appraised(Err(denial(reason)), hop.now);
        hop.client.pump(hop.now);
        let (kind, payload) = hop.client.sent.front().unwrap().clone();
        assert_eq!(said(kind, &payload), Some(WireReason::of(reason)), "{reason}");
        match Ending::of(reason) {
            Ending::Drain => {
                assert_eq!(kind, Kind::Drain);
                assert_eq!(Farewell::decode(&payload).unwrap().grace, 30);
                assert!(hop.client.cut().is_none(), "{reason}");
                assert!(!hop.client.endpoint.usable(hop.now));
                hop.settle();
                let drain = hop.server.drain().unwrap();
                assert_eq!((drain.by_peer, drain.wire), (true, WireReason::of(reason)));
                assert!(!hop.server.endpoint.usable(hop.now));
                hop.pass(29.9);
                assert!(hop.client.cut().is_none() && hop.server.cut().is_none(), "{reason}");
                hop.pass(0.1);
                assert_eq!(hop.client.ended(), Some((reason, false)));
                assert_eq!(hop.server.ended(), Some((Reason::PeerRefused, true)));
            }
            ending => {
                assert_eq!(kind, Kind::Result, "{reason}");
                assert_eq!(hop.client.ended(), Some((reason, false)));
                assert_eq!(hop.client.cut().unwrap().distrust, ending == Ending::CutAndDistrust);
                hop.settle();
                assert_eq!(hop.server.ended(), Some((Reason::PeerRefused, true)));
                assert_eq!(hop.server.cut().unwrap().wire, WireReason::of(reason));
                assert!(!hop.server.cut().unwrap().distrust);
            }
        }
    }
}

#[test]
fn before_the_gate_everything_cuts() {
    for reason in
        [Reason::CollateralMissing, Reason::TcbOutOfDate, Reason::Overloaded, Reason::MeasurementMismatch]
    {
        let mut hop = Hop::mutual();
        hop.server.accepts_at_once = false;
        hop.settle();
        hop.server.endpoint.appraised(Err(denial(reason)), hop.now);
        hop.settle();
        assert_eq!(hop.server.ended(), Some((reason, false)));
        assert_eq!(hop.client.ended(), Some((Reason::PeerRefused, true)));
        assert_eq!(hop.client.cut().unwrap().wire, WireReason::of(reason));
        assert!(hop.server.drain().is_none() && !hop.client.is_open() && !hop.server.is_open());
    }
}

#[test]
fn a_policy_that_says_cut_has_no_drain() {
    let mut hop = appraising(Demands { on_failure: OnFailure::Cut, ..demands() });
    hop.client.endpoint.appraised(Err(denial(Reason::CollateralExpired)), hop.now);
    hop.client.pump(hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::CollateralExpired, false)));
    // Nor has a grace of nothing.
    let mut hop = appraising(Demands { drain_grace: Duration::ZERO, ..demands() });
    hop.client.endpoint.appraised(Err(denial(Reason::CollateralExpired)), hop.now);
    hop.client.pump(hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::CollateralExpired, false)));
}

#[test]
fn the_first_timeout_drains_and_the_second_cuts() {
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(0.1, |hop| !hop.server.quotes.is_empty());
    hop.pass(14.5);
    assert!(hop.client.drain().is_none());
    hop.pass(1.0);
    assert_eq!(hop.client.drain().unwrap().denial.reason, Reason::Timeout);
    assert!(hop.server.drain().unwrap().by_peer);
    assert!(hop.client.cut().is_none());
    assert_eq!(hop.client.endpoint.state().phase, Phase::Draining);
    hop.pass(14.0);
    assert!(hop.client.cut().is_none());
    hop.pass(1.0);
    assert_eq!(hop.client.ended(), Some((Reason::Timeout, false)));
    assert_eq!(hop.client.endpoint.state().peer.timeouts, 2);
}

#[test]
fn evidence_after_the_first_timeout_still_counts_for_its_challenge() {
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(0.1, |hop| !hop.server.quotes.is_empty());
    hop.pass(20.0);
    assert!(hop.client.drain().is_some());
    // There is one challenge, so there is no doubt what it answers.
    hop.server.quote(hop.now);
    hop.settle();
    assert_eq!(hop.client.accepted(), [0, 1]);
    // The drain is not taken back.
    hop.pass(30.0);
    assert_eq!(hop.client.ended(), Some((Reason::Timeout, false)));
    assert_eq!(hop.client.endpoint.state().peer.timeouts, 1);
}

#[test]
fn a_timeout_cuts_at_once_where_the_policy_says_so() {
    let mut hop = Hop::new(Demands { on_failure: OnFailure::Cut, ..demands() }, demands());
    hop.settle();
    hop.server.quotes_at_once = false;
    hop.until(0.1, |hop| !hop.server.quotes.is_empty());
    hop.pass(16.0);
    assert_eq!(hop.client.ended(), Some((Reason::Timeout, false)));
}

#[test]
fn a_hop_without_accepted_evidence_for_two_intervals_is_cut() {
    // A driver that never says what became of the evidence.
    let mut hop = Hop::open();
    hop.client.accepts_at_once = false;
    hop.pass(599.0);
    assert!(hop.client.cut().is_none());
    hop.pass(2.0);
    assert_eq!(hop.client.ended(), Some((Reason::EvidenceStale, false)));
}

#[test]
fn a_verdict_that_lapsed_is_not_used_and_drains() {
    let mut hop = Hop::mutual();
    hop.client.verdict = 100;
    hop.settle();
    hop.pass(99.0);
    assert!(hop.client.endpoint.usable(hop.now) && hop.client.drain().is_none());
    hop.pass(1.0);
    assert!(!hop.client.endpoint.usable(hop.now));
    assert_eq!(hop.client.drain().unwrap().denial.reason, Reason::NotReady);
    hop.pass(30.0);
    assert_eq!(hop.client.ended(), Some((Reason::NotReady, false)));
    assert!(!hop.client.cut().unwrap().distrust);
}

#[test]
fn who_looks_again_in_time_prolongs_the_verdict_without_a_round() {
    let mut hop = Hop::mutual();
    hop.client.verdict = 100;
    hop.settle();
    hop.pass(90.0);
    hop.client.endpoint.reviewed(Ok(hop.now.unix + 500), hop.now);
    hop.pass(100.0);
    assert!(hop.client.endpoint.usable(hop.now) && hop.client.drain().is_none());
    // And shortens it, or ends the hop.
    hop.client.endpoint.reviewed(Ok(hop.now.unix + 5), hop.now);
    assert!(hop.client.endpoint.usable(hop.now));
    hop.pass(5.0);
    assert!(hop.client.drain().is_some());

    for (reason, ending) in
        [(Reason::CertificateRevoked, Ending::CutAndDistrust), (Reason::TcbOutOfDate, Ending::Drain)]
    {
        let mut hop = Hop::open();
        hop.client.endpoint.reviewed(Err(denial(reason)), hop.now);
        hop.settle();
        match ending {
            Ending::Drain => assert!(hop.client.drain().is_some() && hop.server.drain().is_some()),
            _ => {
                assert_eq!(hop.client.ended(), Some((reason, false)));
                assert_eq!(hop.server.cut().unwrap().wire, WireReason::Revoked);
            }
        }
    }
}

/// Rules that came later find the last proof too old: another one may come, in the
/// time of one answer, and nothing new rests on the old one meanwhile.
#[test]
fn a_proof_that_became_too_old_is_asked_for_anew_and_waited_for_once() {
    let stale = || Err(denial(Reason::EvidenceStale));
    // The peer answers.
    let mut hop = Hop::open();
    hop.pass(100.0);
    hop.client.endpoint.reviewed(stale(), hop.now);
    assert!(!hop.client.endpoint.usable(hop.now) && hop.client.endpoint.state().peer.outdated);
    assert!(hop.client.cut().is_none() && hop.client.drain().is_none());
    hop.settle();
    assert_eq!(hop.client.accepted(), [0, 1], "asked at once");
    assert!(hop.client.endpoint.usable(hop.now) && !hop.client.endpoint.state().peer.outdated);
    hop.pass(60.0);
    assert!(hop.client.cut().is_none() && hop.client.drain().is_none());
    // It does not, and who says so again gives it no more time.
    hop.server.quotes_at_once = false;
    hop.client.endpoint.reviewed(stale(), hop.now);
    hop.pass(14.0);
    hop.client.endpoint.reviewed(stale(), hop.now);
    hop.pass(0.5);
    assert!(hop.client.cut().is_none());
    hop.pass(0.5);
    assert_eq!(hop.client.ended(), Some((Reason::EvidenceStale, false)));
    assert!(!hop.client.cut().unwrap().distrust);
    // Other rules once more, by which the old one is good enough.
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.pass(100.0);
    hop.client.endpoint.reviewed(stale(), hop.now);
    hop.client.endpoint.reviewed(Ok(hop.now.unix + 1000), hop.now);
    assert!(hop.client.endpoint.usable(hop.now));
    // What a round that is open brings is as young as its challenge.
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(0.1, |hop| !hop.server.quotes.is_empty());
    hop.client.endpoint.reviewed(stale(), hop.now);
    hop.server.quote(hop.now);
    hop.settle();
    assert_eq!(hop.client.accepted(), [0, 1]);
    assert!(hop.client.endpoint.usable(hop.now));
}

#[test]
fn a_proof_that_became_too_old_ends_a_hop_whose_policy_knows_no_patience() {
    for demands in [
        Demands { on_failure: OnFailure::Cut, ..demands() },
        Demands { drain_grace: Duration::ZERO, ..demands() },
    ] {
        let mut hop = Hop::new(demands, crate::pump::demands());
        hop.settle();
        hop.client.endpoint.reviewed(Err(denial(Reason::EvidenceStale)), hop.now);
        hop.client.pump(hop.now);
        assert_eq!(hop.client.ended(), Some((Reason::EvidenceStale, false)));
    }
}

#[test]
fn a_verdict_that_is_over_when_it_comes_is_none() {
    let mut hop = Hop::mutual();
    hop.client.verdict = 0;
    hop.settle();
    assert_eq!(hop.client.ended(), Some((Reason::NotReady, false)));
    assert!(!hop.client.is_open());
}

#[test]
fn a_level_that_was_not_announced_ends_the_hop_as_the_new_policy_says() {
    for (before, after, on_failure) in [
        (Level::L1, Level::L2, OnFailure::Drain),
        (Level::L1, Level::L3, OnFailure::Cut),
        (Level::L2, Level::L0, OnFailure::Drain),
    ] {
        let mut hop = Hop::new(Demands { level: before, ..demands() }, demands());
        hop.settle();
        let terms = Demands { level: after, on_failure, ..demands() };
        hop.client.endpoint.demand(Arc::new(terms), hop.now);
        hop.pass(1.0);
        match on_failure {
            OnFailure::Drain => {
                assert_eq!(hop.client.drain().unwrap().denial.reason, Reason::PolicyChanged);
                assert!(hop.client.cut().is_none());
            }
            OnFailure::Cut => assert_eq!(hop.client.ended(), Some((Reason::PolicyChanged, false))),
        }
        // Between L2 and L3 only the verdict changes.
    }
    let mut hop = Hop::open();
    hop.client.endpoint.demand(Arc::new(Demands { level: Level::L3, ..demands() }), hop.now);
    hop.pass(1000.0);
    assert!(hop.client.drain().is_none() && hop.client.endpoint.usable(hop.now));
}

#[test]
fn a_channel_that_ends_takes_the_hop_with_it() {
    for gate in [true, false] {
        let mut hop = if gate { Hop::mutual() } else { Hop::open() };
        hop.client.endpoint.end(hop.now);
        hop.client.pump(hop.now);
        assert_eq!(hop.client.ended(), Some((Reason::ChannelClosed, false)));
        assert!(!hop.client.cut().unwrap().distrust);
        assert!(!hop.client.endpoint.usable(hop.now));
    }
    // After a drain this is the end that was expected.
    let mut hop = Hop::open();
    hop.server.endpoint.drain(denial(Reason::Draining), hop.now);
    hop.settle();
    hop.client.endpoint.end(hop.now);
    hop.client.pump(hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::PeerRefused, true)));
}

#[test]
fn a_drain_that_is_asked_for_ignores_what_the_policy_says_of_failures() {
    let mut hop = Hop::new(Demands { on_failure: OnFailure::Cut, ..demands() }, demands());
    hop.settle();
    hop.client.endpoint.drain(denial(Reason::Draining), hop.now);
    hop.settle();
    assert!(hop.client.drain().is_some() && hop.client.cut().is_none());
    assert_eq!(hop.server.drain().unwrap().grace.as_secs(), 30);
}

#[test]
fn both_may_drain_at_once_and_the_shorter_grace_counts() {
    let mut hop = Hop::new(Demands { drain_grace: Duration::from_secs(100), ..demands() }, demands());
    hop.settle();
    hop.client.endpoint.drain(denial(Reason::Draining), hop.now);
    hop.server.endpoint.drain(denial(Reason::Draining), hop.now);
    hop.settle();
    for node in [&hop.client, &hop.server] {
        assert_eq!(node.events.iter().filter(|event| matches!(event, Event::Drain(_))).count(), 1);
    }
    hop.pass(29.0);
    assert!(hop.client.cut().is_none() && hop.server.cut().is_none());
    hop.pass(1.0);
    assert!(hop.client.cut().is_some() && hop.server.cut().is_some());
}

#[test]
fn a_grace_of_the_peer_is_bounded_and_said_once() {
    let mut hop = Hop::open();
    let farewell = |grace| Farewell { reason: WireReason::Policy, grace }.encode();
    hop.client.give(Kind::Drain, &farewell(u64::MAX), hop.now);
    assert_eq!(hop.client.drain().unwrap().grace.as_secs(), 120);
    hop.client.give(Kind::Drain, &farewell(10), hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::Malformed, false)));
    // A grace of nothing is a cut, at any time.
    for gate in [true, false] {
        let mut hop = if gate { Hop::mutual() } else { Hop::open() };
        hop.client.give(Kind::Drain, &farewell(0), hop.now);
        assert_eq!(hop.client.ended(), Some((Reason::PeerRefused, true)));
        assert_eq!(hop.client.cut().unwrap().wire, WireReason::Policy);
        // Nothing is said to one who has gone.
        let late = hop.client.sent.iter().filter(|(kind, _)| *kind == Kind::Drain).count();
        assert_eq!(late, 0);
    }
}

#[test]
fn a_quote_that_fails_cuts_before_the_gate_and_drains_after_it() {
    let mut hop = Hop::mutual();
    hop.server.quotes_at_once = false;
    hop.settle();
    hop.server.endpoint.quoted(Err(denial(Reason::Overloaded)), hop.now);
    hop.settle();
    assert_eq!(hop.server.ended(), Some((Reason::Overloaded, false)));
    assert_eq!(hop.client.cut().unwrap().wire, WireReason::Unavailable);

    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(1.0, |hop| !hop.server.quotes.is_empty());
    hop.server.endpoint.quoted(Err(denial(Reason::Overloaded)), hop.now);
    hop.settle();
    assert!(hop.server.drain().is_some() && hop.client.drain().unwrap().by_peer);
}

#[test]
fn a_hop_ends_with_the_first_certificate_and_drains_before() {
    for side in [Side::Client, Side::Server] {
        let mut hop = Hop::mutual();
        for of in [Side::Client, Side::Server] {
            let mut channel = channel(of, 0x55);
            let party = if of == side { &mut channel.own } else { &mut channel.peer };
            party.not_after = crate::common::NOW + 3600;
            *hop.node(of) = Node::new(channel, demands(), offer(), of as u64 + 5);
        }
        hop.settle();
        assert!(hop.client.is_open());
        hop.pass(3569.0);
        assert!(hop.client.drain().is_none() && hop.server.drain().is_none());
        hop.pass(1.0);
        assert_eq!(hop.client.drain().unwrap().denial.reason, Reason::Draining);
        hop.pass(31.0);
        assert!(hop.client.cut().is_some() && hop.server.cut().is_some());
    }
}

/// Whoever moves the wall clock gains nothing in either direction.
#[test]
fn a_certificate_is_over_by_the_clock_that_says_so_first() {
    let mut jumped = after(10.0);
    jumped.unix += 31 * 86_400;
    let mut set_back = after(30.0 * 86_400.0 + 1.0);
    set_back.unix = crate::common::NOW;
    for now in [jumped, set_back] {
        let mut hop = Hop::open();
        assert!(!hop.client.endpoint.usable(now));
        hop.client.pump(now);
        assert_eq!(hop.client.ended(), Some((Reason::SvidExpired, false)));
        assert!(!hop.client.cut().unwrap().distrust);
    }
}

#[test]
fn a_hop_lives_a_day_at_most() {
    let mut hop =
        Hop::new(Demands { level: Level::L1, ..demands() }, Demands { level: Level::L1, ..demands() });
    hop.settle();
    hop.pass(24.0 * 3600.0 - 31.0);
    assert!(hop.client.endpoint.usable(hop.now));
    hop.pass(1.0);
    assert!(!hop.client.endpoint.usable(hop.now) && hop.client.drain().is_some());
    hop.pass(31.0);
    assert!(hop.client.cut().is_some());
}

/// Quotes and appraisals take their time: the hop may be over when they come.
#[test]
fn answers_that_come_after_the_end_are_ignored() {
    let mut hop = Hop::mutual();
    hop.client.accepts_at_once = false;
    hop.client.quotes_at_once = false;
    hop.settle();
    assert_eq!((hop.client.received.len(), hop.client.quotes.len()), (1, 1));
    hop.client.endpoint.end(hop.now);
    hop.client.pump(hop.now);
    let events = hop.client.events.len();
    let now = hop.now;
    hop.client.quote(now);
    hop.client.accept(now);
    hop.client.endpoint.judged(Err(denial(Reason::SvidExpired)), now);
    assert_eq!(hop.client.pump(now), None);
    assert_eq!((hop.client.events.len(), hop.client.sent.len()), (events, 0));
    assert!(hop.client.accepted().is_empty());
}

#[test]
fn a_machine_that_is_done_does_nothing_more() {
    let mut hop = Hop::open();
    hop.client.endpoint.drain(denial(Reason::Debug), hop.now);
    hop.client.pump(hop.now);
    hop.client.sent.clear();
    let events = hop.client.events.len();
    let endpoint = &mut hop.client.endpoint;
    endpoint.end(hop.now);
    endpoint.changed(hop.now);
    endpoint.attached(hop.now);
    endpoint.drain(denial(Reason::Internal), hop.now);
    endpoint.reviewed(Err(denial(Reason::Internal)), hop.now);
    endpoint.appraised(Err(denial(Reason::Internal)), hop.now);
    endpoint.quoted(Err(denial(Reason::Internal)), hop.now);
    endpoint.judged(Err(denial(Reason::Internal)), hop.now);
    endpoint.demand(Arc::new(Demands { level: Level::L0, ..demands() }), hop.now);
    assert_eq!(endpoint.receive(&[0xff; 100], hop.now), 100);
    assert_eq!(hop.client.pump(after(1_000_000.0)), None);
    assert_eq!((hop.client.events.len(), hop.client.sent.len()), (events, 0));
    assert_eq!(hop.client.endpoint.state().phase, Phase::Closed);
}
