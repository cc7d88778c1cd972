//! What the drivers ask about the machine, and how they say what is missing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::Error;

/// The largest blob that a device hands out (Linux: TSM_OUTBLOB_MAX is 32 KiB,
/// certificate tables are up to 16 KiB).
pub(crate) const BLOB_LIMIT: u64 = 64 * 1024;

/// `path` (absolute) in the file system that starts at `root`.
pub(crate) fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// What keeps us from reading and writing the device node or directory `path`,
/// if anything; `option` is what provides it.
pub(crate) fn obstacle(root: &Path, path: &str, option: &str) -> Option<String> {
    match access(under(root, path), Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => None,
        Err(error) => Some(explain(path, option, &error.into())),
    }
}

/// One sentence about why `path` cannot be used.
pub(crate) fn explain(path: &str, option: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{path} does not exist: {option}"),
        io::ErrorKind::PermissionDenied => {
            format!("no permission to read and write {path}: run as root, or give this user access to it")
        }
        _ => format!("{path} cannot be used: {error}"),
    }
}

/// Major and minor version of the running kernel, with its full name.
pub(crate) fn kernel(root: &Path) -> Option<(u32, u32, String)> {
    let name = text(root, "/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = name.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    Some((major, minor, name))
}

/// Whether the running kernel is older than `major.minor`; `None` when unknown.
pub(crate) fn older_than(root: &Path, version: (u32, u32)) -> Option<String> {
    let (major, minor, name) = kernel(root)?;
    ((major, minor) < version)
        .then(|| format!("the kernel is {name}, and this needs Linux {}.{} or later", version.0, version.1))
}

/// A small text file without the white space around it.
pub(crate) fn text(root: &Path, path: &str) -> io::Result<String> {
    fs::read_to_string(under(root, path)).map(|s| s.trim().to_owned())
}

/// All of a file, but not more than [`BLOB_LIMIT`].
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BLOB_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BLOB_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more than 64 KiB"));
    }
    Ok(bytes)
}

/// Refuses a quote or report that is not over `report_data`: whoever shares the
/// device with us may have changed its input between our steps.
pub(crate) fn is_over(evidence: &[u8], report_data: &[u8; 64], driver: &'static str) -> Result<(), Error> {
    if evidence.windows(report_data.len()).any(|window| window == report_data) {
        Ok(())
    } else {
        Err(Error::Protocol("the device answered with a report over other data".to_owned(), driver))
    }
}
