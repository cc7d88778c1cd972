//! Texts of routes: hosts, paths and headers.

use super::*;
use crate::request::normalize;

text!(
    /// A DNS name in lower case, or `*.` and one for every name that ends so.
    Hostname(String), "route-hostname",
    "^(\\*\\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
    |t| Host::parse(t.strip_prefix("*.").unwrap_or(t)).map(|_| t.to_owned()), |v, f| f.write_str(v)
);
text!(
    /// A path as requests have it in its one form: no dot segments, no empty ones.
    RoutePath(String), "route-path", "^/[^?#]*$", parse_route_path, |v, f| f.write_str(v)
);
text!(
    /// The name of a header. Upper and lower case are the same.
    HeaderName(String), "header-name", "^[A-Za-z0-9!#$%&'*+.^_|~-]{1,256}$",
    parse_header_name, |v, f| f.write_str(v)
);
text!(
    /// The value of a header: visible ASCII characters, and spaces inside.
    HeaderValue(String), "header-value", "^[!-~]([ -~]{0,4094}[!-~])?$",
    parse_header_value, |v, f| f.write_str(v)
);

text!(
    /// The name of a gRPC service with its package.
    GrpcService(String), "grpc-service", "^[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*$",
    |t| match t.split('.').all(is_identifier) && t.len() <= 1024 {
        true => Ok(t.to_owned()),
        false => Err(format!("{} is not a gRPC service such as shop.Stock", quoted(t))),
    },
    |v, f| f.write_str(v)
);
text!(
    /// The name of a gRPC method.
    GrpcMethod(String), "grpc-method", "^[A-Za-z_][A-Za-z0-9_]*$",
    |t| match is_identifier(t) && t.len() <= 1024 {
        true => Ok(t.to_owned()),
        false => Err(format!("{} is not a gRPC method such as Reserve", quoted(t))),
    },
    |v, f| f.write_str(v)
);

fn is_identifier(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(|b| !b.is_ascii_digit()) && text.bytes().all(fits)
}

fn parse_route_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || text.len() > 1024 {
        return Err(format!("{} is not a path of at most 1024 characters that begins with /", quoted(text)));
    }
    let normal = normalize(text).map_err(|why| format!("{}: the path {why}", quoted(text)))?;
    match normal.sent.matches('/').count() == text.matches('/').count() {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("{} never matches: such paths are taken as {}", quoted(text), quoted(&normal.sent)))
        }
    }
}

fn parse_header_name(text: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match (1..=256).contains(&text.len()) && text.bytes().all(token) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("{} is not the name of a header", quoted(text))),
    }
}

fn parse_header_value(text: &str) -> Result<String, String> {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_graphic);
    let bytes = text.as_bytes();
    let inside = bytes.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    match inside && bytes.len() <= 4096 && edge(bytes.first()) && edge(bytes.last()) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not 1 to 4096 visible ASCII characters, spaces inside", quoted(text))),
    }
}
