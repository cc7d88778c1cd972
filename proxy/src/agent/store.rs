//! What survives a restart: the last good snapshot, how new collateral has
//! already been, and when our last certificate was signed. The snapshot is
//! verified again when it is read.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_config::bootstrap::read_collateral;
use countersign_evidence::Fingerprint;
use countersign_evidence::collateral::{Item, Marks};
use countersign_ratls::Bundle;
use countersign_wire::{MAX_SNAPSHOT, Snapshot, Unverified};

const SNAPSHOT: &str = "snapshot";
const MARKS: &str = "marks.json";
const CLOCK: &str = "clock";
const COLLATERAL: &str = "collateral";
const LOCK: &str = "lock";
/// Above every genuine file, so that a damaged disk cannot fill the memory.
const LARGEST: u64 = MAX_SNAPSHOT as u64 + (32 << 20);

/// The state directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    /// Held for as long as anybody may write.
    _lock: Arc<fs::File>,
}

impl Store {
    /// Opens the directory, and creates it for this user alone if need be.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self { directory: directory.to_owned(), _lock: Arc::new(lock(&directory.join(LOCK))?) })
    }

    /// The last good snapshot. One that is damaged, or that `bundle` does not
    /// vouch for, is as good as none, and somebody should look.
    pub(crate) fn snapshot(&self, bundle: &Bundle) -> Option<Snapshot> {
        let bytes = self.read(SNAPSHOT)?;
        let verified = Unverified::decode(&bytes).and_then(|stored| stored.verify(bundle));
        verified.inspect_err(|error| tracing::error!(%error, "the stored snapshot is not used")).ok()
    }

    /// How new collateral has already been.
    pub(crate) fn marks(&self) -> Marks {
        let Some(bytes) = self.read(MARKS) else { return Marks::default() };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!(%error, "the stored collateral marks are damaged; starting anew");
            Marks::default()
        })
    }

    /// The second at which the last of our certificates was signed; 0 when there was none.
    pub(crate) fn signed(&self) -> u64 {
        let Some(bytes) = self.read(CLOCK) else { return 0 };
        let second = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
        second.unwrap_or_else(|| {
            tracing::error!("the stored time is damaged; collateral alone says what time it is not");
            0
        })
    }

    /// Keeps it.
    pub(crate) fn keep_signed(&self, second: u64) -> io::Result<()> {
        self.write(CLOCK, format!("{second}\n").as_bytes())
    }

    /// The collateral by which the control plane was verified last.
    pub(crate) fn collateral(&self) -> Vec<Item> {
        read_collateral(&self.directory.join(COLLATERAL)).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(%error, "the stored collateral cannot be read");
            }
            Vec::new()
        })
    }

    /// Keeps the collateral by which the control plane is verified, and nothing
    /// else. Files are named by their content, so that a crash leaves no mixture.
    pub(crate) fn keep_collateral(&self, items: &[Item]) -> io::Result<()> {
        let directory = self.directory.join(COLLATERAL);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let names: Vec<_> = items.iter().map(|item| Fingerprint::of(&item.bytes).to_string()).collect();
        for (item, name) in items.iter().zip(&names) {
            if !directory.join(name).exists() {
                self.write(&format!("{COLLATERAL}/{name}"), &item.bytes)?;
            }
        }
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !names.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Keeps both.
    pub(crate) fn keep(&self, snapshot: &Snapshot, marks: &Marks) -> io::Result<()> {
        self.write(MARKS, &serde_json::to_vec(marks)?)?;
        self.write(SNAPSHOT, &snapshot.encode())
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.directory.join(name);
        let read = fs::File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(LARGEST).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "stored state cannot be read");
                None
            }
        }
    }

    /// Replaces a file so that a crash leaves either the old or the new one.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.directory.join(format!("{name}.new"));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let path = self.directory.join(name);
        fs::rename(&fresh, &path)?;
        fs::File::open(path.parent().unwrap_or(&self.directory))?.sync_all()
    }
}

/// Takes the directory for this process: two that write in turns would go back
/// behind what each of them has seen. The system frees it when the process ends.
fn lock(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::Error(error)) => return Err(error),
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&file).take(32).read_to_string(&mut holder);
            let holder = holder
                .trim()
                .parse::<u32>()
                .map_or("another process".to_owned(), |pid| format!("process {pid}"));
            let why = format!("{holder} uses it; give each proxy a stateDir of its own");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_evidence::collateral::Mark;
    use countersign_ratls::TrustDomain;
    use countersign_wire::SnapshotKey;
    use countersign_wire::snapshot::Entries;
    use std::os::unix::fs::PermissionsExt;

    fn bundle(key: &SnapshotKey) -> Bundle {
        Bundle {
            trust_domain: TrustDomain::parse("prod.example").unwrap(),
            x509_authorities: Vec::new(),
            snapshot_keys: vec![key.public()],
            sequence: 1,
            refresh_hint: None,
        }
    }

    #[test]
    fn what_is_kept_comes_back_for_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let key = SnapshotKey::generate().unwrap();
        let bundle = bundle(&key);
        assert!(store.snapshot(&bundle).is_none());
        let snapshot = Snapshot::sign(bundle.trust_domain.clone(), 7, Entries::new(), &key).unwrap();
        let mut marks = Marks::default();
        marks.newest.insert("crl x".into(), Mark { number: 3, issued: 4 });
        store.keep(&snapshot, &marks).unwrap();
        assert_eq!(store.snapshot(&bundle), Some(snapshot));
        assert_eq!(store.marks(), marks);
        assert_eq!(store.signed(), 0);
        store.keep_signed(1_800_000_000).unwrap();
        assert_eq!(store.signed(), 1_800_000_000);
        let mode = fs::metadata(dir.path().join("state/snapshot")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn collateral_comes_back_and_what_is_no_longer_used_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let item = |text: &str| Item { name: text.to_owned(), bytes: text.as_bytes().to_vec() };
        let bytes = || -> Vec<_> { store.collateral().into_iter().map(|item| item.bytes).collect() };
        assert!(bytes().is_empty());
        store.keep_collateral(&[item("old"), item("crl")]).unwrap();
        store.keep_collateral(&[item("crl"), item("new")]).unwrap();
        let mut kept = bytes();
        kept.sort();
        assert_eq!(kept, [b"crl".to_vec(), b"new".to_vec()]);
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        let told = Store::open(dir.path()).unwrap_err().to_string();
        assert!(told.contains(&format!("process {} uses it", std::process::id())), "{told}");
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn a_snapshot_that_the_bundle_does_not_vouch_for_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = SnapshotKey::generate().unwrap();
        let trusted = bundle(&SnapshotKey::generate().unwrap());
        let snapshot = Snapshot::sign(trusted.trust_domain.clone(), 7, Entries::new(), &key).unwrap();
        store.keep(&snapshot, &Marks::default()).unwrap();
        assert!(store.snapshot(&trusted).is_none());
        fs::write(dir.path().join(SNAPSHOT), b"damage").unwrap();
        assert!(store.snapshot(&bundle(&key)).is_none());
    }
}
