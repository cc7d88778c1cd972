//! Again and again while the hop lives.

use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::Reason;
use countersign_ratls::session::frame::Kind;
use countersign_ratls::session::message::{Challenge, Outcome, RoundResult, encode_changed};
use countersign_ratls::session::{Acceptance, Demands, Offer, Side, Wanted};

use crate::pump::*;

#[test]
fn rounds_go_on_in_both_directions_with_jitter() {
    let mut hop = Hop::open();
    let mut asked = vec![Duration::ZERO];
    for _ in 0..20_000 {
        hop.pass(0.5);
        let since = hop.client.endpoint.state().peer.since.unwrap();
        if asked.last() != Some(&since) {
            asked.push(since);
        }
    }
    for node in [&hop.client, &hop.server] {
        let rounds = node.accepted();
        assert!(rounds.iter().copied().eq(0..rounds.len() as u64) && rounds.len() > 25, "{rounds:?}");
    }
    let gaps: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!(gaps.iter().all(|gap| (240.0..=360.0).contains(gap)), "{gaps:?}");
    let (least, most) = gaps.iter().fold((f64::MAX, 0_f64), |(a, b), gap| (a.min(*gap), b.max(*gap)));
    assert!(most - least > 50.0, "{gaps:?}");
    // The two directions do not march in step.
    assert_ne!(hop.client.endpoint.state().peer.next, hop.server.endpoint.state().peer.next);
}

#[test]
fn who_wants_to_see_a_proof_gets_a_round_at_once_and_only_one() {
    let mut hop = Hop::mutual();
    assert!(!hop.client.endpoint.ask(hop.now), "the gate comes first");
    let mut hop = Hop::open();
    // Past the time for which the peer spares its device.
    hop.pass(10.0);
    assert_eq!(hop.client.endpoint.state().peer.round, Some(0));
    hop.server.quotes_at_once = false;
    assert!(hop.client.endpoint.ask(hop.now));
    hop.settle();
    assert_eq!(hop.server.quotes.len(), 1);
    // A proof that is on its way is one.
    assert!(hop.client.endpoint.ask(hop.now));
    hop.settle();
    assert_eq!(hop.server.quotes.len(), 1);
    hop.server.quotes_at_once = true;
    hop.server.quote(hop.now);
    hop.settle();
    hop.pass(30.0);
    assert_eq!(hop.client.endpoint.state().peer.round, Some(1));
    assert_eq!(hop.server.endpoint.state().peer.round, Some(0), "the other direction has its own time");
    // What ends is not asked any more.
    hop.client.endpoint.drain(denial(Reason::Draining), hop.now);
    assert!(!hop.client.endpoint.ask(hop.now));
}

#[test]
fn a_verdict_counts_from_its_challenge_and_for_two_intervals() {
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(0.1, |hop| !hop.server.quotes.is_empty());
    let asked = hop.now.monotonic;
    hop.pass(9.0);
    hop.server.quote(hop.now);
    hop.settle();
    let state = hop.client.endpoint.state();
    assert_eq!(state.peer.round, Some(1));
    assert!(state.peer.since.unwrap() <= asked);
    let until = state.accepted_until.unwrap() - state.peer.since.unwrap();
    assert_eq!(until.as_secs(), 600);
}

#[test]
fn one_quote_over_many_binders_serves_all_their_hops() {
    let mut hops: Vec<_> = (0..5).map(|_| Hop::mutual()).collect();
    for (i, hop) in hops.iter_mut().enumerate() {
        let seed = 100 + i as u64;
        hop.server = Node::new(channel(Side::Server, 0x55), demands(), offer(), seed);
        hop.server.quotes_at_once = false;
        hop.settle();
    }
    let now = hops[0].now;
    quote_batch(&mut hops.iter_mut().map(|hop| &mut hop.server).collect::<Vec<_>>(), now);
    let mut quotes = Vec::new();
    for hop in &mut hops {
        hop.client.accepts_at_once = false;
        hop.settle();
        let received = &hop.client.received[0];
        assert_ne!(received.report_data.as_bytes(), &received.binder);
        quotes.push(received.evidence.clone());
        hop.client.accept(now);
        hop.settle();
        assert!(hop.client.is_open() && hop.server.is_open());
    }
    quotes.dedup();
    assert_eq!(quotes.len(), 1);
}

