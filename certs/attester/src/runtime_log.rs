//! Events into RTMR 3, and the log that says which.
//!
//! The order is: append to the file, extend the register, show the event to
//! whoever quotes. A process that dies in between leaves at most one event at
//! the end of the file that the register does not have; the next one finds this
//! out by reading the register and completes the extension, because whoever
//! wanted the event measured has no answer yet and may go on without one. The
//! other order could leave a register with an event that nobody knows, which no
//! log ever reproduces. A torn entry at the end was never extended and is cut
//! off. When the kernel dies the register is gone as well: a file is for one
//! boot, so that it need not reach the disk before the register is extended.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_evidence::claims::Tee;
use countersign_evidence::event_log::native::{Log, Record};
use countersign_evidence::event_log::{self, MAX_EVENTS, MAX_LOG};
use rustix::fs::{FlockOperation, flock};

use crate::machine::{explain, older_than, text, under};
use crate::{Attester, Detection, Error, Listener, Produced};

const DRIVER: &str = "tdx-rtmr";
/// Linux, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest: reading
/// gives the value, writing 48 bytes at once extends it.
const RTMR3: &str = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PREFIX: &str = "runtime-";
/// A log that we write leaves room for the evidence in a message of a round.
const MAX_WRITTEN: usize = MAX_LOG - (64 << 10);

/// A register that only grows.
pub(crate) trait Register: Send + Sync + fmt::Debug {
    fn read(&self) -> io::Result<event_log::Register>;
    fn extend(&self, digest: &event_log::Register) -> io::Result<()>;
}

/// The register as the kernel shows it.
#[derive(Debug)]
struct Sysfs {
    path: PathBuf,
}

impl Register for Sysfs {
    fn read(&self) -> io::Result<event_log::Register> {
        let mut value = [0; 48];
        File::open(&self.path)?.read_exact(&mut value)?;
        Ok(value)
    }

    fn extend(&self, digest: &event_log::Register) -> io::Result<()> {
        // One write: the kernel refuses a part.
        match OpenOptions::new().write(true).open(&self.path)?.write(digest)? {
            48 => Ok(()),
            n => Err(io::Error::new(io::ErrorKind::WriteZero, format!("{n} of 48 bytes were taken"))),
        }
    }
}

/// What is missing to measure events into RTMR 3 and to keep their log.
pub(crate) fn detect(root: &Path) -> Detection {
    let option = "no TDX guest, Linux before 6.16, or kernel option CONFIG_TDX_GUEST_DRIVER is off";
    let missing = match OpenOptions::new().read(true).write(true).open(under(root, RTMR3)) {
        Ok(_) => Vec::new(),
        Err(error) => older_than(root, (6, 16)).into_iter().chain([explain(RTMR3, option, &error)]).collect(),
    };
    Detection { driver: DRIVER, tee: Tee::Tdx, missing }
}

/// Lets `attester` measure events, with their log in `directory`.
pub(crate) fn attach(
    attester: Arc<dyn Attester>,
    root: &Path,
    directory: &Path,
) -> Result<Arc<dyn Attester>, Error> {
    let missing = detect(root).missing;
    if !missing.is_empty() {
        return Err(unavailable(missing.join("; ")));
    }
    let boot = text(root, BOOT_ID).map_err(|e| io_error(format!("read {BOOT_ID}"), e))?;
    let file = LogFile::open(directory, &boot)?;
    let register = Box::new(Sysfs { path: under(root, RTMR3) });
    Ok(Arc::new(Measuring { attester, log: RuntimeLog::resume(register, file)? }))
}

/// An attester whose evidence comes with the log.
#[derive(Debug)]
struct Measuring {
    attester: Arc<dyn Attester>,
    log: RuntimeLog,
}

impl Attester for Measuring {
    fn tee(&self) -> Tee {
        self.attester.tee()
    }

