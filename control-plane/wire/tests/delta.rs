//! The delta protocol: both ends against each other, and against liars.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy sees as product code"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use countersign_ratls::{Bundle, TrustDomain};
use countersign_wire::client::{Event, Subscription};
use countersign_wire::proto::{self, ControlMessage, ProxyMessage, control_message, proxy_message};
use countersign_wire::server::{Heard, ProtocolError, Session};
use countersign_wire::snapshot::{Entries, Entry};
use countersign_wire::{MAX_BODY, MAX_ENTRIES, Snapshot, SnapshotError, SnapshotKey, Unverified};
use proptest::prelude::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("prod.example").unwrap()
}

fn bundle(key: &SnapshotKey) -> Bundle {
    Bundle {
        trust_domain: domain(),
        x509_authorities: Vec::new(),
        snapshot_keys: vec![key.public()],
        sequence: 1,
        refresh_hint: None,
    }
}

fn entries(of: &BTreeMap<String, Vec<u8>>) -> Entries {
    of.iter().map(|(n, b)| (n.as_str().into(), Entry::new(Bytes::copy_from_slice(b)))).collect()
}

fn set(of: &[(&str, &str)]) -> Entries {
    of.iter().map(|(n, b)| ((*n).into(), Entry::new(Bytes::copy_from_slice(b.as_bytes())))).collect()
}

fn sign(key: &SnapshotKey, generation: u64, entries: Entries) -> Arc<Snapshot> {
    Arc::new(Snapshot::sign(domain(), generation, entries, key).unwrap())
}

/// One connection between a subscription and a session.
struct Link {
    session: Session,
    updates: Vec<proto::Update>,
    completes: usize,
}

impl Link {
    fn open(subscription: &mut Subscription) -> Self {
        let mut session = Session::new();
        session.feed(subscription.hello("sidecar", "payments/ledger", "test")).unwrap();
        Self { session, updates: Vec::new(), completes: 0 }
    }

    /// Carries messages until both are silent.
    fn settle(&mut self, subscription: &mut Subscription) -> Result<(), SnapshotError> {
        while let Some(message) = self.session.poll() {
            match message.message.clone().unwrap() {
                control_message::Message::Update(update) => self.updates.push(update),
                control_message::Message::Complete(_) => self.completes += 1,
                control_message::Message::Watch(_) | control_message::Message::Attest(_) => {
                    panic!("nobody watches")
                }
            }
            if subscription.feed(message)?.is_some() {
                self.session.feed(subscription.ack(&[]).unwrap()).unwrap();
            }
        }
        Ok(())
    }

    fn names_sent(&self) -> Vec<String> {
        self.updates.iter().flat_map(|u| u.upserts.iter().map(|e| e.name.clone())).collect()
    }
}

#[test]
fn a_proxy_without_anything_gets_everything() {
    let key = SnapshotKey::generate().unwrap();
    let mut subscription = Subscription::new(bundle(&key), None);
    let mut link = Link::open(&mut subscription);
    let snapshot = sign(&key, 1, set(&[("collateral/a", "1"), ("collateral/b", "2")]));
    link.session.offer(Arc::clone(&snapshot));
    link.settle(&mut subscription).unwrap();
    assert_eq!(subscription.current(), Some(&snapshot));
    assert_eq!(link.session.status().acked.as_ref(), Some(&snapshot));
}

#[test]
fn a_reconnecting_proxy_gets_only_the_difference() {
    let key = SnapshotKey::generate().unwrap();
    let first = sign(&key, 1, set(&[("collateral/a", "1"), ("collateral/b", "2"), ("collateral/c", "3")]));
    let mut subscription = Subscription::new(bundle(&key), Some(first));
    let mut link = Link::open(&mut subscription);
    let second = sign(&key, 2, set(&[("collateral/a", "1"), ("collateral/b", "x"), ("collateral/d", "4")]));
    link.session.offer(Arc::clone(&second));
    link.settle(&mut subscription).unwrap();
    assert_eq!(subscription.current(), Some(&second));
    assert_eq!(link.names_sent(), ["collateral/b", "collateral/d"]);
    assert_eq!(link.updates[0].removals, ["collateral/c"]);
}