#[test]
fn a_proof_for_another_leaf_or_tree_is_refused() {
    use countersign_ratls::session::message::{Evidence, Inclusion};
    type Change = fn(&mut Inclusion);
    let changes: [(Change, bool); 7] = [
        (|_| {}, true),
        (|proof| proof.index ^= 1, false),
        (|proof| proof.size += 1, false),
        (|proof| proof.size = 1 << 17, false),
        (|proof| proof.path.truncate(1), false),
        (|proof| proof.path.push([0; 64]), false),
        (|proof| proof.path[0][0] ^= 1, false),
    ];
    for (at, (change, holds)) in changes.into_iter().enumerate() {
        let mut hops = [Hop::mutual(), Hop::mutual(), Hop::mutual()];
        for (i, hop) in hops.iter_mut().enumerate() {
            hop.server = Node::new(channel(Side::Server, 0x55), demands(), offer(), 100 + i as u64);
            hop.server.quotes_at_once = false;
            hop.settle();
        }
        let now = hops[0].now;
        quote_batch(&mut hops.iter_mut().map(|hop| &mut hop.server).collect::<Vec<_>>(), now);
        let [hop, ..] = &mut hops;
        hop.server.pump(now);
        let payload = hop.server.take(Kind::Evidence);
        let mut evidence = Evidence::decode(&payload).unwrap();
        change(evidence.proof.as_mut().unwrap());
        hop.client.give(Kind::Evidence, &evidence.encode(), now);
        let ended = hop.client.ended();
        match holds {
            true => assert_eq!(ended, None),
            false => assert_eq!(ended, Some((Reason::BindingMismatch, false)), "{at}"),
        }
    }
}

#[test]
fn an_event_log_is_asked_for_from_where_it_is_known() {
    let wants = Demands { wanted: Wanted::CPU.and(Wanted::EVENT_LOG), ..demands() };
    let has = Offer { event_log: true, ..offer() };
    let mut hop = Hop::with_offers((wants.clone(), has.clone()), (demands(), has.clone()));
    hop.server.quotes_at_once = false;
    hop.client.accepts_at_once = false;
    hop.settle();
    assert_eq!(hop.server.quotes[0].event_log, Some(0));
    hop.server.quote(hop.now);
    hop.settle();
    let received = hop.client.received.remove(0);
    assert_eq!(received.event_log, Some(("application/x-log".to_owned(), b"log".to_vec())));
    let acceptance = Acceptance { until: hop.now.unix + 100_000, event_log: Some(17) };
    hop.client.endpoint.appraised(Ok(acceptance), hop.now);
    hop.settle();
    assert!(hop.client.is_open());
    hop.until(1.0, |hop| !hop.server.quotes.is_empty());
    assert_eq!(hop.server.quotes[0].event_log, Some(17));
    hop.server.quote(hop.now);
    hop.settle();
    assert_eq!(hop.client.received[0].event_log_from, 17);

    // Who keeps none answers without, and whoever appraises decides.
    let mut hop = Hop::with_offers((wants, has), (demands(), offer()));
    hop.client.accepts_at_once = false;
    hop.settle();
    assert_eq!(hop.client.received[0].event_log, None);
    assert!(hop.client.ended().is_none() && hop.server.ended().is_none());
}

#[test]
fn a_retry_has_the_same_round_and_a_fresh_nonce_and_happens_twice_at_most() {
    let mut hop = Hop::mutual();
    hop.client.accepts_at_once = false;
    let mut nonces = Vec::new();
    hop.client.pump(hop.now);
    nonces.push(Challenge::decode(&hop.client.sent[1].1).unwrap().nonce);
    for attempt in 0..3 {
        hop.settle();
        assert_eq!(hop.client.received.len(), 1, "{attempt}");
        hop.client.received.clear();
        hop.client.endpoint.appraised(Err(denial(Reason::EvidenceStale)), hop.now);
        hop.client.pump(hop.now);
        if attempt < 2 {
            let result = RoundResult::decode(&hop.client.sent[0].1).unwrap();
            assert!(matches!(result.outcome, Outcome::Retry(_)));
            let challenge = Challenge::decode(&hop.client.sent[1].1).unwrap();
            assert_eq!(challenge.round, 0);
            nonces.push(challenge.nonce);
        }
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 3);
    assert_eq!(hop.client.ended(), Some((Reason::EvidenceStale, false)));
    hop.settle();
    assert_eq!(hop.server.ended(), Some((Reason::PeerRefused, true)));
    assert_eq!(hop.client.endpoint.state().peer.retries, 2);
}

