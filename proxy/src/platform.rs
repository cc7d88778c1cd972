//! Who quotes for this proxy, as the bootstrap file names it.

use std::path::Path;
use std::sync::Arc;

use countersign_attester::emulated::Vendor;
use countersign_attester::{Attester, Error};
use countersign_config::bootstrap::{AttesterChoice, Machine};
use countersign_quoting::{Local, Source};

/// Opens the device of this machine, or the emulated machine of the bootstrap
/// file. The log of runtime events is kept under `state`.
///
/// # Errors
/// What is missing on this machine, or in the directory of the emulated vendor.
pub fn open(choice: &AttesterChoice, state: &Path) -> Result<Arc<dyn Source>, Error> {
    let (vendor, machine) = match choice {
        AttesterChoice::Device => {
            let attester = countersign_attester::open_measuring(Path::new("/"), &state.join("events"))?;
            return Ok(Arc::new(Local::new(attester)));
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
