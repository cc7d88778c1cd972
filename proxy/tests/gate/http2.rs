//! HTTP/2 by hand: everything that a peer behind the gate would say, in one go, so
//! that a gate that lets it through gives the workload (or the application) its bytes.

pub use super::support::called::SECRET;
use super::support::peer::{FRAMES, PATH};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Preface, stream 1 for the rounds, a CONNECT to `port` on stream 3, and a secret on it.
pub fn call(port: u16) -> Vec<u8> {
    let authority = format!("ledger:{port}");
    // POST and https stand in the static table whole (RFC 7541, appendix A).
    let attest = [&[0x83, 0x87][..], &field(4, PATH), &field(1, "peer"), &field(31, FRAMES)].concat();
    let connect = [field(2, "CONNECT"), field(1, &authority)].concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, ACK, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &attest),
        frame(HEADERS, END_HEADERS, 3, &connect),
        frame(DATA, 0, 3, SECRET),
    ]
    .concat()
}

/// Yes to the rounds on stream 1 and to a CONNECT on stream 3, and a secret on it.
pub fn answer() -> Vec<u8> {
    let attest = [&[0x88][..], &field(31, FRAMES)].concat();
    [
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, ACK, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &attest),
        frame(HEADERS, END_HEADERS, 3, &[0x88]),
        frame(DATA, 0, 3, SECRET),
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that is not indexed, with a name of the static table.
fn field(name: u8, value: &str) -> Vec<u8> {
    // An index has four bits; what is beyond follows.
    let name = if name < 15 { vec![name] } else { vec![15, name - 15] };
    let length = u8::try_from(value.len()).unwrap();
    assert!(length < 127, "one byte of length");
    [&name[..], &[length], value.as_bytes()].concat()
}
