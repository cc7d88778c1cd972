//! What the tests of several modules need.

use std::path::{Path, PathBuf};

/// The evidence corpus, where there is one: `COUNTERSIGN_CORPUS`, or
/// `shared/evidence` beside the repository.
pub(crate) fn corpus() -> Option<PathBuf> {
    let named = std::env::var_os("COUNTERSIGN_CORPUS").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/evidence");
    Some(named.unwrap_or_else(beside)).filter(|path| path.join("manifest.toml").is_file())
}
