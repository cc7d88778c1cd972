//! What a workload says that asks for a connection: SOCKS5 (RFC 1928) or HTTP
//! CONNECT (RFC 9110, section 9.3.6) on one port; the first byte decides. Without
//! I/O: bytes in, and what to do next out.
//!
//! No byte behind the request is taken: it belongs to whoever is called.

mod connect;
mod socks5;

use std::net::IpAddr;

use countersign_config::Target;
use countersign_evidence::{Denial, Finding, Reason};

use self::connect::Head;
use self::socks5::Socks5;
use crate::route;

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Bring more bytes.
    More,
    /// Send this, then bring more bytes.
    Say(Vec<u8>),
    /// Connect, then send what [`Negotiation::granted`] or [`Negotiation::refused`] says.
    Asked(Target),
    /// Send this, and end the connection.
    Refused {
        /// In the workload's protocol; empty if it speaks none of ours.
        answer: Vec<u8>,
        /// Why.
        denial: Denial,
    },
}

/// One connection of a workload, up to its request.
#[derive(Debug, Default)]
pub struct Negotiation(Protocol);

#[derive(Debug, Default)]
enum Protocol {
    #[default]
    Unknown,
    Socks5(Socks5),
    Connect(Head),
}

/// The version of SOCKS5, which is the first byte.
const SOCKS5: u8 = 5;

impl Negotiation {
    /// Takes bytes: how many of them, and what to do next. As long as that is
    /// [`Step::More`] all were taken.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Step) {
        if let (Protocol::Unknown, Some(first)) = (&self.0, bytes.first()) {
            self.0 = match first {
                &SOCKS5 => Protocol::Socks5(Socks5::default()),
                // The name of a method (RFC 9110, section 9.1).
                b'A'..=b'Z' => Protocol::Connect(Head::default()),
                other => {
                    let denial = bad("first byte", "SOCKS5 or HTTP CONNECT", format!("{other:#04x}"));
                    return (1, Step::Refused { answer: Vec::new(), denial });
                }
            };
        }
        match &mut self.0 {
            Protocol::Unknown => (0, Step::More),
            Protocol::Socks5(socks5) => socks5.feed(bytes),
            Protocol::Connect(head) => head.feed(bytes),
        }
    }

    /// What a workload is told that is connected.
    #[must_use]
    pub fn granted(&self) -> Vec<u8> {
        match &self.0 {
            Protocol::Unknown => Vec::new(),
            Protocol::Socks5(_) => socks5::reply(socks5::SUCCEEDED),
            Protocol::Connect(_) => connect::granted(),
        }
    }

    /// What a workload is told that is not.
    #[must_use]
    pub fn refused(&self, reason: Reason) -> Vec<u8> {
        match &self.0 {
            Protocol::Unknown => Vec::new(),
            Protocol::Socks5(_) => socks5::reply(socks5::code(reason)),
            Protocol::Connect(_) => connect::refused(connect::status(reason), reason),
        }
    }
}

/// A host and a port as what they are.
fn target(host: &str, port: u16) -> Option<Target> {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = literal.parse::<IpAddr>() {
        return Some(Target::Address((ip, port).into()));
    }
    route::is_host(host).then(|| Target::Name { host: host.to_owned(), port })
}

