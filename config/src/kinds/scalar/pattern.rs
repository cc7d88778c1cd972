//! Patterns of what requests ask for: exact, with a star at one end, or a star alone.

use super::*;
use crate::request::normalize;

/// A text, the start of texts, the end of texts, or every text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Glob {
    written: String,
    shape: Shape,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Shape {
    All,
    Exact,
    Prefix,
    Suffix,
}

impl Glob {
    /// Whether a text is meant.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self.shape {
            Shape::All => true,
            Shape::Exact => text == self.text,
            Shape::Prefix => text.starts_with(&self.text),
            Shape::Suffix => text.ends_with(&self.text),
        }
    }

    /// Whether every text is meant, even one that nobody can read.
    #[must_use]
    pub fn matches_all(&self) -> bool {
        self.shape == Shape::All
    }

    /// Takes the star off and looks at the rest.
    fn parse(text: &str, rest: impl FnOnce(Shape, &str) -> Result<String, String>) -> Result<Self, String> {
        let (shape, literal) = match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("*", ..) => (Shape::All, ""),
            (_, Some(prefix), _) => (Shape::Prefix, prefix),
            (_, _, Some(suffix)) => (Shape::Suffix, suffix),
            _ => (Shape::Exact, text),
        };
        if literal.contains('*') {
            return Err(format!("{}: a star stands at the start or at the end, and once", quoted(text)));
        }
        let text_of = if shape == Shape::All { String::new() } else { rest(shape, literal)? };
        Ok(Self { written: text.to_owned(), shape, text: text_of })
    }
}

text!(
    /// A path, `/v1/*` for what begins so, `*/info` for what ends so, or `*`.
    PathPattern(Glob), "path-pattern", "^(\\*|/[^*]*\\*?|\\*[^*]+)$", parse_path, |v, f| f.write_str(&v.written)
);
text!(
    /// A host, `*.example.com` for what ends so, `api.*` for what begins so, or `*`.
    HostPattern(Glob), "host-pattern", "^(\\*|[a-zA-Z0-9._-]+\\*?|\\*[a-zA-Z0-9._-]+|\\[[0-9a-fA-F:.]+\\])$",
    parse_host_pattern, |v, f| f.write_str(&v.written)
);
text!(
    /// A method of HTTP, in upper case.
    Method(String), "http-method", "^[A-Z][A-Z0-9_-]*$", parse_method, |v, f| f.write_str(v)
);

/// The pattern means what paths mean once they are in their one form: one that
/// could never match is a slip that a rule which denies must not have.
fn parse_path(text: &str) -> Result<Glob, String> {
    if text == "/*" {
        return Ok(Glob { written: text.to_owned(), shape: Shape::All, text: String::new() });
    }
    let parse = |shape: Shape, literal: &str| {
        if shape != Shape::Suffix && !literal.starts_with('/') {
            return Err(format!("{} is not a path: it begins with / or *", quoted(text)));
        }
        // A segment of which a part is given must not be taken for a whole one.
        let (before, after) = match shape {
            Shape::Prefix => ("", "x"),
            Shape::Suffix => ("/x", ""),
            Shape::Exact | Shape::All => ("", ""),
        };
        let escaped: String = literal.chars().map(escape).collect();
        let whole = format!("{before}{escaped}{after}");
        let normal = normalize(&whole).map_err(|why| format!("{}: the path {why}", quoted(text)))?;
        let meant = |part: &str| Some(part.strip_prefix(before)?.strip_suffix(after)?.to_owned());
        let slashes = |text: &str| text.matches('/').count();
        match (meant(&normal.meaning), meant(&normal.sent)) {
            (Some(meaning), Some(sent)) if slashes(&sent) == slashes(&escaped) => Ok(meaning),
            (_, Some(sent)) => {
                Err(format!("{} never matches: such paths are taken as {}", quoted(text), quoted(&sent)))
            }
            _ => Err(format!("{} never matches: paths are brought into one form first", quoted(text))),
        }
    };
    Glob::parse(text, parse)
}

