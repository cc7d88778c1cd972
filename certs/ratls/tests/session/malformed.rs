//! Bytes that are no frame, and frames that are not what they should be.

use countersign_evidence::Reason;
use countersign_ratls::session::collection::Parts;
use countersign_ratls::session::frame::{self, Kind};
use countersign_ratls::session::message::{Evidence, Hello, encode_changed};
use countersign_ratls::session::{Demands, Ending, Side, WireReason};

use crate::common::sha256;
use crate::pump::*;

/// Gives `bytes` to a server that waits for a Hello: how it ends.
fn at_start(bytes: &[u8]) -> Option<Reason> {
    let mut node = Node::new(channel(Side::Server, 1), demands(), offer(), 1);
    node.pump(after(0.0));
    node.sent.clear();
    node.give_bytes(bytes, after(0.0));
    let reason = node.ended().map(|(reason, _)| reason);
    if reason.is_some() {
        // The peer learns the coarse reason, whatever it was.
        let (kind, payload) = node.sent.back().unwrap();
        assert_eq!((*kind, said(*kind, payload)), (Kind::Drain, Some(WireReason::Format)));
    }
    reason
}

fn hello() -> Vec<u8> {
    let mut node = Node::new(channel(Side::Client, 1), demands(), offer(), 2);
    node.pump(after(0.0));
    node.take(Kind::Hello)
}

fn as_frame(payload: &[u8]) -> Vec<u8> {
    frame::encode(Kind::Hello, payload)
}

#[test]
fn lengths_and_types() {
    assert_eq!(at_start(&as_frame(&hello())), None);
    for (bytes, reason) in [
        (vec![0, 0, 0, 0, 1], Reason::Malformed),
        (vec![0, 0, 0, 1, 0], Reason::Malformed),
        (vec![0, 0, 0, 2, 9, 0xa0], Reason::Malformed),
        (vec![0, 0, 8, 2, 1], Reason::Oversized),
        (vec![0xff, 0xff, 0xff, 0xff, 1], Reason::Oversized),
        (b"GET / HTTP/1.1\r\n".to_vec(), Reason::Malformed),
        (b"PRI * HTTP/2.0\r\n".to_vec(), Reason::Malformed),
        (vec![0, 0, 0, 1, 1], Reason::Truncated),
    ] {
        assert_eq!(at_start(&bytes), Some(reason), "{bytes:?}");
    }
    // Exactly the largest Hello passes the frame's cap.
    assert_eq!(at_start(&[0, 0, 8, 1, 1]), None);
}

#[test]
fn payloads_that_are_not_deterministic_cbor() {
    let good = hello();
    assert_eq!(good[0], 0xa9);
    for end in 0..good.len() {
        assert!(at_start(&as_frame(&good[..end])).is_some(), "{end}");
    }
    let cases: [(&str, Vec<u8>); 8] = [
        ("a byte after it", [&good[..], &[0]].concat()),
        ("a long head", [&[0xb8, 9], &good[1..]].concat()),
        ("an indefinite map", [&[0xbf], &good[1..], &[0xff]].concat()),
        ("a key twice", [&[0xaa, 1, 1], &good[1..]].concat()),
        ("another order", [&[0xa9], &good[3..5], &good[1..3], &good[5..]].concat()),
        ("an array", [&[0x89], &good[1..]].concat()),
        ("text as key", [&[0xaa], &good[1..], &[0x61, b'a', 0]].concat()),
        ("a negative key", [&[0xaa], &good[1..], &[0x20, 0]].concat()),
    ];
    for (what, payload) in cases {
        assert!(at_start(&as_frame(&payload)).is_some(), "{what}");
    }
}

