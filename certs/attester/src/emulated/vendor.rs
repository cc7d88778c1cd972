//! The vendor: a PKI of two families, and the machines that it makes.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_evidence::claims::Window;
use countersign_evidence::collateral::Item;
use countersign_evidence::{Fingerprint, UnixTime};

use super::collateral::{self, CollateralSpec};
use super::quote::{EmulatedSgx, EmulatedTdx};
use super::report::EmulatedSnp;
use super::spec::{SgxSpec, SnpSpec, TdxSpec};
use super::x509::Serial;
use super::{amd, intel, store};
use crate::{Error, Pause, Sleep};

/// An emulated vendor of hardware, Intel and AMD at once.
///
/// The Intel-like family is there from the start. The AMD-like one has RSA keys,
/// which take about a second: it is made when it is first asked for.
pub struct Vendor {
    pub(super) window: Window,
    pub(super) intel: intel::Authority,
    pub(super) amd: Mutex<Family>,
    pause: Arc<dyn Pause>,
}

/// The AMD-like family, which may have to be made first.
pub(super) enum Family {
    /// Made when it is asked for.
    Later,
    /// There.
    Made(Arc<amd::Authority>),
    /// The vendor was saved without it. Making it now would give each process
    /// that loads the vendor another root.
    Absent,
}

impl fmt::Debug for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vendor").field("intel_root", &self.intel_root()).finish_non_exhaustive()
    }
}

impl Vendor {
    /// A new vendor, whose certificates are valid from `now` for `validity`.
    ///
    /// # Errors
    /// When a key cannot be generated.
    pub fn generate(now: UnixTime, validity: Duration) -> Result<Self, Error> {
        let from = now.as_secs();
        let window = Window { from, until: from.saturating_add(validity.as_secs()) };
        Ok(Self::from_parts(window, intel::Authority::generate(window)?, Family::Later))
    }

    pub(super) fn from_parts(window: Window, intel: intel::Authority, amd: Family) -> Self {
        Self { window, intel, amd: Mutex::new(amd), pause: Arc::new(Sleep) }
    }

    /// Machines made from now on let their latency pass through `pause`.
    #[must_use]
    pub fn with_pause(mut self, pause: Arc<dyn Pause>) -> Self {
        self.pause = pause;
        self
    }

