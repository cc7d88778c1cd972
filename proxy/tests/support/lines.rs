//! What is logged.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

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

impl MakeWriter<'_> for Lines {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    /// For as long as the guards live. There are two subscribers: while there is one,
    /// tracing asks that of the current thread whether anybody cares for a line, and
    /// remembers the answer for all threads. Other tests run on others.
    pub fn capture() -> (Self, (tracing::subscriber::DefaultGuard, tracing::Dispatch)) {
        let lines = Self::default();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let nobody = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        (lines, (guard, nobody))
    }

    pub fn with(&self, what: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}
