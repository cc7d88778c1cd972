//! The one form of a path (RFC 3986, section 6.2.2): escapes of what needs none
//! are undone, dot segments are followed, slashes merged. Istio calls it
//! `MERGE_SLASHES`; what only its `DECODE_AND_MERGE_SLASHES` would undo is ambiguous.

use std::borrow::Cow;
use std::fmt;

/// A path in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal<'a> {
    /// As it is to be sent on. Bringing it into its form again changes nothing.
    pub sent: Cow<'a, str>,
    /// Without any escapes, for rules.
    pub meaning: Cow<'a, str>,
}

impl Normal<'_> {
    pub(super) fn into_owned(self) -> Normal<'static> {
        Normal { sent: self.sent.into_owned().into(), meaning: self.meaning.into_owned().into() }
    }
}

/// Why a path may mean one thing to us and another one to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ambiguity {
    /// `%2F`: a slash to some.
    EscapedSlash,
    /// `\` or `%5C`: a slash to some.
    Backslash,
    /// A control character, `%00` above all: the end to some.
    Control,
    /// An escape of an escape: some undo both.
    DoubleEscape,
    /// A `%` without two hexadecimal digits.
    BadEscape,
    /// Bytes that are no UTF-8: some read slashes and dots in them.
    NotUtf8,
    /// `;` or `%3B`: the rest of the segment is no part of it to some.
    Parameters,
    /// `//..`: above it, or beside it, depending on when slashes are merged.
    ParentOfNothing,
    /// It does not begin with a slash, or holds what no path does.
    NotAPath,
}

impl Ambiguity {
    /// What it is, in words that finish "the path ...".
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::EscapedSlash => {
                "holds %2F, which is a slash to some servers (as with Istio's DECODE_AND_MERGE_SLASHES)"
            }
            Self::Backslash => "holds a backslash, which is a slash to some servers (as with Istio's BASE)",
            Self::Control => "holds a control character",
            Self::DoubleEscape => "holds an escaped escape, which some servers undo twice",
            Self::BadEscape => "holds a % without two hexadecimal digits",
            Self::NotUtf8 => "holds bytes that are no UTF-8",
            Self::Parameters => "holds a semicolon, after which some servers do not read on",
            Self::ParentOfNothing => {
                "holds //.., which means different things before and after slashes are merged"
            }
            Self::NotAPath => "is no path",
        }
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Brings the path of a request's target, without its query, into its one form.
/// Nothing at all is `/`, as in an absolute URL without a path.
///
/// # Errors
/// Why there is none.
pub fn normalize(path: &str) -> Result<Normal<'_>, Ambiguity> {
    if path.is_empty() {
        return Ok(Normal { sent: "/".into(), meaning: "/".into() });
    }
    if is_plain(path) {
        return Ok(Normal { sent: path.into(), meaning: path.into() });
    }
    spelt_out(path)
}

/// Whether it is in its form and without escapes: what nearly every path is.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'%' | b'\\' | b';' | b'#' | b'?');
    // Dots and slashes after a slash need a closer look.
    let close = bytes.windows(2).any(|pair| matches!(pair, [b'/', b'/' | b'.']));
    bytes.first() == Some(&b'/') && bytes.iter().all(plain) && !close
}

/// One segment, as it is sent and as it is meant.
struct Segment {
    sent: String,
    meaning: String,
}

fn spelt_out(path: &str) -> Result<Normal<'static>, Ambiguity> {
    let rest = path.strip_prefix('/').ok_or(Ambiguity::NotAPath)?;
    let mut kept: Vec<Segment> = Vec::new();
    let mut ends_open = false;
    for text in rest.split('/') {
        let segment = Segment::read(text)?;
        ends_open = matches!(segment.meaning.as_str(), "" | "." | "..");
        match segment.meaning.as_str() {
            "." => {}
            ".." => {
                if kept.pop().is_some_and(|above| above.meaning.is_empty()) {
                    return Err(Ambiguity::ParentOfNothing);
                }
            }
            _ => kept.push(segment),
        }
    }
    kept.retain(|segment| !segment.meaning.is_empty());
    let join = |part: fn(&Segment) -> &str| {
        let mut text = String::with_capacity(path.len());
        for segment in &kept {
            text.push('/');
            text.push_str(part(segment));
        }
        if ends_open || text.is_empty() {
            text.push('/');
        }
        text
    };
    Ok(Normal { sent: join(|s| &s.sent).into(), meaning: join(|s| &s.meaning).into() })
}

impl Segment {
    fn read(text: &str) -> Result<Self, Ambiguity> {
        let mut sent = String::with_capacity(text.len());
        let mut meaning = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let byte = escaped(&mut bytes).ok_or(Ambiguity::BadEscape)?;
                if byte == b'/' {
                    return Err(Ambiguity::EscapedSlash);
                }
                doubtful(byte)?;
                match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                    true => sent.push(char::from(byte)),
                    false => sent.push_str(&format!("%{byte:02X}")),
                }
                meaning.push(byte);
            } else {
                doubtful(byte)?;
                if byte == b' ' || byte == b'#' || byte == b'?' || !byte.is_ascii() {
                    return Err(Ambiguity::NotAPath);
                }
                sent.push(char::from(byte));
                meaning.push(byte);
            }
        }
        let escape =
            |three: &[u8]| matches!(three, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
        if meaning.windows(3).any(escape) {
            return Err(Ambiguity::DoubleEscape);
        }
        let meaning = String::from_utf8(meaning).map_err(|_| Ambiguity::NotUtf8)?;
        Ok(Self { sent, meaning })
    }
}

/// A text without its escapes; `None` when one is damaged or hides no text.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'%' { escaped(&mut bytes)? } else { byte });
    }
    String::from_utf8(plain).ok()
}

