use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::*;

/// An entry as the kernel keeps it (drivers/virt/coco/guest/report.c).
#[derive(Debug, Default)]
struct Entry {
    inblob: Vec<u8>,
    privlevel: Option<u32>,
    generation: u32,
}

/// What goes wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Reading outblob answers with this error number.
    Busy(Errno),
    /// Somebody else writes to the entry while we read.
    ForeignWrite,
    /// The write of the attribute is lost, as configfs does when its owner refuses it.
    LostWrite,
    /// Nobody has registered as a provider.
    NoProvider,
    /// The blob is over other data.
    OtherData,
}

/// A kernel with a report provider.
#[derive(Debug)]
struct Kernel {
    provider: &'static str,
    auxblob: Vec<u8>,
    floor: Option<u32>,
    fault: Option<(Fault, u32)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<PathBuf, Entry>,
    made: u32,
    faults: u32,
}

impl Kernel {
    fn new(provider: &'static str) -> Self {
        Self { provider, auxblob: Vec::new(), floor: None, fault: None, state: Mutex::default() }
    }

    fn failing(fault: Fault, times: u32) -> Self {
        Self { fault: Some((fault, times)), ..Self::new("tdx_guest") }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the fault happens now.
    fn now(&self, fault: Fault, state: &mut State) -> bool {
        let happens = self.fault.is_some_and(|(f, times)| f == fault && state.faults < times);
        state.faults += u32::from(happens);
        happens
    }
}

fn split(path: &Path) -> (PathBuf, &str) {
    (path.parent().unwrap().to_owned(), path.file_name().unwrap().to_str().unwrap())
}

impl Files for Arc<Kernel> {
    fn make(&self, entry: &Path) -> io::Result<()> {
        let mut state = self.state();
        if self.now(Fault::NoProvider, &mut state) {
            return Err(Errno::NXIO.into());
        }
        state.made += 1;
        assert!(state.entries.insert(entry.to_owned(), Entry::default()).is_none(), "names are unique");
        Ok(())
    }

    fn write(&self, attribute: &Path, value: &[u8]) -> io::Result<()> {
        let (entry, name) = split(attribute);
        let mut state = self.state();
        if self.now(Fault::LostWrite, &mut state) {
            return Ok(());
        }
        let entry = state.entries.get_mut(&entry).ok_or(Errno::NOENT)?;
        match name {
            "inblob" if value.len() <= 64 => entry.inblob = value.to_vec(),
            "privlevel" => entry.privlevel = std::str::from_utf8(value).unwrap().parse().ok(),
            _ => return Err(Errno::INVAL.into()),
        }
        entry.generation += 1;
        Ok(())
    }

