//! The log of a register on fake machines, and what a crash leaves behind.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use countersign_evidence::RegisterState;
use countersign_evidence::event_log::{media_type, replay};

use super::*;

/// A register that outlives the processes that extend it, and can fail.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    value: Mutex<event_log::Register>,
    refuses: AtomicBool,
    mute: AtomicBool,
}

impl Default for Inner {
    fn default() -> Self {
        Self { value: Mutex::new([0; 48]), refuses: AtomicBool::default(), mute: AtomicBool::default() }
    }
}

impl Register for Fake {
    fn read(&self) -> io::Result<event_log::Register> {
        match self.0.mute.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(*self.0.value.lock().unwrap()),
        }
    }

    fn extend(&self, digest: &event_log::Register) -> io::Result<()> {
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        event_log::extend(&mut self.0.value.lock().unwrap(), digest);
        Ok(())
    }
}

fn resume(register: &Fake, directory: &Path, boot: &str) -> Result<RuntimeLog, Error> {
    RuntimeLog::resume(Box::new(register.clone()), LogFile::open(directory, boot)?)
}

fn event<'a>(kind: &'a str, content: &'a str) -> Record<'a> {
    Record::new(kind, content.as_bytes()).unwrap()
}

/// How many events a verifier sees, if the log leads to the register.
fn seen(log: &RuntimeLog, register: &Fake) -> usize {
    let bytes = log.taken().unwrap().record(0).unwrap();
    let mut rtmr = [[0; 48]; 4];
    rtmr[3] = register.read().unwrap();
    replay(media_type::RUNTIME, &bytes, &rtmr, &RegisterState::default()).unwrap().events().len()
}

fn file(directory: &Path) -> PathBuf {
    directory.join("runtime-one.log")
}

#[test]
fn what_is_measured_is_logged_and_told() {
    let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
    let log = resume(&register, directory.path(), "one").unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let listener = Arc::clone(&told);
    log.on_extended(Arc::new(move |count| listener.store(count, Ordering::SeqCst)));
    assert_eq!(seen(&log, &register), 0);
    assert_eq!(log.extend(&event("exec", "/bin/a")).unwrap(), 1);
    let before = log.taken();
    assert_eq!(log.extend(&event("exec", "/bin/b")).unwrap(), 2);
    assert_eq!((before.unwrap().len(), told.load(Ordering::SeqCst)), (1, 2), "a log that was taken stays");
    assert_eq!(seen(&log, &register), 2);
    drop(log);
    let again = resume(&register, directory.path(), "one").unwrap();
    assert_eq!(again.extend(&event("config", "7")).unwrap(), 3);
    assert_eq!(seen(&again, &register), 3);
}

#[test]
fn an_event_that_was_announced_and_not_extended_is_completed() {
    let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
    resume(&register, directory.path(), "one").unwrap().extend(&event("exec", "/bin/a")).unwrap();
    // As if the process had died between the two steps.
    let announced = event("exec", "/bin/b");
    OpenOptions::new()
        .append(true)
        .open(file(directory.path()))
        .unwrap()
        .write_all(&announced.encode())
        .unwrap();
    let log = resume(&register, directory.path(), "one").unwrap();
    assert_eq!(seen(&log, &register), 2);
}

#[test]
fn an_entry_that_was_torn_was_never_extended_and_is_cut_off() {
    let announced = event("exec", "/bin/b").encode();
    for kept in 1..announced.len() {
        let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
        resume(&register, directory.path(), "one").unwrap().extend(&event("exec", "/bin/a")).unwrap();
        let mut append = OpenOptions::new().append(true).open(file(directory.path())).unwrap();
        append.write_all(&announced[..kept]).unwrap();
        let log = resume(&register, directory.path(), "one").unwrap();
        assert_eq!(log.extend(&event("config", "7")).unwrap(), 2);
        assert_eq!(seen(&log, &register), 2, "{kept}");
        drop(log);
        assert_eq!(seen(&resume(&register, directory.path(), "one").unwrap(), &register), 2);
    }
}

