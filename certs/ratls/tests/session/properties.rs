//! Whatever the network does to the bytes.

use countersign_ratls::session::frame::{self, Decoder, Kind};
use countersign_ratls::session::{Action, Side};
use proptest::prelude::*;

use crate::pump::*;

/// The gate and the first rounds of a hop, with the client's bytes in pieces of
/// these sizes: what the server made of them.
fn in_pieces(sizes: &[usize]) -> (Vec<u64>, Option<[u8; 64]>, String) {
    let mut hop = Hop::mutual();
    let mut sizes = sizes.iter().cycle();
    for _ in 0..8 {
        for _ in 0..8 {
            hop.client.pump(hop.now);
            hop.server.pump(hop.now);
            let bytes: Vec<u8> = std::mem::take(&mut hop.client.sent)
                .iter()
                .flat_map(|(kind, payload)| frame::encode(*kind, payload))
                .collect();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                rest = later;
                hop.server.give_bytes(piece, hop.now);
            }
            for (kind, payload) in std::mem::take(&mut hop.server.sent) {
                hop.client.give(kind, &payload, hop.now);
            }
        }
        hop.now = after(hop.now.monotonic.as_secs_f64() + 55.0);
    }
    let state = hop.server.endpoint.state();
    (hop.server.accepted(), state.peer.binder, format!("{:?} {:?}", state.phase, hop.server.events))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

/// A frame of a hop with some bytes changed, or noise.
fn hostile() -> impl Strategy<Value = (u8, Vec<(prop::sample::Index, u8)>, Kind, Vec<u8>)> {
    (
        any::<u8>(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        kind(),
        prop::collection::vec(any::<u8>(), 0..200),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_bytes_are_split_the_outcome_is_one(sizes in prop::collection::vec(1..3000_usize, 1..12)) {
        let whole = in_pieces(&[usize::MAX]);
        prop_assert_eq!(&in_pieces(&sizes), &whole);
        prop_assert_eq!(&whole.0, &[0, 1]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Noise never panics, never opens the gate, and once it is refused the machine is done.
    #[test]
    fn noise_opens_nothing(bytes in prop::collection::vec(any::<u8>(), 0..4096), seconds in 0..40_u8) {
        let mut node = Node::new(channel(Side::Server, 1), demands(), offer(), 1);
        node.pump(after(0.0));
        for (i, piece) in bytes.chunks(100).enumerate() {
            node.give_bytes(piece, after(f64::from(seconds) * i as f64 / 40.0));
        }
        prop_assert!(!node.is_open());
    }

    /// A hostile peer with a genuine session behind it: frames of a genuine one
    /// changed, doubled, left out, and noise between them.
    #[test]
    fn a_hostile_peer_never_makes_it_panic(script in prop::collection::vec(hostile(), 1..20), opened in any::<bool>()) {
        let mut hop = if opened { Hop::open() } else { Hop::mutual() };
        let mut cut = None;
        for (what, changes, kind, noise) in script {
            hop.client.pump(hop.now);
            let genuine = hop.client.sent.pop_front();
            let (kind, mut payload) = match (what % 4, genuine) {
                (0, _) | (_, None) => (kind, noise),
                (_, Some(genuine)) => genuine,
            };
            if what % 4 == 1 && !payload.is_empty() {
                for (index, value) in changes {
                    let at = index.index(payload.len());
                    payload[at] = value;
                }
            }
            hop.server.give(kind, &payload, hop.now);
            for (kind, payload) in std::mem::take(&mut hop.server.sent) {
                hop.client.give(kind, &payload, hop.now);
            }
            hop.now = after(hop.now.monotonic.as_secs_f64() + f64::from(what) / 8.0);
            if cut.is_some() {
                prop_assert!(matches!(hop.server.endpoint.poll(hop.now), Action::Wait(None)));
            }
            cut = hop.server.cut().map(|cut| cut.wire);
            // The machine stays small whatever is thrown at it.
            prop_assert!(hop.server.endpoint.footprint() < 24 << 10);
        }
        // Only what was really proved counts.
        if !opened && hop.server.is_open() {
            prop_assert_eq!(&hop.server.accepted()[..1], &[0]);
        }
    }

    #[test]
    fn frames_are_what_they_were_however_they_are_split(
        frames in prop::collection::vec((kind(), prop::collection::vec(any::<u8>(), 0..600)), 0..8),
        sizes in prop::collection::vec(1..700_usize, 1..8),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame::encode(*kind, payload)).collect();
        let (mut decoder, mut out, mut rest) = (Decoder::default(), Vec::new(), bytes.as_slice());
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let (mut piece, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            rest = later;
            while let Some(frame) = decoder.next(&mut piece, |kind| Ok(kind.cap(600))).unwrap() {
                out.push(frame);
            }
            prop_assert!(piece.is_empty());
        }
        prop_assert_eq!(out, frames);
    }
}
