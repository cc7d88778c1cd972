//! What a workload says on the explicit listener, in pieces of any size.
#![no_main]

use countersign_proxy::explicit::{Negotiation, Step};

/// What comes of `data` in pieces of `piece` bytes, and how much was taken.
fn fed(data: &[u8], piece: usize) -> (String, usize) {
    let (mut negotiation, mut taken) = (Negotiation::default(), 0);
    while taken < data.len() {
        let rest = &data[taken..];
        let now = &rest[..piece.min(rest.len())];
        let (n, step) = negotiation.feed(now);
        assert!(n <= now.len());
        taken += n;
        match step {
            Step::More => assert_eq!(n, now.len()),
            Step::Say(answer) => assert_eq!(answer, [5, 0]),
            end => return (format!("{end:?}"), taken),
        }
    }
    (String::new(), taken)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // How bytes are cut into segments is not the workload's choice.
    let whole = fed(data, data.len().max(1));
    for piece in [1, 7] {
        assert_eq!(fed(data, piece), whole);
    }
});