#[test]
fn a_retry_that_succeeds_leaves_nothing_behind() {
    let mut hop = Hop::open();
    hop.client.accepts_at_once = false;
    hop.until(1.0, |hop| !hop.client.received.is_empty());
    hop.client.received.clear();
    hop.client.endpoint.appraised(Err(denial(Reason::EvidenceStale)), hop.now);
    hop.client.accepts_at_once = true;
    // The second quote for the hop keeps its distance from the first.
    hop.settle();
    assert_eq!(hop.client.accepted(), [0]);
    hop.pass(5.0);
    assert_eq!(hop.client.accepted(), [0, 1]);
    hop.pass(2000.0);
    assert!(hop.client.accepted().len() > 5 && hop.client.cut().is_none() && hop.client.drain().is_none());
}

#[test]
fn what_we_lack_ourselves_does_not_cost_the_peer_another_quote() {
    let mut hop = Hop::mutual();
    hop.client.accepts_at_once = false;
    hop.settle();
    hop.client.endpoint.appraised(Err(denial(Reason::CollateralMissing)), hop.now);
    hop.settle();
    assert_eq!(hop.client.ended(), Some((Reason::CollateralMissing, false)));
    assert!(!hop.client.cut().unwrap().distrust);
}

#[test]
fn changed_brings_the_next_round_forward_and_a_flood_of_it_is_put_off() {
    let mut hop = Hop::open();
    hop.pass(30.0);
    hop.server.endpoint.changed(hop.now);
    hop.settle();
    assert_eq!(hop.client.accepted(), [0, 1]);
    // An honest sender keeps the distance and forgets nothing.
    for _ in 0..5 {
        hop.server.endpoint.changed(hop.now);
        hop.settle();
    }
    assert_eq!(hop.client.accepted(), [0, 1]);
    hop.pass(9.9);
    assert_eq!(hop.client.accepted(), [0, 1]);
    hop.pass(0.2);
    assert_eq!(hop.client.accepted(), [0, 1, 2]);
    assert_eq!(hop.client.endpoint.state().peer.changes_deferred, 0);
    // One that floods gets a round in ten seconds, and is not cut.
    let started = hop.client.accepted().len();
    for _ in 0..1000 {
        hop.client.give(Kind::Changed, &encode_changed(1), hop.now);
        hop.pass(0.1);
    }
    let rounds = hop.client.accepted().len() - started;
    assert!((9..=11).contains(&rounds), "{rounds}");
    assert!(hop.client.cut().is_none() && hop.client.drain().is_none());
    assert!(hop.client.endpoint.state().peer.changes_deferred > 900);
}

#[test]
fn changed_during_a_round_is_answered_by_another() {
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(1.0, |hop| !hop.server.quotes.is_empty());
    // The quote may be older than the event.
    hop.server.endpoint.changed(hop.now);
    hop.settle();
    hop.server.quote(hop.now);
    hop.server.quotes_at_once = true;
    hop.settle();
    assert_eq!(hop.client.accepted(), [0, 1]);
    hop.pass(5.0);
    assert_eq!(hop.client.accepted(), [0, 1, 2]);
}

#[test]
fn other_demands_of_the_same_kind_shorten_what_is_to_be_shorter() {
    let mut hop = Hop::open();
    let often = Demands { interval: Duration::from_secs(30), policy_id: [1; 32], ..demands() };
    hop.client.endpoint.demand(Arc::new(often), hop.now);
    hop.pass(37.0);
    assert_eq!(hop.client.accepted(), [0, 1]);
    // The hop is not stale by a measure that did not hold before.
    let mut hop = Hop::open();
    hop.pass(200.0);
    let often = Demands { interval: Duration::from_secs(30), policy_id: [1; 32], ..demands() };
    hop.client.endpoint.demand(Arc::new(often), hop.now);
    assert!(hop.client.endpoint.usable(hop.now));
    hop.pass(37.0);
    assert_eq!(hop.client.accepted(), [0, 1]);
    assert!(hop.client.drain().is_none() && hop.client.cut().is_none());
}

#[test]
fn a_wall_clock_that_is_set_back_prolongs_nothing() {
    let mut hop = Hop::mutual();
    hop.client.verdict = 100;
    hop.settle();
    assert!(hop.client.endpoint.usable(after(99.0)));
    let mut back = after(101.0);
    back.unix -= 50_000;
    assert!(!hop.client.endpoint.usable(back));
    let mut ahead = after(1.0);
    ahead.unix += 1000;
    assert!(!hop.client.endpoint.usable(ahead));
    hop.client.pump(back);
    assert_eq!(hop.client.drain().map(|drain| drain.denial.reason), Some(Reason::NotReady));
}
