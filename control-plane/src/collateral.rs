//! The directory with vendor collateral, read again when it changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use countersign_config::bootstrap::read_collateral;
use countersign_evidence::collateral::Item;

/// What a directory looks like from outside: names, sizes, modification times.
type Look = Vec<(std::ffi::OsString, u64, Option<SystemTime>)>;

/// A directory that is polled: file systems of guests do not all tell of changes.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    look: Option<Look>,
    items: Vec<Item>,
}

impl Directory {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path, look: None, items: Vec::new() }
    }

    /// What was read last.
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Reads again if something changed since the last time. Returns whether it did.
    /// After an error the last items stay, and the next call tries again.
    pub(crate) fn refresh(&mut self) -> io::Result<bool> {
        let read = self.read_again();
        read.map_err(|e| io::Error::new(e.kind(), format!("collateralDir {}: {e}", self.path.display())))
    }

    fn read_again(&mut self) -> io::Result<bool> {
        let look = look(&self.path)?;
        if self.look.as_ref() == Some(&look) {
            return Ok(false);
        }
        self.items = read_collateral(&self.path)?;
        self.look = Some(look);
        Ok(true)
    }
}

fn look(path: &Path) -> io::Result<Look> {
    let mut look = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A file that is replaced at this moment may be gone; the next look shows it.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        look.push((entry.file_name(), metadata.len(), metadata.modified().ok()));
    }
    look.sort();
    Ok(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let missing = Path::new("/no/such/collateral");
        let error = Directory::new(missing.to_owned()).refresh().unwrap_err();
        assert!(error.to_string().starts_with("collateralDir /no/such/collateral: "), "{error}");
    }
}