#[test]
fn unknown_keys_by_the_rule() {
    let good = hello();
    let with = |key: &[u8], value: &[u8]| as_frame(&[&[0xaa], &good[1..], key, value].concat());
    // 10 and 127 are not known; 128 and above are for others.
    assert_eq!(at_start(&with(&[10], &[0])), Some(Reason::Malformed));
    assert_eq!(at_start(&with(&[0x18, 127], &[0])), Some(Reason::Malformed));
    assert_eq!(at_start(&with(&[0x18, 128], &[0])), None);
    assert_eq!(at_start(&with(&[0x1b, 255, 255, 255, 255, 255, 255, 255, 255], &[0x81, 0xa1, 1, 2])), None);
    assert_eq!(at_start(&as_frame(&[&[0xaa, 0, 0], &good[1..]].concat())), Some(Reason::Malformed));
    // They are ignored in their meaning, not in the binder: both ends hash them.
    let mut many = vec![0xb8, 9 + 24];
    many.extend_from_slice(&good[1..]);
    (0..24).for_each(|n| many.extend([0x18, 200 + n, 0]));
    assert_eq!(at_start(&as_frame(&many)), Some(Reason::Oversized));
}

#[test]
fn every_field_of_a_hello() {
    let good = Hello::decode(&hello()).unwrap();
    let reason = |change: &dyn Fn(&mut Hello)| {
        let mut hello = good.clone();
        change(&mut hello);
        at_start(&as_frame(&hello.encode()))
    };
    assert_eq!(reason(&|_| {}), None);
    assert_eq!(reason(&|hello| hello.side = Side::Server), Some(Reason::Malformed));
    assert_eq!(reason(&|hello| hello.verifies = Vec::new()), None);
    assert_eq!(reason(&|hello| hello.verifies = vec!["a/b".to_owned(); 17]), Some(Reason::Malformed));
    assert_eq!(reason(&|hello| hello.verifies = vec!["no type".to_owned()]), Some(Reason::Malformed));
    assert_eq!(reason(&|hello| hello.verifies = vec!["a/\u{e9}".to_owned()]), Some(Reason::Malformed));
    assert_eq!(reason(&|hello| hello.produces = Vec::new()), Some(Reason::UnsupportedFormat));
    assert_eq!(reason(&|hello| hello.features = u64::MAX), None);
    assert_eq!(reason(&|hello| hello.max_evidence = 0), None);
    assert_eq!(reason(&|hello| hello.interval = u64::MAX), None);
    // Values that the type cannot hold, written by hand: version, role, level.
    let bytes = good.encode();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        at_start(&as_frame(&bytes))
    };
    assert_eq!(with(2, 2), Some(Reason::UnsupportedVersion));
    assert_eq!(with(2, 0), Some(Reason::UnsupportedVersion));
    assert_eq!(with(4, 2), Some(Reason::Malformed));
    assert_eq!(with(bytes.len() - 1, 4), Some(Reason::Malformed));
    assert_eq!(with(bytes.len() - 1, 0x20), Some(Reason::Malformed));
    // A nonce that is shorter.
    let at = bytes.windows(2).position(|pair| pair == [0x58, 32]).unwrap();
    let mut short = bytes.clone();
    short[at + 1] = 31;
    short.remove(at + 2);
    assert_eq!(at_start(&as_frame(&short)), Some(Reason::Malformed));
}

/// A client that waits for evidence, and the server's frame.
fn awaiting_evidence() -> (Hop, Vec<u8>) {
    let mut hop = Hop::mutual();
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    hop.carry();
    let evidence = hop.server.take(Kind::Evidence);
    (hop, evidence)
}

