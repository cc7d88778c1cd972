//! The socket file: made so that it is never open to more users than it should
//! be, and taken over from a broker that died, never from one that lives.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A socket that listens, and its file, which goes away with it.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: what another broker put in our place stays.
    identity: (u64, u64),
    /// Held for as long as the socket is ours.
    _lock: File,
}

impl Socket {
    /// Listens on `path` with the permissions `mode`, for the group `gid`.
    ///
    /// # Errors
    /// When another broker listens there, when `path` is something else than a
    /// socket, when others may replace what is in its directory, or when the
    /// system refuses.
    pub async fn bind(path: &Path, mode: u32, gid: Option<u32>) -> io::Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        check_directory(directory)?;
        let lock = lock(path)?;
        free(path).await?;
        // Bound under another name and moved into place when the permissions are
        // right: nobody finds it before.
        let new = beside(path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        let ready = || {
            if gid.is_some() {
                std::os::unix::fs::chown(&new, None, gid)?;
            }
            fs::set_permissions(&new, Permissions::from_mode(mode & 0o777))?;
            let metadata = fs::symlink_metadata(&new)?;
            fs::rename(&new, path)?;
            Ok((metadata.dev(), metadata.ino()))
        };
        let identity = ready().inspect_err(|_: &io::Error| drop(fs::remove_file(&new)))?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), identity, _lock: lock } })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays");
        }
    }
}

/// Who may write to the directory could put his own socket in the place of ours,
/// or, where the sticky bit keeps him from that, take the place before we come. So
/// nobody may but its owner, and that is the superuser or we.
fn check_directory(directory: &Path) -> io::Result<()> {
    let metadata = fs::metadata(directory)?;
    let owners = [0, rustix::process::geteuid().as_raw()];
    let others = metadata.mode() & 0o022 != 0;
    if others || !owners.contains(&metadata.uid()) {
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        let what = format!(
            "others may replace the files in {} (mode {mode:04o}, of user {owner}): put the socket into a \
             directory of its own",
            directory.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(())
}

/// One broker for a path. The lock ends with the process, however it ends; its
/// file stays, because removing it would let two brokers hold two locks.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(beside(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(taken(path)),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Makes sure that nothing is at `path`, or a socket on which nobody listens.
async fn free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let what = format!("{} is not a socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => Err(taken(path)),
        Err(error) => Err(error),
    }
}

fn taken(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("a broker listens on {} already", path.display()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
