//! A vendor for all tests.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use countersign_attester::emulated::Vendor;
use countersign_evidence::UnixTime;

/// The time at which tests run.
pub(crate) const NOW: u64 = 1_790_000_000;
/// Report data.
pub(crate) const DATA: [u8; 64] = [0x42; 64];

/// A point in time.
pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A vendor of a year with both families, the same for every test process of
/// this build directory: RSA keys of 4096 bits take seconds to generate.
pub(crate) static VENDOR: LazyLock<Vendor> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-vendor");
    Vendor::load_or_generate(&directory, at(NOW), Duration::from_secs(365 * 86400)).unwrap()
});
