//! AMD products and TCB versions.

use std::fmt;

use crate::finding::Finding;
use crate::reason::Reason;

/// The families of EPYC processors whose reports can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub enum Product {
    Milan,
    /// Also Bergamo and Siena: they share Genoa's keys.
    Genoa,
    Turin,
}

impl Product {
    /// Every product.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// AMD's name, as in certificates and in the addresses of its key server.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The product of the processor that CPUID names (combined family and model).
    ///
    /// # Errors
    /// When the processor is unknown, or is a Venice, for which AMD has not
    /// published a certificate authority.
    pub fn from_cpuid(family: u8, model: u8) -> Result<Self, Finding> {
        let refuse = |presented| {
            Err(Finding::new(
                Reason::UnsupportedFormat,
                "cpuid",
                "the CPUID of Milan, Genoa or Turin",
                presented,
            ))
        };
        match (family, model) {
            (0x19, 0x00..=0x0f) => Ok(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Ok(Self::Genoa),
            (0x1a, 0x00..=0x11) => Ok(Self::Turin),
            (0x1a, 0x50..=0x57 | 0x90..=0xaf | 0xc0..=0xc7) => {
                refuse("Venice, for which AMD has published no certificate authority".to_owned())
            }
            _ => refuse(format!("family {family:#04x}, model {model:#04x}")),
        }
    }

    /// Reads the product name of an endorsement key certificate, which may have
    /// a stepping: `Milan-B0`.
    #[must_use]
    pub fn from_certificate_name(name: &str) -> Option<Self> {
        Self::from_name(name.split_once('-').map_or(name, |(product, _)| product))
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A TCB version. Compared component by component, never as an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs, reason = "the names are AMD's")]
pub struct TcbVersion {
    /// Turin and later; 0 before.
    pub fmc: u8,
    pub bootloader: u8,
    pub tee: u8,
    pub snp: u8,
    pub microcode: u8,
}

impl TcbVersion {
    /// Reads the TCB_VERSION of a report of `product`: 8 bytes, whose layout
    /// changed with Turin (Firmware ABI specification, section 2.2).
    #[must_use]
    pub const fn from_bytes(product: Product, bytes: [u8; 8]) -> Self {
        match product {
            Product::Milan | Product::Genoa => {
                let [bootloader, tee, _, _, _, _, snp, microcode] = bytes;
                Self { fmc: 0, bootloader, tee, snp, microcode }
            }
            Product::Turin => {
                let [fmc, bootloader, tee, snp, _, _, _, microcode] = bytes;
                Self { fmc, bootloader, tee, snp, microcode }
            }
        }
    }

    /// The TCB_VERSION of a report of `product`.
    #[must_use]
    pub const fn to_bytes(self, product: Product) -> [u8; 8] {
        match product {
            Product::Milan | Product::Genoa => {
                [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode]
            }
            Product::Turin => [self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode],
        }
    }

    /// Whether every component is at least that of `minimum`.
    #[must_use]
    pub fn covers(self, minimum: Self) -> bool {
        self.components().into_iter().zip(minimum.components()).all(|((_, is), (_, least))| is >= least)
    }

    /// The components by the names that operators write.
    #[must_use]
    pub const fn components(self) -> [(&'static str, u8); 5] {
        [
            ("fmc", self.fmc),
            ("bootloader", self.bootloader),
            ("tee", self.tee),
            ("snp", self.snp),
            ("microcode", self.microcode),
        ]
    }
}

impl fmt::Display for TcbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.components().into_iter().enumerate() {
            write!(f, "{}{name} {value}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_told_apart_by_cpuid() {
        assert_eq!(Product::from_cpuid(0x19, 0x01), Ok(Product::Milan));
        assert_eq!(Product::from_cpuid(0x19, 0x11), Ok(Product::Genoa));
        assert_eq!(Product::from_cpuid(0x19, 0xa0), Ok(Product::Genoa), "Bergamo and Siena");
        assert_eq!(Product::from_cpuid(0x1a, 0x02), Ok(Product::Turin));
        for (family, model) in [(0x19, 0x20), (0x1a, 0x12), (0x17, 0x01), (0, 0)] {
            assert_eq!(Product::from_cpuid(family, model).unwrap_err().reason, Reason::UnsupportedFormat);
        }
        assert!(Product::from_cpuid(0x1a, 0x50).unwrap_err().presented.contains("Venice"));
    }

    #[test]
    fn a_certificate_may_name_the_stepping() {
        assert_eq!(Product::from_certificate_name("Milan-B0"), Some(Product::Milan));
        assert_eq!(Product::from_certificate_name("Turin"), Some(Product::Turin));
        assert_eq!(Product::from_certificate_name("Milano"), None);
    }

    #[test]
    fn the_layout_of_a_tcb_depends_on_the_product() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let milan = TcbVersion { fmc: 0, bootloader: 1, tee: 2, snp: 7, microcode: 8 };
        let turin = TcbVersion { fmc: 1, bootloader: 2, tee: 3, snp: 4, microcode: 8 };
        assert_eq!(TcbVersion::from_bytes(Product::Milan, bytes), milan);
        assert_eq!(TcbVersion::from_bytes(Product::Genoa, bytes), milan);
        assert_eq!(TcbVersion::from_bytes(Product::Turin, bytes), turin);
        for (product, tcb) in [(Product::Genoa, milan), (Product::Turin, turin)] {
            assert_eq!(TcbVersion::from_bytes(product, tcb.to_bytes(product)), tcb);
        }
    }

    #[test]
    fn a_higher_component_does_not_make_up_for_a_lower_one() {
        let least = TcbVersion { fmc: 0, bootloader: 3, tee: 0, snp: 8, microcode: 115 };
        assert!(least.covers(least));
        assert!(TcbVersion { microcode: 200, ..least }.covers(least));
        assert!(!TcbVersion { microcode: 200, snp: 7, ..least }.covers(least));
    }
}
