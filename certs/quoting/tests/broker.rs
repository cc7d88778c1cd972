//! The broker over its socket: what it quotes, for whom, and what it survives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use countersign_attester::Produced;
use countersign_attester::emulated::{EmulatedTdx, TdxSpec, Vendor};
use countersign_evidence::event_log::replay;
use countersign_evidence::evidence::media_type;
use countersign_evidence::intel::QuoteBody;
use countersign_evidence::{Evidence, RegisterState, UnixTime};
use countersign_quoting::broker::{Access, Client, Code, Limits, Request, Response, Server, Socket, Who};
use countersign_quoting::{Event, Local, Options, Quoter, Source, Subject, Urgency};
use countersign_ratls::binding::key_report_data;
use support::{Act, Device, Driver, check, context, core, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const QUOTE: Duration = Duration::from_millis(1);
/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A broker in a directory of its own.
struct Broker {
    dir: tempfile::TempDir,
    quoter: Quoter,
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Broker {
    async fn over(source: Arc<dyn Source>) -> Self {
        Self::with(source, ourselves(), Limits::default()).await
    }

    async fn with(source: Arc<dyn Source>, access: Access, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::bind(&dir.path().join("quotes"), 0o600, None).await.unwrap();
        let server = Server::new(socket, source, access, limits);
        let (end, ended) = oneshot::channel();
        let quoter = server.quoter().clone();
        let task = tokio::spawn(server.run(async {
            let _ = ended.await;
        }));
        Self { dir, quoter, task, end }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("quotes")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    /// A queue as a proxy has it, over this broker.
    async fn proxy(&self) -> Quoter {
        let client = Client::open(&self.path()).await.unwrap();
        let (quoter, task) = Quoter::new(Arc::new(client), Options::default());
        run(task);
        quoter
    }
}

fn ourselves() -> Access {
    Access { own: rustix::process::geteuid().as_raw(), ..Access::default() }
}

/// Until `done`; what is waited for happens soon, or the test fails.
async fn eventually(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(LONG, waiting).await.is_ok(), "never: {what}");
}

/// Everything that the broker says until it closes.
async fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Closing with unread bytes inside is a reset, which is an end as well.
    let _ = timeout(LONG, stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn answer(bytes: &[u8]) -> Response {
    let (size, message) = bytes.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*size) as usize, message.len());
    Response::decode(message).unwrap()
}

#[tokio::test]
async fn keys_and_sessions_of_two_clients_are_quoted_under_the_labels_of_the_broker() {
    let driver = Arc::new(Driver::default());
    let broker = Broker::over(Arc::new(Local::new(Arc::clone(&driver) as _))).await;
    let (one, two) = (broker.proxy().await, broker.proxy().await);
    let key = one.key(&context(1)).await.unwrap();
    assert_eq!(key.value, key_report_data(&context(1), &[]).as_bytes());
    check(&core(1), &two.session(core(1), 1, Urgency::NewHop).await.unwrap());
    let (a, b, c) = tokio::join!(
        one.session(core(2), 1, Urgency::NewHop),
        one.session(core(3), 2, Urgency::NewHop),
        two.session(core(4), 3, Urgency::NewHop),
    );
    for (n, quoted) in [(2, a), (3, b), (4, c)] {
        check(&core(n), &quoted.unwrap());
    }
    // Everything that reached the device is a hash that was made here.
    let mut expected = vec![
        *key_report_data(&context(1), &[]).as_bytes(),
        *core(1).binder(&[]).as_bytes(),
        *Subject::sessions(vec![core(2), core(3)]).unwrap().report_data().as_bytes(),
        *core(4).binder(&[]).as_bytes(),
    ];
    let mut given = driver.given.lock().unwrap().clone();
    expected.sort_unstable();
    given.sort_unstable();
    assert_eq!(given, expected);
    let status = Client::status(&broker.path()).await.unwrap();
    assert_eq!((status.driver.as_str(), status.health.as_str(), status.quotes), ("recorder", "quotes", 4));
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_others_are_refused_whatever_its_mode_says() {
    let device = Device::new(QUOTE);
    let broker = Broker::over(Arc::clone(&device) as _).await;
    let metadata = fs::metadata(broker.path()).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o600);
    // Somebody who could open the socket, but is not on the list.
    let stranger = Access { own: rustix::process::geteuid().as_raw() + 1, ..Access::default() };
    let closed = Broker::with(Arc::clone(&device) as _, stranger, Limits::default()).await;
    let error = Client::open(&closed.path()).await.unwrap_err().to_string();
    assert!(error.contains("this user may not use this broker"), "{error}");
    let mut stream = closed.connect().await;
    let _ = stream.write_all(&framed(&Request::Evidence(Subject::key(&context(1)).unwrap()).encode())).await;
    assert!(matches!(answer(&rest(&mut stream).await), Response::Refused(Code::Denied, _)));
    assert!(device.made().is_empty());
}

#[tokio::test]
async fn requests_that_are_none_are_refused_and_disturb_nobody() {
    let device = Device::new(QUOTE);
    let limits = Limits { transfer: Duration::from_millis(100), ..Limits::default() };
    let broker = Broker::with(Arc::clone(&device) as _, ourselves(), limits).await;
    let mut chosen = vec![0xa3, 1, 1, 2, 1, 3, 0x58, 64];
    chosen.extend_from_slice(&[0x41; 64]);
    for message in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xa2, 1, 2, 2, 0], &chosen] {
        let mut stream = broker.connect().await;
        stream.write_all(&framed(message)).await.unwrap();
        assert!(matches!(answer(&rest(&mut stream).await), Response::Refused(Code::Malformed, _)));
    }
    // More than any request: refused by its length, before it is read.
    let mut oversize = broker.connect().await;
    oversize.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let Response::Refused(Code::Malformed, why) = answer(&rest(&mut oversize).await) else { panic!() };
    assert!(why.contains("4294967295 bytes"), "{why}");
    // Slow, and cut: closed without a word.
    for start in [&b""[..], &[0, 0], &framed(&Request::Status.encode())[..6]] {
        let mut slow = broker.connect().await;
        slow.write_all(start).await.unwrap();
        assert!(rest(&mut slow).await.is_empty());
        let mut cut = broker.connect().await;
        cut.write_all(start).await.unwrap();
        cut.shutdown().await.unwrap();
        assert!(rest(&mut cut).await.is_empty());
    }
    assert!(device.made().is_empty());
    broker.proxy().await.key(&context(1)).await.unwrap();
}

