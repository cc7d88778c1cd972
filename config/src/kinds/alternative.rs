//! What an alternative of an AttestationPolicy names, and what it may not say.

use super::attestation_policy::{Alternative, Measurements, Product, RuntimeEvents, TeeKind};
use super::scalar::{Hex, Name};
use crate::document::Path;

impl Alternative {
    /// The kind of TEE.
    #[must_use]
    pub const fn tee(&self) -> TeeKind {
        match self {
            Self::Tdx(_) => TeeKind::Tdx,
            Self::Sgx(_) => TeeKind::Sgx,
            Self::SevSnp(_) => TeeKind::SevSnp,
        }
    }

    /// The measurements.
    #[must_use]
    pub const fn measurements(&self) -> &Measurements {
        match self {
            Self::Tdx(b) => &b.measurements,
            Self::Sgx(b) => &b.measurements,
            Self::SevSnp(b) => &b.measurements,
        }
    }

    /// Whether only listed machines are accepted.
    #[must_use]
    pub const fn names_platforms(&self) -> bool {
        match self {
            Self::Tdx(b) => b.platforms.is_some() || b.platforms_from.is_some(),
            Self::Sgx(b) => b.platforms.is_some() || b.platforms_from.is_some(),
            Self::SevSnp(b) => b.platforms.is_some() || b.platforms_from.is_some(),
        }
    }

    /// The names of ReferenceValues that admit runtime events.
    #[must_use]
    pub fn event_sets(&self) -> &[Name] {
        match self {
            Self::Tdx(b) => match &b.runtime_events {
                Some(RuntimeEvents::Approved(approved)) => approved.names(),
                _ => &[],
            },
            Self::Sgx(_) | Self::SevSnp(_) => &[],
        }
    }

    /// The names of PlatformLists.
    #[must_use]
    pub fn platform_lists(&self) -> &[Name] {
        match self {
            Self::Tdx(b) => b.platforms_from.as_deref(),
            Self::Sgx(b) => b.platforms_from.as_deref(),
            Self::SevSnp(b) => b.platforms_from.as_deref(),
        }
        .unwrap_or_default()
    }
}

impl Alternative {
    /// The roots of vendors, and those of emulated platforms.
    fn roots(&self) -> (&[Hex<32>], &[Hex<32>]) {
        let (vendors, emulated) = match self {
            Self::Tdx(b) => (&b.roots, &b.emulated_roots),
            Self::Sgx(b) => (&b.roots, &b.emulated_roots),
            Self::SevSnp(b) => (&b.roots, &b.emulated_roots),
        };
        (vendors.as_deref().unwrap_or_default(), emulated)
    }

    pub(super) fn check(&self, block: &Path, report: &mut dyn FnMut(Path, String)) {
        let (vendors, emulated) = self.roots();
        for (i, root) in emulated.iter().enumerate().filter(|(_, root)| vendors.contains(root)) {
            let message =
                format!("{root} stands among `roots` as well: a root is a vendor's or an emulation's");
            report(block.key("emulatedRoots").index(i), message);
        }
        let advisories = match self {
            Self::Tdx(b) => &b.advisories,
            Self::Sgx(b) => &b.advisories,
            Self::SevSnp(b) => {
                let milan = b.products.iter().flatten().position(|p| *p == Product::Milan);
                if let Some(i) = milan.filter(|_| !self.names_platforms()) {
                    let message = "the keys of Milan chips can be extracted by software alone: \
                         list the machines in `platforms` or `platformsFrom`";
                    report(block.key("products").index(i), message.to_owned());
                }
                return;
            }
        };
        for (i, id) in advisories.iter().flatten().enumerate() {
            if !is_advisory(id) {
                let message = format!("`{id}` is not an advisory such as INTEL-SA-00615");
                report(block.key("advisories").index(i), message);
            }
        }
    }
}

fn is_advisory(id: &str) -> bool {
    id.strip_prefix("INTEL-").is_some_and(|rest| {
        (1..=32).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
    })
}