#[test]
fn evidence_of_any_other_form() {
    let (_, good) = awaiting_evidence();
    let good = Evidence::decode(&good).unwrap();
    let parts = Parts::decode(good.collection).unwrap();
    let how = |payload: &[u8]| {
        let (mut hop, _) = awaiting_evidence();
        hop.client.sent.clear();
        hop.client.give(Kind::Evidence, payload, hop.now);
        let (kind, payload) = hop.client.sent.back().unwrap().clone();
        (hop.client.ended().unwrap().0, kind, said(kind, &payload).unwrap())
    };
    let with = |collection: &[u8]| how(&Evidence { collection, ..good.clone() }.encode());
    // The frame itself.
    assert_eq!(how(b"\xa0").1, Kind::Drain);
    assert_eq!(
        how(&Evidence { round: 1, ..good.clone() }.encode()),
        (Reason::Malformed, Kind::Drain, WireReason::Format)
    );
    // What is in it: the Result of the round says so.
    assert_eq!(with(b""), (Reason::Truncated, Kind::Result, WireReason::Format));
    assert_eq!(with(b"\xa0").0, Reason::Malformed);
    let native = countersign_ratls::native::encode(&[0], TYPE, parts.cpu.1, None);
    assert_eq!(with(&native), (Reason::UnsupportedFormat, Kind::Result, WireReason::Format));
    let other = Parts { cpu: ("application/other", parts.cpu.1), event_log: None };
    assert_eq!(with(&other.encode()).0, Reason::UnsupportedFormat);
    let unasked = Parts { event_log: Some(("a/b", b"log")), ..parts };
    assert_eq!(with(&unasked.encode()).0, Reason::UnsupportedFormat);
    let garbage = Parts { cpu: (TYPE, b"no quote"), event_log: None };
    assert_eq!(with(&garbage.encode()).2, WireReason::Format);
    let empty = Parts { cpu: (TYPE, b""), event_log: None };
    assert_eq!(with(&empty.encode()).2, WireReason::Format);
}

/// A kind of evidence that we can verify is not one that the policy accepts.
#[test]
fn evidence_of_a_type_that_was_not_asked_for() {
    use countersign_evidence::evidence::media_type::TSM_SNP;
    use countersign_ratls::session::Offer;
    let snp = Demands { accepted: vec![TSM_SNP.to_owned()], ..demands() };
    let both = Offer { types: vec![TSM_SNP.to_owned(), TYPE.to_owned()], event_log: false };
    let mut hop = Hop::with_offers((snp, offer()), (demands(), both));
    hop.settle();
    assert_eq!(hop.client.ended(), Some((Reason::UnsupportedFormat, false)));
    assert!(hop.client.received.is_empty());
}

#[test]
fn whoever_keeps_an_event_log_shows_it() {
    use countersign_ratls::session::{Offer, Wanted};
    let wants = Demands { wanted: Wanted::CPU.and(Wanted::EVENT_LOG), ..demands() };
    let has = Offer { event_log: true, ..offer() };
    let mut hop = Hop::with_offers((wants, has.clone()), (demands(), has));
    hop.client.pump(hop.now);
    hop.server.pump(hop.now);
    hop.carry();
    let payload = hop.server.take(Kind::Evidence);
    let good = Evidence::decode(&payload).unwrap();
    let parts = Parts { event_log: None, ..Parts::decode(good.collection).unwrap() };
    hop.client.give(
        Kind::Evidence,
        &Evidence { collection: &parts.encode(), ..good.clone() }.encode(),
        hop.now,
    );
    assert_eq!(hop.client.ended(), Some((Reason::EventLogMissing, false)));
}

#[test]
fn evidence_is_as_large_as_we_said() {
    for (size, fits) in [(8 << 10, true), (5 << 10, true), (4 << 10, false)] {
        let mut hop = Hop::new(Demands { max_evidence: size, ..demands() }, demands());
        hop.client.pump(hop.now);
        hop.server.pump(hop.now);
        hop.carry();
        let large = hop.server.sent.iter().any(|(kind, _)| *kind == Kind::Evidence);
        assert_eq!(large, fits, "{size}");
        if !fits {
            // An honest peer does not even send it, and blames nobody for it.
            assert_eq!(hop.server.ended(), Some((Reason::Overloaded, false)));
            assert_eq!(Ending::of(Reason::Overloaded), Ending::Drain);
            // Any other is told at the frame's head.
            let mut head = (size as u32 + 2).to_be_bytes().to_vec();
            head.push(Kind::Evidence.byte());
            hop.client.give_bytes(&head, hop.now);
            assert_eq!(hop.client.ended(), Some((Reason::Oversized, false)));
        }
    }
}

