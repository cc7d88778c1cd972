//! The only place that prints.
//!
//! Colour is written always and taken out again by `anstream` when the stream is
//! no terminal, `NO_COLOR` is set or the terminal has none. Text that came from
//! files and peers goes through [`clean`] (or [`paint`], which calls it), so that
//! it cannot steer the terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use countersign_config::problem::Severity;

use crate::failure::Failure;

/// Headings.
pub(crate) const HEADING: Style = Style::new().bold();
/// What passed.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What did not.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What somebody should know.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// What can be skipped.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Names.
pub(crate) const NAME: Style = AnsiColor::Cyan.on_default();

/// A run of hexadecimal digits that is a digest, and no number or port.
const LONG_DIGEST: usize = 24;
/// The width up to which the first column of a table is not broken.
const MAX_NAME: u16 = 32;
/// What stands beside the text of a cell, and the narrowest column with it.
const PADDING: u16 = 2;
const NARROWEST: u16 = 5;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Standard output and standard error.
#[derive(Debug)]
pub(crate) struct Output {
    width: u16,
    height: u16,
}

impl Output {
    /// For this process.
    pub(crate) fn new() -> Self {
        let mut output = Self { width: 100, height: 25 };
        output.measure();
        output
    }

    /// The size of the terminal, which may change while something is shown.
    fn measure(&mut self) {
        let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) else { return };
        if size.ws_col >= 40 {
            self.width = size.ws_col;
        }
        if size.ws_row >= 5 {
            self.height = size.ws_row;
        }
    }

    /// Replaces what the terminal shows by as many of these lines as fit.
    pub(crate) fn screen(&mut self, lines: &[String]) {
        self.measure();
        let room = usize::from(self.height).saturating_sub(1);
        let mut shown: Vec<String> = lines.iter().take(room).cloned().collect();
        if lines.len() > room {
            let more = lines.len() - room;
            shown.push(paint(DIM, &format!("{more} more lines: enlarge the terminal, or -o json")));
        }
        // Whoever wants no colour wants the lines in their places all the same.
        if anstream::AutoStream::choice(&io::stdout()) == anstream::ColorChoice::Never {
            shown.iter_mut().for_each(|line| *line = anstream::adapter::strip_str(line).to_string());
        }
        // To the top, each line with the rest of what it replaces, and all below.
        let text = format!("\u{1b}[H{}\u{1b}[K\u{1b}[J", shown.join("\u{1b}[K\n"));
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// A line of the answer.
    #[allow(clippy::unused_self, reason = "whoever prints must have been given the output")]
    pub(crate) fn line(&mut self, text: impl AsRef<str>) {
        let mut out = anstream::stdout().lock();
        // A reader that went away (`| head`) is no error of ours.
        let _ = writeln!(out, "{}", text.as_ref());
    }

    /// A line of the answer that fits the terminal: long digests are shortened, and
    /// what is still too long goes on below. With `whole` as it is.
    pub(crate) fn fitted(&mut self, text: impl AsRef<str>, whole: bool) {
        if whole {
            self.line(text);
        } else {
            fit(&shortened(text.as_ref()), usize::from(self.width)).iter().for_each(|line| self.line(line));
        }
    }

    /// Bytes as they are.
    #[allow(clippy::unused_self, reason = "whoever prints must have been given the output")]
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Whether standard output is a terminal.
    #[allow(clippy::unused_self, reason = "whoever prints must have been given the output")]
    pub(crate) fn to_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// A JSON document.
    pub(crate) fn json(&mut self, value: &serde_json::Value) {
        self.line(format!("{value:#}"));
    }

    /// A JSON document on one line.
    pub(crate) fn json_line(&mut self, value: &serde_json::Value) {
        self.line(value.to_string());
    }

    /// A line on standard error.
    #[allow(clippy::unused_self, reason = "whoever prints must have been given the output")]
    pub(crate) fn note(&mut self, text: impl AsRef<str>) {
        let mut err = anstream::stderr().lock();
        let _ = writeln!(err, "{}", text.as_ref());
    }

    /// Something that somebody should know, on standard error.
    pub(crate) fn warning(&mut self, text: impl AsRef<str>) {
        self.note(format!("{} {}", paint(NOTE, "warning:"), clean(text.as_ref())));
    }

    /// Why the command could not run to its end.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        match failure {
            Failure::Problems(problems, sources) => {
                for problem in problems {
                    let text = sources.iter().find(|(name, _)| *name == problem.file).map(|(_, text)| text);
                    self.note(snippet(problem, text.map(String::as_str)));
                }
            }
            other => {
                let text = other.to_string();
                let lines: Vec<_> = text.lines().map(clean).collect();
                self.note(format!("{} {}", paint(BAD, "error:"), lines.join("\n  ")));
            }
        }
    }

    /// A table that fits the terminal.
    pub(crate) fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) {
        for line in self.table_lines(header, rows) {
            self.line(line);
        }
    }

    /// The lines of a table that fits the terminal.
    pub(crate) fn table_lines(&mut self, header: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
        self.measure();
        let least = least_widths(header, &rows, self.width);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(self.width);
        table.set_header(header.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell).into_owned()));
        }
        for (index, width) in least.into_iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
            }
        }
        table.to_string().lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// How narrow columns may become so that no word is broken: what names a row, first
