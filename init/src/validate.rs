//! Whether the rules hold: a connection to an address that nobody has is made, and
//! must be answered by the proxy, or by ourselves in its place.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::rules::{Family, Include, Rules};

/// Reserved for documentation (RFC 5737, RFC 3849): no machine has them.
const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// The port for what is thrown away (RFC 863).
const DISCARD: u16 = 9;
/// What is captured is answered at once.
const PATIENCE: Duration = Duration::from_secs(3);

/// One line for each version of IP.
pub(crate) fn validate(rules: &Rules) -> anyhow::Result<Vec<String>> {
    let me = rustix::process::geteuid().as_raw();
    anyhow::ensure!(
        !rules.uids.contains(&me),
        "runs as user {me}, whose connections are not captured: validate as another user"
    );
    Family::BOTH.into_iter().map(|family| one(rules, family)).collect()
}

fn one(rules: &Rules, family: Family) -> anyhow::Result<String> {
    let Some(address) = target(rules, family) else {
        return Ok(format!("{}: nothing is to be captured", name(family)));
    };
    let target = SocketAddr::new(address, DISCARD);
    let loopback: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let stand_in = match TcpListener::bind((loopback, rules.outbound_port)) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        // Without this version of IP on this machine nothing leaves by it.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable || family == Family::V6 => {
            return Ok(format!("{}: not on this machine ({error})", name(family)));
        }
        Err(error) => {
            return Err(anyhow::Error::new(error).context(format!("listen on port {}", rules.outbound_port)));
        }
    };
    let by_the_proxy = || {
        format!(
            "{}: {target} is answered at port {}, where the proxy listens",
            name(family),
            rules.outbound_port
        )
    };
    match (TcpStream::connect_timeout(&target, PATIENCE), stand_in) {
        (Ok(_), None) => Ok(by_the_proxy()),
        // It knows no such address, and may say so before we have looked: who had
        // refused us would have done it in another way.
        (Err(error), None) if error.kind() == ErrorKind::ConnectionReset => Ok(by_the_proxy()),
        (Ok(stream), Some(listener)) if reached(&listener, &stream)? => {
            Ok(format!("{}: {target} is captured; the proxy does not listen yet", name(family)))
        }
        (Ok(_), Some(_)) => anyhow::bail!(
            "{target} was answered, but not at port {}: the rules are not in force",
            rules.outbound_port
        ),
        (Err(error), _)
            if matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) =>
        {
            Ok(format!("{}: there is no way out at all ({error})", name(family)))
        }
        (Err(error), _) => anyhow::bail!(
            "{target} was not answered at port {} ({error}): the rules are not in force; run countersign-init with the same options, and without --validate, first",
            rules.outbound_port
        ),
    }
}

/// Whether the other end of `stream` is in the queue of `listener`.
fn reached(listener: &TcpListener, stream: &TcpStream) -> io::Result<bool> {
    let mine = stream.local_addr()?;
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((_, peer)) if peer == mine => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// An address that is to be captured, of nobody if possible.
fn target(rules: &Rules, family: Family) -> Option<IpAddr> {
    let nobody = match family {
        Family::V4 => NOBODY_V4,
        Family::V6 => NOBODY_V6,
    };
    let ranges = match &rules.to {
        Include::All => [].as_slice(),
        Include::Some(ranges) => ranges.as_slice(),
    };
    let own = ranges.iter().filter(|range| range.family() == family).map(|range| range.address);
    std::iter::once(nobody).chain(own).find(|address| rules.captures(*address))
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use crate::rules::samples;

    #[test]
    fn the_address_that_is_tried_is_one_that_is_to_be_captured() {
        assert_eq!(target(&samples::plain(), Family::V4), Some(NOBODY_V4));
        assert_eq!(target(&samples::plain(), Family::V6), Some(NOBODY_V6));
        let some = samples::everything();
        assert_eq!(target(&some, Family::V4), Some("10.0.0.0".parse().unwrap()));
        assert_eq!(target(&some, Family::V6), Some("fd00::".parse().unwrap()));
        let none = Rules { to: Include::Some(Vec::new()), ..samples::plain() };
        assert_eq!(target(&none, Family::V4), None);
    }

    #[test]
    fn only_the_connection_itself_counts_as_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let _stray = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        assert!(!reached(&listener, &stream).unwrap());
        assert!(reached(&other, &stream).unwrap());
    }

    #[test]
    fn whoever_is_exempt_cannot_validate() {
        let me = rustix::process::geteuid().as_raw();
        let error = validate(&Rules { uids: vec![me], ..samples::plain() }).unwrap_err();
        assert!(error.to_string().contains("another user"), "{error}");
    }
}
