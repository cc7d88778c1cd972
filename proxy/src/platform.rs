//! Who quotes for this proxy, as the bootstrap file names it.

use std::path::Path;
use std::sync::Arc;

use countersign_attester::emulated::Vendor;
use countersign_attester::{Attester, Error};
use countersign_config::bootstrap::{AttesterChoice, Machine};
use countersign_quoting::broker::Client;
use countersign_quoting::{Local, Source};

/// Opens the device of this machine, the broker that owns it, or the emulated
/// machine of the bootstrap file. The log of runtime events of a device is kept
/// under `state`; a broker keeps its own.
///
/// # Errors
/// What is missing on this machine, or in the directory of the emulated vendor.
pub async fn open(choice: &AttesterChoice, state: &Path) -> Result<Arc<dyn Source>, Error> {
    let attester = match choice {
        AttesterChoice::Device => {
            countersign_attester::open_measuring(Path::new("/"), &state.join("events"))?
        }
        AttesterChoice::Broker { socket } => return Ok(Arc::new(Client::open(socket).await?)),
        AttesterChoice::Emulated { vendor, machine } => emulated(&Vendor::load(vendor)?, machine)?,
    };
    Ok(Arc::new(Local::new(attester)))
}

fn emulated(vendor: &Vendor, machine: &Machine) -> Result<Arc<dyn Attester>, Error> {
    Ok(match machine {
        Machine::Tdx(spec) => vendor.tdx((**spec).clone())?,
        Machine::Sgx(spec) => vendor.sgx((**spec).clone())?,
        Machine::SevSnp(spec) => vendor.snp((**spec).clone())?,
    })
}
