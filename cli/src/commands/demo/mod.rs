//! `countersign demo`: the whole product on one machine, in seconds.
//!
//! Nothing is acted: real processes, the real API, real handshakes. Only the
//! TEEs are emulated, and everything says so.

mod children;
mod files;
mod story;
pub(crate) mod workload;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::failure::{Failure, Outcome, Result};
use crate::output::{DIM, Format, HEADING, NAME, Output, paint};
use children::Children;

/// What to do after the demonstration: the same, to play with.
const NEXT: &str = "countersign demo --keep --dir ./demo";

/// Show the whole product on this machine, in seconds
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign demo
  countersign demo --keep --dir ./demo
  countersign demo -o json

A control plane, two workloads, a proxy next to each, mutual attestation by emulated
TEEs, a policy change that cuts a live hop, and the explanation. Nothing outside of
a new directory is touched; all processes end with the demonstration.")]
pub(crate) struct Args {
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Use this directory, which must not exist or be empty, and leave it there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Digests and lines at their whole length
    #[arg(short, long)]
    verbose: bool,
    /// The form of the answer: narrated text, or one JSON event a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The stage: tells what happens, to people or to programs.
struct Stage<'a> {
    out: &'a mut Output,
    format: Format,
    verbose: bool,
    start: Instant,
    steps: u32,
}

impl Stage<'_> {
    /// A new chapter.
    fn chapter(&mut self, title: &str) {
        self.steps += 1;
        if self.format == Format::Text {
            let seconds = paint(DIM, &format!("{:5.1} s", self.start.elapsed().as_secs_f64()));
            self.out.line(format!("\n{seconds}  {}", paint(HEADING, &format!("{}. {title}", self.steps))));
        }
    }

    /// A line for people.
    fn say(&mut self, text: impl AsRef<str>) {
        if self.format == Format::Text {
            text.as_ref().lines().for_each(|line| self.out.fitted(format!("         {line}"), self.verbose));
        }
    }

    /// An event for programs.
    fn event(&mut self, name: &str, detail: Value) {
        if self.format == Format::Json {
            let mut event = json!({ "event": name, "at": self.start.elapsed().as_secs_f64() });
            if let (Some(event), Value::Object(detail)) = (event.as_object_mut(), detail) {
                event.extend(detail);
            }
            self.out.json_line(&event);
        }
    }
}

pub(crate) fn run(args: Args, out: &mut Output) -> Result {
    let programs = story::Programs {
        control_plane: children::sibling("countersign-control-plane")?,
        proxy: children::sibling("countersign-proxy")?,
        own: std::env::current_exe().map_err(|e| Failure::failed(format!("own executable: {e}")))?,
    };
    let (dir, temporary) = directory(args.dir)?;
    let mut stage =
        Stage { out, format: args.output, verbose: args.verbose, start: Instant::now(), steps: 0 };
    let result = super::runtime()?.block_on(async {
        let mut children = Children::default();
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
        let result = tokio::select! {
            // With --keep the end by Ctrl-C is the end that was planned.
            biased;
            result = play(&programs, &dir, args.keep, &mut children, &mut stage) => result,
            _ = interrupt.recv() => Err(Failure::failed("interrupted")),
            _ = terminate.recv() => Err(Failure::failed("terminated")),
        };
        children.stop().await;
        result
    });
    // After a failure the logs are what somebody needs.
    if temporary && result.is_ok() {
        let _ = std::fs::remove_dir_all(&dir);
    } else {
        stage.say(format!("\nfiles and logs are in {}", paint(NAME, &dir.display().to_string())));
    }
    result.map(|()| Outcome::Pass)
}

async fn play(
    programs: &story::Programs,
    dir: &Path,
    keep: bool,
    children: &mut Children,
    stage: &mut Stage<'_>,
) -> Result<()> {
    let ledger = story::tell(programs, dir, children, stage).await?;
    if keep {
        stage.chapter("Everything stays up until Ctrl-C. Try in another terminal");
        let context = dir.join(story::CONTEXT);
        stage.say(format!("export COUNTERSIGN_CONTEXT={}", context.display()));
        stage.say("countersign status -v");
        stage.say("countersign get attpol -A");
        stage.say("countersign describe refval ledger -n payments");
        stage.say(format!("countersign explain payments/audit payments/ledger --port {ledger}"));
        stage.say("countersign attest watch");
        stage.say("countersign attest now payments/ledger");
        stage.event("kept", json!({ "context": context, "dir": dir }));
        let _ = tokio::signal::ctrl_c().await;
    } else {
        stage.say(format!("next: {}", paint(NAME, NEXT)));
    }
    Ok(())
}

fn directory(wanted: Option<PathBuf>) -> Result<(PathBuf, bool)> {
    let (dir, temporary) = match wanted {
        Some(dir) => (dir, false),
        None => {
            let unique = crate::input::now().as_secs();
            let name = format!("countersign-demo-{}-{unique}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    let named = |e: std::io::Error| Failure::input(format!("{}: {e}", dir.display()));
    if temporary {
        // Not recursive: a directory that somebody else put there is refused.
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(named)?;
    } else {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(named)?;
        if std::fs::read_dir(&dir).map_err(named)?.next().is_some() {
            return Err(Failure::input(format!("{}: is not empty", dir.display())));
        }
    }
    let dir = dir.canonicalize().map_err(named)?;
    Ok((dir, temporary))
}
