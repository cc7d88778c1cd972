//! The emulated vendor of all tests. Its RSA keys take seconds to generate, so
//! it is made once for each target directory.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_attester::emulated::Vendor;
use countersign_evidence::UnixTime;

use crate::clock::{DAY, START};

/// The vendor, valid for years around [`START`].
///
/// # Panics
/// When the target directory cannot be used.
#[must_use]
pub fn vendor() -> Arc<Vendor> {
    static VENDOR: OnceLock<Arc<Vendor>> = OnceLock::new();
    Arc::clone(VENDOR.get_or_init(|| {
        let from = UnixTime::since_unix_epoch(Duration::from_secs(START - 100 * DAY));
        let directory = target().join("tmp").join(format!("emulated-vendor-{START}"));
        std::fs::create_dir_all(directory.parent().unwrap()).unwrap();
        Arc::new(Vendor::load_or_generate(&directory, from, Duration::from_secs(4000 * DAY)).unwrap())
    }))
}

/// Cargo's target directory: tests run from `<target>/<profile>/deps`.
///
/// # Panics
/// When the running program is somewhere else.
#[must_use]
pub fn target() -> PathBuf {
    profile().parent().unwrap().to_owned()
}

/// `<target>/<profile>`, where the built programs are.
///
/// # Panics
/// When the running program is somewhere else.
#[must_use]
pub fn profile() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(2).expect("a test runs from TARGET/PROFILE/deps").to_owned()
}
