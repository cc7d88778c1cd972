//! HTTP/1 CONNECT: the head of a request (RFC 9112), and answers to it.

use countersign_config::Target;
use countersign_evidence::{Denial, Reason};

use super::{Step, bad, target};
use crate::hop::REASON_HEADER;
use crate::route;

/// The longest head that is read, and the most fields in it.
const MAX_HEAD: usize = 8 << 10;
const MAX_FIELDS: usize = 64;

/// The head of a request, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Head(Vec<u8>);

/// Status and denial of a head that is refused.
type Refusal = (u16, Denial);

impl Head {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (usize, Step) {
        let refuse =
            |(status, denial): Refusal| Step::Refused { answer: refused(status, Reason::BadRequest), denial };
        for (i, byte) in bytes.iter().enumerate() {
            // One way to end a line: whoever reads it otherwise sees another request.
            if *byte == b'\n' && self.0.last() != Some(&b'\r') {
                return (i + 1, refuse((400, bad("HTTP line", "CR LF at its end", "LF alone"))));
            }
            self.0.push(*byte);
            if self.0.ends_with(b"\r\n\r\n") {
                let head = std::mem::take(&mut self.0);
                return (i + 1, read(&head).map_or_else(refuse, Step::Asked));
            }
            if self.0.len() >= MAX_HEAD {
                let most = format!("at most {MAX_HEAD} bytes");
                return (i + 1, refuse((431, bad("HTTP head", &most, "more"))));
            }
        }
        (bytes.len(), Step::More)
    }
}

fn read(head: &[u8]) -> Result<Target, Refusal> {
    let malformed = |what: &str, expected: &str, presented: &str| {
        (400, bad(what, expected, presented.chars().take(253).collect::<String>().escape_debug().to_string()))
    };
    let head = str::from_utf8(head).map_err(|_| malformed("HTTP head", "ASCII", "other bytes"))?;
    let mut lines = head.strip_suffix("\r\n\r\n").unwrap_or(head).split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let (Some(method), Some(authority), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed("HTTP request line", "METHOD AUTHORITY VERSION", first));
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err((505, bad("HTTP version", "HTTP/1.1 or HTTP/1.0", version.escape_debug().to_string())));
    }
    if method != "CONNECT" {
        return Err((405, bad("HTTP method", "CONNECT", method.escape_debug().to_string())));
    }
    let port = route::authority_port(authority).map_err(|denial| (400, denial))?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);

    let mut hosts = 0_u32;
    for (i, line) in lines.enumerate() {
        if i >= MAX_FIELDS {
            return Err((431, bad("HTTP fields", &format!("at most {MAX_FIELDS}"), "more")));
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| malformed("HTTP field", "NAME: VALUE", line))?;
        let value = value.trim_matches([' ', '\t']);
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty()
            || !name.bytes().all(is_token)
            || value.bytes().any(|b| b.is_ascii_control() && b != b'\t')
        {
            return Err(malformed("HTTP field", "NAME: VALUE", line));
        }
        match name.to_ascii_lowercase().as_str() {
            // Two answers to where it goes are one too many (RFC 9112, section 3.2).
            "host" => {
                hosts += 1;
                if !value.eq_ignore_ascii_case(authority) && !value.eq_ignore_ascii_case(host) {
                    return Err(malformed("Host", authority, value));
                }
            }
            // CONNECT has no content, and nobody shall think that it has (RFC 9110, section 9.3.6).
            "transfer-encoding" => return Err(malformed("Transfer-Encoding", "none", value)),
            "content-length" if value != "0" => return Err(malformed("Content-Length", "none", value)),
            _ => {}
        }
    }
    if hosts > 1 || (hosts == 0 && version == "HTTP/1.1") {
        return Err(malformed("Host", "exactly one", &hosts.to_string()));
    }
    target(host, port).ok_or_else(|| malformed("authority", "HOST:PORT", authority))
}

pub(super) fn granted() -> Vec<u8> {
    b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec()
}

/// How HTTP says why not: 401 would ask for a password, and what went wrong
/// behind us is our gateway's failure.
pub(super) const fn status(reason: Reason) -> u16 {
    match reason.http_status() {
        401 | 403 => 403,
        status @ (503 | 504 | 508) => status,
        _ => 502,
    }
}

pub(super) fn refused(status: u16, reason: Reason) -> Vec<u8> {
    let phrase = match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Bad Gateway",
    };
    let allow = if status == 405 { "allow: CONNECT\r\n" } else { "" };
    let body = format!("{}: {}\n", reason.code(), reason.remedy());
    format!(
        "HTTP/1.1 {status} {phrase}\r\n{allow}{REASON_HEADER}: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        reason.code(),
        body.len()
    )
    .into_bytes()
}
