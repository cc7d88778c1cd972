//! Texts with a grammar: durations, digests, names, identities, times.
//!
//! Each is one Rust type with one parser. Its JSON Schema carries a `pattern`
//! for editors and a `format` by which the structural check finds the parser,
//! so that a message is as good as the parser's.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration as StdDuration;

use countersign_ratls::{IdPattern, SpiffeId, TrustDomain};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Checks a text; the error says what is wrong and what would be accepted.
pub(crate) type Check = fn(&str) -> Result<(), String>;

/// The parser behind a `format` of our schemas.
pub(crate) fn format_check(format: &str) -> Option<Check> {
    Some(match format {
        "go-duration" => |t| Duration::parse(t).map(drop),
        "rfc3339" => |t| Timestamp::parse(t).map(drop),
        "spiffe-id" => |t| Spiffe::parse(t).map(drop),
        "spiffe-pattern" => |t| Pattern::parse(t).map(drop),
        "trust-domain" => |t| Domain::parse(t).map(drop),
        "dns-1123-name" => |t| Name::parse(t).map(drop),
        "dns-1123-label" => |t| Namespace::parse(t).map(drop),
        "host-port" => |t| HostPort::parse(t).map(drop),
        "socket-address" => |t| Socket::parse(t).map(drop),
        "ip-address" => |t| Ip::parse(t).map(drop),
        "workload-name" => |t| WorkloadName::parse(t).map(drop),
        "file-path" => |t| FilePath::parse(t).map(drop),
        "dns-name" => |t| Host::parse(t).map(drop),
        "ip-or-dns-name" => |t| Place::parse(t).map(drop),
        "locality" => |t| Locality::parse(t).map(drop),
        "path-pattern" => |t| PathPattern::parse(t).map(drop),
        "host-pattern" => |t| HostPattern::parse(t).map(drop),
        "http-method" => |t| Method::parse(t).map(drop),
        "route-hostname" => |t| Hostname::parse(t).map(drop),
        "route-path" => |t| RoutePath::parse(t).map(drop),
        "grpc-service" => |t| GrpcService::parse(t).map(drop),
        "grpc-method" => |t| GrpcMethod::parse(t).map(drop),
        "header-name" => |t| HeaderName::parse(t).map(drop),
        "header-value" => |t| HeaderValue::parse(t).map(drop),
        "platform-id" => |t| PlatformId::parse(t).map(drop),
        "hex-6" => Hex::<6>::check,
        "hex-8" => Hex::<8>::check,
        "hex-16" => Hex::<16>::check,
        "hex-32" => Hex::<32>::check,
        "hex-48" => Hex::<48>::check,
        "hex-64" => Hex::<64>::check,
        _ => return None,
    })
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal, $pattern:literal, $parse:expr, $show:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl $name {
            /// Reads the text.
            ///
            /// # Errors
            /// What is wrong with it, and what would be accepted.
            pub fn parse(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let show: fn(&$inner, &mut fmt::Formatter<'_>) -> fmt::Result = $show;
                show(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(d)?).map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "pattern": $pattern })
            }
        }
    };
}