#[test]
fn a_proxy_that_is_current_hears_so_and_answers() {
    let key = SnapshotKey::generate().unwrap();
    let only = sign(&key, 7, set(&[("collateral/a", "1")]));
    let mut subscription = Subscription::new(bundle(&key), Some(Arc::clone(&only)));
    let mut session = Session::new();
    session.feed(subscription.hello("sidecar", "payments/ledger", "test")).unwrap();
    session.offer(only);
    let message = session.poll().unwrap();
    assert!(matches!(message.message, Some(control_message::Message::Complete(_))));
    assert!(matches!(subscription.feed(message), Ok(Some(Event::Current(_)))));
    let rejected = [("collateral/a".to_owned(), "expired".to_owned())];
    assert_eq!(session.feed(subscription.ack(&rejected).unwrap()), Ok(Heard::Acked(7)));
    assert_eq!(session.status().rejected["collateral/a"].1, "expired");
}

#[test]
fn snapshots_merge_while_one_is_unanswered() {
    let key = SnapshotKey::generate().unwrap();
    let mut subscription = Subscription::new(bundle(&key), None);
    let mut link = Link::open(&mut subscription);
    link.session.offer(sign(&key, 1, set(&[("collateral/a", "1")])));
    let mut held = Vec::new();
    while let Some(message) = link.session.poll() {
        held.push(message);
    }
    assert!(link.session.awaits_ack());
    for generation in 2..=5 {
        link.session.offer(sign(&key, generation, set(&[("collateral/a", &generation.to_string())])));
        assert_eq!(link.session.poll(), None, "one unanswered snapshot at a time");
    }
    for message in held {
        if subscription.feed(message).unwrap().is_some() {
            link.session.feed(subscription.ack(&[]).unwrap()).unwrap();
        }
    }
    link.settle(&mut subscription).unwrap();
    assert_eq!(subscription.current().unwrap().generation(), 5);
    assert_eq!(link.completes, 1, "generations 2 to 4 were never sent");
}

#[test]
fn large_snapshots_travel_in_bounded_messages() {
    let key = SnapshotKey::generate().unwrap();
    let many: BTreeMap<String, Vec<u8>> =
        (0u32..600).map(|i| (format!("collateral/{i}"), i.to_be_bytes().repeat(1024))).collect();
    let snapshot = sign(&key, 1, entries(&many));
    let mut subscription = Subscription::new(bundle(&key), None);
    let mut link = Link::open(&mut subscription);
    link.session.offer(Arc::clone(&snapshot));
    link.settle(&mut subscription).unwrap();
    assert_eq!(subscription.current(), Some(&snapshot));
    assert!(link.updates.len() > 4, "{}", link.updates.len());
    for update in &link.updates {
        assert!(prost::Message::encoded_len(update) < 512 << 10);
    }
}

#[test]
fn a_lower_generation_is_refused_and_changes_nothing() {
    let key = SnapshotKey::generate().unwrap();
    let current = sign(&key, 9, set(&[("collateral/a", "new")]));
    let old = sign(&key, 8, set(&[("collateral/a", "old")]));
    let mut subscription = Subscription::new(bundle(&key), Some(Arc::clone(&current)));
    subscription.hello("sidecar", "payments/ledger", "test");
    subscription.feed(update(8, &old)).unwrap();
    let refused = subscription.feed(complete(&old)).unwrap_err();
    assert_eq!(refused, SnapshotError::Rollback { current: 9, presented: 8 });
    assert_eq!(refused.finding().reason.code(), "snapshot-rollback");
    assert_eq!(subscription.current(), Some(&current));
}

#[test]
fn other_content_under_the_same_generation_is_refused() {
    let key = SnapshotKey::generate().unwrap();
    let current = sign(&key, 9, set(&[("collateral/a", "new")]));
    let other = sign(&key, 9, set(&[("collateral/a", "other")]));
    let mut subscription = Subscription::new(bundle(&key), Some(Arc::clone(&current)));
    subscription.hello("sidecar", "payments/ledger", "test");
    subscription.feed(update(9, &other)).unwrap();
    assert_eq!(subscription.feed(complete(&other)).unwrap_err(), SnapshotError::Conflict { generation: 9 });
    assert_eq!(subscription.current(), Some(&current));
}

