//! A mesh: what all processes of a test share, and the control plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_attester::Attester;
use countersign_attester::emulated::{CollateralSpec, SnpSpec, TdxSpec, Vendor};
use countersign_evidence::collateral::Item;

use crate::clock::Clock;
use crate::plane::Plane;
use crate::policy::Policy;
use crate::proxy::Sidecar;
use crate::relay::Relay;
use crate::vendor::vendor;

/// The machine that somebody runs on.
#[derive(Clone, Debug)]
pub enum Platform {
    /// An Intel TDX guest.
    Tdx(TdxSpec),
    /// An AMD SEV-SNP guest.
    Snp(SnpSpec),
}

impl Default for Platform {
    fn default() -> Self {
        Self::Tdx(TdxSpec::default())
    }
}

impl Platform {
    /// A TDX guest with this byte as its MRTD.
    #[must_use]
    pub fn tdx(mr_td: u8) -> Self {
        Self::Tdx(TdxSpec { mr_td: [mr_td; 48], ..TdxSpec::default() })
    }

    /// A SEV-SNP guest that is as the policy wants it.
    #[must_use]
    pub fn snp() -> Self {
        Self::Snp(SnpSpec::default())
    }

    /// A TDX guest that can be debugged.
    #[must_use]
    pub fn debuggable() -> Self {
        let td_attributes = [1, 0, 0, 0x10, 0, 0, 0, 0];
        Self::Tdx(TdxSpec { td_attributes, ..TdxSpec::default() })
    }

    /// The driver of such a machine, made by `vendor`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn attester(&self, vendor: &Vendor) -> Arc<dyn Attester> {
        match self {
            Self::Tdx(spec) => vendor.tdx(spec.clone()).unwrap(),
            Self::Snp(spec) => vendor.snp(spec.clone()).unwrap(),
        }
    }
}

/// What all processes share, and the control plane, which can be away.
#[derive(Debug)]
pub struct Mesh {
    /// The vendor of all machines.
    pub vendor: Arc<Vendor>,
    /// The time of all processes.
    pub clock: Clock,
    /// The way of proxies to the control plane.
    pub relay: Relay,
    /// The control plane.
    pub plane: Option<Plane>,
    directory: tempfile::TempDir,
}

impl Mesh {
    /// A mesh whose control plane is not there yet.
    ///
    /// # Panics
    /// When the file system or the network refuses.
    pub async fn without_control_plane() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (vendor, clock, relay) = (vendor(), Clock::default(), Relay::start().await);
        let mesh = Self { vendor, clock, relay, plane: None, directory };
        std::fs::create_dir(mesh.collateral_directory()).unwrap();
        mesh.publish(&CollateralSpec::default());
        mesh
    }

    /// A mesh with a control plane and no resources.
    pub async fn empty() -> Self {
        let mut mesh = Self::without_control_plane().await;
        mesh.start_plane().await;
        mesh
    }

    /// A mesh whose operator has applied `policy`.
    pub async fn with(policy: &Policy) -> Self {
        let mesh = Self::empty().await;
        mesh.apply(policy).await;
        mesh
    }

    /// Starts the control plane on whatever state there is.
    pub async fn start_plane(&mut self) {
        let platform = Platform::Tdx(Plane::platform());
        let plane = self.foreign_plane(&self.state(), &platform).await;
        self.relay.point_to(Some(plane.addresses.server));
        self.plane = Some(plane);
    }

    /// A control plane on any state and platform, to which no proxy is led yet.
    pub async fn foreign_plane(&self, state: &Path, platform: &Platform) -> Plane {
        let attester = platform.attester(&self.vendor);
        Plane::start(state, &self.collateral_directory(), &self.clock, attester).await
    }

    /// Takes the control plane away.
    ///
    /// # Panics
    /// When there is none.
    pub async fn stop_plane(&mut self) {
        self.relay.point_to(None);
        self.plane.take().expect("a control plane").stop().await;
    }

    /// The control plane.
    ///
    /// # Panics
    /// When it is away.
    #[must_use]
    pub fn plane(&self) -> &Plane {
        self.plane.as_ref().expect("the control plane is away")
    }

    /// Applies `policy`; the generation that has it.
    pub async fn apply(&self, policy: &Policy) -> u64 {
        self.plane().apply(&policy.yaml(&self.vendor)).await
    }

    /// A sidecar for `demo/NAME`, to be described and started.
    #[must_use]
    pub fn sidecar(&self, name: &'static str) -> Sidecar<'_> {
        Sidecar::new(self, name)
    }

    /// What the vendor publishes now goes where the control plane looks for it.
    ///
    /// # Panics
    /// When it cannot be signed or written.
    pub fn publish(&self, spec: &CollateralSpec) {
        self.publish_items(&self.collateral(spec));
    }

    /// What the vendor publishes now.
    ///
    /// # Panics
    /// When it cannot be signed.
    #[must_use]
    pub fn collateral(&self, spec: &CollateralSpec) -> Vec<Item> {
        self.vendor.collateral_with(spec, self.clock.now()).unwrap()
    }

    /// Replaces the files of the collateral directory, each atomically.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn publish_items(&self, items: &[Item]) {
        let directory = self.collateral_directory();
        for item in items {
            let name = item.name.replace('/', "-");
            let draft = directory.join(format!(".{name}"));
            std::fs::write(&draft, &item.bytes).unwrap();
            std::fs::rename(draft, directory.join(name)).unwrap();
        }
        if let Some(plane) = &self.plane {
            plane.handle.tick();
        }
    }

    /// The control plane's state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("control-plane")
    }

    /// The directory of the test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn collateral_directory(&self) -> PathBuf {
        self.directory.path().join("collateral")
    }
}
