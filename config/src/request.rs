//! A request, as policies see it.
//!
//! Two programs that read one text differently are how rules are evaded. So a
//! path is brought into one form, by which we decide and which is to be sent on;
//! and where nobody can say what the server will make of it, it is told as
//! ambiguous: then no rule that allows by it matches, and every rule that
//! denies by it does.

mod path;

use std::borrow::Cow;

pub(crate) use path::decoded;
pub use path::{Ambiguity, Normal, normalize};

/// What policies know of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts<'a> {
    method: Cow<'a, str>,
    host: Option<Cow<'a, str>>,
    path: Result<Normal<'a>, Ambiguity>,
}

impl<'a> RequestFacts<'a> {
    /// From the method, the `Host` or `:authority` (empty when there is none), and
    /// the path of the request's target. A query is cut off.
    #[must_use]
    pub fn new(method: &'a str, authority: &'a str, target: &'a str) -> Self {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        Self { method: method.into(), host: host(authority), path: normalize(path) }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The host in lower case, without port and without a dot at the end; `None`
    /// when there is none, or something that is none.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The path that was decided about: what is sent on must be this one.
    ///
    /// # Errors
    /// Why nobody can say what the path means. What is allowed all the same was
    /// allowed whatever its path, and may be sent on as it came.
    pub fn path(&self) -> Result<&str, Ambiguity> {
        self.path.as_ref().map(|path| path.sent.as_ref()).map_err(|why| *why)
    }

    /// The path without any escapes: what it means.
    pub(crate) fn meaning(&self) -> Result<&str, Ambiguity> {
        self.path.as_ref().map(|path| path.meaning.as_ref()).map_err(|why| *why)
    }

    /// The same, for longer than the texts it was made from.
    #[must_use]
    pub fn into_owned(self) -> RequestFacts<'static> {
        RequestFacts {
            method: self.method.into_owned().into(),
            host: self.host.map(|host| host.into_owned().into()),
            path: self.path.map(Normal::into_owned),
        }
    }
}

/// The host of an authority, if it is one beyond doubt: no user, nothing escaped.
fn host(authority: &str) -> Option<Cow<'_, str>> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => {
            v6.parse::<std::net::Ipv6Addr>().ok()?;
            (authority.get(..v6.len().checked_add(2)?)?, rest)
        }
        None => match authority.split_once(':') {
            Some((host, _)) => (host, authority.get(host.len()..)?),
            None => (authority, ""),
        },
    };
    let port_holds = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()));
    let name = host.strip_suffix('.').unwrap_or(host);
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let name_holds = host.starts_with('[') || (!name.is_empty() && name.bytes().all(fits));
    if !port_holds || !name_holds {
        return None;
    }
    Some(match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_without_doubt_or_none() {
        for (authority, expected) in [
            ("a.example", "a.example"),
            ("A.Example.:8443", "a.example"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[FD00::1]:443", "[fd00::1]"),
            ("[::1]", "[::1]"),
            ("a.example:", "a.example"),
        ] {
            let facts = RequestFacts::new("GET", authority, "/");
            assert_eq!(facts.host(), Some(expected), "{authority}");
        }
        for authority in [
            "",
            ".",
            ":80",
            "u@a.example",
            "a.example@b",
            "a.example:80:90",
            "a.example:x",
            "a%2eexample",
            "a b",
            "[::1",
            "[a]",
            "[::1]x",
            "a/b",
            "é",
        ] {
            assert_eq!(RequestFacts::new("GET", authority, "/").host(), None, "{authority}");
        }
    }

    #[test]
    fn a_query_says_nothing_about_the_path() {
        let facts = RequestFacts::new("GET", "", "/a?b=/../%2f");
        assert_eq!(facts.path(), Ok("/a"));
        assert_eq!(facts.clone().into_owned(), facts);
    }
}