text!(
    /// A duration as Go writes it: `90s`, `10m`, `336h`, `1h30m`, `250ms`.
    Duration(StdDuration), "go-duration", "^([0-9]+(h|m|s|ms))+$", parse_duration, show_duration
);
text!(
    /// A moment as RFC 3339 writes it, in seconds since the epoch.
    Timestamp(u64), "rfc3339",
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$",
    parse_timestamp, show_timestamp
);
text!(
    /// A SPIFFE ID.
    Spiffe(SpiffeId), "spiffe-id", "^spiffe://[a-z0-9._-]{1,255}(/[a-zA-Z0-9._-]+)*$",
    |t| SpiffeId::parse(t).map_err(|e| grammar(&e)), |v, f| f.write_str(v.as_str())
);
text!(
    /// A SPIFFE ID, one that ends in `/*` and covers everything below, or `*`.
    Pattern(IdPattern), "spiffe-pattern", "^(\\*|spiffe://[a-z0-9._-]{1,255}(/[a-zA-Z0-9._-]+)*(/\\*)?)$",
    |t| IdPattern::parse(t).map_err(|e| grammar(&e)), |v, f| f.write_str(v.as_str())
);
text!(
    /// The name of a trust domain.
    Domain(TrustDomain), "trust-domain", "^[a-z0-9._-]{1,255}$",
    |t| TrustDomain::parse(t).map_err(|e| grammar(&e)), |v, f| f.write_str(v.as_str())
);
text!(
    /// The name of a resource: a DNS-1123 subdomain.
    Name(String), "dns-1123-name", "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
    parse_name, |v, f| f.write_str(v)
);
text!(
    /// The name of a namespace: a DNS-1123 label.
    Namespace(String), "dns-1123-label", "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    parse_label, |v, f| f.write_str(v)
);
text!(
    /// `namespace/name`, or a name in the namespace `default`.
    WorkloadName(String), "workload-name", "^([a-z0-9-]+/)?[a-z0-9.-]+$",
    parse_workload_name, |v, f| f.write_str(v)
);
text!(
    /// The identity of a machine: 16 or 64 bytes as lower-case hexadecimal digits.
    PlatformId(String), "platform-id", "^([0-9a-f]{32}|[0-9a-f]{128})$", parse_platform_id, |v, f| f.write_str(v)
);
text!(
    /// A host (name, IPv4 address, or IPv6 address in brackets) and a port.
    HostPort(String), "host-port", "^.+:[0-9]+$", parse_host_port, |v, f| f.write_str(v)
);
text!(
    /// An IP address and a port.
    Socket(std::net::SocketAddr), "socket-address", "^.+:[0-9]+$",
    |t| t.parse().map_err(|_| format!("{} is not an address and a port such as 127.0.0.1:15000", quoted(t))),
    |v, f| write!(f, "{v}")
);
text!(
    /// An IP address.
    Ip(std::net::IpAddr), "ip-address", "^[0-9a-fA-F.:]+$",
    |t| t.parse().map_err(|_| format!("{} is not an IP address such as 127.0.0.1", quoted(t))),
    |v, f| write!(f, "{v}")
);
text!(
    /// A path, relative to the directory of the file that names it.
    FilePath(std::path::PathBuf), "file-path", "^.+$",
    |t| if t.is_empty() || t.contains('\0') { Err("is not a path".to_owned()) } else { Ok(t.into()) },
    |v, f| write!(f, "{}", v.display())
);

mod pattern;
mod place;
mod route;
pub use pattern::{Glob, HostPattern, Method, PathPattern};
pub use place::{Host, Locality, Place};
pub use route::{GrpcMethod, GrpcService, HeaderName, HeaderValue, Hostname, RoutePath};

impl Duration {
    /// From whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(StdDuration::from_secs(seconds))
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(&self) -> u64 {
        self.0.as_secs()
    }
}

/// A century: longer is a slip of the finger.
const MAX_SECONDS: u64 = 100 * 366 * 86_400;

fn parse_duration(text: &str) -> Result<StdDuration, String> {
    let wrong = || format!("{} is not a duration such as 90s, 10m, 1h30m or 336h", quoted(text));
    let mut total = StdDuration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at_checked(letters).ok_or_else(wrong)?;
        let part = match unit {
            "h" => StdDuration::from_secs(number.saturating_mul(3600)),
            "m" => StdDuration::from_secs(number.saturating_mul(60)),
            "s" => StdDuration::from_secs(number),
            "ms" => StdDuration::from_millis(number),
            "d" | "w" | "y" => return Err(format!("{}: the largest unit is h (hours)", quoted(text))),
            _ => return Err(wrong()),
        };
        total = total.saturating_add(part);
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if total.as_secs() > MAX_SECONDS {
        return Err(format!("{} is longer than a century", quoted(text)));
    }
    Ok(total)
}

fn show_duration(duration: &StdDuration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let parts =
        [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (u64::from(millis), "ms")];
    if parts.iter().all(|(n, _)| *n == 0) {
        return f.write_str("0s");
    }
    parts.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
}

fn parse_timestamp(text: &str) -> Result<u64, String> {
    let wrong = || format!("{} is not a time such as 2027-02-01T00:00:00Z", quoted(text));
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(at.unix_timestamp()).map_err(|_| wrong())
}

fn show_timestamp(seconds: &u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let at = i64::try_from(*seconds).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    match at.and_then(|at| at.format(&Rfc3339).ok()) {
        Some(text) => f.write_str(&text),
        None => write!(f, "@{seconds}"),
    }
}

fn parse_label(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    let holds =
        bytes.len() <= 63 && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last());
    if holds {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not a name of 1 to 63 characters a-z, 0-9 and - inside", quoted(text)))
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(|label| parse_label(label).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not a DNS-1123 name: a-z, 0-9, and - or . inside, at most 253", quoted(text)))
    }
}