/// What cannot stand in a path by itself, as a request writes it.
fn escape(c: char) -> String {
    match c {
        ' ' => "%20".to_owned(),
        _ if c.is_ascii() => c.to_string(),
        _ => c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
    }
}

fn parse_host_pattern(text: &str) -> Result<Glob, String> {
    let parse = |_, literal: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let v6 = literal.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if v6.is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok())
            || (!literal.is_empty() && literal.bytes().all(fits) && !literal.ends_with('.'))
            || (literal.ends_with('.') && text.ends_with('*') && literal.bytes().all(fits))
        {
            return Ok(literal.to_ascii_lowercase());
        }
        let hint = if literal.contains(':') { ", without a port" } else { "" };
        Err(format!("{} is not a host such as api.example.com or *.example.com{hint}", quoted(text)))
    };
    Glob::parse(text, parse)
}

fn parse_method(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    match text.bytes().next() {
        Some(b'A'..=b'Z') if text.bytes().all(fits) => Ok(text.to_owned()),
        _ => Err(format!("{} is not a method such as GET or POST, in upper case", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_exact_or_has_one_star_at_an_end() {
        for (pattern, matching, others) in [
            ("/v1", &["/v1"] as &[&str], &["/v1/", "/v11", "/"] as &[&str]),
            ("/v1/*", &["/v1/", "/v1/a/b"], &["/v1", "/v2/"]),
            ("/v1*", &["/v1", "/v1/a", "/v11"], &["/v2"]),
            ("/a/.*", &["/a/.git"], &["/a/git"]),
            ("*/info", &["/info", "/a/info"], &["/info/", "/infos"]),
            ("*.html", &["/a.html"], &["/a.htm"]),
            ("*", &["/", "/a"], &[]),
            ("/*", &["/", "/a"], &[]),
            ("/caf%c3%a9", &["/café"], &["/caf%c3%a9"]),
            ("/café", &["/café"], &["/cafe"]),
            ("/a b", &["/a b"], &["/a%20b"]),
            ("/100%25", &["/100%"], &[]),
        ] {
            let glob = PathPattern::parse(pattern).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(glob.to_string(), pattern);
            for path in matching {
                assert!(glob.0.matches(path), "{pattern} {path}");
            }
            for path in others {
                assert!(!glob.0.matches(path), "{pattern} {path}");
            }
        }
        for (pattern, why) in [
            ("", "begins with / or *"),
            ("v1/*", "begins with / or *"),
            ("/a*b", "a star stands at the start or at the end"),
            ("*a*", "a star stands at the start or at the end"),
            ("/a//b", "never matches: such paths are taken as `/a/b`"),
            ("/a/../b", "never matches: such paths are taken as `/b`"),
            ("/a/./*", "never matches: such paths are taken as `/a/`"),
            ("/a/../*", "never matches: such paths are taken as `/`"),
            ("*//a", "never matches"),
            ("*/../a", "never matches"),
            ("/a%2fb", "holds %2F"),
            ("/a;b", "holds a semicolon"),
            ("/a?b", "is no path"),
            ("/%", "holds a % without"),
        ] {
            let error = PathPattern::parse(pattern).unwrap_err();
            assert!(error.contains(why), "{pattern}: {error}");
        }
    }

    #[test]
    fn hosts_and_methods() {
        let matches = |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().0.matches(host);
        assert!(matches("A.example", "a.example") && !matches("a.example", "b.a.example"));
        assert!(matches("*.example", "a.example") && !matches("*.example", "example"));
        assert!(matches("api.*", "api.example") && matches("*", "x") && matches("[::1]", "[::1]"));
        for text in ["", "a.example:80", "a.example.", "a/b", "*.*", "a b"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert!(Method::parse("M-SEARCH").is_ok());
        for text in ["", "get", "G T", "*", "1"] {
            assert!(Method::parse(text).is_err(), "{text}");
        }
    }
}
