//! The log of the program: records for people, or JSON, on standard error.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;

use countersign_proxy::LogLevel;
use countersign_proxy::observe::explain::Line;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Form {
    Text,
    Json,
}

/// Starts the log, with a filter that can be changed later.
pub(crate) fn start(filter: Targets, form: Form) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = layer().with_writer(std::io::stderr).with_ansi(colour());
    let registry = tracing_subscriber::registry().with(filter);
    match form {
        Form::Text => registry.with(lines.event_format(Records)).init(),
        Form::Json => registry.with(lines.json()).init(),
    }
    Arc::new(move |wanted: Option<&str>| {
        if let Some(wanted) = wanted {
            handle.reload(self::filter(wanted)?).map_err(|error| error.to_string())?;
        }
        handle.with_current(ToString::to_string).map_err(|error| error.to_string())
    })
}

/// Colour is for people at a terminal who did not say no to it (<https://no-color.org>).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A filter: `LEVEL` and `TARGET=LEVEL`, with commas in between. The library takes
/// any word for a target that is to be logged in full, a misspelt level as well.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    for directive in text.split(',') {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, directive),
        };
        if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Err(format!("`{level}` is no level: {}; with a target: TARGET=LEVEL", LEVELS.join(", ")));
        }
        let is_path = |target: &str| {
            !target.is_empty()
                && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
        };
        if target.is_some_and(|target| !is_path(target)) {
            return Err(format!("`{directive}`: a target is a path such as countersign_proxy::pool"));
        }
    }
    text.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

/// One line a record: time, level, where, what, fields. What a message says in
/// further lines (an explanation) follows below, indented, and never mixes with fields.
struct Records;

impl<S, N> FormatEvent<S, N> for Records
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let (dim, end) = if out.has_ansi_escapes() { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        let colour = if out.has_ansi_escapes() { paint(*level) } else { "" };
        write!(out, "{dim}")?;
        SystemTime.format_time(&mut out)?;
        let mut lines = parts.message.lines();
        let first = lines.next().unwrap_or_default();
        write!(out, "{end} {colour}{level:>5}{end} {dim}{target}:{end} {}{}", Line(first), parts.fields)?;
        for line in lines {
            write!(out, "\n    {}", Line(line))?;
        }
        writeln!(out)
    }
}

const fn paint(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    }
}

/// What an event says.
#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Parts {
    fn field(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => self.fields.push_str(&format!(" {name}={}", Line(value))),
        }
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        // The end of a text among fields is to be seen.
        match field.name() {
            "message" => self.field(field, value),
            _ => self.field(field, &format!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_explanation_is_below_its_record_and_fields_are_on_the_first_line() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = layer().with_writer(move || writer.clone()).with_ansi(false).event_format(Records);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let name = "a\nb";
            tracing::warn!(hop = 7, name, reason = %"x\u{1b}[2J", "live hop cut\ndenied  a → b\nremedy  mend it");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let (_, text) = text.split_once(" WARN ").unwrap();
        let (_, text) = text.split_once(": ").unwrap();
        assert_eq!(
            text,
            "live hop cut hop=7 name=\"a\\nb\" reason=x\\u{1b}[2J\n    denied  a → b\n    remedy  mend it\n"
        );
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        for good in ["info", "OFF", "warn,countersign_proxy=debug", "info,countersign_proxy::pool=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "inf!!",
            "inf",
            "countersign_proxy",
            "countersign_proxy=loud",
            "a b=info",
            "=info",
            "info,,warn",
        ] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