fn parse_workload_name(text: &str) -> Result<String, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((crate::resource::DEFAULT_NAMESPACE, text));
    let namespace = parse_label(namespace)?;
    let name = parse_name(name)?;
    Ok(format!("{namespace}/{name}"))
}

fn parse_platform_id(text: &str) -> Result<String, String> {
    let read = match text.len() {
        128 => Hex::<64>::parse(text).map(drop),
        _ => Hex::<16>::parse(text).map(drop),
    };
    read.map(|()| text.to_owned())
}

fn parse_host_port(text: &str) -> Result<String, String> {
    let wrong = || format!("{} is not host:port", quoted(text));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host_holds = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.parse::<std::net::Ipv4Addr>().is_ok() || parse_name(&host.to_ascii_lowercase()).is_ok(),
    };
    match port.parse::<u16>() {
        Ok(1..) if host_holds => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

fn grammar(finding: &countersign_evidence::Finding) -> String {
    format!("{} is {}, accepted: {}", finding.field, finding.presented, finding.expected)
}

/// The start of a text that may be long.
pub(crate) fn quoted(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    if start.len() < text.len() { format!("`{start}...`") } else { format!("`{start}`") }
}

/// Exactly `N` bytes as lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> Hex<N> {
    /// Reads the text.
    ///
    /// # Errors
    /// The wrong length, or the character that is no lower-case digit.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(c) = text.chars().find(|c| !matches!(c, '0'..='9' | 'a'..='f')) {
            let why = if c.is_ascii_hexdigit() { ", write it in lower case" } else { "" };
            return Err(format!("{} holds {c:?}, which is no digit 0-9 a-f{why}", quoted(text)));
        }
        let mut out = [0; N];
        hex::decode_to_slice(text, &mut out).map_err(|_| {
            format!("{} has {} hex digits, the field has {}", quoted(text), text.len(), 2 * N)
        })?;
        Ok(Self(out))
    }

    fn check(text: &str) -> Result<(), String> {
        Self::parse(text).map(drop)
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl<const N: usize> JsonSchema for Hex<N> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Hex{N}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": format!("hex-{N}"),
            "pattern": format!("^[0-9a-f]{{{}}}$", 2 * N),
        })
    }
}

/// The literal `false`, for a field that says what holds anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeverDebug;

impl Serialize for NeverDebug {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bool(false)
    }
}

impl<'de> Deserialize<'de> for NeverDebug {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if bool::deserialize(d)? { Err(de::Error::custom(NEVER_DEBUG)) } else { Ok(Self) }
    }
}

const NEVER_DEBUG: &str = "a debuggable TEE can be read by whoever runs the machine, so its evidence proves \
     nothing: no policy can admit it; write false or leave the field out";

impl JsonSchema for NeverDebug {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "NeverDebug".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean", "const": false, "x-countersign-refusal": NEVER_DEBUG })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go_without_fractions() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("336h", 1_209_600), ("1h30m", 5400), ("0s", 0)] {
            let parsed = Duration::parse(text).unwrap();
            assert_eq!(parsed.as_secs(), seconds);
            assert_eq!(Duration::parse(&parsed.to_string()).unwrap(), parsed);
        }
        assert_eq!(Duration::from_secs(1_209_600).to_string(), "336h");
        for text in ["", "5", "s", "1.5h", "-1s", "1 h", "1d", "99999999999h", "184467440737095516150s"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn digests_have_the_exact_length_in_lower_case() {
        assert!(Hex::<8>::parse("0011223344556677").is_ok());
        assert!(Hex::<8>::parse("00").unwrap_err().contains("has 2 hex digits, the field has 16"));
        assert!(Hex::<8>::parse("001122334455667F").unwrap_err().contains("lower case"));
        assert!(Hex::<8>::parse("00112233445566é").is_err());
    }

    #[test]
    fn names_and_addresses() {
        assert!(Name::parse("ledger-2026.11").is_ok());
        for text in ["", "-a", "a-", "A", "a..b", "a_b"] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
        assert_eq!(WorkloadName::parse("web").unwrap().0, "default/web");
        for text in ["cp.example:15012", "[::1]:1", "10.0.0.1:80"] {
            assert!(HostPort::parse(text).is_ok(), "{text}");
        }
        for text in ["cp.example", "cp:0", "::1:1", "a b:1", "[x]:1", ":1"] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_round_trip() {
        let at = Timestamp::parse("2027-02-01T00:00:00Z").unwrap();
        assert_eq!(at.to_string(), "2027-02-01T00:00:00Z");
        assert!(Timestamp::parse("2027-02-01").is_err());
    }
}
