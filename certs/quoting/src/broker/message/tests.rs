use countersign_ratls::binding::{KeyContext, key_report_data};

use super::*;

fn context() -> Vec<u8> {
    KeyContext { spki_sha256: [3; 32], challenge: (&[7; 32]).into(), id: Some("spiffe://td/a".into()) }
        .encode()
}

fn sessions(count: usize) -> Vec<u8> {
    let cores = (0..count).map(|n| SessionCore::from_bytes([n.to_le_bytes()[0]; 64])).collect();
    Request::Evidence(Subject::sessions(cores).unwrap()).encode()
}

fn refused(bytes: &[u8]) -> Reason {
    Request::decode(bytes).unwrap_err().reason
}

#[test]
fn requests_are_read_as_they_are_written() {
    let status = Request::Status.encode();
    assert_eq!(status, [0xa2, 1, 1, 2, 0]);
    assert!(matches!(Request::decode(&status), Ok(Request::Status)));

    let key = Request::Evidence(Subject::key(&context()).unwrap()).encode();
    let Ok(Request::Evidence(subject)) = Request::decode(&key) else { panic!() };
    assert_eq!(subject.report_data(), &key_report_data(&context(), &[]));

    let event = Event::new("exec", "/bin/a").unwrap();
    let Ok(Request::Measure(read)) = Request::decode(&Request::Measure(event.clone()).encode()) else {
        panic!()
    };
    assert_eq!(read, event);
    let watch = Request::Watch(300).encode();
    assert!(matches!(Request::decode(&watch), Ok(Request::Watch(300))));

    for count in [1, 2, 23, 24, 256, MAX_LEAVES] {
        let bytes = sessions(count);
        assert!(bytes.len() <= MAX_REQUEST);
        let Ok(Request::Evidence(Subject::Sessions(batch))) = Request::decode(&bytes) else { panic!() };
        assert_eq!(batch.binders().len(), count);
    }
}

#[test]
fn a_request_in_any_other_form_is_refused() {
    for good in [
        Request::Status.encode(),
        sessions(2),
        Request::Evidence(Subject::key(&context()).unwrap()).encode(),
        Request::Measure(Event::new("exec", "/bin/a").unwrap()).encode(),
        Request::Watch(300).encode(),
    ] {
        for end in 0..good.len() {
            assert!(Request::decode(&good[..end]).is_err(), "{end}");
        }
        assert_eq!(refused(&[good.as_slice(), &[0]].concat()), Reason::NonCanonical);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            refused(&bytes)
        };
        assert_eq!(with(2, 2), Reason::UnsupportedVersion);
        assert_eq!(with(4, 9), Reason::Malformed);
        assert_eq!(with(1, 2), Reason::Malformed);
    }
    // An event that no log takes.
    assert_eq!(refused(&[0xa4, 1, 1, 2, 3, 3, 0x61, b' ', 4, 0x40]), Reason::Malformed);
    // A longer head than necessary, an indefinite map, keys in another order.
    assert_eq!(refused(&[0xa2, 1, 0x18, 1, 2, 0]), Reason::NonCanonical);
    assert_eq!(refused(&[0xbf, 1, 1, 2, 0, 0xff]), Reason::Malformed);
    assert_eq!(refused(&[0xa2, 2, 0, 1, 1]), Reason::Malformed);
    assert_eq!(refused(&[]), Reason::Malformed);
    // No core, a short core, more cores than fit in a tree.
    assert_eq!(refused(&[0xa3, 1, 1, 2, 2, 3, 0x80]), Reason::Oversized);
    assert_eq!(refused(&[0xa3, 1, 1, 2, 2, 3, 0x81, 0x41, 7]), Reason::Malformed);
    assert_eq!(refused(&[0xa3, 1, 1, 2, 2, 3, 0x19, 0x04, 0x01]), Reason::Malformed);
    assert_eq!(
        refused(&[0xa3, 1, 1, 2, 2, 3, 0x9b, 255, 255, 255, 255, 255, 255, 255, 255]),
        Reason::Malformed
    );
    assert_eq!(refused(&vec![0; MAX_REQUEST + 1]), Reason::Oversized);
}

#[test]
fn report_data_of_somebodys_choice_is_no_request() {
    // 64 bytes as a key context: whatever they are, they are no context.
    let mut bytes = vec![0xa3, 1, 1, 2, 1, 3, 0x58, 64];
    bytes.extend_from_slice(&[0x41; 64]);
    assert!(Request::decode(&bytes).is_err());
    // As a core they are hashed under the label of sessions.
    let chosen = SessionCore::from_bytes([0x41; 64]);
    let subject = Subject::sessions(vec![chosen.clone()]).unwrap();
    assert_ne!(subject.report_data().as_bytes(), &[0x41; 64]);
    assert_eq!(subject.report_data(), &chosen.binder(&[]));
    // A context that is longer than any is refused before it is looked at.
    let long = vec![0; MAX_CONTEXT + 1];
    let mut bytes = vec![0xa3, 1, 1, 2, 1, 3, 0x59];
    bytes.extend_from_slice(&u16::try_from(long.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&long);
    assert_eq!(refused(&bytes), Reason::Oversized);
}

#[test]
fn answers_are_read_as_they_are_written_and_in_no_other_form() {
    let status = Status {
        tee: Tee::SevSnp,
        driver: "sev-guest".to_owned(),
        emulated: false,
        health: "quotes".to_owned(),
        waiting: 3,
        quotes: u64::MAX,
        event_log: true,
    };
    let mut log = Log::default();
    log.push(&countersign_evidence::event_log::native::Record::new("exec", b"/bin/a").unwrap());
    for response in [
        Response::Status(status),
        Response::Evidence(Produced::new(media_type::TSM_TDX, vec![1; 300])),
        Response::Evidence(Produced {
            event_log: Some(Arc::new(log)),
            ..Produced::new(media_type::TSM_TDX, vec![1; 300])
        }),
        Response::Events(7),
        Response::Refused(Code::Overloaded, "too many".to_owned()),
    ] {
        let bytes = response.encode();
        assert_eq!(Response::decode(&bytes).unwrap(), response);
        for end in 0..bytes.len() {
            assert!(Response::decode(&bytes[..end]).is_err());
        }
        assert!(Response::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
    let unknown = |bytes: &[u8]| Response::decode(bytes).unwrap_err().reason;
    assert_eq!(unknown(&[0xa4, 1, 1, 2, 1, 3, 0x61, b'x', 4, 0x40]), Reason::Malformed);
    assert_eq!(unknown(&[0xa4, 1, 1, 2, 2, 3, 9, 4, 0x60]), Reason::Malformed);
    assert_eq!(unknown(&vec![0; MAX_RESPONSE + 1]), Reason::Oversized);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let Response::Refused(_, text) =
        Response::decode(&Response::Refused(Code::Device, "ä".repeat(MAX_TEXT)).encode()).unwrap()
    else {
        panic!()
    };
    assert_eq!(text, "ä".repeat(MAX_TEXT / 2));
}