fn bad(field: &str, expected: &str, presented: impl Into<String>) -> Denial {
    Finding::new(Reason::BadRequest, field, expected, presented.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of `bytes`, whatever the pieces in which they come: the request or
    /// the refusal, all that was said on the way, and how many bytes were taken.
    fn fed(bytes: &[u8]) -> (Step, Vec<u8>, usize, Negotiation) {
        let mut all = Vec::new();
        for piece in [1, 2, 3, 7, bytes.len().max(1)] {
            let (mut negotiation, mut said, mut taken) = (Negotiation::default(), Vec::new(), 0);
            let mut last = Step::More;
            while taken < bytes.len() {
                let rest = &bytes[taken..];
                let now = &rest[..piece.min(rest.len())];
                let (n, step) = negotiation.feed(now);
                taken += n;
                match step {
                    Step::More => assert_eq!(n, now.len()),
                    Step::Say(answer) => said.extend(answer),
                    step => {
                        last = step;
                        break;
                    }
                }
            }
            all.push((last, said, taken, negotiation));
        }
        let last = all.pop().unwrap();
        for (step, said, taken, _) in all {
            let same = (format!("{step:?}"), said, taken);
            assert_eq!(same, (format!("{:?}", last.0), last.1.clone(), last.2));
        }
        last
    }

    fn asked(bytes: &[u8]) -> (String, usize) {
        match fed(bytes) {
            (Step::Asked(target), _, taken, _) => (format!("{target:?}"), taken),
            (step, ..) => panic!("{step:?}"),
        }
    }

    fn refused(bytes: &[u8]) -> Vec<u8> {
        match fed(bytes) {
            (Step::Refused { answer, denial }, ..) => {
                assert_eq!(denial.reason, Reason::BadRequest);
                answer
            }
            (step, ..) => panic!("{step:?} of {}", bytes.escape_ascii()),
        }
    }

    fn name(host: &str, port: u16) -> String {
        format!("{:?}", Target::Name { host: host.to_owned(), port })
    }

    fn address(text: &str) -> String {
        format!("{:?}", Target::Address(text.parse().unwrap()))
    }

    fn socks5(request: &[u8]) -> Vec<u8> {
        [&[5, 2, 2, 0][..], request].concat()
    }

    #[test]
    fn socks5_asks_for_addresses_of_either_kind_and_for_names() {
        let v6 = [&[5, 1, 0, 4][..], &[0xfd, 0x77], &[0; 13], &[2], &[0x1f, 0x90]].concat();
        for (request, target) in [
            (b"\x05\x01\x00\x01\x0a\x60\x00\x0a\x1f\x90".to_vec(), address("10.96.0.10:8080")),
            (v6, address("[fd77::2]:8080")),
            (b"\x05\x01\x00\x03\x0fledger.payments\x1f\x90".to_vec(), name("ledger.payments", 8080)),
            (b"\x05\x01\x00\x03\x0910.0.0.10\x00\x50".to_vec(), address("10.0.0.10:80")),
        ] {
            // What comes behind it is not ours to take.
            let (found, taken) = asked(&[&socks5(&request)[..], b"GET / HTTP/1.1\r\n"].concat());
            assert_eq!((found, taken), (target, 4 + request.len()));
        }
        let (_, said, ..) = fed(&socks5(b"\x05\x01\x00\x01\x0a\x60\x00\x0a\x1f\x90"));
        assert_eq!(said, [5, 0]);
    }

    #[test]
    fn socks5_that_is_not_what_we_speak_gets_the_code_for_it() {
        // Without the method that needs nothing.
        assert_eq!(refused(&[5, 1, 2]), [5, 0xff]);
        assert_eq!(refused(&[5, 0]), [5, 0xff]);
        for (request, code) in [
            (&b"\x05\x02\x00\x01\x0a\x60\x00\x0a\x1f\x90"[..], 7), // BIND
            (b"\x05\x03\x00\x01\x0a\x60\x00\x0a\x1f\x90", 7),      // UDP ASSOCIATE
            (b"\x05\x01\x00\x02", 8),
            (b"\x04\x01\x00\x01\x0a\x60\x00\x0a\x1f\x90", 1),
            (b"\x05\x01\x01\x01\x0a\x60\x00\x0a\x1f\x90", 1),
            (b"\x05\x01\x00\x01\x0a\x60\x00\x0a\x00\x00", 1), // port 0
            (b"\x05\x01\x00\x03\x00\x1f\x90", 1),             // no name
            (b"\x05\x01\x00\x03\x04a b\xff\x1f\x90", 1),
            (b"\x05\x01\x00\x03\x03a\r\n\x1f\x90", 1),
        ] {
            assert_eq!(
                refused(&socks5(request)),
                [5, code, 0, 1, 0, 0, 0, 0, 0, 0],
                "{}",
                request.escape_ascii()
            );
        }
    }

    #[test]
    fn http_connect_asks_for_a_host_and_a_port() {
        for (request, target) in [
            (
                "CONNECT ledger.payments:8080 HTTP/1.1\r\nHost: ledger.payments:8080\r\n\r\n",
                name("ledger.payments", 8080),
            ),
            (
                "CONNECT ledger:80 HTTP/1.1\r\nhost:LEDGER\r\nProxy-Connection: Keep-Alive\r\n\r\n",
                name("ledger", 80),
            ),
            ("CONNECT 10.96.0.10:443 HTTP/1.0\r\n\r\n", address("10.96.0.10:443")),
            (
                "CONNECT [fd77::2]:443 HTTP/1.1\r\nHost: [fd77::2]:443\r\nContent-Length: 0\r\n\r\n",
                address("[fd77::2]:443"),
            ),
        ] {
            let (found, taken) = asked(format!("{request}\x16\x03\x01").as_bytes());
            assert_eq!((found, taken), (target, request.len()), "{request}");
        }
    }

    #[test]
    fn http_that_can_be_read_in_two_ways_is_refused() {
        let long = format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nx: {}\r\n\r\n", "y".repeat(9000));
        let many = format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{}\r\n", "x: y\r\n".repeat(64));
        for (request, status) in [
            ("GET http://ledger/ HTTP/1.1\r\nHost: ledger\r\n\r\n", 405),
            ("CONNECT a:1 HTTP/2.0\r\nHost: a:1\r\n\r\n", 505),
            ("CONNECT a:1\r\n\r\n", 400),
            ("CONNECT  a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
            ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT http://a:1/ HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
            ("CONNECT u@a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:2\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nHost: a:1\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n folded\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost : a:1\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nx: a\rb\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\nHost: a:1\n\n", 400),
            (&long, 431),
            (&many, 431),
        ] {
            let answer = String::from_utf8(refused(request.as_bytes())).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{answer}");
            assert!(answer.contains("\r\ncountersign-reason: bad-request\r\n"), "{answer}");
        }
    }

    #[test]
    fn what_is_neither_gets_no_answer() {
        for first in [0x04, 0x16, b'g', b'\n', 0xff] {
            assert!(refused(&[first]).is_empty(), "{first}");
        }
    }

    #[test]
    fn a_refusal_is_said_in_the_protocol_of_the_workload() {
        let (_, _, _, socks) = fed(&socks5(b"\x05\x01\x00\x01\x0a\x60\x00\x0a\x1f\x90"));
        let (_, _, _, http) = fed(b"CONNECT a:1 HTTP/1.0\r\n\r\n");
        for (reason, code, status) in [
            (Reason::UnknownDestination, 2, 403),
            (Reason::AuthorizationDenied, 2, 403),
            (Reason::MeasurementMismatch, 2, 403),
            (Reason::ConnectFailed, 5, 503),
            (Reason::Timeout, 6, 504),
            (Reason::SelfConnection, 2, 508),
            (Reason::Draining, 1, 503),
            (Reason::TlsFailure, 1, 502),
        ] {
            assert_eq!(socks.refused(reason)[..2], [5, code], "{reason}");
            let answer = String::from_utf8(http.refused(reason)).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains(&format!("\r\ncountersign-reason: {reason}\r\n")), "{answer}");
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(answer.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{answer}");
        }
        assert_eq!(socks.granted(), [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(http.granted().starts_with(b"HTTP/1.1 200 "));
    }
}