/// The byte behind a `%`.
fn escaped(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit()? << 4 | digit()?)
}

/// What servers take for something else, escaped or not.
const fn doubtful(byte: u8) -> Result<(), Ambiguity> {
    match byte {
        b'\\' => Err(Ambiguity::Backslash),
        b';' => Err(Ambiguity::Parameters),
        0..=0x1f | 0x7f => Err(Ambiguity::Control),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_path_has_one_form_or_none() {
        for (path, sent, meaning) in [
            ("", "/", "/"),
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("/%61/%7Eb", "/a/~b", "/a/~b"),
            ("/a//b///c/", "/a/b/c/", "/a/b/c/"),
            ("//a", "/a", "/a"),
            ("/a/./b/../c", "/a/c", "/a/c"),
            ("/a/%2e%2E/b", "/b", "/b"),
            ("/../../a", "/a", "/a"),
            ("/a/..", "/", "/"),
            ("/a/.", "/a/", "/a/"),
            ("/a/b/..", "/a/", "/a/"),
            ("/.a/...", "/.a/...", "/.a/..."),
            ("/a%40b%3f", "/a%40b%3F", "/a@b?"),
            ("/a@b", "/a@b", "/a@b"),
            ("/caf%c3%a9", "/caf%C3%A9", "/café"),
            ("/100%25", "/100%25", "/100%"),
            ("/%20", "/%20", "/ "),
        ] {
            let normal = normalize(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!((normal.sent.as_ref(), normal.meaning.as_ref()), (sent, meaning), "{path}");
        }
        for (path, why) in [
            ("/a%2fb", Ambiguity::EscapedSlash),
            ("/a%2Fb", Ambiguity::EscapedSlash),
            ("/..%2fb", Ambiguity::EscapedSlash),
            ("/a\\b", Ambiguity::Backslash),
            ("/a%5cb", Ambiguity::Backslash),
            ("/a%00", Ambiguity::Control),
            ("/a\tb", Ambiguity::Control),
            ("/a%0d%0a", Ambiguity::Control),
            ("/%2561dmin", Ambiguity::DoubleEscape),
            ("/%25%36%31dmin", Ambiguity::DoubleEscape),
            ("/%252e%252e/a", Ambiguity::DoubleEscape),
            ("/%", Ambiguity::BadEscape),
            ("/%4", Ambiguity::BadEscape),
            ("/%zz", Ambiguity::BadEscape),
            ("/%c0%af", Ambiguity::NotUtf8),
            ("/%c0%ae%c0%ae/a", Ambiguity::NotUtf8),
            ("/a;b", Ambiguity::Parameters),
            ("/..;/a", Ambiguity::Parameters),
            ("/a%3bb", Ambiguity::Parameters),
            ("/a//../b", Ambiguity::ParentOfNothing),
            ("/a//b/../../c", Ambiguity::ParentOfNothing),
            ("a", Ambiguity::NotAPath),
            ("*", Ambiguity::NotAPath),
            ("/a#b", Ambiguity::NotAPath),
            ("/a b", Ambiguity::NotAPath),
            ("/é", Ambiguity::NotAPath),
        ] {
            assert_eq!(normalize(path), Err(why), "{path}");
        }
    }

    /// Texts that are full of what paths are evaded by.
    fn tricky() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec![
            "/", "/", "/", "a", "B", ".", "..", "%2e", "%2E", "%2f", "%61", "%25", "%3b", ";", "\\", "%5c",
            "%00", "%c3%a9", "%c0", "~", "-", "%7e", "%7E", "@", "%40", "%", "%4", "?", "#", " ", "é",
        ]);
        prop::collection::vec(parts, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_form_of_a_form_is_itself(path in tricky()) {
            if let Ok(normal) = normalize(&path) {
                let again = normalize(&normal.sent);
                prop_assert_eq!(again.as_ref(), Ok(&normal), "{}", path);
                prop_assert!(!normal.meaning.contains("//") && normal.meaning.starts_with('/'));
                prop_assert!(normal.meaning.split('/').all(|s| s != "." && s != ".."));
            }
        }

        /// The short way says what the long way says.
        #[test]
        fn a_plain_path_is_one_at_a_closer_look(path in tricky()) {
            if is_plain(&path) {
                prop_assert_eq!(normalize(&path), spelt_out(&path));
            }
        }

        /// However it is escaped, and whatever is put in that changes nothing, it
        /// is the same path.
        #[test]
        fn no_spelling_of_a_path_is_another_path(
            segments in prop::collection::vec("[a-zA-Z0-9._~@:-]{1,6}", 1..5),
            tricks in prop::collection::vec((0u8..6, any::<u64>()), 5),
        ) {
            prop_assume!(segments.iter().all(|s| s != "." && s != ".."));
            let plain = format!("/{}", segments.join("/"));
            let mut spelt = String::new();
            for (segment, (trick, seed)) in segments.iter().zip(&tricks) {
                spelt.push_str(match trick { 0 => "/./", 1 => "//", 2 => "/x/../", 3 => "/%2e/", 4 => "/y/%2E%2e/", _ => "/" });
                for (i, byte) in segment.bytes().enumerate() {
                    match seed >> (i % 60) & 3 {
                        0 => spelt.push_str(&format!("%{byte:02x}")),
                        1 => spelt.push_str(&format!("%{byte:02X}")),
                        _ => spelt.push(char::from(byte)),
                    }
                }
            }
            let normal = normalize(&spelt);
            prop_assert_eq!(normal.as_ref().map(|n| n.meaning.as_ref()), Ok(plain.as_str()), "{}", spelt);
        }

        #[test]
        fn no_text_panics(path in "\\PC{0,40}") {
            let _ = normalize(&path);
        }
    }
}