#[tokio::test]
async fn whoever_sends_more_than_one_request_gets_no_answer() {
    let device = Device::new(QUOTE);
    let broker = Broker::over(Arc::clone(&device) as _).await;
    let mut stream = broker.connect().await;
    let request = framed(&Request::Evidence(Subject::key(&context(1)).unwrap()).encode());
    stream.write_all(&[request.as_slice(), &request].concat()).await.unwrap();
    assert!(rest(&mut stream).await.is_empty());
    broker.proxy().await.key(&context(2)).await.unwrap();
}

#[tokio::test]
async fn one_user_cannot_take_all_connections() {
    let device = Device::new(QUOTE);
    let limits = Limits { connections_per_user: 2, ..Limits::default() };
    let broker = Broker::with(Arc::clone(&device) as _, ourselves(), limits).await;
    let (first, second) = (broker.connect().await, broker.connect().await);
    let mut third = broker.connect().await;
    let Response::Refused(Code::Overloaded, why) = answer(&rest(&mut third).await) else { panic!() };
    assert_eq!(why, "too many connections of this user");
    drop((first, second));
    // Their places are free when the broker has seen them leave.
    let open = async {
        while Client::open(&broker.path()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, open).await.unwrap();
}

#[tokio::test]
async fn what_the_device_says_reaches_the_client() {
    let device = Device::new(QUOTE);
    device.does(&[Act::Fail, Act::Quote(QUOTE), Act::Hang]);
    let limits = Limits { patience: Duration::from_millis(50), ..Limits::default() };
    let broker = Broker::with(Arc::clone(&device) as _, ourselves(), limits).await;
    let proxy = broker.proxy().await;
    let error = proxy.key(&context(1)).await.unwrap_err().to_string();
    assert!(error.contains("broken") && error.contains("quotes"), "{error}");
    proxy.key(&context(1)).await.unwrap();
    // A device that hangs behind the broker is an error here, in the broker's time.
    let error = proxy.key(&context(1)).await.unwrap_err().to_string();
    assert!(error.contains("no answer of the device in 50ms"), "{error}");
    let error = proxy.key(&context(1)).await.unwrap_err().to_string();
    assert!(error.contains("the quoting device does not answer"), "{error}");
    device.wake();
    let works = async {
        while proxy.key(&context(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, works).await.unwrap();
}

/// The client that the next test kills; on its own it does nothing.
#[tokio::test]
async fn a_client_in_a_process_of_its_own() {
    let Some(socket) = std::env::var_os("TEST_BROKER_SOCKET") else { return };
    let client = Client::open(Path::new(&socket)).await.unwrap();
    let (quoter, task) = Quoter::new(Arc::new(client), Options::default());
    run(task);
    let _ = quoter.key(&context(9)).await;
}

fn client(socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_client_in_a_process_of_its_own"])
        .env("TEST_BROKER_SOCKET", socket)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_client_that_is_killed_leaves_the_queue_and_disturbs_nobody() {
    let device = Device::new(QUOTE);
    device.does(&[Act::Hang]);
    let broker = Broker::over(Arc::clone(&device) as _).await;
    let mut inside = client(&broker.path());
    eventually("the device is asked", || device.made().len() == 1).await;
    let mut queued = client(&broker.path());
    eventually("another waits", || broker.quoter.stats().waiting == 1).await;
    // SIGKILL.
    queued.kill().await.unwrap();
    eventually("it is not waited for", || broker.quoter.stats().withdrawn == 1).await;
    inside.kill().await.unwrap();
    let proxy = broker.proxy().await;
    let asked = tokio::spawn(async move { proxy.key(&context(1)).await });
    eventually("who lives waits", || broker.quoter.stats().waiting == 1).await;
    device.wake();
    assert_eq!(asked.await.unwrap().unwrap().value, key_report_data(&context(1), &[]).as_bytes());
    assert_eq!(device.made().len(), 2);
}

#[tokio::test]
async fn a_broker_that_ends_answers_what_it_has_begun_and_takes_its_socket_with_it() {
    let device = Device::new(QUOTE);
    device.does(&[Act::Hang]);
    let broker = Broker::over(Arc::clone(&device) as _).await;
    let path = broker.path();
    let proxy = broker.proxy().await;
    let asked = tokio::spawn(async move { proxy.key(&context(1)).await });
    eventually("the device is asked", || device.made().len() == 1).await;
    broker.end.send(()).unwrap();
    eventually("the socket is gone", || !path.exists()).await;
    device.wake();
    let error = asked.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("broken"), "{error}");
    timeout(LONG, broker.task).await.unwrap().unwrap();
    let error = Client::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_socket_is_taken_over_from_the_dead_and_not_from_the_living() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quotes");
    // What a broker that was killed leaves behind.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = Socket::bind(&path, 0o660, None).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    let error = Socket::bind(&path, 0o600, None).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    // What somebody else put there is not ours to remove.
    fs::remove_file(&path).unwrap();
    let living = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
    let error = Socket::bind(&path, 0o600, None).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(living);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let error = Socket::bind(&path, 0o600, None).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn nobody_else_may_put_a_file_where_the_socket_is() {
    let dir = tempfile::tempdir().unwrap();
    // The sticky bit keeps nobody from taking the place first.
    for mode in [0o777, 0o1777, 0o775, 0o1770, 0o757] {
        let open = dir.path().join(format!("{mode:o}"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        let error = Socket::bind(&open.join("quotes"), 0o600, None).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{mode:o}");
        assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    }
    if rustix::process::geteuid().is_root() {
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(4711), None).unwrap();
        let error = Socket::bind(&foreign.join("quotes"), 0o600, None).await.unwrap_err();
        assert!(error.to_string().contains("of user 4711"), "{error}");
    }
    // A lock that leads elsewhere is not followed.
    let path = dir.path().join("quotes");
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("quotes.lock")).unwrap();
    Socket::bind(&path, 0o600, None).await.unwrap_err();
    assert!(!elsewhere.exists() && !path.exists());
}

#[tokio::test]
async fn evidence_over_other_data_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quotes");
    let listener = UnixListener::bind(&path).unwrap();
    let impostor = async {
        let device = Device::new(QUOTE);
        let broker = Broker::over(Arc::clone(&device) as _).await;
        let status = Client::status(&broker.path()).await.unwrap();
        let forged = Produced::new(media_type::SGX_QUOTE, vec![0x41; 4000]);
        for response in [Response::Status(status), Response::Evidence(forged)] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut size = [0; 4];
            stream.read_exact(&mut size).await.unwrap();
            let mut request = vec![0; u32::from_be_bytes(size) as usize];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&framed(&response.encode())).await.unwrap();
        }
    };
    let honest = async {
        let client = Client::open(&path).await.unwrap();
        let subject = Arc::new(Subject::sessions(vec![core(1), core(2)]).unwrap());
        client.quote(subject).await.unwrap_err().to_string()
    };
    let ((), error) = tokio::join!(impostor, honest);
    assert!(error.contains("evidence over other data"), "{error}");
}

fn tdx() -> Arc<EmulatedTdx> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    Vendor::generate(now, LONG).unwrap().tdx(TdxSpec::default()).unwrap()
}

