//! What a request asks for, or why it is none.
//!
//! Hyper and h2 refuse what breaks the syntax: names and values with characters that
//! do not belong there, lengths that contradict each other, codings whose end is not
//! known, pseudo-headers at the wrong place, heads that are too long. What is checked
//! here is what several readers could read in several ways (RFC 9112, sections 3.2 and
//! 11.2): each request that leaves this proxy has one reading.

use countersign_config::{RequestFacts, request::Ambiguity};
use countersign_evidence::{Denial, Finding, Reason};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Version};

/// What of a value that is refused is shown.
const SHOWN: usize = 253;

/// A request that has one reading.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Host, and port if one was given, in lower case. Empty for HTTP/1.0 without one.
    pub(super) host: String,
    /// Path and query, as they are to be sent on.
    pub(super) target: PathAndQuery,
    /// What policies know of it.
    pub(super) facts: RequestFacts<'static>,
    /// What the connection is to be changed to (RFC 9110, section 7.8).
    pub(super) upgrade: Option<HeaderValue>,
}

/// Reads the head of a request.
pub(super) fn read(head: &Parts) -> Result<Asked, Denial> {
    if head.method == Method::CONNECT {
        return Err(bad("method", "a request of the workload", "CONNECT"));
    }
    framing(&head.headers)?;
    let host = host(head)?;
    let given = head.uri.path_and_query();
    // Without a path: the form `host:port`, which is for CONNECT alone.
    let given = given.ok_or_else(|| bad("request target", "a path", &head.uri.to_string()))?;
    let facts = RequestFacts::new(head.method.as_str(), &host, given.path()).into_owned();
    let target = target(given, &facts)?;
    Ok(Asked { host, target, facts, upgrade: upgrade(head) })
}

/// How long the body is must be said once.
fn framing(headers: &HeaderMap) -> Result<(), Denial> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        // Another coding would be lost with the field, which is for this connection alone.
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        (Some(one), _) => return Err(bad("transfer-encoding", "chunked", &shown(one))),
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if !one.is_empty() && one.as_bytes().iter().all(u8::is_ascii_digit) => Ok(()),
        (Some(one), _) => Err(bad("content-length", "one number", &shown(one))),
    }
}

/// The host that is asked for: said once, or the same each time.
fn host(head: &Parts) -> Result<String, Denial> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => {
            let field =
                Authority::try_from(field.as_bytes()).map_err(|_| bad("host", "a host", &shown(field)))?;
            Some(field)
        }
        (None, _) => None,
        (Some(_), Some(_)) => return Err(bad("host", "one", "several")),
    };
    let named = match (head.uri.authority(), field) {
        (Some(target), Some(field)) if !same(head, target, &field) => {
            return Err(bad("host", target.as_str(), field.as_str()));
        }
        (Some(target), _) => target.clone(),
        (None, Some(field)) => field,
        (None, None) if head.version == Version::HTTP_10 => return Ok(String::new()),
        (None, None) => return Err(bad("host", "one", "none")),
    };
    if named.as_str().contains('@') || named.host().is_empty() {
        return Err(bad("host", "HOST or HOST:PORT", named.as_str()));
    }
    Ok(named.as_str().to_ascii_lowercase())
}

/// Whether both mean the same, but for the port that a scheme has anyhow.
fn same(head: &Parts, one: &Authority, other: &Authority) -> bool {
    let usual = match head.uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    one.as_str().eq_ignore_ascii_case(other.as_str())
        || (one.host().eq_ignore_ascii_case(other.host())
            && one.port_u16().unwrap_or(usual) == other.port_u16().unwrap_or(usual))
}

/// The target as it leaves: with the path that rules look at. Where nobody can say
/// what a path means, the rules decide, unless nobody sends it for a good reason.
fn target(given: &PathAndQuery, facts: &RequestFacts<'_>) -> Result<PathAndQuery, Denial> {
    let refuse =
        |why: &str| bad("path", "one that every server reads in one way", &format!("{given}: {why}"));
    let path = match facts.path() {
        Ok(path) => path,
        Err(Ambiguity::NotAPath) if given == "*" && facts.method() == Method::OPTIONS.as_str() => {
            return Ok(given.clone());
        }
        Err(
            why @ (Ambiguity::Backslash
            | Ambiguity::Control
            | Ambiguity::BadEscape
            | Ambiguity::ParentOfNothing
            | Ambiguity::NotAPath),
        ) => return Err(refuse(why.text())),
        Err(_) => return Ok(given.clone()),
    };
    if !given.as_str().bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refuse("holds what is no ASCII"));
    }
    if path == given.path() {
        return Ok(given.clone());
    }
    let query = given.query().map(|query| format!("?{query}")).unwrap_or_default();
    PathAndQuery::try_from(format!("{path}{query}")).map_err(|_| refuse("cannot be sent on"))
}

/// The protocol that the connection is to be changed to. HTTP/2 is not one: it has no
/// policy of its own, and would carry requests that nobody looks at.
fn upgrade(head: &Parts) -> Option<HeaderValue> {
    if head.version != Version::HTTP_11 || has_body(&head.headers) {
        return None;
    }
    let mut options = head.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let wanted = options.any(|options| options.split(',').any(|o| o.trim().eq_ignore_ascii_case("upgrade")));
    let mut protocols = head.headers.get_all(UPGRADE).iter();
    let (Some(one), None) = (protocols.next().filter(|_| wanted), protocols.next()) else { return None };
    let token = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-./_+".contains(&b));
    let known = one.to_str().is_ok_and(|name| {
        !name.is_empty() && token(name) && !name.to_ascii_lowercase().starts_with("h2") && !is_http(name)
    });
    known.then(|| one.clone())
}