    fn read(&self, attribute: &Path) -> io::Result<Vec<u8>> {
        let (entry, name) = split(attribute);
        let mut state = self.state();
        let busy = match self.fault {
            Some((Fault::Busy(errno), _)) if name == "outblob" => {
                self.now(Fault::Busy(errno), &mut state).then_some(errno)
            }
            _ => None,
        };
        let foreign = name == "auxblob" && self.now(Fault::ForeignWrite, &mut state);
        let other = name == "outblob" && self.now(Fault::OtherData, &mut state);
        let entry = state.entries.get_mut(&entry).ok_or(Errno::NOENT)?;
        entry.generation += u32::from(foreign);
        match name {
            _ if busy.is_some() => Err(busy.unwrap().into()),
            "generation" => Ok(format!("{}\n", entry.generation).into_bytes()),
            "provider" => Ok(format!("{}\n", self.provider).into_bytes()),
            "privlevel_floor" => {
                self.floor.map(|f| format!("{f}\n").into_bytes()).ok_or_else(|| Errno::NOENT.into())
            }
            // A report is only made once there is something to report on, and
            // not for a level that is more privileged than the guest.
            "outblob" if entry.inblob.is_empty() || entry.privlevel < self.floor => Err(Errno::INVAL.into()),
            "outblob" if other => Ok(vec![7; 1024]),
            "outblob" => Ok([b"report over ", &entry.inblob[..]].concat()),
            "auxblob" => Ok(self.auxblob.clone()),
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn remove(&self, entry: &Path) -> io::Result<()> {
        self.state().entries.remove(entry).map(|_| ()).ok_or_else(|| Errno::NOENT.into())
    }
}

#[derive(Clone, Debug, Default)]
struct Count(Arc<Mutex<Vec<Duration>>>);

impl Pause for Count {
    fn pause(&self, duration: Duration) {
        self.0.lock().unwrap().push(duration);
    }
}

fn driver(kernel: Kernel, tee: Tee) -> (ConfigfsTsm, Arc<Kernel>, Count) {
    let (kernel, pause) = (Arc::new(kernel), Count::default());
    let driver = ConfigfsTsm {
        directory: REPORT.into(),
        tee,
        files: Box::new(Arc::clone(&kernel)),
        pause: Box::new(pause.clone()),
    };
    (driver, kernel, pause)
}

const DATA: [u8; 64] = [0x42; 64];

#[test]
fn a_report_is_over_our_data_and_leaves_nothing_behind() {
    let (driver, kernel, pause) = driver(Kernel::new("tdx_guest"), Tee::Tdx);
    let produced = driver.evidence(&DATA).unwrap();
    assert_eq!(produced.media_type, media_type::TSM_TDX);
    let report = TsmReport::decode(&produced.value).unwrap();
    assert_eq!(&*report.outblob, [b"report over ", &DATA[..]].concat());
    assert_eq!(report.auxblob, None);
    assert!(kernel.state().entries.is_empty());
    assert!(pause.0.lock().unwrap().is_empty());
}

#[test]
fn the_certificates_of_an_snp_host_come_along() {
    let (driver, ..) = driver(Kernel { auxblob: vec![9; 4096], ..Kernel::new("sev_guest") }, Tee::SevSnp);
    let produced = driver.evidence(&DATA).unwrap();
    assert_eq!(produced.media_type, media_type::TSM_SNP);
    assert_eq!(TsmReport::decode(&produced.value).unwrap().auxblob.unwrap().len(), 4096);
}

#[test]
fn a_guest_under_an_svsm_asks_for_its_own_level() {
    let (driver, ..) = driver(Kernel { floor: Some(2), ..Kernel::new("sev_guest") }, Tee::SevSnp);
    driver.evidence(&DATA).unwrap();
}

#[test]
fn a_busy_device_is_asked_again_with_growing_pauses() {
    for errno in [Errno::BUSY, Errno::AGAIN, Errno::INTR] {
        let (driver, kernel, pause) = driver(Kernel::failing(Fault::Busy(errno), 3), Tee::Tdx);
        driver.evidence(&DATA).unwrap();
        assert_eq!(*pause.0.lock().unwrap(), [20, 40, 80].map(Duration::from_millis));
        assert_eq!(kernel.state().made, 4, "each attempt has an entry of its own");
        assert!(kernel.state().entries.is_empty());
    }
}

#[test]
fn a_device_that_stays_busy_is_given_up() {
    let (driver, kernel, _) = driver(Kernel::failing(Fault::Busy(Errno::BUSY), u32::MAX), Tee::Tdx);
    let error = driver.evidence(&DATA).unwrap_err();
    assert!(matches!(&error, Error::Io { .. }), "{error}");
    assert_eq!(kernel.state().made, ATTEMPTS);
    assert!(kernel.state().entries.is_empty());
}

#[test]
fn a_generation_that_moved_without_us_starts_over() {
    let (driver, kernel, _) = driver(Kernel::failing(Fault::ForeignWrite, 1), Tee::Tdx);
    driver.evidence(&DATA).unwrap();
    assert_eq!(kernel.state().made, 2);
}

#[test]
fn a_generation_that_always_moves_is_an_error_that_names_it() {
    let (driver, ..) = driver(Kernel::failing(Fault::ForeignWrite, u32::MAX), Tee::Tdx);
    assert!(driver.evidence(&DATA).unwrap_err().to_string().contains("generation went from 0 to 2"));
}

#[test]
fn a_write_that_was_lost_is_noticed() {
    let (driver, ..) = driver(Kernel::failing(Fault::LostWrite, u32::MAX), Tee::Tdx);
    driver.evidence(&DATA).unwrap_err();
}

#[test]
fn a_report_over_other_data_is_refused() {
    let (driver, ..) = driver(Kernel::failing(Fault::OtherData, 1), Tee::Tdx);
    assert!(driver.evidence(&DATA).unwrap_err().to_string().contains("over other data"));
}

#[test]
fn a_kernel_without_a_provider_says_which_driver_to_load() {
    let (driver, ..) = driver(Kernel::failing(Fault::NoProvider, 1), Tee::Tdx);
    let error = driver.evidence(&DATA).unwrap_err();
    assert!(matches!(&error, Error::Unavailable { missing, .. } if missing.contains("modprobe")), "{error}");
}

#[test]
fn the_provider_of_another_tee_is_refused() {
    let (driver, ..) = driver(Kernel::new("sev_guest"), Tee::Tdx);
    assert!(driver.evidence(&DATA).unwrap_err().to_string().contains("\"sev_guest\""));
}

#[test]
fn the_disk_neither_creates_nor_truncates_attributes() {
    let root = tempfile::tempdir().unwrap();
    let attribute = root.path().join("inblob");
    assert_eq!(Disk.write(&attribute, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::write(&attribute, b"0123456789").unwrap();
    Disk.write(&attribute, b"ab").unwrap();
    assert_eq!(Disk.read(&attribute).unwrap(), b"ab23456789");
    fs::write(&attribute, vec![0; 64 * 1024 + 1]).unwrap();
    assert_eq!(Disk.read(&attribute).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