#[test]
fn a_session_does_not_send_what_the_proxy_must_refuse() {
    let key = SnapshotKey::generate().unwrap();
    let seen = sign(&key, 9, set(&[("collateral/a", "new")]));
    let mut subscription = Subscription::new(bundle(&key), Some(seen));
    let mut link = Link::open(&mut subscription);
    link.session.offer(sign(&key, 3, set(&[("collateral/a", "restored")])));
    assert_eq!(link.session.poll(), None);
    assert_eq!(link.session.status().ahead, Some(9));
    link.session.offer(sign(&key, 10, set(&[("collateral/a", "restored")])));
    link.settle(&mut subscription).unwrap();
    assert_eq!(link.session.status().ahead, None);
}

#[test]
fn what_is_not_signed_by_the_bundles_key_is_refused() {
    let key = SnapshotKey::generate().unwrap();
    let other = SnapshotKey::generate().unwrap();
    let snapshot = sign(&other, 1, set(&[("collateral/a", "1")]));
    let mut subscription = Subscription::new(bundle(&key), None);
    subscription.feed(update(1, &snapshot)).unwrap();
    assert!(matches!(subscription.feed(complete(&snapshot)), Err(SnapshotError::UnknownKey { .. })));

    let mut claims_our_key = complete(&snapshot);
    if let Some(control_message::Message::Complete(complete)) = &mut claims_our_key.message {
        complete.kid = key.public().0;
    }
    subscription.feed(update(1, &snapshot)).unwrap();
    assert!(matches!(subscription.feed(claims_our_key), Err(SnapshotError::BadSignature { .. })));
    assert_eq!(subscription.current(), None);
}

#[test]
fn an_entry_that_is_left_out_breaks_the_signature() {
    let key = SnapshotKey::generate().unwrap();
    let snapshot = sign(&key, 1, set(&[("collateral/a", "1"), ("collateral/b", "2")]));
    let mut subscription = Subscription::new(bundle(&key), None);
    let part = sign(&key, 1, set(&[("collateral/a", "1")]));
    subscription.feed(update(1, &part)).unwrap();
    assert!(matches!(subscription.feed(complete(&snapshot)), Err(SnapshotError::BadSignature { .. })));
}

#[test]
fn snapshots_survive_the_disk_and_are_verified_again() {
    let key = SnapshotKey::generate().unwrap();
    let snapshot = sign(&key, 3, set(&[("collateral/a", "1"), ("bundle/prod.example", "{}")]));
    let stored = snapshot.encode();
    let read = Unverified::decode(&stored).unwrap().verify(&bundle(&key)).unwrap();
    assert_eq!(read, *snapshot);
    for position in 0..stored.len() {
        let mut damaged = stored.clone();
        damaged[position] ^= 1;
        let outcome = Unverified::decode(&damaged).and_then(|read| read.verify(&bundle(&key)));
        assert!(outcome.is_err(), "byte {position} is not protected");
    }
    let stranger = SnapshotKey::generate().unwrap();
    assert!(Unverified::decode(&stored).unwrap().verify(&bundle(&stranger)).is_err());
}

#[test]
fn limits_hold_on_both_sides() {
    let key = SnapshotKey::generate().unwrap();
    let mut subscription = Subscription::new(bundle(&key), None);
    let too_large = proto::Entry {
        name: "collateral/a".into(),
        version: String::new(),
        body: Bytes::from(vec![0; MAX_BODY + 1]),
    };
    let message = wrap(control_message::Message::Update(proto::Update {
        generation: 1,
        upserts: vec![too_large],
        removals: Vec::new(),
    }));
    assert!(matches!(subscription.feed(message), Err(SnapshotError::Oversized { .. })));

    let mut hello = hello_of(&mut subscription);
    hello.known =
        vec![proto::Known { name: "collateral/a".into(), version: "00".repeat(32) }; MAX_ENTRIES + 1];
    let message = ProxyMessage { message: Some(proxy_message::Message::Hello(hello)) };
    assert_eq!(Session::new().feed(message), Err(ProtocolError::Field { field: "hello.known" }));
}

