use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread;

use super::*;

const DATA: [u8; 64] = [0x42; 64];

/// A TDX module: TDREPORT with REPORTMACSTRUCT.REPORTDATA at offset 128.
#[derive(Debug)]
struct Module;

impl Device for Module {
    fn report(&self, report_data: &[u8; 64]) -> io::Result<[u8; 1024]> {
        let mut report = [0x81; 1024];
        report[128..192].copy_from_slice(report_data);
        Ok(report)
    }
}

/// A QGS at the other end of a socket pair, which answers one request.
#[derive(Debug)]
struct Qgs(Mutex<Option<UnixStream>>);

impl Connect for Qgs {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self.0.lock().unwrap().take() {
            Some(stream) => Ok(Box::new(stream)),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

/// Runs the driver against a service that answers a request with the bytes of
/// `answer`, written in pieces of `piece` bytes.
fn quote(answer: impl FnOnce(&[u8]) -> Vec<u8> + Send, piece: usize) -> Result<Produced, Error> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let driver = TdxGuest { device: Box::new(Module), qgs: Box::new(Qgs(Mutex::new(Some(ours)))) };
    thread::scope(|scope| {
        let service = scope.spawn(move || {
            let mut length = [0; 4];
            theirs.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            theirs.read_exact(&mut request).unwrap();
            for part in answer(&request).chunks(piece) {
                // The driver may hang up on nonsense.
                if theirs.write_all(part).is_err() {
                    break;
                }
            }
            let _ = theirs.shutdown(Shutdown::Both);
        });
        let produced = driver.evidence(&DATA);
        service.join().unwrap();
        produced
    })
}

/// An answer as qgs_msg_gen_get_quote_resp writes it.
fn answer(minor: u16, kind: u32, error: u32, id: &[u8], quote: &[u8]) -> Vec<u8> {
    let size = (24 + id.len() + quote.len()) as u32;
    let mut out = size.to_be_bytes().to_vec();
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&minor.to_le_bytes());
    for number in [kind, size, error, id.len() as u32, quote.len() as u32] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(id);
    out.extend_from_slice(quote);
    out
}

fn good(request: &[u8]) -> Vec<u8> {
    let data = &request[24 + 128..24 + 192];
    answer(1, 1, 0, &[], &[b"quote over ", data].concat())
}

#[test]
fn the_request_has_the_layout_of_qgs_msg_lib() {
    let request = qgs::request(&[7; 1024]);
    assert_eq!(request.len(), 4 + 24 + 1024);
    assert_eq!(&request[..4], [0, 0, 4, 0x18], "the length, big endian");
    assert_eq!(&request[4..8], [1, 0, 1, 0], "version 1.1");
    assert_eq!(&request[8..12], [0, 0, 0, 0], "GET_QUOTE_REQ");
    assert_eq!(&request[12..16], [0x18, 4, 0, 0], "the size with the header");
    assert_eq!(&request[16..20], [0; 4], "no error");
    assert_eq!(&request[20..28], [0, 4, 0, 0, 0, 0, 0, 0], "a report of 1024 bytes and no list of IDs");
    assert_eq!(&request[28..], [7; 1024]);
}

#[test]
fn a_quote_comes_back_even_in_pieces_of_one_byte() {
    for piece in [1, 7, 65536] {
        let produced = quote(good, piece).unwrap();
        assert_eq!(produced.media_type, media_type::TSM_TDX);
        let report = TsmReport::decode(&produced.value).unwrap();
        assert_eq!(&*report.outblob, [b"quote over ", &DATA[..]].concat());
    }
}

#[test]
fn services_before_dcap_1_21_say_version_1_0() {
    quote(|_| answer(0, 1, 0, &[1; 16], &DATA), 4096).unwrap();
}

#[test]
fn an_error_of_the_service_is_named() {
    let error = quote(|_| answer(1, 1, 0x12001, &[], &[]), 4096).unwrap_err();
    assert!(error.to_string().contains("0x12001"), "{error}");
}

#[test]
fn nonsense_is_refused() {
    let with = |at: usize, byte: u8| {
        move |request: &[u8]| {
            let mut message = good(request);
            message[at] = byte;
            message
        }
    };
    let huge = |_: &[u8]| [0x7f, 0xff, 0xff, 0xff].to_vec();
    let outcomes = [
        ("major version", quote(with(4, 2), 4096)),
        ("type", quote(with(8, 0), 4096)),
        ("size", quote(with(12, 0), 4096)),
        ("length of the ID", quote(with(20, 0xff), 4096)),
        ("length of the quote", quote(with(24, 1), 4096)),
        ("huge", quote(huge, 4096)),
        ("tiny", quote(|_| vec![0, 0, 0, 4, 1, 0, 1, 0], 4096)),
        ("cut", quote(|r| good(r)[..50].to_vec(), 4096)),
        ("silence", quote(|_| Vec::new(), 1)),
        ("other data", quote(|_| answer(1, 1, 0, &[], &[1; 200]), 4096)),
    ];
    for (what, outcome) in outcomes {
        assert!(outcome.is_err(), "{what}");
    }
}

#[test]
fn the_port_is_read_like_intels_library_reads_it() {
    let root = tempfile::tempdir().unwrap();
    let conf = root.path().join("etc/tdx-attest.conf");
    assert!(port(root.path()).unwrap_err().contains("port=4050"));
    std::fs::create_dir(root.path().join("etc")).unwrap();
    for (text, expected) in [
        ("port=4050", Some(4050)),
        ("# a comment\n port = 4051 # another\n", Some(4051)),
        ("port=0", None),
        ("port=x", None),
        ("#port=4050", None),
        ("support=4050", None),
        ("", None),
    ] {
        std::fs::write(&conf, text).unwrap();
        assert_eq!(port(root.path()).ok(), expected, "{text:?}");
    }
}
