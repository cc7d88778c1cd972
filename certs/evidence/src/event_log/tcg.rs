//! The crypto-agile event log of TCG (PC Client Platform Firmware Profile,
//! section 10): a `TCG_PCR_EVENT` with the list of hash algorithms, then
//! `TCG_PCR_EVENT2` structures. Firmware of TDX guests writes it where the ACPI
//! table CCEL points, with registers by their MR index: 0 is MRTD, n is RTMR n-1
//! (UEFI 2.10, section 38.4).

use super::{Entry, FIELD, MAX_EVENTS, Register, malformed, oversized};
use crate::bytes::Reader;
use crate::finding::Finding;
use crate::reason::Reason;

/// TPM_ALG_SHA384.
pub const SHA384: u16 = 0x000c;
/// EV_NO_ACTION: an entry that informs and extends nothing.
pub const EV_NO_ACTION: u32 = 3;

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// Hash algorithms of one log. Real ones have up to four.
const MAX_ALGORITHMS: usize = 8;
/// What the unused rest of the area is filled with.
const PADDING: u32 = u32::MAX;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The PCR, or the MR index.
    pub register: u32,
    /// The type, for example 0x80000001.
    pub kind: u32,
    /// What was measured or describes it. No digest has to cover it.
    pub data: &'a [u8],
    digests: Vec<(u16, &'a [u8])>,
}

impl<'a> Event<'a> {
    /// The digest in the bank of this algorithm.
    #[must_use]
    pub fn digest(&self, algorithm: u16) -> Option<&'a [u8]> {
        self.digests.iter().find_map(|(known, digest)| (*known == algorithm).then_some(*digest))
    }
}

/// Reads a log entry by entry, until it ends or its area is unused.
///
/// # Errors
/// What is malformed, or what `each` returns.
pub fn parse<'a>(
    log: &'a [u8],
    mut each: impl FnMut(Event<'a>) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let mut reader = Reader::new(log);
    let sizes = header(&mut reader)?;
    let mut entries = 0;
    while reader.remaining() > 0 {
        let register = reader.u32_le("event.register")?;
        if register == PADDING {
            return Ok(());
        }
        entries += 1;
        if entries > MAX_EVENTS {
            return Err(oversized(format!("at most {MAX_EVENTS} entries"), "more".to_owned()));
        }
        let kind = reader.u32_le("event.type")?;
        let count = reader.u32_le("event.digests.count")?;
        if usize::try_from(count) != Ok(sizes.len()) {
            let expected = format!("one for each of {} algorithms", sizes.len());
            return Err(malformed("event.digests.count", expected, count.to_string()));
        }
        let mut digests = Vec::with_capacity(sizes.len());
        for _ in 0..count {
            let algorithm = reader.u16_le("event.digest.algorithm")?;
            let known = sizes.iter().find(|(known, _)| *known == algorithm);
            let twice = digests.iter().any(|(seen, _)| *seen == algorithm);
            let Some((_, size)) = known.filter(|_| !twice) else {
                let presented = format!("{algorithm:#06x}");
                return Err(malformed("event.digest.algorithm", "each of the header's once", presented));
            };
            digests.push((algorithm, reader.slice("event.digest", *size)?));
        }
        let size = reader.u32_le("event.size")?;
        let data = reader.slice("event.data", usize::try_from(size).unwrap_or(usize::MAX))?;
        each(Event { register, kind, data, digests })?;
    }
    Ok(())
}

/// The algorithms of the log with the size of their digests.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, Finding> {
    let _register = reader.u32_le("header.register")?;
    let kind = reader.u32_le("header.type")?;
    let _digest = reader.take::<20>("header.digest")?;
    let size = reader.u32_le("header.size")?;
    let mut event = Reader::new(reader.slice("header.event", usize::try_from(size).unwrap_or(usize::MAX))?);
    let signature = event.take::<16>("header.signature")?;
    if kind != EV_NO_ACTION || signature != SIGNATURE {
        return Err(Finding::new(
            Reason::UnsupportedFormat,
            FIELD,
            "a TCG log with 'Spec ID Event03' in front",
            format!("type {kind:#x} with '{}'", signature.escape_ascii()),
        ));
    }
    let _platform_class = event.u32_le("header.platform_class")?;
    let _version = event.take::<4>("header.version")?;
    let count = event.u32_le("header.algorithms.count")?;
    let count = usize::try_from(count).ok().filter(|n| (1..=MAX_ALGORITHMS).contains(n));
    let count = count.ok_or_else(|| {
        malformed("header.algorithms.count", format!("1 to {MAX_ALGORITHMS}"), "another number")
    })?;
    let mut sizes: Vec<(u16, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let algorithm = event.u16_le("header.algorithm")?;
        let size = usize::from(event.u16_le("header.digest_size")?);
        let known = match algorithm {
            0x0004 => size == 20,
            0x000b | 0x0012 | 0x0027 => size == 32,
            SHA384 | 0x0028 => size == 48,
            0x000d | 0x0029 => size == 64,
            _ => size <= 64,
        };
        if !known || sizes.iter().any(|(seen, _)| *seen == algorithm) {
            let presented = format!("{algorithm:#06x} with {size} bytes");
            return Err(malformed("header.algorithm", "each once, with the size of its digest", presented));
        }
        sizes.push((algorithm, size));
    }
    Ok(sizes)
}

/// Reads a log of a TDX guest.
pub(super) fn read(
    log: &[u8],
    mut each: impl FnMut(Entry<'_>) -> Result<(), Finding>,
) -> Result<(), Finding> {
    parse(log, |event| {
        let register = match event.register {
            _ if event.kind == EV_NO_ACTION => None,
            index @ 1..=4 => usize::try_from(index - 1).ok(),
            other => return Err(malformed("event.register", "1 to 4 (RTMR 0 to 3)", other.to_string())),
        };
        let digest: Option<&Register> = event.digest(SHA384).and_then(|d| d.try_into().ok());
        let digest = digest.ok_or_else(|| {
            Finding::new(Reason::UnsupportedFormat, FIELD, "digests with SHA-384", "other algorithms")
        })?;
        let kind = format!("{:#010x}", event.kind);
        each(Entry { register, digest: *digest, kind: kind.into(), kind_measured: false })
    })
}
