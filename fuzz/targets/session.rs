//! The machine of a session against a hostile peer, who has an honest end to
//! relay, change and leave out frames of, and says whatever else he likes.
#![no_main]

use std::sync::Arc;

use countersign_evidence::Reason;
use countersign_fuzz::session::{Node, after};
use countersign_ratls::session::frame::{self, Kind};
use countersign_ratls::session::{Level, Side};

/// Reads a script from the input, byte by byte.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Refusals of every ending.
const REFUSALS: [Reason; 4] =
    [Reason::MeasurementMismatch, Reason::CollateralMissing, Reason::EvidenceStale, Reason::TcbOutOfDate];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let first = script.byte();
    let side = if first & 1 == 0 { Side::Client } else { Side::Server };
    let level = |bit: u8| if first & bit == 0 { Level::L2 } else { Level::L1 };
    let log = first & 8 != 0;
    let (ours, theirs) = (level(2), level(4));
    let (mut node, mut peer) = (Node::new(side, ours, log), Node::new(side.other(), theirs, log));
    let (mut time, mut steps) = (0_u64, 0);
    node.pump(after(0));
    peer.pump(after(0));
    while !script.0.is_empty() && steps < 500 {
        steps += 1;
        let now = after(time);
        match script.byte() % 12 {
            0 => {
                let count = usize::from(script.byte());
                node.give(script.bytes(count), now);
            }
            1 => {
                let kind = Kind::ALL[usize::from(script.byte()) % Kind::ALL.len()];
                let count = usize::from(script.byte()) * 4;
                node.give(&frame::encode(kind, script.bytes(count)), now);
            }
            // The honest end's next frame: as it is, changed, or not at all.
            2 => {
                if let Some((kind, payload)) = peer.sent.pop_front() {
                    node.give(&frame::encode(kind, &payload), now);
                }
            }
            3 => {
                if let Some((kind, mut payload)) = peer.sent.pop_front() {
                    let (at, value) =
                        (usize::from(script.byte()) << 8 | usize::from(script.byte()), script.byte());
                    let length = payload.len().max(1);
                    payload.get_mut(at % length).into_iter().for_each(|byte| *byte ^= value);
                    node.give(&frame::encode(kind, &payload), now);
                }
            }
            4 => drop(peer.sent.pop_front()),
            5 => time += u64::from(script.byte()),
            6 => match usize::from(script.byte()).checked_sub(1) {
                None => node.appraise(None, now),
                Some(at) => node.appraise(Some(REFUSALS[at % REFUSALS.len()]), now),
            },
            7 => {
                let well = script.byte() != 0;
                node.answer(well, now);
            }
            8 => node.endpoint.changed(now),
            9 => {
                let demands = countersign_ratls::session::Demands {
                    level: ours,
                    accepted: vec!["a/b".to_owned()],
                    interval: std::time::Duration::from_secs(30),
                    ..Default::default()
                };
                node.endpoint.demand(Arc::new(demands), now);
            }
            10 => node.endpoint.reviewed(Ok(now.unix + u64::from(script.byte())), now),
            _ => node.endpoint.end(now),
        }
        // The honest end does its part.
        let now = after(time);
        node.pump(now);
        for (kind, payload) in std::mem::take(&mut node.sent) {
            peer.give(&frame::encode(kind, &payload), now);
        }
        peer.pump(now);
        peer.answer(true, now);
        peer.appraise(None, now);

        assert!(!node.open || ours < Level::L2 || node.accepted > 0, "open without a proof");
        assert!(!node.cut || !node.endpoint.usable(now));
        // An Evidence frame that is coming, at the most.
        assert!(node.endpoint.footprint() < (256 << 10) + (8 << 10));
    }
});
