//! Sixth stage: where a stream goes.

use std::net::{IpAddr, SocketAddr};

use countersign_config::bootstrap::InboundPort;
use countersign_evidence::{Denial, Finding, Reason};
use http::request::Parts;
use http::{Method, Uri};

/// The longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// The port that a CONNECT request asks for, offered or not.
///
/// The host of `:authority` must have the form of one but is not compared: this
/// proxy stands for one workload, whatever the address under which it is known.
pub(crate) fn requested_port(request: &Parts) -> Result<u16, Denial> {
    if request.method != Method::CONNECT
        || request.uri.scheme().is_some()
        || request.uri.path_and_query().is_some()
    {
        return Err(bad_request("method", "CONNECT with an authority alone", request.method.as_str()));
    }
    if request.extensions.get::<h2::ext::Protocol>().is_some() {
        return Err(bad_request(":protocol", "none", "one"));
    }
    let authority = request.uri.authority().map_or("", http::uri::Authority::as_str);
    authority_port(authority)
}

/// Whether the workload behind this proxy is reachable on `port`. For callers
/// that may call it: others learn nothing of what there is.
pub(crate) fn offered(port: u16, ports: &[InboundPort]) -> Result<InboundPort, Denial> {
    if let Some(offered) = ports.iter().find(|offered| offered.port == port) {
        return Ok(*offered);
    }
    let ports: Vec<_> = ports.iter().map(|p| p.port.to_string()).collect();
    Err(Finding::new(Reason::PortNotOffered, "port", ports.join(" or "), port.to_string()).into())
}

/// Reads `host:port` strictly: no user, no empty host, no sign or leading zero in the port.
///
/// # Errors
/// `bad-request` for everything else.
pub fn authority_port(authority: &str) -> Result<u16, Denial> {
    let refuse = || bad_request(":authority", "HOST:PORT", authority);
    let (host, port) = authority.rsplit_once(':').ok_or_else(refuse)?;
    let host_ok = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => is_host(host),
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    if !host_ok || !digits {
        return Err(refuse());
    }
    port.parse().map_err(|_| refuse())
}

/// Whether `host` has the form of a name or of an IPv4 address.
pub(crate) fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_HOST
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_')
}

/// The authority of a CONNECT to `port` of the workload behind `address` (`host:port`).
pub(crate) fn authority(address: &str, port: u16) -> Result<Uri, Denial> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    Uri::builder()
        .authority(format!("{host}:{port}"))
        .build()
        .map_err(|_| bad_request("address", "HOST:PORT", address))
}

/// Whether `to` leads back to one of our own listeners (`own`) when connected from `from`.
pub(crate) fn leads_back(from: IpAddr, to: SocketAddr, own: &[SocketAddr]) -> bool {
    // The source address equals the destination's only when both are this host.
    own.iter().any(|mine| {
        mine.port() == to.port() && (mine.ip() == to.ip() || (mine.ip().is_unspecified() && from == to.ip()))
    })
}

fn bad_request(field: &str, expected: &str, presented: &str) -> Denial {
    let presented: String = presented.chars().take(MAX_HOST).collect();
    Finding::new(Reason::BadRequest, field, expected, presented).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_a_port_and_nothing_else() {
        for (authority, port) in
            [("10.0.0.1:8080", 8080), ("ledger.payments:1", 1), ("[::1]:65535", 65535), ("a_b-c:443", 443)]
        {
            assert_eq!(authority_port(authority).unwrap(), port, "{authority}");
        }
        let long = format!("{}:80", "a".repeat(254));
        for authority in [
            "",
            "host",
            ":80",
            "host:",
            "host:0",
            "host:080",
            "host:+80",
            "host:65536",
            "host:99999999999",
            "user@host:80",
            "[::1:80",
            "::1:80",
            "[zz]:80",
            "ho st:80",
            "host:80 ",
            "host:8a",
            "höst:80",
            &long,
        ] {
            assert_eq!(authority_port(authority).unwrap_err().reason, Reason::BadRequest, "{authority}");
        }
    }

    #[test]
    fn a_port_that_is_not_offered_has_a_reason_of_its_own() {
        assert!(offered(8443, &[8080.into(), 8443.into()]).is_ok());
        let denial = offered(9, &[8080.into(), 8443.into()]).unwrap_err();
        assert_eq!(denial.reason, Reason::PortNotOffered);
        assert!(denial.to_string().contains("8080 or 8443"), "{denial}");
    }

    #[test]
    fn a_destination_that_is_our_own_listener_leads_back() {
        let own = ["0.0.0.0:15008".parse().unwrap(), "127.0.0.1:15001".parse().unwrap()];
        let local: IpAddr = "10.0.0.5".parse().unwrap();
        assert!(leads_back(local, "10.0.0.5:15008".parse().unwrap(), &own));
        assert!(leads_back("127.0.0.1".parse().unwrap(), "127.0.0.1:15001".parse().unwrap(), &own));
        assert!(!leads_back(local, "10.0.0.6:15008".parse().unwrap(), &own));
        assert!(!leads_back(local, "10.0.0.5:15009".parse().unwrap(), &own));
    }
}