fn is_http(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "http" || name.starts_with("http/") || name.starts_with("tls")
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|len| len != "0")
}

fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn bad(field: &str, expected: &str, presented: &str) -> Denial {
    let presented: String = presented.chars().take(SHOWN).collect();
    Finding::new(Reason::BadRequest, field, expected, presented).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const HOST: (&str, &str) = ("host", "ledger:8080");

    #[test]
    fn a_request_with_one_reading_is_read() {
        for (method, target, fields, host, path) in [
            ("GET", "/", &[HOST][..], "ledger:8080", "/"),
            ("GET", "/a%20b/..c?x=../y", &[HOST], "ledger:8080", "/a%20b/..c?x=../y"),
            // In the form in which rules look at them.
            ("GET", "/a/../b/%61?x=../y", &[HOST], "ledger:8080", "/b/a?x=../y"),
            ("GET", "/a/%2e%2E//b", &[HOST], "ledger:8080", "/b"),
            // Whether these are allowed is for rules to say.
            ("GET", "/a%2Fb;x", &[HOST], "ledger:8080", "/a%2Fb;x"),
            ("OPTIONS", "*", &[HOST], "ledger:8080", "*"),
            ("GET", "http://Ledger:8080/x", &[HOST], "ledger:8080", "/x"),
            ("GET", "http://ledger/x", &[("host", "LEDGER:80")], "ledger", "/x"),
            ("GET", "http://ledger", &[("host", "ledger")], "ledger", "/"),
            ("GET", "https://ledger/x", &[], "ledger", "/x"),
            ("POST", "/", &[HOST, ("transfer-encoding", "Chunked")], "ledger:8080", "/"),
            ("POST", "/", &[HOST, ("content-length", "5")], "ledger:8080", "/"),
            ("GET", "/", &[("host", "[::1]:80")], "[::1]:80", "/"),
        ] {
            let asked = read(&head(method, target, fields)).unwrap();
            assert_eq!((asked.host.as_str(), asked.target.as_str()), (host, path));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (method, target, fields, field) in [
            ("CONNECT", "ledger:8080", &[HOST][..], "method"),
            ("GET", "/", &[], "host"),
            ("GET", "/", &[HOST, HOST], "host"),
            ("GET", "/", &[("host", "")], "host"),
            ("GET", "/", &[("host", "a@ledger")], "host"),
            ("GET", "/", &[("host", "ledger/x")], "host"),
            ("GET", "/", &[("host", "a b")], "host"),
            ("GET", "http://other/x", &[HOST], "host"),
            ("GET", "http://ledger:8081/x", &[HOST], "host"),
            ("GET", "http://me@ledger/x", &[], "host"),
            ("GET", "ledger:8080", &[HOST], "request target"),
            ("GET", "*", &[HOST], "path"),
            ("GET", "/a\\b", &[HOST], "path"),
            ("GET", "/a%00", &[HOST], "path"),
            ("GET", "/a%0d%0ab", &[HOST], "path"),
            ("GET", "/a%2", &[HOST], "path"),
            ("GET", "/a%zz", &[HOST], "path"),
            ("POST", "/", &[HOST, ("transfer-encoding", "gzip, chunked")], "transfer-encoding"),
            (
                "POST",
                "/",
                &[HOST, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                "transfer-encoding",
            ),
            ("POST", "/", &[HOST, ("content-length", "5"), ("content-length", "5")], "content-length"),
            ("POST", "/", &[HOST, ("content-length", "+5")], "content-length"),
            ("POST", "/", &[HOST, ("content-length", "5, 5")], "content-length"),
        ] {
            let denial = read(&head(method, target, fields)).unwrap_err();
            assert_eq!(denial.reason, Reason::BadRequest, "{target}");
            assert!(denial.to_string().contains(field), "{target}: {denial}");
        }
    }

    #[test]
    fn a_connection_changes_to_what_is_no_http() {
        let upgraded = |connection: &str, upgrade: &str, more: &[(&str, &str)]| {
            let fields = [&[HOST, ("connection", connection), ("upgrade", upgrade)][..], more].concat();
            read(&head("GET", "/", &fields)).unwrap().upgrade.is_some()
        };
        assert!(upgraded("Upgrade", "websocket", &[]));
        assert!(upgraded("keep-alive, upgrade", "spdy/3.1", &[]));
        for (connection, upgrade) in [
            ("close", "websocket"),
            ("upgrade", "h2c"),
            ("upgrade", "H2"),
            ("upgrade", "HTTP/2.0"),
            ("upgrade", "TLS/1.0"),
            ("upgrade", "websocket, h2c"),
            ("upgrade", ""),
        ] {
            assert!(!upgraded(connection, upgrade, &[]), "{connection} {upgrade}");
        }
        assert!(!upgraded("upgrade", "websocket", &[("content-length", "3")]));
        assert!(!upgraded("upgrade", "websocket", &[("upgrade", "h2c")]));
    }
}
