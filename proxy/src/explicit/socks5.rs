//! SOCKS5: a greeting, and a request to connect. No authentication: the listener
//! is on the loopback interface of the workload's own machine.

use std::net::{Ipv4Addr, Ipv6Addr};

use countersign_evidence::{Denial, Reason};

use super::{SOCKS5, Step, bad, target};

/// RFC 1928, section 3.
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
/// Section 4.
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Section 6.
pub(super) const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const NOT_ALLOWED: u8 = 2;
const CONNECTION_REFUSED: u8 = 5;
const TTL_EXPIRED: u8 = 6;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// Greeting or request, as far as it has come: at most 262 bytes.
#[derive(Debug, Default)]
pub(super) struct Socks5 {
    greeted: bool,
    message: Vec<u8>,
}

impl Socks5 {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (usize, Step) {
        let mut rest = bytes;
        // The length shows piece by piece.
        while let Some(missing) = self.missing().filter(|missing| *missing > 0) {
            let (now, later) = rest.split_at(missing.min(rest.len()));
            if now.is_empty() {
                return (bytes.len(), Step::More);
            }
            self.message.extend_from_slice(now);
            rest = later;
        }
        let message = std::mem::take(&mut self.message);
        let step = if self.greeted { request(&message) } else { self.greeting(&message) };
        (bytes.len() - rest.len(), step)
    }

    /// Bytes without which nothing more can be said: 0 when the message is whole,
    /// `None` when its length cannot be known.
    fn missing(&self) -> Option<usize> {
        let at = |i: usize| self.message.get(i).copied();
        let whole = if self.greeted {
            match at(3) {
                None => 4,
                Some(IPV4) => 4 + 4 + 2,
                Some(IPV6) => 4 + 16 + 2,
                Some(NAME) => at(4).map_or(5, |length| 5 + usize::from(length) + 2),
                Some(_) => return None,
            }
        } else {
            at(1).map_or(2, |methods| 2 + usize::from(methods))
        };
        Some(whole - self.message.len().min(whole))
    }

    fn greeting(&mut self, message: &[u8]) -> Step {
        if message.iter().skip(2).any(|method| *method == NO_AUTHENTICATION) {
            self.greeted = true;
            return Step::Say(vec![SOCKS5, NO_AUTHENTICATION]);
        }
        let denial =
            bad("SOCKS5 methods", "0 (no authentication) among them", format!("{:?}", message.get(2..)));
        Step::Refused { answer: vec![SOCKS5, NO_ACCEPTABLE_METHOD], denial }
    }
}

/// Reads a request, which is whole unless its address has an unknown type.
fn request(message: &[u8]) -> Step {
    let refuse = |code, denial: Denial| Step::Refused { answer: reply(code), denial };
    let [version, command, reserved, kind, rest @ ..] = message else {
        return refuse(GENERAL_FAILURE, bad("SOCKS5 request", "a whole one", "a part"));
    };
    if (*version, *reserved) != (SOCKS5, 0) {
        return refuse(
            GENERAL_FAILURE,
            bad("SOCKS5 request", "version 5, reserved 0", format!("{version}, {reserved}")),
        );
    }
    if *command != CONNECT {
        return refuse(COMMAND_NOT_SUPPORTED, bad("SOCKS5 command", "1 (CONNECT)", command.to_string()));
    }
    let Some((address, port)) = rest.split_last_chunk::<2>() else {
        return refuse(ADDRESS_TYPE_NOT_SUPPORTED, bad("SOCKS5 address type", "1, 3 or 4", kind.to_string()));
    };
    let host = match *kind {
        IPV4 => address.try_into().ok().map(|ip: [u8; 4]| Ipv4Addr::from(ip).to_string()),
        IPV6 => address.try_into().ok().map(|ip: [u8; 16]| Ipv6Addr::from(ip).to_string()),
        NAME => address.get(1..).and_then(|name| str::from_utf8(name).ok()).map(str::to_owned),
        _ => None,
    };
    let port = u16::from_be_bytes(*port);
    match host.as_deref().filter(|_| port != 0).and_then(|host| target(host, port)) {
        Some(target) => Step::Asked(target),
        None => {
            let presented = format!("{}:{port}", host.as_deref().unwrap_or("?").escape_debug());
            refuse(GENERAL_FAILURE, bad("SOCKS5 destination", "a host and a port", presented))
        }
    }
}

/// An answer to a request. The address is that from which we connect to the
/// destination, which is none of the workload's business.
pub(super) fn reply(code: u8) -> Vec<u8> {
    vec![SOCKS5, code, 0, IPV4, 0, 0, 0, 0, 0, 0]
}

/// How SOCKS5 says why not.
pub(super) const fn code(reason: Reason) -> u8 {
    match (reason, reason.http_status()) {
        (Reason::ConnectFailed, _) => CONNECTION_REFUSED,
        (Reason::Timeout, _) => TTL_EXPIRED,
        (_, 401 | 403 | 508) => NOT_ALLOWED,
        _ => GENERAL_FAILURE,
    }
}
