//! How the fields of a specification are written: bytes as hexadecimal digits,
//! durations as `5ms` or `1s`.

use countersign_evidence::claims::{Product, TcbVersion};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes of a fixed length.
struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let mut out = [0; N];
        hex::decode_to_slice(&text, &mut out).map_err(|_| {
            D::Error::custom(format!("expected {} hexadecimal digits ({N} bytes), found {text:?}", 2 * N))
        })?;
        Ok(Self(out))
    }
}

pub(super) mod bytes {
    use super::*;

    pub(crate) fn serialize<const N: usize, S: Serializer>(v: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
        Bytes(*v).serialize(s)
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(d: D) -> Result<[u8; N], D::Error> {
        Bytes::deserialize(d).map(|b| b.0)
    }
}

pub(super) mod bytes_option {
    use super::*;

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        v: &Option<[u8; N]>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        v.map(Bytes).serialize(s)
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        Ok(Option::<Bytes<N>>::deserialize(d)?.map(|b| b.0))
    }
}

pub(super) mod bytes_each {
    use super::*;

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        v: &[[u8; N]; 4],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        v.map(Bytes).serialize(s)
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        d: D,
    ) -> Result<[[u8; N]; 4], D::Error> {
        Ok(<[Bytes<N>; 4]>::deserialize(d)?.map(|b| b.0))
    }
}

pub(super) mod duration {
    use std::time::Duration;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(v: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}ms", v.as_millis()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        let parsed = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(n), _) => n.parse().ok().map(Duration::from_millis),
            (None, Some(n)) => n.parse().ok().map(Duration::from_secs),
            (None, None) => None,
        };
        parsed.filter(|d| *d <= Duration::from_secs(60)).ok_or_else(|| {
            D::Error::custom(format!("expected a duration up to 60s, like 5ms, found {text:?}"))
        })
    }
}

/// The product, as AMD writes it.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "EmulatedProduct"))]
#[serde(remote = "Product")]
pub(super) enum ProductDef {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// SVNs of the components of a TCB.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "EmulatedTcbVersion"))]
#[serde(remote = "TcbVersion", rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TcbVersionDef {
    /// Turin and later.
    #[serde(default)]
    fmc: u8,
    /// Boot loader of the secure processor.
    bootloader: u8,
    /// Operating system of the secure processor.
    tee: u8,
    /// SNP firmware.
    snp: u8,
    /// Microcode.
    microcode: u8,
}

/// Serde of an optional value of a foreign type.
macro_rules! optional {
    ($name:ident, $option:ident, $type:ident, $def:literal) => {
        pub(super) mod $name {
            use super::*;

            #[derive(Serialize, Deserialize)]
            pub(super) struct Written(#[serde(with = $def)] pub(super) $type);

            pub(crate) fn serialize<S: Serializer>(v: &$type, s: S) -> Result<S::Ok, S::Error> {
                Written(*v).serialize(s)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$type, D::Error> {
                Written::deserialize(d).map(|w| w.0)
            }
        }

        pub(super) mod $option {
            use super::$name::Written;
            use super::*;

            pub(crate) fn serialize<S: Serializer>(v: &Option<$type>, s: S) -> Result<S::Ok, S::Error> {
                v.map(Written).serialize(s)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<$type>, D::Error> {
                Ok(Option::<Written>::deserialize(d)?.map(|w| w.0))
            }
        }
    };
}

optional!(product, product_option, Product, "ProductDef");
optional!(tcb, tcb_option, TcbVersion, "TcbVersionDef");

/// The schema of `N` bytes.
#[cfg(feature = "schema")]
pub(super) struct Hex<const N: usize>;

#[cfg(feature = "schema")]
impl<const N: usize> schemars::JsonSchema for Hex<N> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Hex{N}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": format!("^[0-9a-fA-F]{{{}}}$", 2 * N) })
    }
}

/// The schema of a duration.
#[cfg(feature = "schema")]
pub(super) struct DurationText;

#[cfg(feature = "schema")]
impl schemars::JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]+m?s$" })
    }
}
