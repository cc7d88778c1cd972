//! What an AttestationPolicy says about AMD SEV-SNP, in AMD's words.

use countersign_evidence::claims;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Families of EPYC processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Product {
    /// Third generation. Its chip keys have been extracted by software.
    Milan,
    /// Fourth generation: Genoa, Bergamo, Siena.
    Genoa,
    /// Fifth generation.
    Turin,
}

impl From<Product> for claims::Product {
    fn from(product: Product) -> Self {
        match product {
            Product::Milan => Self::Milan,
            Product::Genoa => Self::Genoa,
            Product::Turin => Self::Turin,
        }
    }
}

/// The least TCB, component by component. A component that is left out may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct MinTcb {
    /// Boot loader.
    pub bootloader: u8,
    /// TEE (PSP OS).
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
    /// FMC: Turin and later.
    pub fmc: u8,
}

impl From<MinTcb> for claims::TcbVersion {
    fn from(tcb: MinTcb) -> Self {
        Self {
            fmc: tcb.fmc,
            bootloader: tcb.bootloader,
            tee: tcb.tee,
            snp: tcb.snp,
            microcode: tcb.microcode,
        }
    }
}

/// Whether a revocation list must be at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CrlUse {
    /// Without a current list nobody is accepted.
    #[default]
    Required,
    /// Without a list the certificates count as not revoked.
    Optional,
}

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $bit:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[schemars(extend("minProperties" = 1))]
        pub struct $name {
            $($(#[$field_doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<bool>,)*
        }

        impl $name {
            /// The bits that must be set, and those that must be clear.
            #[must_use]
            pub fn masks(&self) -> (u64, u64) {
                let mut masks = (0, 0);
                $(match self.$field {
                    Some(true) => masks.0 |= 1u64 << $bit,
                    Some(false) => masks.1 |= 1u64 << $bit,
                    None => {}
                })*
                masks
            }
        }
    };
}

flags! {
    /// PLATFORM_INFO (SEV-SNP firmware ABI, table 24).
    PlatformInfo {
        /// Simultaneous multi-threading is on.
        smt: 0,
        /// Transparent memory encryption is on.
        tsme: 1,
        /// Memory has error correction.
        ecc: 2,
        /// Power reporting is off.
        rapl_disabled: 3,
        /// Ciphertext hiding is on.
        ciphertext_hiding: 4,
        /// The check for memory aliases was made (BadRAM).
        alias_check_complete: 5,
        /// Trusted I/O is on.
        trusted_io: 7,
    }
}

flags! {
    /// POLICY of the guest (SEV-SNP firmware ABI, table 10).
    GuestPolicy {
        /// Simultaneous multi-threading is allowed.
        smt: 16,
        /// Only one socket is allowed.
        single_socket: 20,
        /// CXL memory and devices are allowed.
        cxl_allowed: 21,
        /// Memory must be encrypted by AES-256-XTS.
        mem_aes256_xts: 22,
        /// Power reporting must be off.
        rapl_disabled: 23,
        /// Ciphertext hiding must be on.
        ciphertext_hiding: 24,
        /// Page swapping must be off.
        page_swap_disabled: 25,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_bits_that_must_be_set_or_clear() {
        let flags = PlatformInfo { smt: Some(false), alias_check_complete: Some(true), ..Default::default() };
        assert_eq!(flags.masks(), (1 << 5, 1));
        let flags = GuestPolicy { smt: Some(false), page_swap_disabled: Some(true), ..Default::default() };
        assert_eq!(flags.masks(), (1 << 25, 1 << 16));
    }
}