/// of all, is there to be copied. Where not all words have room, the shortest do.
fn least_widths(header: &[&str], rows: &[Vec<String>], room: u16) -> Vec<u16> {
    let columns = |text: &str| u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let words = |index: usize| {
        let cells = rows.iter().filter_map(move |row| row.get(index)).map(String::as_str);
        cells.chain(header.get(index).copied()).flat_map(str::split_whitespace).map(columns).max()
    };
    let names = rows.iter().filter_map(|row| row.first()).map(|name| columns(name)).max().unwrap_or(0);
    let mut wanted: Vec<(u16, usize)> =
        (0..header.len()).map(|index| (words(index).unwrap_or(0).min(MAX_NAME), index)).collect();
    if let Some((first, _)) = wanted.first_mut() {
        *first = (*first).max(names.min(MAX_NAME));
    }
    let mut least = vec![NARROWEST; header.len()];
    let mut used = NARROWEST.saturating_mul(u16::try_from(header.len()).unwrap_or(u16::MAX));
    // The first column, then the shortest words.
    wanted.sort_by_key(|(width, index)| (*index > 0, *width));
    for (width, index) in wanted {
        let more = (width + PADDING).saturating_sub(NARROWEST);
        if index == 0 || used.saturating_add(more) <= room {
            used = used.saturating_add(more);
            if let Some(least) = least.get_mut(index) {
                *least = (*least).max(width + PADDING);
            }
        }
    }
    least
}

/// Text in a style, with everything that could steer a terminal made visible.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{}{style:#}", clean(text))
}

/// Text with everything that could steer a terminal made visible: control
/// characters, and the Unicode characters that change the direction of text.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().any(steers) {
        Cow::Owned(text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Text with every long run of hexadecimal digits cut to its ends.
pub(crate) fn shortened(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let (run, after) = rest.split_at(digits);
        match (run.get(..4), run.get(digits.saturating_sub(2)..)) {
            (Some(first), Some(last)) if digits >= LONG_DIGEST => out.push_str(&format!("{first}…{last}")),
            _ => out.push_str(run),
        }
        let other = after.find(|c: char| c.is_ascii_hexdigit()).unwrap_or(after.len());
        let (between, next) = after.split_at(other);
        out.push_str(between);
        rest = next;
    }
    out
}

/// The lines, of at most `width` columns if words allow it, that a line becomes;
/// colours count nothing. What follows the first is indented below it.
pub(crate) fn fit(text: &str, width: usize) -> Vec<String> {
    let columns = |text: &str| anstream::adapter::strip_str(text).to_string().chars().count();
    let plain = anstream::adapter::strip_str(text).to_string();
    let indent = plain.chars().take_while(|c| !c.is_alphanumeric()).count().min(width / 2) + 2;
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split_inclusive(' ') {
        let (visible, bare) = (columns(word), columns(word.trim_end_matches(' ')));
        if used + bare > width && used > indent {
            lines.push(line.trim_end_matches(' ').to_owned());
            (line, used) = (" ".repeat(indent), indent);
        }
        line.push_str(word);
        used += visible;
    }
    lines.push(line);
    lines
}