    /// Writes keys (PKCS#8 PEM, mode 0600) and certificates (PEM) to `directory`,
    /// which is created with mode 0700. Each file is replaced atomically. The
    /// AMD-like family is saved when it was asked for before.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        store::save(self, directory)
    }

    /// Reads what [`save`](Self::save) wrote. A vendor that was saved without an
    /// AMD-like family has none.
    ///
    /// # Errors
    /// When a file is missing or damaged, or a key does not go with its certificate.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        store::load(directory)
    }

    /// Loads the vendor in `directory`, or generates one with both families and
    /// saves it there. Processes that do so at once end up with the same one.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), [`save`](Self::save) and [`load`](Self::load).
    pub fn load_or_generate(directory: &Path, now: UnixTime, validity: Duration) -> Result<Self, Error> {
        let _lock = store::lock(directory)?;
        if store::is_vendor(directory) {
            return Self::load(directory);
        }
        let vendor = Self::generate(now, validity)?;
        vendor.amd_root()?;
        vendor.save(directory)?;
        Ok(vendor)
    }

    /// The root of TDX and SGX machines.
    #[must_use]
    pub fn intel_root(&self) -> Fingerprint {
        Fingerprint::of(&self.intel.root.certificate)
    }

    /// The root of SEV-SNP machines. Makes the AMD-like family if need be.
    ///
    /// # Errors
    /// When a key cannot be generated, or the vendor was saved without this family.
    pub fn amd_root(&self) -> Result<Fingerprint, Error> {
        Ok(Fingerprint::of(&self.amd()?.ark.certificate))
    }

    /// The roots that are there: what a policy lists under `emulatedRoots`.
    #[must_use]
    pub fn roots(&self) -> Vec<Fingerprint> {
        let amd = self.amd_if_made().map(|amd| Fingerprint::of(&amd.ark.certificate));
        std::iter::once(self.intel_root()).chain(amd).collect()
    }

    /// When the certificates are valid.
    #[must_use]
    pub const fn window(&self) -> Window {
        self.window
    }

    /// The serial number of the PCK Platform CA, for the root's revocation list.
    ///
    /// # Errors
    /// When the public key cannot be encoded.
    pub fn platform_ca_serial(&self) -> Result<Serial, Error> {
        self.intel.platform_ca_serial()
    }

    /// The serial number of the TCB signing certificate, likewise.
    ///
    /// # Errors
    /// When the public key cannot be encoded.
    pub fn tcb_signing_serial(&self) -> Result<Serial, Error> {
        self.intel.tcb_signing_serial()
    }

    /// The serial number of the ASK, for AMD's revocation list.
    ///
    /// # Errors
    /// As [`amd_root`](Self::amd_root).
    pub fn ask_serial(&self) -> Result<Serial, Error> {
        self.amd()?.ask_serial()
    }

    /// The serial number of the ASVK, which signs VLEKs.
    ///
    /// # Errors
    /// As [`amd_root`](Self::amd_root).
    pub fn asvk_serial(&self) -> Result<Serial, Error> {
        self.amd()?.asvk_serial()
    }

    /// The collateral for machines with default specifications, issued at `now`.
    /// AMD's is part of it once an SEV-SNP machine or [`amd_root`](Self::amd_root)
    /// was asked for.
    ///
    /// # Errors
    /// When something cannot be signed.
    pub fn collateral(&self, now: UnixTime) -> Result<Vec<Item>, Error> {
        self.collateral_with(&CollateralSpec::default(), now)
    }

    /// The collateral as `spec` describes it, issued at `now` unless it says otherwise.
    ///
    /// # Errors
    /// When something cannot be signed.
    pub fn collateral_with(&self, spec: &CollateralSpec, now: UnixTime) -> Result<Vec<Item>, Error> {
        collateral::issue(self, spec, now)
    }

    /// A TDX guest on a machine of this vendor.
    ///
    /// # Errors
    /// When a key cannot be generated.
    pub fn tdx(&self, spec: TdxSpec) -> Result<Arc<EmulatedTdx>, Error> {
        EmulatedTdx::new(&self.intel, self.window, spec, Arc::clone(&self.pause)).map(Arc::new)
    }

    /// An SGX enclave on a machine of this vendor.
    ///
    /// # Errors
    /// When a key cannot be generated.
    pub fn sgx(&self, spec: SgxSpec) -> Result<Arc<EmulatedSgx>, Error> {
        EmulatedSgx::new(&self.intel, self.window, spec, Arc::clone(&self.pause)).map(Arc::new)
    }

    /// An SEV-SNP guest on a machine of this vendor.
    ///
    /// # Errors
    /// When a key cannot be generated, or the vendor was saved without this family.
    pub fn snp(&self, spec: SnpSpec) -> Result<Arc<EmulatedSnp>, Error> {
        EmulatedSnp::new(&*self.amd()?, self.window, spec, Arc::clone(&self.pause)).map(Arc::new)
    }

    fn amd(&self) -> Result<Arc<amd::Authority>, Error> {
        let mut family = self.amd.lock().unwrap_or_else(PoisonError::into_inner);
        match &*family {
            Family::Made(authority) => Ok(Arc::clone(authority)),
            Family::Later => {
                let authority = Arc::new(amd::Authority::generate(self.window)?);
                *family = Family::Made(Arc::clone(&authority));
                Ok(authority)
            }
            Family::Absent => Err(Error::Unavailable {
                driver: super::DRIVER,
                missing:
                    "this vendor was saved before an SEV-SNP machine was asked for and has no AMD root: \
                          generate it anew and ask for its AMD root before saving"
                        .to_owned(),
            }),
        }
    }

    /// The AMD-like family if it is there.
    pub(super) fn amd_if_made(&self) -> Option<Arc<amd::Authority>> {
        match &*self.amd.lock().unwrap_or_else(PoisonError::into_inner) {
            Family::Made(authority) => Some(Arc::clone(authority)),
            Family::Later | Family::Absent => None,
        }
    }
}