    fn driver(&self) -> &'static str {
        self.attester.driver()
    }

    fn emulated(&self) -> bool {
        self.attester.emulated()
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        let produced = self.attester.evidence(report_data)?;
        Ok(Produced { event_log: self.log.taken(), ..produced })
    }

    fn keeps_event_log(&self) -> bool {
        self.log.taken().is_some()
    }

    fn extend(&self, event: &Record<'_>) -> Result<u64, Error> {
        self.log.extend(event)
    }

    fn on_extended(&self, listener: Listener) {
        self.log.on_extended(listener);
    }
}

/// The file of one boot. Nobody else writes it while we have it.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
}

impl LogFile {
    fn open(directory: &Path, boot: &str) -> Result<Self, Error> {
        let name = format!("{PREFIX}{boot}.log");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| io_error(format!("create {}", directory.display()), e))?;
        let path = directory.join(&name);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io_error(format!("open {}", path.display()), e))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| unavailable(format!("another process keeps {}", path.display())))?;
        forget_others(directory, &name);
        Ok(Self { file, path })
    }

    fn error(&self, verb: &str, source: io::Error) -> Error {
        io_error(format!("{verb} {}", self.path.display()), source)
    }
}

/// The registers that the logs of earlier boots are about do not exist any more.
fn forget_others(directory: &Path, name: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let other = other.to_string_lossy();
        if other.starts_with(PREFIX) && other.ends_with(".log") && other != name {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Events that were measured into a register, in their order.
#[derive(Debug)]
pub(crate) struct RuntimeLog {
    register: Box<dyn Register>,
    state: Mutex<State>,
    listeners: Mutex<Listeners>,
}

#[derive(Debug)]
struct State {
    log: Arc<Log>,
    size: usize,
    /// `None`: for as long as this process lives.
    file: Option<LogFile>,
    /// Why the log does not lead to the register any more.
    broken: Option<String>,
}

#[derive(Default)]
struct Listeners(Vec<Listener>);

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} listeners", self.0.len())
    }
}

impl RuntimeLog {
    /// A log in memory. It is of no use when the register is not zero any more.
    pub(crate) fn new(register: Box<dyn Register>) -> Self {
        let zero = register.read().is_ok_and(|value| value == [0; 48]);
        let broken = (!zero).then(|| "RTMR 3 was not zero at the beginning".to_owned());
        let state = State { log: Arc::default(), size: 0, file: None, broken };
        Self { register, state: Mutex::new(state), listeners: Mutex::default() }
    }

    /// The register now.
    pub(crate) fn register(&self) -> Result<event_log::Register, Error> {
        self.register.read().map_err(|e| io_error(format!("read {RTMR3}"), e))
    }

