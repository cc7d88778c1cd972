//! Who quotes for this proxy, as the bootstrap file names it.

use std::path::Path;
use std::sync::Arc;

use countersign_attester::emulated::Vendor;
use countersign_attester::{Attester, Error};
use countersign_config::bootstrap::{AttesterChoice, Machine};
use countersign_quoting::{Local, Source};

/// Opens the device of this machine, or the emulated machine of the bootstrap file.
///
/// # Errors
/// What is missing on this machine, or in the directory of the emulated vendor.
pub fn open(choice: &AttesterChoice) -> Result<Arc<dyn Source>, Error> {
    let (vendor, machine) = match choice {
        AttesterChoice::Device => {
            return Ok(Arc::new(Local::new(countersign_attester::open(Path::new("/"))?)));
        }
        AttesterChoice::Emulated { vendor, machine } => (Vendor::load(vendor)?, machine),
    };
    let attester = match machine {
        Machine::Tdx(spec) => vendor.tdx((**spec).clone())? as Arc<dyn Attester>,
        Machine::Sgx(spec) => vendor.sgx((**spec).clone())?,
        Machine::SevSnp(spec) => vendor.snp((**spec).clone())?,
    };
    Ok(Arc::new(Local::new(attester)))
}
