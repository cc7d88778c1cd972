//! Which traffic is captured, whatever the tool that does it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which traffic is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Where captured outbound connections go.
    pub(crate) outbound_port: u16,
    /// Where captured inbound connections go.
    pub(crate) inbound_port: u16,
    /// Users whose connections are left alone: the proxy's.
    pub(crate) uids: Vec<u32>,
    /// Groups of the same kind.
    pub(crate) gids: Vec<u32>,
    /// A mark of packets of the same kind.
    pub(crate) mark: Option<u32>,
    /// Networks to which connections are captured.
    pub(crate) to: Include<Range>,
    /// Ports to which they are captured whatever the network.
    pub(crate) to_ports: Vec<u16>,
    /// Networks to which they are not.
    pub(crate) not_to: Vec<Range>,
    /// Ports to which they are not.
    pub(crate) not_to_ports: Vec<u16>,
    /// Ports whose inbound connections are captured.
    pub(crate) inbound: Include<u16>,
    /// Ports whose inbound connections are not, sorted: the hop port among them.
    pub(crate) open: Vec<u16>,
    /// Interfaces whose traffic is not.
    pub(crate) interfaces: Vec<String>,
}

/// Everything, or some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Include<T> {
    All,
    Some(Vec<T>),
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) address: IpAddr,
    length: u8,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Range {
    /// Reads `ADDRESS` or `ADDRESS/LENGTH` without bits behind the length.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr =
            address.parse().map_err(|_| "is no network, accepted: 10.0.0.0/8 or fd00::/8".to_owned())?;
        let full: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => full,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= full)
                .ok_or_else(|| format!("has a length that is not 0 to {full}"))?,
        };
        let network = masked(address, length);
        if network == address {
            Ok(Self { address, length })
        } else {
            Err(format!("is an address inside of {network}/{length}: which of them is meant?"))
        }
    }

    pub(crate) const fn family(&self) -> Family {
        if self.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.address
    }
}

/// The first `length` bits.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl Rules {
    /// Whether a connection to `address` at a port that nobody named is captured.
    pub(crate) fn captures(&self, address: IpAddr) -> bool {
        let inside = |ranges: &[Range]| ranges.iter().any(|range| range.contains(address));
        let included = match &self.to {
            Include::All => true,
            Include::Some(ranges) => inside(ranges),
        };
        included && !inside(&self.not_to)
    }
}

/// The networks of one family.
pub(crate) fn of(family: Family, ranges: &[Range]) -> Vec<String> {
    ranges.iter().filter(|range| range.family() == family).map(ToString::to_string).collect()
}

#[cfg(test)]
pub(crate) mod samples {
    //! Rules for the tests of what is written.
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    pub(crate) fn plain() -> Rules {
        Rules {
            outbound_port: 15001,
            inbound_port: 15006,
            uids: vec![1337],
            gids: Vec::new(),
            mark: None,
            to: Include::All,
            to_ports: Vec::new(),
            not_to: Vec::new(),
            not_to_ports: Vec::new(),
            inbound: Include::All,
            open: vec![15008, 15020, 15021],
            interfaces: Vec::new(),
        }
    }

    pub(crate) fn everything() -> Rules {
        let range = |text| Range::parse(text).unwrap();
        Rules {
            uids: vec![1337, 7],
            gids: vec![8],
            mark: Some(0x539),
            to: Include::Some(vec![range("10.0.0.0/8"), range("fd00::/8")]),
            to_ports: vec![5432],
            not_to: vec![range("10.1.0.0/16"), range("fd01::/16")],
            not_to_ports: vec![25, 53],
            inbound: Include::Some(vec![80, 443]),
            open: vec![22, 15008],
            interfaces: vec!["docker0".to_owned()],
            ..plain()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;

    #[test]
    fn a_range_is_a_network_and_not_an_address_inside_of_one() {
        for (text, canonical) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("::/0", "::/0"),
            ("fd00::1", "fd00::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(Range::parse(text).unwrap().to_string(), canonical);
        }
        for text in [
            "",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "fd00::/129",
            "host/8",
            "10.0.0.1/8",
            "fd00::1/8",
            "10.0.0.0/8/8",
        ] {
            assert!(Range::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_excluded_is_not_captured_even_if_it_is_included() {
        let rules = samples::everything();
        for (address, captured) in [
            ("10.2.0.1", true),
            ("10.1.0.1", false),
            ("11.0.0.1", false),
            ("fd00::1", true),
            ("fd01::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(rules.captures(address.parse().unwrap()), captured, "{address}");
        }
        assert!(samples::plain().captures("11.0.0.1".parse().unwrap()));
    }
}