/// A problem of a document, with the line it is in and a caret below the column.
pub(crate) fn snippet(problem: &countersign_config::Problem, text: Option<&str>) -> String {
    let (style, word) = match problem.severity {
        Severity::Error => (BAD, "error"),
        Severity::Warning => (NOTE, "warning"),
    };
    let place = if problem.line == 0 {
        clean(&problem.file).into_owned()
    } else {
        format!("{}:{}:{}", clean(&problem.file), problem.line, problem.column)
    };
    let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
    // What the control plane finds when nothing was read from a file has no place.
    let place = if place.is_empty() { place } else { format!("{HEADING}{place}{HEADING:#}: ") };
    let mut out = format!("{place}{}: {}{}", paint(style, word), clean(&path), clean(&problem.message));
    // An operator's context or a key, by mistake: errors end in logs and tickets.
    let text = text.filter(|text| !text.contains("PRIVATE KEY"));
    let line = usize::try_from(problem.line).ok().and_then(|n| n.checked_sub(1));
    if let Some(source) = line.and_then(|n| text?.lines().nth(n)) {
        let number = problem.line.to_string();
        let margin = " ".repeat(number.len());
        let column =
            usize::try_from(problem.column).unwrap_or(1).saturating_sub(1).min(source.chars().count());
        let before: String =
            source.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let shown: String =
            source.chars().take(200).map(|c| if c == '\t' || !c.is_control() { c } else { ' ' }).collect();
        out.push_str(&format!("\n {DIM}{number} |{DIM:#} {shown}"));
        if column < 200 {
            out.push_str(&format!("\n {DIM}{margin} |{DIM:#} {before}{}", paint(style, "^")));
        }
    }
    if let Some(hint) = &problem.hint {
        out.push_str(&format!("\n {DIM}hint:{DIM:#} {}", clean(hint)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn text_of_others_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\rc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(clean("spiffe://a/\u{202e}b"), "spiffe://a/\u{fffd}b");
        assert!(matches!(clean("→ ünïcode"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_snippet_points_at_the_column() {
        let problem = countersign_config::Problem {
            severity: Severity::Error,
            file: "p.yaml".into(),
            line: 2,
            column: 3,
            path: "spec.mod".into(),
            message: "unknown field".into(),
            hint: Some("did you mean mode?".into()),
        };
        assert_eq!(
            plain(&snippet(&problem, Some("spec:\n  mod: x\n"))),
            "p.yaml:2:3: error: spec.mod: unknown field\n 2 |   mod: x\n   |   ^\n hint: did you mean mode?"
        );
        assert_eq!(
            plain(&snippet(&problem, None)),
            "p.yaml:2:3: error: spec.mod: unknown field\n hint: did you mean mode?"
        );
    }

    #[test]
    fn a_long_line_is_shortened_and_goes_on_below() {
        let digest = "ab".repeat(48);
        assert_eq!(shortened(&format!("mrTd is {digest}, at 8443")), "mrTd is abab…ab, at 8443");
        let text = format!("  └─ {} {}", paint(BAD, "✗"), ["word"; 40].join(" "));
        let lines = fit(&text, 60);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines.iter().all(|line| plain(line).chars().count() <= 60), "{lines:?}");
        assert!(lines[1].starts_with("         word"), "{lines:?}");
        assert_eq!(fit("short", 60), ["short"]);
        assert_eq!(fit(&digest, 60), [digest]);
    }

    #[test]
    fn a_narrow_table_breaks_no_word_that_has_room() {
        let mut output = Output { width: 100, height: 25 };
        let cells = |name: &str| {
            let policies = "payments/ledger-peers, payments/everybody-else".to_owned();
            vec![
                name.to_owned(),
                "tdx EMULATED".to_owned(),
                policies,
                "draining: event-not-admitted".to_owned(),
            ]
        };
        let rows = vec![cells("ledger-0.payments.example"), cells("audit-0")];
        let lines = output.table_lines(&["PROXY", "TEE", "POLICY", "STATE"], rows);
        let text = lines.join("\n");
        for word in ["ledger-0.payments.example", "EMULATED", "payments/everybody-else", "event-not-admitted"]
        {
            assert!(text.contains(word), "{word} is broken:\n{text}");
        }
        assert!(least_widths(&["A", "B"], &[vec!["x".repeat(90), "y".repeat(90)]], 40)[1] == NARROWEST);
    }

    #[test]
    fn a_problem_without_a_file_has_no_place() {
        let problem = countersign_config::Problem {
            severity: Severity::Error,
            file: String::new(),
            line: 0,
            column: 0,
            path: "AttestationPolicy a/b".into(),
            message: "m".into(),
            hint: None,
        };
        assert_eq!(plain(&snippet(&problem, None)), "error: AttestationPolicy a/b: m");
    }

    #[test]
    fn a_file_with_a_private_key_is_not_shown() {
        let text = "key: |\n  -----BEGIN PRIVATE KEY-----\nU0VDUkVU\n";
        let problem = countersign_config::Problem {
            severity: Severity::Error,
            file: "operator.yaml".into(),
            line: 3,
            column: 1,
            path: String::new(),
            message: "m".into(),
            hint: None,
        };
        assert_eq!(plain(&snippet(&problem, Some(text))), "operator.yaml:3:1: error: m");
    }

    #[test]
    fn a_snippet_survives_a_column_that_is_not_there() {
        let problem = countersign_config::Problem {
            severity: Severity::Warning,
            file: "p".into(),
            line: 1,
            column: 1_000_000,
            path: String::new(),
            message: "m".into(),
            hint: None,
        };
        assert!(plain(&snippet(&problem, Some("ä"))).ends_with("^"));
    }
}
