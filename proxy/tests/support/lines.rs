//! What is logged.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, Mutex, Once};

use tracing_subscriber::fmt::MakeWriter;

thread_local! {
    static HERE: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

/// Everything that is logged on this thread.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// To whoever captures on the thread that logs.
struct ToThread;

impl MakeWriter<'_> for ToThread {
    type Writer = Lines;
    fn make_writer(&self) -> Lines {
        HERE.with_borrow(Clone::clone).unwrap_or_default()
    }
}

/// Ends the capture.
pub struct Captured;

impl Drop for Captured {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

impl Lines {
    /// For as long as the guard lives. One subscriber serves all threads: one of a
    /// thread's own would not hear of lines about which tracing had asked another
    /// thread, where nobody listened, and remembered the answer.
    pub fn capture() -> (Self, Captured) {
        static ONE: Once = Once::new();
        ONE.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(ToThread).finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        let lines = Self::default();
        HERE.set(Some(lines.clone()));
        (lines, Captured)
    }

    pub fn with(&self, what: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}
