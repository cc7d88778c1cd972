//! What the targets share: a vendor, whose genuine evidence and collateral they
//! start from, and a time.

pub mod session;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use countersign_attester::emulated::Vendor;
use countersign_evidence::{Anchors, UnixTime};

/// The trust domain of everything that is signed.
pub const TRUST_DOMAIN: &str = "fuzz.example";

/// The time at which everything is valid.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_795_219_200))
}

/// The same vendor in every process: the seeds are its work.
pub static VENDOR: LazyLock<Vendor> = LazyLock::new(|| {
    Vendor::load_or_generate(Path::new("corpus/vendor"), now(), Duration::from_secs(365 * 86_400))
        .expect("an emulated vendor")
});

/// The vendor's roots, as if it were genuine.
#[must_use]
pub fn anchors() -> Anchors {
    let mut anchors = Anchors::built_in();
    VENDOR.roots().into_iter().for_each(|root| anchors.admit_emulated(root));
    anchors
}