    /// Goes on with what an earlier process of this boot has written.
    fn resume(register: Box<dyn Register>, mut file: LogFile) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        let limit = MAX_LOG as u64 + 1;
        (&mut file.file).take(limit).read_to_end(&mut bytes).map_err(|e| file.error("read", e))?;
        let damaged = |why: String| Error::Protocol(format!("{}: {why}", file.path.display()), DRIVER);
        if bytes.len() > MAX_LOG {
            return Err(damaged(format!("more than {MAX_LOG} bytes")));
        }
        let (log, torn) = Log::from_entries(&bytes).map_err(|finding| damaged(finding.to_string()))?;
        let whole = bytes.len() - torn;
        if torn > 0 {
            file.file.set_len(whole as u64).map_err(|e| file.error("cut", e))?;
        }
        let value = register.read().map_err(|e| io_error(format!("read {RTMR3}"), e))?;
        let last = log.len().checked_sub(1);
        if log.register_after(log.len()) != Some(value) {
            match last.filter(|n| log.register_after(*n) == Some(value)).and_then(|n| log.digest(n)) {
                Some(digest) => complete(&*register, &digest, log.register_after(log.len()))?,
                None => {
                    return Err(unavailable(format!(
                        "RTMR 3 is {} and the log of this boot, {} events, does not lead there: something \
                         else extends it, or the log was lost; restart the guest",
                        hex::encode(value),
                        log.len()
                    )));
                }
            }
        }
        let state = State { log: Arc::new(log), size: whole, file: Some(file), broken: None };
        Ok(Self { register, state: Mutex::new(state), listeners: Mutex::default() })
    }

    /// The log of what was measured until now, for evidence that was made before;
    /// `None` when it does not lead to the register.
    pub(crate) fn taken(&self) -> Option<Arc<Log>> {
        let state = self.state();
        state.broken.is_none().then(|| Arc::clone(&state.log))
    }

    /// Measures an event, and returns how many there are now.
    pub(crate) fn extend(&self, event: &Record<'_>) -> Result<u64, Error> {
        let count = self.state().extend(&*self.register, event)?;
        let listeners: Vec<_> =
            self.listeners.lock().unwrap_or_else(PoisonError::into_inner).0.iter().map(Arc::clone).collect();
        listeners.iter().for_each(|listener| listener(count));
        Ok(count)
    }

    pub(crate) fn on_extended(&self, listener: Listener) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).0.push(listener);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn extend(&mut self, register: &dyn Register, event: &Record<'_>) -> Result<u64, Error> {
        if let Some(why) = &self.broken {
            return Err(unavailable(why.clone()));
        }
        let entry = event.encode();
        if self.log.len() >= MAX_EVENTS as u64 || self.size + entry.len() > MAX_WRITTEN {
            let missing = format!("the log is full: {} events in {} bytes", self.log.len(), self.size);
            return Err(unavailable(missing));
        }
        let mut after = self.log.register_after(self.log.len()).unwrap_or([0; 48]);
        let before = after;
        event_log::extend(&mut after, &event.digest());
        self.append(&entry)?;
        let extended = register.extend(&event.digest());
        // What the register is decides, not what the call said.
        match (register.read(), extended) {
            (Ok(value), _) if value == after => {}
            (Ok(value), Err(error)) if value == before => {
                self.take_back();
                return Err(io_error("extend RTMR 3".to_owned(), error));
            }
            (Ok(_), _) => {
                return Err(self.break_off("something else extends RTMR 3: its log is not complete any more"));
            }
            (Err(error), _) => {
                return Err(self.break_off(&format!("RTMR 3 cannot be read any more: {error}")));
            }
        }
        Arc::make_mut(&mut self.log).push(event);
        self.size += entry.len();
        Ok(self.log.len())
    }

    fn append(&mut self, entry: &[u8]) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Err(error) = file.file.write_all(entry) {
            let error = file.error("write", error);
            self.take_back();
            return Err(error);
        }
        Ok(())
    }

    /// Removes an entry that was not measured, or what there is of it.
    fn take_back(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = file.file.set_len(self.size as u64)
        {
            self.broken = Some(format!("{}: {error}", file.path.display()));
        }
    }

    fn break_off(&mut self, why: &str) -> Error {
        tracing::error!(why, "runtime events cannot be measured any more");
        self.broken = Some(why.to_owned());
        unavailable(why.to_owned())
    }
}

/// Extends what the last process has announced and not done.
fn complete(
    register: &dyn Register,
    digest: &event_log::Register,
    expected: Option<event_log::Register>,
) -> Result<(), Error> {
    register.extend(digest).map_err(|e| io_error("extend RTMR 3".to_owned(), e))?;
    match register.read() {
        Ok(value) if Some(value) == expected => Ok(()),
        Ok(_) => Err(unavailable("something else extends RTMR 3".to_owned())),
        Err(error) => Err(io_error(format!("read {RTMR3}"), error)),
    }
}

fn unavailable(missing: String) -> Error {
    Error::Unavailable { driver: DRIVER, missing }
}

fn io_error(what: String, source: io::Error) -> Error {
    Error::Io { driver: DRIVER, what, source }
}

#[cfg(test)]
mod tests;
