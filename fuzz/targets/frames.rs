//! The frames of the session protocol: put together from pieces of any size,
//! read, and written again.
#![no_main]

use countersign_ratls::session::collection::Parts;
use countersign_ratls::session::frame::{Decoder, Kind};
use countersign_ratls::session::message::{
    Challenge, Evidence, Farewell, Hello, NewIdentity, RoundResult, decode_changed, decode_open,
    encode_changed, encode_open,
};

const MAX_EVIDENCE: usize = 256 << 10;

fn frames(data: &[u8], size: usize) -> (Vec<(Kind, Vec<u8>)>, bool) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for mut piece in data.chunks(size) {
        loop {
            match decoder.next(&mut piece, |kind| Ok(kind.cap(MAX_EVIDENCE))) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
        assert!(piece.is_empty() && decoder.buffered() <= data.len());
    }
    (frames, true)
}

/// What is read, is written in a way that reads as the same.
macro_rules! same {
    ($read:expr, $payload:expr) => {
        if let Ok(message) = $read($payload) {
            let again = message.encode();
            assert_eq!($read(&again).as_ref(), Ok(&message));
            assert!(again.len() <= $payload.len());
        }
    };
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (whole, well) = frames(data, usize::MAX);
    assert_eq!((&whole, well), (&frames(data, 1).0, frames(data, 1).1));
    for (kind, payload) in &whole {
        assert!(payload.len() <= kind.cap(MAX_EVIDENCE));
        match kind {
            Kind::Hello => same!(Hello::decode, payload),
            Kind::Challenge => same!(Challenge::decode, payload),
            Kind::Result => same!(RoundResult::decode, payload),
            Kind::Drain => same!(Farewell::decode, payload),
            Kind::Identity => same!(NewIdentity::decode, payload),
            Kind::Evidence => {
                same!(Evidence::decode, payload);
                if let Ok(evidence) = Evidence::decode(payload)
                    && let Ok(parts) = Parts::decode(evidence.collection)
                {
                    // No unknown keys here: it is the same to the byte.
                    assert_eq!(parts.encode(), evidence.collection);
                }
            }
            Kind::Changed => {
                if let Ok(change) = decode_changed(payload) {
                    assert_eq!(decode_changed(&encode_changed(change)), Ok(change));
                }
            }
            Kind::Open => {
                if let Ok(value) = decode_open(payload) {
                    assert_eq!(decode_open(&encode_open(&value)), Ok(value));
                }
            }
        }
    }
});
