//! The program: serves whom it is told, survives what happens to processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_attester::emulated::Vendor;
use countersign_evidence::Evidence;
use countersign_quoting::broker::Client;
use countersign_quoting::{Options, QuoteError, Quoter};
use countersign_ratls::binding::{KeyContext, key_report_data};
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::UnixTime;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign-broker");
/// Somebody else, when we may become somebody else.
const NOBODY: u32 = 65534;

/// A directory with an emulated vendor, and room for a socket.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_795_219_200));
        Vendor::generate(now, Duration::from_secs(86_400)).unwrap().save(&dir.path().join("vendor")).unwrap();
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("run/quotes")
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["--log-format", "json", "--socket"]).arg(self.socket());
        command.arg("--emulated").arg(self.0.path().join("vendor")).args(options);
        command
    }

    /// Starts it and waits until it listens.
    fn start(&self, options: &[&str]) -> Broker {
        let mut child = self.command(options).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut broker = Broker { child, log };
        broker.line("listening");
        broker
    }

    fn ask(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--status").arg("--socket").arg(self.socket());
        command
    }
}

struct Broker {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Broker {
    /// The next line with this message.
    fn line(&mut self, message: &str) -> serde_json::Value {
        self.log
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                (line["fields"]["message"] == message).then_some(line)
            })
            .unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_log_for_people_is_plain_where_no_terminal_is_and_warns_of_nobody_without_cause() {
    let place = Place::new();
    let own = rustix::process::geteuid().as_raw().to_string();
    let mut command = Command::new(PROGRAM);
    command.arg("--socket").arg(place.socket()).arg("--emulated").arg(place.0.path().join("vendor"));
    command.args(["--log-format", "text", "--allow-uid", &own]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut broker = Broker { child, log };
    let mut before = String::new();
    let line = broker.log.find_map(|line| {
        let line = line.unwrap();
        before.push_str(&line);
        line.contains("listening").then_some(line)
    });
    let line = line.unwrap();
    assert!(!before.contains('\u{1b}') && !before.contains("those whom we allow"), "{before}");
    for field in [" mode=0600 ", &format!(" own_uid={own} "), &format!(" allow_uid={own}")] {
        assert!(line.contains(field), "{field}: {line}");
    }
    assert!(!line.contains("Access") && !line.contains("allow_gid"), "{line}");
}

#[test]
fn what_an_emulated_machine_cannot_heed_is_refused() {
    let mut command = Command::new(PROGRAM);
    command.args(["--socket", "/nowhere", "--emulated", "/nowhere", "--events", "/nowhere"]);
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("--events") && told.contains("--emulated"), "{told}");
}

fn context() -> Vec<u8> {
    KeyContext { spki_sha256: [3; 32], challenge: (&[7; 32]).into(), id: None }.encode()
}

/// A queue as a proxy has it.
async fn proxy(socket: &Path) -> Quoter {
    let client = Client::open(socket).await.unwrap();
    let (quoter, task) = Quoter::new(Arc::new(client), Options::default());
    tokio::spawn(task.run());
    quoter
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn it_quotes_over_keys_says_for_whom_and_ends_in_order() {
    let place = Place::new();
    let mut broker = place.start(&["--machine", r#"{"tdx": {"quoteVersion": 5}}"#]);
    let produced = proxy(&place.socket()).await.key(&context()).await.unwrap();
    let evidence = Evidence::parse(produced.media_type, &produced.value).unwrap();
    key_report_data(&context(), &[]).check(evidence.report_data()).unwrap();
    let line = broker.line("quoted");
    assert_eq!(line["fields"]["purpose"], "key");
    assert_eq!(line["fields"]["pid"], std::process::id());
    let status = text(&place.ask().output().unwrap().stdout);
    assert_eq!(status, "tdx EMULATED, driver emulated: quotes; 0 waiting, 1 quotes\n");
    broker.signal(Signal::TERM);
    assert!(broker.child.wait().unwrap().success());
    assert!(!place.socket().exists());
}

#[tokio::test]
async fn one_that_was_killed_is_followed_by_another_and_the_proxy_goes_on() {
    let place = Place::new();
    let mut first = place.start(&[]);
    let quoter = proxy(&place.socket()).await;
    quoter.key(&context()).await.unwrap();
    // While it lives there is no second.
    let Output { status, stderr, .. } = place.command(&[]).output().unwrap();
    assert!(!status.success() && text(&stderr).contains("listens on"), "{}", text(&stderr));
    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    assert!(place.socket().exists());
    let error = quoter.key(&context()).await.unwrap_err();
    assert!(matches!(error, QuoteError::Source(_)), "{error}");
    let _second = place.start(&[]);
    quoter.key(&context()).await.unwrap();
}

#[test]
fn users_who_are_not_listed_are_refused_by_the_file_and_by_the_broker() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let stranger = |place: &Place| {
        // The directory of the socket lets everybody look.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(place.0.path(), open).unwrap();
        text(&place.ask().uid(NOBODY).gid(NOBODY).output().unwrap().stderr)
    };
    let place = Place::new();
    let _closed = place.start(&[]);
    let refused = stranger(&place);
    assert!(refused.contains("Permission denied"), "{refused}");
    let place = Place::new();
    let mut open = place.start(&["--mode", "0666"]);
    let refused = stranger(&place);
    assert!(refused.contains("this user may not use this broker"), "{refused}");
    assert_eq!(open.line("refused")["fields"]["uid"], NOBODY);
    for listed in [["--allow-uid", "65534"], ["--allow-gid", "65534"]] {
        let place = Place::new();
        let _open = place.start(&["--mode", "0666", listed[0], listed[1]]);
        assert_eq!(stranger(&place), "");
    }
}

#[test]
fn what_it_cannot_do_it_says_at_the_start() {
    let place = Place::new();
    for (options, what) in [
        (&["--mode", "1777"][..], "accepted: an octal number from 0 to 0777"),
        (&["--machine", "{}"], "--machine"),
        (&["--machine", r#"{"tdx": {"mrTd": "00"}}"#], "expected 96 hexadecimal digits"),
        (&["--log", "broker=loud"], "--log"),
    ] {
        let Output { status, stderr, .. } = place.command(options).output().unwrap();
        assert!(!status.success() && text(&stderr).contains(what), "{}", text(&stderr));
    }
    let nobody = place.ask().output().unwrap();
    assert!(!nobody.status.success() && text(&nobody.stderr).contains("No such file"));
}
