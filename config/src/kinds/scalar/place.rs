//! Where things are: names and addresses of machines, and regions.

use std::net::{IpAddr, SocketAddr};

use super::*;

text!(
    /// A DNS name in lower case.
    Host(String), "dns-name",
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
    parse_host, |v, f| f.write_str(v)
);
text!(
    /// An IP address, or a DNS name in lower case.
    Place(String), "ip-or-dns-name", "^[0-9a-fA-F.:]+$|^[a-z0-9.-]+$",
    |t| if t.parse::<IpAddr>().is_ok() { Ok(t.to_owned()) } else { parse_name(t) }, |v, f| f.write_str(v)
);
text!(
    /// A region, `region/zone`, or `region/zone/subzone`.
    Locality(String), "locality", "^[A-Za-z0-9._-]{1,63}(/[A-Za-z0-9._-]{1,63}){0,2}$",
    parse_locality, |v, f| f.write_str(v)
);

impl Place {
    /// The address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    }

    /// `host:port`.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        match self.ip() {
            Some(ip) => SocketAddr::new(ip, port).to_string(),
            None => format!("{}:{port}", self.0),
        }
    }
}

impl Locality {
    /// How many of region, zone and subzone are the same, from the region on.
    #[must_use]
    pub fn in_common(&self, other: &Self) -> usize {
        self.0.split('/').zip(other.0.split('/')).take_while(|(a, b)| a == b).count()
    }
}

fn parse_host(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("{} is an IP address, accepted: a DNS name", quoted(text)));
    }
    parse_name(text)
}

fn parse_locality(text: &str) -> Result<String, String> {
    let part = |part: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (1..=63).contains(&part.len()) && part.bytes().all(fits)
    };
    if text.split('/').count() <= 3 && text.split('/').all(part) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not a region, region/zone or region/zone/subzone", quoted(text)))
    }
}