#[test]
fn a_session_refuses_messages_out_of_turn() {
    let key = SnapshotKey::generate().unwrap();
    let snapshot = sign(&key, 1, set(&[("collateral/a", "1")]));
    let mut subscription = Subscription::new(bundle(&key), Some(Arc::clone(&snapshot)));
    let mut session = Session::new();
    let hello = subscription.hello("sidecar", "payments/ledger", "test");
    assert!(matches!(session.feed(subscription.ack(&[]).unwrap()), Err(ProtocolError::OutOfTurn(_))));
    session.feed(hello.clone()).unwrap();
    assert!(matches!(session.feed(hello), Err(ProtocolError::OutOfTurn(_))));
    assert!(matches!(session.feed(subscription.ack(&[]).unwrap()), Err(ProtocolError::OutOfTurn(_))));
    assert!(matches!(session.feed(Subscription::in_use(2, 0, 0)), Err(ProtocolError::Generation { .. })));
    assert_eq!(session.feed(Subscription::in_use(1, 4, 99)), Ok(Heard::InUse(1)));
    assert_eq!(session.status().hops, 4);
}

fn hello_of(subscription: &mut Subscription) -> proto::Hello {
    match subscription.hello("sidecar", "payments/ledger", "test").message {
        Some(proxy_message::Message::Hello(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

/// The messages of a session for `snapshot` and a proxy without anything.
fn messages(snapshot: &Arc<Snapshot>) -> Vec<ControlMessage> {
    let hello = proto::Hello {
        proxy: "sidecar".into(),
        workload: "payments/ledger".into(),
        software: "test".into(),
        ..Default::default()
    };
    let mut session = Session::new();
    session.feed(ProxyMessage { message: Some(proxy_message::Message::Hello(hello)) }).unwrap();
    session.offer(Arc::clone(snapshot));
    std::iter::from_fn(|| session.poll()).collect()
}

fn update(generation: u64, snapshot: &Arc<Snapshot>) -> ControlMessage {
    let message = messages(snapshot).into_iter().next().unwrap();
    match &message.message {
        Some(control_message::Message::Update(update)) => assert_eq!(update.generation, generation),
        other => panic!("{other:?}"),
    }
    message
}

fn complete(snapshot: &Arc<Snapshot>) -> ControlMessage {
    messages(snapshot).into_iter().last().unwrap()
}

const fn wrap(message: control_message::Message) -> ControlMessage {
    ControlMessage { message: Some(message) }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Remove(u8),
    Cut,
    Deliver,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..12, any::<u8>()).prop_map(|(name, body)| Step::Put(name, body)),
        2 => (0u8..12).prop_map(Step::Remove),
        3 => Just(Step::Cut),
        5 => Just(Step::Deliver),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_changes_converges(steps in proptest::collection::vec(step(), 1..60)) {
        let key = SnapshotKey::generate().unwrap();
        let mut wanted: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut newest: Option<Arc<Snapshot>> = None;
        let mut subscription = Subscription::new(bundle(&key), None);
        let mut link = Link::open(&mut subscription);
        let mut seen = 0;
        for step in steps {
            match step {
                Step::Put(name, body) => {
                    wanted.insert(format!("collateral/{name}"), vec![body; 90_000]);
                }
                Step::Remove(name) => {
                    wanted.remove(&format!("collateral/{name}"));
                }
                Step::Cut => {
                    let generation = newest.as_ref().map_or(0, |s| s.generation()) + 1;
                    let snapshot = sign(&key, generation, entries(&wanted));
                    link.session.offer(Arc::clone(&snapshot));
                    newest = Some(snapshot);
                }
                // One message; the connection may be lost after any.
                Step::Deliver => {
                    if let Some(message) = link.session.poll()
                        && subscription.feed(message).unwrap().is_some()
                    {
                        link.session.feed(subscription.ack(&[]).unwrap()).unwrap();
                    }
                }
                Step::Reconnect => {
                    link = Link::open(&mut subscription);
                    if let Some(snapshot) = &newest {
                        link.session.offer(Arc::clone(snapshot));
                    }
                }
            }
            let generation = subscription.current().map_or(0, |s| s.generation());
            prop_assert!(generation >= seen, "the generation only grows");
            seen = generation;
        }
        link.settle(&mut subscription).unwrap();
        prop_assert_eq!(subscription.current(), newest.as_ref());
    }

    #[test]
    fn no_bytes_make_either_side_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let key = SnapshotKey::generate().unwrap();
        if let Ok(message) = <ControlMessage as prost::Message>::decode(bytes.as_slice()) {
            let _ = Subscription::new(bundle(&key), None).feed(message);
        }
        if let Ok(message) = <ProxyMessage as prost::Message>::decode(bytes.as_slice()) {
            let _ = Session::new().feed(message);
        }
        let _ = Unverified::decode(&bytes);
    }
}
