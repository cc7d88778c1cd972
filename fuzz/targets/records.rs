//! The records of a dedicated hop: found in pieces of any size, read, and written again.
#![no_main]

use countersign_proxy::opaque::record::{Answer, Connect, Kind, Part, Reader};

/// The records in `data`, and the bytes that are passed on as they come.
fn records(data: &[u8], size: usize) -> (Vec<Part>, Vec<u8>, bool) {
    let (mut reader, mut parts, mut passed) = (Reader::default(), Vec::new(), Vec::new());
    for piece in data.chunks(size) {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.part() {
                Ok(Some(Part::Data(n))) => {
                    passed.extend_from_slice(reader.front(n));
                    reader.pass(n);
                }
                Ok(Some(Part::Attest(n))) => {
                    passed.extend(reader.front(n).iter().map(|byte| !byte));
                    reader.pass(n);
                }
                Ok(Some(part)) => parts.push(part),
                Ok(None) => break,
                Err(_) => return (parts, passed, false),
            }
        }
        // Of what is not passed on, no more is kept than the longest record has.
        assert!(reader.buffer().len() <= Kind::Connect.sizes().1);
    }
    (parts, passed, true)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = records(data, 1 << 11);
    assert_eq!(whole, records(data, 1));
    for part in whole.0 {
        match part {
            Part::Connect(connect) => assert_eq!(Connect::decode(&connect.encode()), Ok(connect)),
            Part::Answer(answer) => assert_eq!(Answer::decode(&answer.encode()), Ok(answer)),
            _ => {}
        }
    }
});