fn event(content: &str) -> Event {
    Event::new("exec", content).unwrap()
}

#[tokio::test]
async fn events_are_measured_and_whoever_watches_learns_of_them() {
    let machine = tdx();
    let broker = Broker::over(Arc::new(Local::new(machine))).await;
    let client = Client::open(&broker.path()).await.unwrap();
    assert!(client.platform().event_log);
    let mut watching = client.moved(0);
    assert_eq!(Client::measure(&broker.path(), event("/bin/a")).await.unwrap(), 1);
    assert_eq!(timeout(LONG, &mut watching).await.unwrap(), 1);
    assert_eq!(client.measure(event("/bin/b")).await.unwrap(), 2);
    assert_eq!(timeout(LONG, client.moved(1)).await.unwrap(), 2);
    // Evidence that came through the broker has the log with it.
    let quoter = broker.proxy().await;
    let produced = quoter.key(&context(1)).await.unwrap();
    let evidence = Evidence::parse(produced.media_type, &produced.value).unwrap();
    let Evidence::Intel(quote) = &evidence else { panic!() };
    let QuoteBody::Tdx(report) = quote.body() else { panic!() };
    let (media_type, log) = produced.event_log_from(0).unwrap();
    let state = replay(media_type, &log, &report.rtmr, &RegisterState::default()).unwrap();
    assert_eq!(state.events().len(), 2);
    drop(broker);
}