#[test]
fn a_register_that_something_else_extends_has_no_log() {
    let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
    let log = resume(&register, directory.path(), "one").unwrap();
    log.extend(&event("exec", "/bin/a")).unwrap();
    register.extend(&[7; 48]).unwrap();
    let error = log.extend(&event("exec", "/bin/b")).unwrap_err().to_string();
    assert!(error.contains("something else extends RTMR 3"), "{error}");
    assert_eq!(log.taken(), None);
    assert!(log.extend(&event("exec", "/bin/c")).is_err(), "for good");
    drop(log);
    let error = resume(&register, directory.path(), "one").unwrap_err().to_string();
    assert!(error.contains("restart the guest"), "{error}");
    // So it is with one that was extended before anybody kept a log.
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(resume(&register, elsewhere.path(), "one").is_err());
    assert_eq!(RuntimeLog::new(Box::new(register)).taken(), None);
}

#[test]
fn an_extension_that_fails_leaves_no_trace() {
    let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
    let log = resume(&register, directory.path(), "one").unwrap();
    register.0.refuses.store(true, Ordering::SeqCst);
    assert!(matches!(log.extend(&event("exec", "/bin/a")), Err(Error::Io { .. })));
    register.0.refuses.store(false, Ordering::SeqCst);
    assert_eq!(log.extend(&event("exec", "/bin/b")).unwrap(), 1);
    assert_eq!(seen(&log, &register), 1);
    drop(log);
    assert_eq!(seen(&resume(&register, directory.path(), "one").unwrap(), &register), 1);
    // Whether it was extended cannot be known: nothing is claimed any more.
    let log = resume(&register, directory.path(), "one").unwrap();
    register.0.mute.store(true, Ordering::SeqCst);
    assert!(log.extend(&event("exec", "/bin/c")).is_err());
    register.0.mute.store(false, Ordering::SeqCst);
    assert_eq!(log.taken(), None);
    drop(log);
    assert_eq!(seen(&resume(&register, directory.path(), "one").unwrap(), &register), 2);
}

#[test]
fn one_process_keeps_the_log_and_forgets_earlier_boots() {
    let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
    let log = resume(&register, directory.path(), "one").unwrap();
    log.extend(&event("exec", "/bin/a")).unwrap();
    let error = resume(&register, directory.path(), "one").unwrap_err().to_string();
    assert!(error.contains("another process keeps"), "{error}");
    drop(log);
    // The guest was started anew.
    let register = Fake::default();
    fs::write(directory.path().join("other.txt"), "stays").unwrap();
    assert_eq!(seen(&resume(&register, directory.path(), "two").unwrap(), &register), 0);
    let mut left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["other.txt", "runtime-two.log"]);
}

#[test]
fn a_damaged_file_and_a_full_log_are_said() {
    let (register, directory) = (Fake::default(), tempfile::tempdir().unwrap());
    fs::write(file(directory.path()), [0xff; 10]).unwrap();
    assert!(matches!(resume(&register, directory.path(), "one"), Err(Error::Protocol(..))));
    fs::write(file(directory.path()), vec![0; MAX_LOG + 1]).unwrap();
    assert!(matches!(resume(&register, directory.path(), "one"), Err(Error::Protocol(..))));
    let log = RuntimeLog::new(Box::new(Fake::default()));
    let large = "x".repeat(1000);
    let error = (0..).find_map(|_| log.extend(&event("fill", &large)).err()).unwrap().to_string();
    assert!(error.contains("the log is full"), "{error}");
    assert!(log.taken().unwrap().record(0).unwrap().len() <= MAX_WRITTEN + 16);
}

#[test]
fn detection_says_what_is_missing_to_measure_events() {
    let root = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &[u8]| {
        let path = under(root.path(), path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    put("/proc/sys/kernel/osrelease", b"6.12.0\n");
    let old = detect(root.path()).missing.join("; ");
    assert!(old.contains("6.12.0") && old.contains("rtmr3:sha384"), "{old}");
    put("/proc/sys/kernel/osrelease", b"6.16.1\n");
    let none = detect(root.path()).missing.join("; ");
    assert!(none.starts_with(RTMR3) && none.contains("CONFIG_TDX_GUEST_DRIVER"), "{none}");
    put(RTMR3, &[0; 48]);
    assert_eq!(detect(root.path()).missing, [""; 0]);
}
