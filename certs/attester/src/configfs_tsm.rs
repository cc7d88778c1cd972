//! The kernel's own interface: `/sys/kernel/config/tsm/report` (Linux 6.7,
//! Documentation/ABI/testing/configfs-tsm).
//!
//! Each request makes an entry of its own, so that nobody else writes to it, and
//! all the same checks the generation, which counts the writes: configfs hands
//! a binary attribute to its owner when the file is closed, and tells nobody
//! when it was refused.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use countersign_evidence::claims::Tee;
use countersign_evidence::evidence::{TsmReport, media_type};
use rustix::io::Errno;

use crate::machine::{is_over, obstacle, older_than, read_bounded, text, under};
use crate::{Attester, Detection, Error, Pause, Produced, Sleep};

const DRIVER: &str = "configfs-tsm";
const CONFIGFS: &str = "/sys/kernel/config";
const REPORT: &str = "/sys/kernel/config/tsm/report";
const ATTEMPTS: u32 = 5;

/// What the driver needs of configfs.
trait Files: Send + Sync + fmt::Debug {
    fn make(&self, entry: &Path) -> io::Result<()>;
    fn write(&self, attribute: &Path, value: &[u8]) -> io::Result<()>;
    fn read(&self, attribute: &Path) -> io::Result<Vec<u8>>;
    fn remove(&self, entry: &Path) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug)]
struct Disk;

impl Files for Disk {
    fn make(&self, entry: &Path) -> io::Result<()> {
        fs::create_dir(entry)
    }

    fn write(&self, attribute: &Path, value: &[u8]) -> io::Result<()> {
        // Neither created nor truncated: attributes are there, or the entry is no report.
        OpenOptions::new().write(true).open(attribute)?.write_all(value)
    }

    fn read(&self, attribute: &Path) -> io::Result<Vec<u8>> {
        read_bounded(attribute)
    }

    fn remove(&self, entry: &Path) -> io::Result<()> {
        fs::remove_dir(entry)
    }
}

/// What is missing for `tee`. An entry says who provides it, but making one is
/// a side effect: the device node of the provider tells as well.
pub(crate) fn detect(root: &Path, tee: Tee) -> Detection {
    let mut missing = Vec::new();
    if let Some(old) = older_than(root, (6, 7)) {
        missing.push(old);
    } else if !under(root, CONFIGFS).is_dir() {
        missing.push(format!("{CONFIGFS} does not exist: kernel option CONFIG_CONFIGFS_FS"));
    } else if !mounted(root) {
        missing.push(format!("configfs is not mounted: mount -t configfs none {CONFIGFS}"));
    } else if let Some(obstacle) = obstacle(root, REPORT, "kernel option CONFIG_TSM_REPORTS, or modprobe tsm")
    {
        missing.push(obstacle);
    }
    let (node, option) = match tee {
        Tee::SevSnp => ("/dev/sev-guest", "no SEV-SNP guest, or kernel option CONFIG_SEV_GUEST is off"),
        Tee::Tdx | Tee::Sgx => {
            ("/dev/tdx_guest", "no TDX guest, or kernel option CONFIG_TDX_GUEST_DRIVER is off")
        }
    };
    if !under(root, node).exists() {
        missing.push(format!("{node} does not exist: {option}"));
    }
    Detection { driver: DRIVER, tee, missing }
}

/// Whether configfs is mounted where it belongs. A file system that cannot be
/// asked counts as mounted; the report directory decides then.
fn mounted(root: &Path) -> bool {
    text(root, "/proc/self/mounts")
        .map_or(true, |mounts| mounts.lines().any(|l| l.split(' ').nth(1) == Some(CONFIGFS)))
}

pub(crate) fn open(root: &Path, tee: Tee) -> Arc<dyn Attester> {
    Arc::new(ConfigfsTsm {
        directory: under(root, REPORT),
        tee,
        files: Box::new(Disk),
        pause: Box::new(Sleep),
    })
}

#[derive(Debug)]
struct ConfigfsTsm {
    directory: PathBuf,
    tee: Tee,
    files: Box<dyn Files>,
    pause: Box<dyn Pause>,
}

/// What one attempt came to.
enum Attempt {
    Done(Blobs),
    /// Busy, or somebody else wrote: another entry may do better.
    Again(Error),
}

struct Blobs {
    provider: String,
    outblob: Vec<u8>,
    auxblob: Vec<u8>,
}

