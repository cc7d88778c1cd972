//! PCK certificates and their SGX extension, 1.2.840.113741.1.13.1 (Intel SGX
//! PCK Certificate and Certificate Revocation List Profile Specification).

use x509_parser::asn1_rs::{Any, FromDer as _};

use crate::finding::Finding;
use crate::reason::Reason;
use crate::x509::Certificate;

/// 1.2.840.113741.1.13.1, the content bytes of its object identifier.
const SGX_EXTENSION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

/// How every PCK certificate is named.
const COMMON_NAME: &str = "SGX PCK Certificate";

/// What a PCK certificate says of its platform.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Intel's")]
pub struct PckFacts {
    pub ppid: [u8; 16],
    /// The SGX components of the TCB.
    pub components: [u8; 16],
    pub pce_svn: u16,
    pub cpu_svn: [u8; 16],
    pub pce_id: [u8; 2],
    pub fmspc: [u8; 6],
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// Platform instance ID: only of platforms that register as a whole.
    pub piid: Option<[u8; 16]>,
}

/// Whether this is a PCK certificate, by its name.
pub(crate) fn is_pck(certificate: &Certificate) -> bool {
    certificate.common_name().contains(COMMON_NAME)
}

impl PckFacts {
    /// Reads the extension. All of its mandatory items must be there once.
    pub(crate) fn of(certificate: &Certificate) -> Result<Self, Finding> {
        let value = certificate
            .extension(SGX_EXTENSION)?
            .ok_or_else(|| malformed("SGX extension", "the extension 1.2.840.113741.1.13.1", "none"))?;
        let outer = items(sequence(value, "SGX extension")?, SGX_EXTENSION, "SGX extension")?;
        let tcb_oid = [SGX_EXTENSION, &[2]].concat();
        let tcb = items(find(&outer, 2, "tcb")?, &tcb_oid, "tcb")?;
        let mut components = [0; 16];
        for (component, number) in components.iter_mut().zip(1..) {
            *component = integer(find(&tcb, number, "tcb component")?, "tcb component")?;
        }
        Ok(Self {
            ppid: fixed(find(&outer, 1, "ppid")?, "ppid")?,
            components,
            pce_svn: integer(find(&tcb, 17, "pceSvn")?, "pceSvn")?,
            cpu_svn: fixed(find(&tcb, 18, "cpuSvn")?, "cpuSvn")?,
            pce_id: fixed(find(&outer, 3, "pceId")?, "pceId")?,
            fmspc: fixed(find(&outer, 4, "fmspc")?, "fmspc")?,
            sgx_type: integer(find(&outer, 5, "sgxType")?, "sgxType")?,
            piid: optional(&outer, 6)?.map(|v| fixed(v, "platformInstanceId")).transpose()?,
        })
    }
}

/// The items of a sequence, by the last arc of their object identifier under `parent`.
type Items<'a> = Vec<(u8, &'a [u8])>;

fn items<'a>(mut rest: &'a [u8], parent: &[u8], field: &str) -> Result<Items<'a>, Finding> {
    let broken = || malformed(field, "a sequence of pairs", "something else");
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (after, pair) = Any::from_der(rest).map_err(|_| broken())?;
        let (value, name) = Any::from_der(pair.data).map_err(|_| broken())?;
        let (extra, content) = Any::from_der(value).map_err(|_| broken())?;
        if pair.header.tag().0 != 16 || name.header.tag().0 != 6 || !extra.is_empty() {
            return Err(broken());
        }
        if let Some([number]) = name.data.strip_prefix(parent) {
            out.push((*number, content.data));
        }
        rest = after;
    }
    Ok(out)
}

fn sequence<'a>(der: &'a [u8], field: &str) -> Result<&'a [u8], Finding> {
    match Any::from_der(der) {
        Ok(([], any)) if any.header.tag().0 == 16 => Ok(any.data),
        _ => Err(malformed(field, "a sequence", "something else")),
    }
}

fn optional<'a>(items: &Items<'a>, number: u8) -> Result<Option<&'a [u8]>, Finding> {
    let mut found = items.iter().filter(|(n, _)| *n == number);
    match (found.next(), found.next()) {
        (first, None) => Ok(first.map(|(_, value)| *value)),
        _ => Err(malformed("SGX extension", "each item once", &format!("item {number} twice"))),
    }
}

fn find<'a>(items: &Items<'a>, number: u8, field: &str) -> Result<&'a [u8], Finding> {
    optional(items, number)?.ok_or_else(|| malformed(field, "an item of the SGX extension", "none"))
}

fn fixed<const N: usize>(value: &[u8], field: &str) -> Result<[u8; N], Finding> {
    value.try_into().map_err(|_| malformed(field, &format!("{N} bytes"), &format!("{} bytes", value.len())))
}

fn integer<T: TryFrom<u64>>(value: &[u8], field: &str) -> Result<T, Finding> {
    let out_of_range = || malformed(field, "an SVN", &hex::encode(value));
    let negative = value.first().is_none_or(|b| b & 0x80 != 0);
    if negative || value.len() > 4 {
        return Err(out_of_range());
    }
    let number = value.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    T::try_from(number).map_err(|_| out_of_range())
}

fn malformed(field: &str, expected: &str, presented: &str) -> Finding {
    Finding::new(Reason::Malformed, format!("PCK certificate: {field}"), expected, presented)
}