#[test]
fn evidence_that_nobody_waits_for_is_refused_at_its_head() {
    let mut hop = Hop::open();
    let mut head = 100_000_u32.to_be_bytes().to_vec();
    head.push(Kind::Evidence.byte());
    hop.client.give_bytes(&head, hop.now);
    assert_eq!(hop.client.ended(), Some((Reason::Malformed, false)));
}

#[test]
fn small_frames_of_any_other_form() {
    for (kind, payloads) in [
        (
            Kind::Drain,
            vec![
                b"\xa0".to_vec(),
                b"\xa2\x01\x00\x02\x05".to_vec(),
                b"\xa2\x01\x10\x02\x05".to_vec(),
                b"\xa1\x01\x01".to_vec(),
            ],
        ),
        (
            Kind::Changed,
            vec![b"\xa0".to_vec(), b"\xa1\x01\x20".to_vec(), b"\xa2\x01\x01\x02\x01".to_vec(), vec![0; 1025]],
        ),
        (Kind::Identity, vec![b"\xa0".to_vec(), b"\xa3\x01\x80\x02\x40\x03\x01".to_vec()]),
    ] {
        for payload in payloads {
            let mut hop = Hop::open();
            hop.client.give(kind, &payload, hop.now);
            let (reason, by_peer) = hop.client.ended().unwrap();
            assert!(
                !by_peer && WireReason::of(reason) == WireReason::Format,
                "{kind} {payload:x?}: {reason}"
            );
            assert!(hop.client.cut().unwrap().distrust);
        }
    }
    // A kind of change that we do not know is one all the same.
    let mut hop = Hop::open();
    hop.client.give(Kind::Changed, &encode_changed(1 << 40), hop.now);
    assert!(hop.client.cut().is_none());
}

#[test]
fn results_of_any_other_form() {
    use countersign_ratls::session::message::{Outcome, RoundResult};
    let awaiting = || {
        let mut hop = Hop::mutual();
        hop.client.accepts_at_once = false;
        hop.settle();
        hop
    };
    let binder = awaiting().client.received[0].binder;
    let result = |round, outcome| RoundResult { round, outcome, binder_sha256: sha256(&binder), next: 300 };
    let how = |payload: &[u8]| {
        let mut hop = awaiting();
        hop.server.give(Kind::Result, payload, hop.now);
        hop.server.ended()
    };
    let good = result(0, Outcome::Accept).encode();
    assert_eq!(how(&good), None);
    assert_eq!(how(&result(1, Outcome::Accept).encode()), Some((Reason::Malformed, false)));
    assert_eq!(how(&result(0, Outcome::Reject(WireReason::Tcb)).encode()), Some((Reason::PeerRefused, true)));
    // An acceptance with a reason, a refusal without one, an outcome 3.
    let mut accept_with_reason = good.clone();
    accept_with_reason[0] = 0xa5;
    accept_with_reason.extend([5, 1]);
    let mut refusal_without = good.clone();
    refusal_without[4] = 1;
    let mut third = good;
    third[4] = 3;
    for payload in [accept_with_reason, refusal_without, third] {
        assert_eq!(how(&payload), Some((Reason::Malformed, false)));
    }
}

#[test]
fn a_drip_of_bytes_is_as_good_as_silence() {
    let mut hop = Hop::open();
    hop.server.quotes_at_once = false;
    hop.until(0.1, |hop| !hop.server.quotes.is_empty());
    hop.server.quote(hop.now);
    hop.server.pump(hop.now);
    let bytes = frame::encode(Kind::Evidence, &hop.server.take(Kind::Evidence));
    let start = hop.now.monotonic.as_secs_f64();
    let mut most = 0;
    // A byte each tenth of a second: it would take ten minutes.
    for (i, byte) in bytes.iter().enumerate() {
        let now = after(start + i as f64 / 10.0);
        hop.client.give_bytes(&[*byte], now);
        most = most.max(hop.client.endpoint.footprint());
        if hop.client.cut().is_some() {
            break;
        }
    }
    assert_eq!(hop.client.ended(), Some((Reason::Timeout, false)));
    assert!(most < 8192, "{most}");
}