#[tokio::test]
async fn who_may_only_measure_gets_no_quote() {
    let us = rustix::process::geteuid().as_raw();
    let measuring = Who { uids: vec![us], ..Who::default() };
    let access = Access { own: us + 1, measuring, ..Access::default() };
    let broker = Broker::with(Arc::new(Local::new(tdx())), access, Limits::default()).await;
    assert_eq!(Client::measure(&broker.path(), event("/bin/a")).await.unwrap(), 1);
    let client = Client::open(&broker.path()).await.unwrap();
    let subject = Subject::key(&context(1)).unwrap();
    let denied = client.quote(Arc::new(subject)).await.unwrap_err().to_string();
    assert!(denied.contains("this user may not ask for this"), "{denied}");
    let access = Access { own: us + 1, uids: vec![us], ..Access::default() };
    let broker = Broker::with(Arc::new(Local::new(tdx())), access, Limits::default()).await;
    let denied = Client::measure(&broker.path(), event("/bin/a")).await.unwrap_err().to_string();
    assert!(denied.contains("this user may not ask for this"), "{denied}");
}

#[tokio::test]
async fn a_broker_that_ends_does_not_wait_for_those_who_watch() {
    let limits = Limits { watch: 2 * LONG, grace: 2 * LONG, ..Limits::default() };
    let broker = Broker::with(Arc::new(Local::new(tdx())), ourselves(), limits).await;
    let mut watching = broker.connect().await;
    watching.write_all(&framed(&Request::Watch(0).encode())).await.unwrap();
    // Answered later than the request above was taken up.
    Client::status(&broker.path()).await.unwrap();
    broker.end.send(()).unwrap();
    timeout(LONG, broker.task).await.unwrap().unwrap();
    assert_eq!(answer(&rest(&mut watching).await), Response::Events(0));
}

#[tokio::test]
async fn a_watch_ends_in_bounded_time_and_is_taken_up_again() {
    let limits = Limits { watch: Duration::from_millis(1), ..Limits::default() };
    let broker = Broker::with(Arc::new(Local::new(tdx())), ourselves(), limits).await;
    let mut stream = broker.connect().await;
    stream.write_all(&framed(&Request::Watch(7).encode())).await.unwrap();
    assert_eq!(answer(&rest(&mut stream).await), Response::Events(0), "not so many");
    let mut stream = broker.connect().await;
    stream.write_all(&framed(&Request::Watch(0).encode())).await.unwrap();
    assert_eq!(answer(&rest(&mut stream).await), Response::Events(0), "nothing happened");
    let client = Client::open(&broker.path()).await.unwrap();
    let mut watching = client.moved(0);
    // It asks several times before the event comes.
    assert!(timeout(Duration::from_millis(20), &mut watching).await.is_err());
    client.measure(event("/bin/a")).await.unwrap();
    assert_eq!(timeout(LONG, watching).await.unwrap(), 1);
}

#[tokio::test]
async fn a_machine_without_a_register_says_so() {
    let broker = Broker::over(Arc::new(Local::new(Arc::new(Driver::default())))).await;
    let client = Client::open(&broker.path()).await.unwrap();
    assert!(!client.platform().event_log);
    let refused = client.measure(event("/bin/a")).await.unwrap_err().to_string();
    assert!(refused.contains("Intel TDX"), "{refused}");
    let mut waiting = client.moved(0);
    assert!(timeout(Duration::from_millis(10), &mut waiting).await.is_err());
}