impl Attester for ConfigfsTsm {
    fn tee(&self) -> Tee {
        self.tee
    }

    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        let mut wait = Duration::from_millis(20);
        let mut attempt = 1;
        let blobs = loop {
            match self.attempt(report_data)? {
                Attempt::Done(blobs) => break blobs,
                Attempt::Again(error) if attempt == ATTEMPTS => return Err(error),
                Attempt::Again(error) => {
                    tracing::debug!(%error, attempt, "trying again");
                    self.pause.pause(wait);
                    wait *= 2;
                    attempt += 1;
                }
            }
        };
        let (expected, media_type) = match self.tee {
            Tee::SevSnp => ("sev_guest", media_type::TSM_SNP),
            Tee::Tdx | Tee::Sgx => ("tdx_guest", media_type::TSM_TDX),
        };
        if blobs.provider != expected {
            return Err(Error::Protocol(
                format!("the provider is {:?} and not {expected:?}", blobs.provider),
                DRIVER,
            ));
        }
        is_over(&blobs.outblob, report_data, DRIVER)?;
        let auxblob = (!blobs.auxblob.is_empty()).then(|| blobs.auxblob.into());
        let report = TsmReport { provider: expected.into(), outblob: blobs.outblob.into(), auxblob };
        Ok(Produced::new(media_type, report.encode()))
    }
}

impl ConfigfsTsm {
    fn attempt(&self, report_data: &[u8; 64]) -> Result<Attempt, Error> {
        let mut tag = [0; 8];
        rand::fill(&mut tag).map_err(|_| Error::Crypto("draw random bytes"))?;
        let entry = self.directory.join(format!("countersign-{}", hex::encode(tag)));
        let outcome = match self.files.make(&entry) {
            Ok(()) => {
                let _remove = Remove { files: &*self.files, entry: &entry };
                self.fill(&entry, report_data)
            }
            Err(e) => Err(io_error(format!("create {}", entry.display()), e)),
        };
        match outcome {
            Err(error) if is_transient(&error) => Ok(Attempt::Again(error)),
            Err(error) => Err(error),
            Ok(attempt) => Ok(attempt),
        }
    }

    fn fill(&self, entry: &Path, report_data: &[u8; 64]) -> Result<Attempt, Error> {
        let before = self.generation(entry)?;
        let mut writes = 0;
        // In a guest above VMPL 0 (under an SVSM) level 0 is not ours to ask for.
        match self.read(entry, "privlevel_floor") {
            Ok(floor) if floor.trim_ascii() != b"0" => {
                self.write(entry, "privlevel", floor.trim_ascii())?;
                writes += 1;
            }
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        self.write(entry, "inblob", report_data)?;
        writes += 1;
        let outblob = self.read(entry, "outblob")?;
        let auxblob = match self.read(entry, "auxblob") {
            Ok(auxblob) => auxblob,
            Err(error) if is_absent(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let provider = String::from_utf8_lossy(&self.read(entry, "provider")?).trim().to_owned();
        let after = self.generation(entry)?;
        if after != before.wrapping_add(writes) {
            return Ok(Attempt::Again(Error::Protocol(
                format!(
                    "the generation went from {before} to {after} in {writes} writes: somebody else writes"
                ),
                DRIVER,
            )));
        }
        Ok(Attempt::Done(Blobs { provider, outblob, auxblob }))
    }

    fn generation(&self, entry: &Path) -> Result<u32, Error> {
        let text = self.read(entry, "generation")?;
        std::str::from_utf8(text.trim_ascii()).ok().and_then(|t| t.parse().ok()).ok_or_else(|| {
            Error::Protocol(
                format!("generation is {:?} and no number", text.escape_ascii().to_string()),
                DRIVER,
            )
        })
    }

    fn read(&self, entry: &Path, attribute: &str) -> Result<Vec<u8>, Error> {
        let path = entry.join(attribute);
        self.files.read(&path).map_err(|e| io_error(format!("read {}", path.display()), e))
    }

    fn write(&self, entry: &Path, attribute: &str, value: &[u8]) -> Result<(), Error> {
        let path = entry.join(attribute);
        self.files.write(&path, value).map_err(|e| io_error(format!("write {}", path.display()), e))
    }
}

/// Removes the entry on every way out.
struct Remove<'a> {
    files: &'a dyn Files,
    entry: &'a Path,
}

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.files.remove(self.entry) {
            tracing::warn!(%error, entry = %self.entry.display(), "cannot remove the report entry");
        }
    }
}

fn io_error(what: String, source: io::Error) -> Error {
    if Errno::from_io_error(&source) == Some(Errno::NXIO) {
        // tsm_report_make_item without a registered provider
        return Error::Unavailable {
            driver: DRIVER,
            missing: "no TEE driver has registered itself: kernel option CONFIG_TDX_GUEST_DRIVER or \
                      CONFIG_SEV_GUEST, or modprobe tdx-guest or sev-guest"
                .to_owned(),
        };
    }
    Error::Io { driver: DRIVER, what, source }
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::Io { source, .. } => Errno::from_io_error(source),
        _ => None,
    }
}

fn is_transient(error: &Error) -> bool {
    matches!(errno(error), Some(Errno::BUSY | Errno::AGAIN | Errno::INTR | Errno::EXIST))
}

fn is_absent(error: &Error) -> bool {
    errno(error) == Some(Errno::NOENT)
}

#[cfg(test)]
mod tests;
